"""What the login server's side of a connection is: which message is legal when, and when its time is over.

    GREETING    hello                       -> STRANGER
    STRANGER    signup, ping                -> STRANGER
                scram                       -> CHALLENGED
    CHALLENGED  proof                       -> MEMBER if it is right, else STRANGER
    MEMBER      scram                       -> PROVING
                everything else but hello, signup, proof
    PROVING     proof                       -> MEMBER
                ping                        -> PROVING

What is not in the table is `Unexpected`, and that is the end of the connection. A challenge is held here and
nowhere else: it works on its connection only, once, and for `CHALLENGE_TIME`. Tries are counted: a connection has
`TRIES_PER_CONNECTION`, sign-ups included, and the right password gives them back.

Pure: `now` is seconds on a monotonic clock.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from common.crypto.scram import ScramServer, Verifier
from common.errors import OnionError, Unexpected
from common.login.throttle import TRIES_PER_CONNECTION
from common.wire.login import (
    FRESH,
    Delete,
    ErrorCode,
    Hello,
    Inbox,
    LogOut,
    Message,
    Ping,
    Proof,
    Read,
    Rekey,
    Scram,
    Send,
    Sessions,
    SignUp,
    WhoAmI,
)

CHALLENGE_TIME = 60.0  # seconds: a slow device with ten million iterations, and the network's delays
STRANGER_TIME = 120.0  # seconds from the start to being logged in: a challenge's life, twice
SILENCE = 180.0  # seconds: a client says `ping` every 60
IDLE = 12 * 3_600.0  # seconds with nothing but `ping`: a forgotten terminal is not logged in for ever


NOBODY = -1  # the id of whoever does not exist


class Refusal(OnionError):
    """A request that is legal and not granted: what the other side is told."""

    def __init__(self, code: ErrorCode, wait: int = 0, *, last: bool = False) -> None:
        super().__init__(str(code))
        self.code = code
        self.wait = wait
        self.last = last  # the connection ends with it


class Phase(Enum):
    """How far a connection has come."""

    GREETING = auto()
    STRANGER = auto()
    CHALLENGED = auto()
    MEMBER = auto()
    PROVING = auto()


_IN_SESSION = (WhoAmI, Send, Inbox, Read, Rekey, Delete, Sessions, LogOut)

# (phase, message) -> the phase afterwards; a right proof is said by `proved`.
TRANSITIONS: dict[tuple[Phase, type[Message]], Phase] = {
    (Phase.GREETING, Hello): Phase.STRANGER,
    (Phase.STRANGER, SignUp): Phase.STRANGER,
    (Phase.STRANGER, Scram): Phase.CHALLENGED,
    (Phase.STRANGER, Ping): Phase.STRANGER,
    (Phase.CHALLENGED, Proof): Phase.STRANGER,
    (Phase.CHALLENGED, Ping): Phase.CHALLENGED,
    **{(Phase.MEMBER, kind): Phase.MEMBER for kind in (*_IN_SESSION, Ping)},
    (Phase.MEMBER, Scram): Phase.PROVING,
    (Phase.PROVING, Proof): Phase.MEMBER,
    (Phase.PROVING, Ping): Phase.PROVING,
}


@dataclass(frozen=True, slots=True)
class Account:
    """A user: `id` is a number that no other user ever has, or `NOBODY` with a decoy for a verifier."""

    id: int
    verifier: Verifier = field(repr=False)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge that was given: the exchange, who is to answer it, and until when."""

    scram: ScramServer = field(repr=False)
    name: str = field(repr=False)
    account: Account
    device: bytes = field(repr=False)
    until: float


class Conversation:
    """One connection's state; `session` is the id once logged in."""

    def __init__(self, now: float) -> None:
        self.phase = Phase.GREETING
        self.session = ""
        self._challenge: Challenge | None = None
        self._tries = 0
        self._proved_at = float("-inf")
        self._began = now
        self._heard = now  # when anything arrived
        self.used = now  # when something other than `ping` arrived

    def receive(self, message: Message, now: float) -> None:
        """A message has arrived; raises `Unexpected` if it is not legal now, `Refusal` if more is needed first."""
        following = TRANSITIONS.get((self.phase, type(message)))
        if following is None:
            raise Unexpected("a message that is not legal now")
        self.phase = following
        self._heard = now
        if not isinstance(message, Ping):
            self.used = now
        if isinstance(message, SignUp | Proof):
            self._count_try()
        if isinstance(message, Rekey | Delete) and now - self._proved_at > FRESH:
            raise Refusal(ErrorCode.PROOF_NEEDED)

    def challenged(self, challenge: Challenge) -> None:
        """The answer to `scram` is this challenge."""
        assert self.phase in (Phase.CHALLENGED, Phase.PROVING)
        self._challenge = challenge

    def not_challenged(self) -> None:
        """The answer to `scram` is an error."""
        self.phase = Phase.MEMBER if self.phase is Phase.PROVING else Phase.STRANGER

    def take_challenge(self, now: float) -> Challenge:
        """The challenge that a proof answers; it is used up. Raises `Refusal`: it has expired."""
        challenge, self._challenge = self._challenge, None
        assert challenge is not None, "the table lets a proof follow a challenge only"
        if now > challenge.until:
            raise Refusal(ErrorCode.EXPIRED)
        return challenge

    def proved(self, session: str, now: float) -> None:
        """The proof was right, and this is the session."""
        self.phase, self.session = Phase.MEMBER, session
        self._proved_at = now
        self._tries = 0

    @property
    def logged_in(self) -> bool:
        """Whether there is a session."""
        return bool(self.session)

    @property
    def ends_at(self) -> float:
        """When the connection is over, if nothing arrives before."""
        if not self.logged_in:
            return self._began + STRANGER_TIME
        return min(self._heard + SILENCE, self.used + IDLE)

    def idle(self, now: float) -> bool:
        """Whether a session is over for want of use."""
        return self.logged_in and now >= self.used + IDLE

    def _count_try(self) -> None:
        """One more than allowed is answered, and the last thing that is."""
        if self._tries >= TRIES_PER_CONNECTION:
            raise Refusal(ErrorCode.TOO_MANY_TRIES, last=True)
        self._tries += 1
