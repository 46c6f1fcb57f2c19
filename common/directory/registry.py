"""Who is listed. The registry decides, the gateway role does the network's part; signatures are verified before.

* A relay is one identity, owned by the newest session (connection) that proved it.
* States: CHECKING (its address is being dialled for the first time), LISTED, SILENT (two pings missed, the session
  still open: it is listed again with the next answer). A closed session ends the entry.
* A nickname belongs to the first identity that was listed with it, also after that relay has left.
* A descriptor older than the one held, or another one of the same age, is refused; so is one from the far past
  or future. Departed relays' times are remembered for as long as an old descriptor would pass that second rule.
* Each change of what clients may see raises the serial by one.

`Heartbeats` says which sessions to ping when. It knows sessions, not relays, and runs on a clock that never jumps.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto

from common.directory.descriptor import Descriptor
from common.directory.document import CLOCK_SKEW, MAX_RELAYS, VALID_FOR, DirectoryDocument, RelayEntry
from common.errors import DirectoryError

MISSED_LIMIT = 2  # unanswered pings after which a relay leaves the list
RECHECK_EVERY = 300.0  # seconds between two looks at a listed relay's address
RECHECK_SOON = 30.0  # seconds to the second look after a failed one, whose failure ends the listing
MAX_NICKNAMES = 100_000  # names ever bound; each needed a relay that could be dialled


class Refusal(StrEnum):
    """Why a registration is refused: fixed codes, also on the wire."""

    REPLAYED = "replayed"
    NICKNAME = "nickname-taken"
    CLOCK = "clock"
    FULL = "full"
    ADDRESS = "address"
    SIGNATURE = "signature"


class RegistrationRefused(DirectoryError):
    """The gateway does not list this relay: `code` says why, the text what to do."""

    def __init__(self, code: Refusal, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class CheckAddress:
    """Dial `address`, compare its identity, and report to `Registry.checked` with the same `descriptor`."""

    session: int
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class Listed:
    """The relay is in the list now; answer `session`."""

    session: int
    nickname: str
    newly: bool  # False: it was listed before and only its descriptor is newer


@dataclass(frozen=True, slots=True)
class Gone:
    """The relay has left the list."""

    nickname: str
    reason: str


@dataclass(frozen=True, slots=True)
class BindNickname:
    """Remember for ever that `nickname` (in lower case) belongs to `identity`."""

    nickname: str
    identity: bytes


@dataclass(frozen=True, slots=True)
class EndSession:
    """Tell `session` the refusal and close it; it owns no relay any more."""

    session: int
    code: Refusal
    text: str


Action = CheckAddress | Listed | Gone | BindNickname | EndSession


class _State(Enum):
    CHECKING = auto()
    LISTED = auto()
    SILENT = auto()


@dataclass(slots=True)
class _Relay:
    session: int
    descriptor: Descriptor
    envelope: bytes
    state: _State = _State.CHECKING
    running_since: float = 0.0
    round_trip_ms: float = 0.0
    next_check: float = field(default=float("inf"))  # infinite while one is under way
    failed_checks: int = 0
    renewal: tuple[Descriptor, bytes] | None = None  # a newer descriptor whose other address is being checked


class Registry:
    """The relays of one network. Every method takes the wall clock's `now` and returns what is to be done."""

    def __init__(
        self, network: str, serial: int, nicknames: Mapping[str, bytes], max_relays: int = MAX_RELAYS
    ) -> None:
        self.network = network
        self.serial = serial
        self._nicknames = dict(nicknames)
        self._max_relays = max_relays
        self._relays: dict[bytes, _Relay] = {}
        self._identities: dict[int, bytes] = {}  # session -> the relay it owns
        self._departed: dict[bytes, float] = {}  # identity -> published time of its last descriptor

    def __len__(self) -> int:
        return sum(relay.state is _State.LISTED for relay in self._relays.values())

    # ---- what relays ask ----

    def register(self, session: int, descriptor: Descriptor, envelope: bytes, now: float) -> list[Action]:
        """A verified descriptor, whose identity `session` has proved; raises `RegistrationRefused`.

        The relay is listed after `checked`; at once when it is listed already and its address is the same.
        """
        held = self._relays.get(descriptor.identity)
        self._refuse_bad_time(descriptor, envelope, held, now)
        self._refuse_taken_nickname(descriptor)
        if held is None and len(self._relays) >= self._max_relays:
            raise RegistrationRefused(Refusal.FULL, "this gateway lists as many relays as it can")
        actions = self._take_over(session, descriptor.identity)
        self._identities[session] = descriptor.identity
        if held is None or held.state is _State.CHECKING:
            self._relays[descriptor.identity] = _Relay(session, descriptor, envelope)
            return [*actions, CheckAddress(session, descriptor)]
        held.session = session
        if descriptor.address != held.descriptor.address:
            held.renewal, held.next_check = (descriptor, envelope), float("inf")
            return [*actions, CheckAddress(session, descriptor)]
        return actions + self._renew(held, descriptor, envelope, now)

    def checked(self, check: CheckAddress, failure: str | None, now: float) -> list[Action]:
        """The outcome of a `CheckAddress`; `failure` is a sentence, or None when the right identity answered."""
        relay = self._relays.get(check.descriptor.identity)
        if relay is None or relay.session != check.session:
            return []  # another session owns it by now, and has its own check
        if relay.renewal is not None and relay.renewal[0] == check.descriptor:
            descriptor, envelope = relay.renewal
            if failure is None:
                return self._renew(relay, descriptor, envelope, now)
            return self._end(relay, Refusal.ADDRESS, failure)
        if relay.descriptor != check.descriptor or relay.renewal is not None:
            return []  # renewed since
        if failure is None:
            if relay.state is _State.CHECKING:
                return self._renew(relay, relay.descriptor, relay.envelope, now)
            relay.failed_checks, relay.next_check = 0, now + RECHECK_EVERY
            return []
        relay.failed_checks += 1
        if relay.state is _State.CHECKING or relay.failed_checks > 1:
            return self._end(relay, Refusal.ADDRESS, failure)
        relay.next_check = now + RECHECK_SOON
        return []

    def unregister(self, identity: bytes) -> list[Action]:
        """The relay itself, proved by its key, wishes to leave; nothing happens when it is not known."""
        return self._remove(identity, "it said good-bye")

    # ---- what the gateway sees ----

    def closed(self, session: int) -> list[Action]:
        """The session ended; its relay leaves, unless another session has taken it over."""
        identity = self._identities.pop(session, None)
        return self._remove(identity, "its connection ended") if identity is not None else []

    def silent(self, session: int) -> list[Action]:
        """The session missed `MISSED_LIMIT` pings."""
        relay = self._owned(session)
        if relay is None or relay.state is not _State.LISTED:
            return []
        relay.state = _State.SILENT
        self.serial += 1
        return [Gone(relay.descriptor.nickname, "it does not answer pings")]

    def answered(self, session: int, round_trip: float, now: float) -> list[Action]:
        """The session answered a ping after `round_trip` seconds; a silent relay is listed again at once."""
        relay = self._owned(session)
        if relay is None:
            return []
        relay.round_trip_ms = round(round_trip * 1_000, 1)
        if relay.state is not _State.SILENT:
            return []
        relay.state, relay.running_since = _State.LISTED, now
        self.serial += 1
        return [Listed(session, relay.descriptor.nickname, newly=True)]

    def due_checks(self, now: float) -> list[Action]:
        """Listed relays whose address is to be looked at again; call it about once a second."""
        for identity in [identity for identity, seen in self._departed.items() if seen < now - CLOCK_SKEW]:
            del self._departed[identity]
        actions: list[Action] = []
        for relay in self._relays.values():
            if relay.next_check <= now:
                relay.next_check = float("inf")
                actions.append(CheckAddress(relay.session, relay.descriptor))
        return actions

    # ---- the document ----

    def renew_document(self) -> None:
        """Raises the serial though nothing changed: the last document is about to expire."""
        self.serial += 1

    def document(self, now: float) -> DirectoryDocument:
        """The document of the present serial, valid from `now`."""
        relays = tuple(
            RelayEntry(relay.envelope, relay.descriptor, relay.running_since, relay.round_trip_ms, ("running",))
            for relay in self._relays.values()
            if relay.state is _State.LISTED
        )
        return DirectoryDocument(self.network, self.serial, now, now + VALID_FOR, relays)

    # ---- steps ----

    def _owned(self, session: int) -> _Relay | None:
        identity = self._identities.get(session)
        return self._relays.get(identity) if identity is not None else None

    def _refuse_bad_time(self, descriptor: Descriptor, envelope: bytes, held: _Relay | None, now: float) -> None:
        ahead = descriptor.published - now
        if abs(ahead) > CLOCK_SKEW:
            way = "ahead" if ahead > 0 else "behind"
            text = f"the relay's clock is {abs(ahead) / 60:.0f} minutes {way}: set it"
            raise RegistrationRefused(Refusal.CLOCK, text)
        if held is None:
            newest, same = self._departed.get(descriptor.identity, 0.0), True
        else:
            last, last_envelope = held.renewal or (held.descriptor, held.envelope)
            newest, same = last.published, envelope == last_envelope
        if descriptor.published < newest or (descriptor.published == newest and not same):
            raise RegistrationRefused(Refusal.REPLAYED, "a newer descriptor of this relay is known")

    def _refuse_taken_nickname(self, descriptor: Descriptor) -> None:
        nickname = descriptor.nickname.lower()
        owner = self._nicknames.get(nickname)
        if owner is not None and owner != descriptor.identity:
            text = f"the nickname {descriptor.nickname} belongs to another relay: choose another one"
            raise RegistrationRefused(Refusal.NICKNAME, text)
        if owner is None and len(self._nicknames) >= MAX_NICKNAMES:
            raise RegistrationRefused(Refusal.FULL, "this gateway has given away as many nicknames as it can")

    def _take_over(self, session: int, identity: bytes) -> list[Action]:
        """One session owns one relay, and one relay has one session."""
        actions: list[Action] = []
        other = self._identities.get(session)
        if other is not None and other != identity:
            actions += self._remove(other, "its connection serves another relay now")
        held = self._relays.get(identity)
        if held is not None and held.session != session:
            self._identities.pop(held.session, None)
            text = "the relay has registered over another connection"
            actions.append(EndSession(held.session, Refusal.REPLAYED, text))
        return actions

    def _renew(self, relay: _Relay, descriptor: Descriptor, envelope: bytes, now: float) -> list[Action]:
        relay.renewal, relay.failed_checks, relay.next_check = None, 0, now + RECHECK_EVERY
        if envelope == relay.envelope and relay.state is _State.LISTED:
            return [Listed(relay.session, descriptor.nickname, newly=False)]
        try:
            self._refuse_taken_nickname(descriptor)
        except RegistrationRefused as refused:
            return self._end(relay, refused.code, str(refused))
        newly = relay.state is not _State.LISTED
        relay.descriptor, relay.envelope = descriptor, envelope
        if newly:
            relay.running_since = now
        relay.state = _State.LISTED
        self.serial += 1
        return [*self._bind(descriptor), Listed(relay.session, descriptor.nickname, newly)]

    def _bind(self, descriptor: Descriptor) -> list[Action]:
        nickname = descriptor.nickname.lower()
        if nickname in self._nicknames:
            return []
        self._nicknames[nickname] = descriptor.identity
        return [BindNickname(nickname, descriptor.identity)]

    def _end(self, relay: _Relay, code: Refusal, text: str) -> list[Action]:
        """Removes the relay and ends its session."""
        actions = self._remove(relay.descriptor.identity, text)
        return [*actions, EndSession(relay.session, code, text)]

    def _remove(self, identity: bytes, reason: str) -> list[Action]:
        relay = self._relays.pop(identity, None)
        if relay is None:
            return []
        self._identities.pop(relay.session, None)
        self._departed[identity] = relay.descriptor.published
        if relay.state is not _State.LISTED:
            return []
        self.serial += 1
        return [Gone(relay.descriptor.nickname, reason)]


