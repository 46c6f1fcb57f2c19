"""Who is listed. The registry decides, the gateway role does the network's part; signatures are verified before.

* A relay is one identity, owned by the newest session (connection) that proved it.
* States: CHECKING (its address is being dialled for the first time), LISTED, SILENT (two pings missed, the session
  still open: it is listed again with the next answer), RESTORED (listed before the gateway restarted, no session
  yet: it leaves at the end of the grace). A closed session ends the entry.
* A nickname belongs to the first identity that was listed with it, also after that relay has left; only a
  succession, signed by both identities, moves it, and ends the old identity for ever.
* A descriptor older than the one held, or another one of the same age, is refused; so is one from the far past
  or future. Departed relays' times are remembered for as long as an old descriptor would pass that second rule.
* Each change of what clients may see raises the serial by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from common.directory.descriptor import Descriptor
from common.directory.document import CLOCK_SKEW, MAX_RELAYS, VALID_FOR, DirectoryDocument, RelayEntry
from common.directory.histories import Histories
from common.directory.observation import History, believed_bandwidth, flags, smooth, typical_claim
from common.directory.owners import Owners
from common.directory.registry_actions import (
    Action,
    CheckAddress,
    EndSession,
    Gone,
    Listed,
    Refusal,
    RegistrationRefused,
    StoreRelay,
)
from common.directory.succession import Succession

RECHECK_EVERY = 300.0  # seconds between two looks at a listed relay's address
RECHECK_SOON = 30.0  # seconds to the second look after a failed one, whose failure ends the listing
CHECKS_A_CALL = 50  # looks begun at once: a full list is looked through in 200 s, and none waits for long
OBSERVE_CALLS = 60  # calls of `observe`, one a second, in which each relay has its turn once
NOTED_CHANGE = 1.25  # a relay's bandwidth makes a new document when it changed by more than this factor
NEVER = float("inf")


class _State(Enum):
    CHECKING = auto()
    LISTED = auto()
    SILENT = auto()
    RESTORED = auto()


_SHOWN = (_State.LISTED, _State.RESTORED)
_NOBODY = 0  # the session of a restored relay; real ones begin at 1


@dataclass(slots=True)
class _Relay:
    session: int
    descriptor: Descriptor
    envelope: bytes
    entry: RelayEntry
    state: _State = _State.CHECKING
    round_trip_ms: float = 0.0
    next_check: float = field(default=NEVER)  # infinite while one is under way
    failed_checks: int = 0
    renewal: tuple[Descriptor, bytes] | None = None  # a newer descriptor whose other address is being checked


class Registry:
    """The relays of one network. Every method takes the wall clock's `now` and returns what is to be done."""

    def __init__(
        self,
        network: str,
        serial: int,
        owners: Owners | None = None,
        histories: Histories | None = None,
        max_relays: int = MAX_RELAYS,
    ) -> None:
        self.network = network
        self.serial = serial
        self._owners = owners or Owners()
        self._histories = histories or Histories()
        self._max_relays = max_relays
        self._relays: dict[bytes, _Relay] = {}
        self._identities: dict[int, bytes] = {}  # session -> the relay it owns
        self._departed: dict[bytes, float] = {}  # identity -> published time of its last descriptor
        self._typical = 0  # the median of the bandwidths claimed
        self._to_observe: list[bytes] = []

    def __len__(self) -> int:
        return sum(relay.state in _SHOWN for relay in self._relays.values())

    # ---- what relays ask ----

    def register(self, session: int, descriptor: Descriptor, envelope: bytes, now: float) -> list[Action]:
        """A verified descriptor, whose identity `session` has proved; raises `RegistrationRefused`.

        The relay is listed after `checked`; at once when it is listed already and its address is the same.
        """
        held = self._relays.get(descriptor.identity)
        self._refuse_bad_time(descriptor, envelope, held, now)
        self._owners.refuse(descriptor)
        if held is None and len(self._relays) >= self._max_relays:
            raise RegistrationRefused(Refusal.FULL, "this gateway lists as many relays as it can")
        actions = self._take_over(session, descriptor.identity, now)
        self._identities[session] = descriptor.identity
        if held is None or held.state is _State.CHECKING:
            blank = RelayEntry(envelope, descriptor, now, 0.0)
            self._relays[descriptor.identity] = _Relay(session, descriptor, envelope, blank)
            return [*actions, CheckAddress(session, descriptor)]
        held.session = session
        if held.state is _State.RESTORED:
            held.state = _State.LISTED
        if descriptor.address != held.descriptor.address:
            held.renewal, held.next_check = (descriptor, envelope), NEVER
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
            return self._end(relay, Refusal.ADDRESS, failure, now)
        if relay.descriptor != check.descriptor or relay.renewal is not None:
            return []  # renewed since
        if failure is None:
            if relay.state is _State.CHECKING:
                return self._renew(relay, relay.descriptor, relay.envelope, now)
            relay.failed_checks, relay.next_check = 0, now + RECHECK_EVERY
            return []
        relay.failed_checks += 1
        if relay.state is _State.CHECKING or relay.failed_checks > 1:
            return self._end(relay, Refusal.ADDRESS, failure, now)
        relay.next_check = now + RECHECK_SOON
        return []

    def succeed(self, succession: Succession, now: float) -> list[Action]:
        """A verified statement; the old identity leaves, its names and history go to the new one.

        Raises `RegistrationRefused` when one of the two was replaced by another identity before. A statement
        about an identity that owns no name here changes nothing.
        """
        moved: list[Action] = list(self._owners.succeed(succession))
        if not moved:
            return []
        old = self._relays.get(succession.old)
        ended: list[Action] = []
        if old is not None and old.session != _NOBODY:
            text = "another identity has taken this relay over, as its key allowed"
            ended.append(EndSession(old.session, Refusal.REPLACED, text))
        actions = self._remove(succession.old, "it has a new identity", now)
        return [*actions, *moved, *self._histories.move(succession.old, succession.new), *ended]

    def unregister(self, identity: bytes, now: float) -> list[Action]:
        """The relay itself, proved by its key, wishes to leave; nothing happens when it is not known."""
        return self._remove(identity, "it said good-bye", now)

    # ---- what the gateway sees ----

    def closed(self, session: int, now: float) -> list[Action]:
        """The session ended; its relay leaves, unless another session has taken it over."""
        identity = self._identities.pop(session, None)
        if identity is None:
            return []
        return self._remove(identity, "its connection ended", now, failed=True)

    def silent(self, session: int, now: float) -> list[Action]:
        """The session does not answer pings (`Heartbeats.silent`)."""
        relay = self._owned(session)
        if relay is None or relay.state is not _State.LISTED:
            return []
        relay.state = _State.SILENT
        self.serial += 1
        return [Gone(relay.descriptor.nickname, "it does not answer pings"), *self._leave(relay, now, failed=True)]

    def answered(self, session: int, round_trip: float, now: float) -> list[Action]:
        """The session answered a ping after `round_trip` seconds; a silent relay is listed again at once."""
        relay = self._owned(session)
        if relay is None:
            return []
        relay.round_trip_ms = smooth(relay.round_trip_ms, round_trip * 1_000)
        if relay.state is not _State.SILENT:
            return []
        relay.state = _State.LISTED
        self.serial += 1
        return [*self._arrive(relay, now, newly=True), Listed(session, relay.descriptor.nickname, newly=True)]

    def due_checks(self, now: float) -> list[Action]:
        """Listed relays whose address is to be looked at again; call it about once a second."""
        for identity in [identity for identity, seen in self._departed.items() if seen < now - CLOCK_SKEW]:
            del self._departed[identity]
        actions: list[Action] = []
        for relay in self._relays.values():
            if relay.next_check <= now:
                relay.next_check = NEVER
                actions.append(CheckAddress(relay.session, relay.descriptor))
                if len(actions) == CHECKS_A_CALL:
                    break
        return actions

    def observe(self, now: float) -> list[Action]:
        """Counts time, and judges flags and bandwidths anew, of a part of the relays; call it once a second."""
        if not self._to_observe:
            self._to_observe = list(self._relays)
            listed = (relay.descriptor for relay in self._relays.values() if relay.state is _State.LISTED)
            self._typical = typical_claim(descriptor.bandwidth for descriptor in listed)
        share = max(1, len(self._relays) // OBSERVE_CALLS + 1)
        actions: list[Action] = self._histories.forget_old(now)
        for identity in self._to_observe[-share:]:
            relay = self._relays.get(identity)
            if relay is not None and relay.state is _State.LISTED:
                actions += self._histories.advance(identity, now, relay.round_trip_ms)
                self._judge(relay, now)
        del self._to_observe[-share:]
        return actions

    # ---- restart ----

    def restore(self, listed: Mapping[bytes, Descriptor], now: float) -> None:
        """The relays (verified envelopes and what is in them) that were listed before the gateway restarted."""
        self._typical = typical_claim(descriptor.bandwidth for descriptor in listed.values())
        for envelope, descriptor in listed.items():
            entry = RelayEntry(envelope, descriptor, now, 0.0)
            relay = _Relay(_NOBODY, descriptor, envelope, entry, _State.RESTORED)
            self._relays[descriptor.identity] = relay
            self._histories.resume(descriptor.identity, now)
            relay.round_trip_ms = self._histories.of(descriptor.identity, now).round_trip_ms
            self._judge(relay, now)

    def end_grace(self, now: float) -> list[Action]:
        """Restored relays that have not come back leave."""
        lost = [identity for identity, relay in self._relays.items() if relay.state is _State.RESTORED]
        actions: list[Action] = []
        for identity in lost:
            actions += self._remove(identity, "it did not come back after the gateway's restart", now, failed=True)
        return actions

    # ---- the document ----

    def renew_document(self) -> None:
        """Raises the serial though nothing changed: the last document is about to expire."""
        self.serial += 1

    def entries(self) -> tuple[RelayEntry, ...]:
        """The listed relays, as the next document shows them; immutable."""
        return tuple(relay.entry for relay in self._relays.values() if relay.state in _SHOWN)

    def histories(self) -> dict[bytes, History]:
        """The past of each relay by its identity, also of those that have left."""
        return self._histories.all()

    def document(self, now: float) -> DirectoryDocument:
        """The document of the present serial, valid from `now`."""
        return DirectoryDocument(self.network, self.serial, now, now + VALID_FOR, self.entries())

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

    def _take_over(self, session: int, identity: bytes, now: float) -> list[Action]:
        """One session owns one relay, and one relay has one session."""
        actions: list[Action] = []
        other = self._identities.get(session)
        if other is not None and other != identity:
            actions += self._remove(other, "its connection serves another relay now", now)
        held = self._relays.get(identity)
        if held is not None and held.session not in (session, _NOBODY):
            self._identities.pop(held.session, None)
            text = "the relay has registered over another connection"
            actions.append(EndSession(held.session, Refusal.REPLAYED, text))
        return actions

    def _renew(self, relay: _Relay, descriptor: Descriptor, envelope: bytes, now: float) -> list[Action]:
        relay.renewal, relay.failed_checks, relay.next_check = None, 0, now + RECHECK_EVERY
        if envelope == relay.envelope and relay.state is _State.LISTED:
            return [Listed(relay.session, descriptor.nickname, newly=False)]
        try:
            self._owners.refuse(descriptor)
        except RegistrationRefused as refused:
            return self._end(relay, refused.code, str(refused), now)
        newly = relay.state is not _State.LISTED
        relay.descriptor, relay.envelope, relay.state = descriptor, envelope, _State.LISTED
        self.serial += 1
        bound = self._owners.bind(descriptor)
        return [*bound, *self._arrive(relay, now, newly), Listed(relay.session, descriptor.nickname, newly)]

    def _arrive(self, relay: _Relay, now: float, newly: bool) -> list[Action]:
        """Into the list, or with a newer descriptor: what is to be stored."""
        identity = relay.descriptor.identity
        begun = self._histories.begin(identity, now) if newly else []
        self._judge(relay, now)
        return [StoreRelay(identity, relay.envelope), *begun]

    def _leave(self, relay: _Relay, now: float, *, failed: bool) -> list[Action]:
        """Out of the list: what is to be stored."""
        identity = relay.descriptor.identity
        return [StoreRelay(identity, None), *self._histories.end(identity, now, relay.round_trip_ms, failed)]

    def _judge(self, relay: _Relay, now: float) -> None:
        """Makes the relay's entry anew; a change that clients should know of raises the serial."""
        descriptor, before = relay.descriptor, relay.entry
        history = self._histories.of(descriptor.identity, now)
        bandwidth = believed_bandwidth(descriptor.bandwidth, self._typical, history.is_stable(now))
        words = flags(descriptor, history, bandwidth, now)
        trip = round(relay.round_trip_ms, 1)
        relay.entry = RelayEntry(relay.envelope, descriptor, history.running_since, trip, words, bandwidth)
        low, high = sorted((before.bandwidth, bandwidth))
        if before.flags and (words != before.flags or high > low * NOTED_CHANGE):
            self.serial += 1

    def _end(self, relay: _Relay, code: Refusal, text: str, now: float) -> list[Action]:
        """Removes the relay and ends its session."""
        actions = self._remove(relay.descriptor.identity, text, now, failed=True)
        return [*actions, EndSession(relay.session, code, text)]

    def _remove(self, identity: bytes, reason: str, now: float, *, failed: bool = False) -> list[Action]:
        relay = self._relays.pop(identity, None)
        if relay is None:
            return []
        self._identities.pop(relay.session, None)
        self._departed[identity] = relay.descriptor.published
        if relay.state not in _SHOWN:
            return []
        self.serial += 1
        return [Gone(relay.descriptor.nickname, reason), *self._leave(relay, now, failed=failed)]
