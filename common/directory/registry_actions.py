"""What a `Registry` wants done: returned by its methods, in order, and carried out by the gateway role."""

from dataclasses import dataclass
from enum import StrEnum

from common.directory.descriptor import Descriptor
from common.directory.observation import History
from common.errors import DirectoryError


class Refusal(StrEnum):
    """Why a registration is refused: fixed codes, also on the wire."""

    REPLAYED = "replayed"
    NICKNAME = "nickname-taken"
    CLOCK = "clock"
    FULL = "full"
    ADDRESS = "address"
    SIGNATURE = "signature"
    REPLACED = "replaced"


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
    """The relay is in the list now; answer `session`, once what comes before is stored."""

    session: int
    nickname: str
    newly: bool  # False: it was listed before and only its descriptor is newer


@dataclass(frozen=True, slots=True)
class Gone:
    """The relay has left the list."""

    nickname: str
    reason: str


@dataclass(frozen=True, slots=True)
class EndSession:
    """Tell `session` the refusal and close it; it owns no relay any more."""

    session: int
    code: Refusal
    text: str


@dataclass(frozen=True, slots=True)
class BindNickname:
    """Store that `nickname` (in lower case) belongs to `identity`, whoever had it before."""

    nickname: str
    identity: bytes


@dataclass(frozen=True, slots=True)
class StoreRelay:
    """Store that the relay is listed with this descriptor's envelope; None: that it is not listed."""

    identity: bytes
    envelope: bytes | None


@dataclass(frozen=True, slots=True)
class StoreHistory:
    """Store a relay's past; None: forget it."""

    identity: bytes
    history: History | None


@dataclass(frozen=True, slots=True)
class StoreSuccession:
    """Store that `old` was replaced by `new`, for ever."""

    old: bytes
    new: bytes


Action = (
    CheckAddress | Listed | Gone | EndSession | BindNickname | StoreRelay | StoreHistory | StoreSuccession
)