@dataclass(frozen=True, slots=True)
class Beat:
    """Ping `session` with `number`; `missed` pings before this one were not answered."""

    session: int
    number: int
    missed: int


@dataclass(slots=True)
class _Pulse:
    number: int = 0
    sent: float = 0.0
    missed: int = 0
    waiting: bool = False


class Heartbeats:
    """When to ping which session: each every `interval` seconds, spread over the interval."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._pulses: dict[int, _Pulse] = {}
        self._due: list[tuple[float, int]] = []  # a heap; each session in `_pulses` stands in it once

    def add(self, session: int, fraction: float, now: float) -> None:
        """The first ping comes after `fraction` (0 to 1) of the interval, so that relays spread."""
        if session not in self._pulses:
            self._pulses[session] = _Pulse()
            heapq.heappush(self._due, (now + fraction * self._interval, session))

    def remove(self, session: int) -> None:
        """No more pings; a session's number is never used again."""
        self._pulses.pop(session, None)

    def answer(self, session: int, number: int, now: float) -> float | None:
        """The round trip in seconds of the ping that is answered; None for an answer that nobody waits for."""
        pulse = self._pulses.get(session)
        if pulse is None or not pulse.waiting or number != pulse.number:
            return None
        pulse.waiting, pulse.missed = False, 0
        return now - pulse.sent

    def due(self, now: float) -> list[Beat]:
        """The pings to send now."""
        beats: list[Beat] = []
        while self._due and self._due[0][0] <= now:
            _, session = heapq.heappop(self._due)
            pulse = self._pulses.get(session)
            if pulse is None:
                continue
            pulse.missed += pulse.waiting
            pulse.number, pulse.sent, pulse.waiting = pulse.number + 1, now, True
            heapq.heappush(self._due, (now + self._interval, session))
            beats.append(Beat(session, pulse.number, pulse.missed))
        return beats

    def next_due(self) -> float | None:
        """When `due` has something to say, None while nobody is to be pinged."""
        return self._due[0][0] if self._due else None
