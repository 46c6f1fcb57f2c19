"""Every error the project raises on purpose, and the fixed codes a peer is told.

OnionError
  ProtocolError          the peer's fault; `reason` is what a DESTROY will say
    Malformed  Unexpected  AuthenticationFailed  WindowViolated  TooLarge
  Refused                a policy or the target said no; `reason` is what an END will say
  Closed                 a link, circuit or stream ended; `reason` says why where one was given
  DirectoryError         StaleDocument  NotEnoughSignatures  Unreachable
  ConfigError            a setting is wrong; the message names source, option and value

`OSError` and `ssl.SSLError` become `Closed` in `common/net` and nowhere else.
Any other exception is a bug: it is logged once and ends one circuit or link, not the process.
"""

from enum import IntEnum


class DestroyReason(IntEnum):
    """Why a circuit ended: the one byte that a DESTROY cell carries."""

    FINISHED = 0
    PROTOCOL = 1
    INTERNAL = 2
    LIMIT = 3
    SHUTTING_DOWN = 4
    UNREACHABLE = 5
    TIMEOUT = 6
    LINK_CLOSED = 7


class EndReason(IntEnum):
    """Why a stream (or one direction of it) ended: one byte of an END message."""

    DONE = 0
    RESET = 1
    REFUSED = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    NOT_FOUND = 5
    POLICY = 6
    LIMIT = 7
    INTERNAL = 8
    CIRCUIT_CLOSED = 9


class OnionError(Exception):
    """Base of every error raised on purpose."""


class ProtocolError(OnionError):
    """A peer broke the protocol; its circuit or link ends with `reason`."""

    reason = DestroyReason.PROTOCOL


class Malformed(ProtocolError):
    """Bytes that no honest sender produces."""


class Unexpected(ProtocolError):
    """A message that is well formed but not legal now."""


class AuthenticationFailed(ProtocolError):
    """A layer or a handshake does not verify; all such failures look alike."""


class WindowViolated(ProtocolError):
    """Data beyond a limit, or a SENDME that is wrong or early."""


class TooLarge(ProtocolError):
    """Something does not fit into the cell, message or table it is meant for."""

    reason = DestroyReason.LIMIT


class Stopping(ProtocolError):
    """Nothing is begun here any more; what is up goes on for a while."""

    reason = DestroyReason.SHUTTING_DOWN


class Refused(OnionError):
    """A policy or the target said no."""

    def __init__(self, reason: EndReason, text: str = "") -> None:
        super().__init__(text or reason.name.lower().replace("_", " "))
        self.reason = reason


class Closed(OnionError):
    """A link, circuit or stream ended."""

    def __init__(self, text: str = "closed", reason: DestroyReason | EndReason | None = None) -> None:
        super().__init__(text)
        self.reason = reason


class DirectoryError(OnionError):
    """The directory could not be used."""


class StaleDocument(DirectoryError):
    """A directory document is expired, not yet valid, or older than one already held."""


class NotEnoughSignatures(DirectoryError):
    """A document or descriptor is not signed by whom it must be."""


class Unreachable(DirectoryError):
    """A gateway does not answer."""


class ConfigError(OnionError):
    """A setting is wrong: the message names its source, the option, the value and what would be right."""
