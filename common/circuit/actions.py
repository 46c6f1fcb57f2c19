"""What a state machine asks its owner to do. Cells to send are not here: `take_cells()` has those.

Nobody changes an action but who made it; it is not frozen because that costs a microsecond for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.errors import EndReason
from common.wire.cells import Bytes
from common.wire.messages import BeginFlags, IPAddress, Sought


@dataclass(slots=True)
class PassOn:
    """A relay: send these cell bodies to the next hop."""

    bodies: Sequence[Bytes]


@dataclass(slots=True)
class ExtendTo:
    """A relay: dial exactly this identity, send it CREATE, and report with `extended`."""

    host: str
    port: int
    identity: bytes
    create: bytes


@dataclass(slots=True)
class OpenTarget:
    """An exit: dial the target, then `connected` or `reset`."""

    stream_id: int
    host: str = field(repr=False)  # targets and users' bytes stay out of tracebacks and logs
    port: int
    flags: BeginFlags


@dataclass(slots=True)
class LookUp:
    """An exit: look the name's addresses up, or the address's name, then `resolved`."""

    stream_id: int
    host: str = field(repr=False)
    sought: Sought = Sought.ADDRESSES


@dataclass(slots=True)
class Deliver:
    """Hand these bytes to the stream's application, and report with `taken` what it took.

    What several cells bring for one stream is one action: one system call hands it over.
    """

    stream_id: int
    pieces: list[Bytes] = field(repr=False)


@dataclass(slots=True)
class Opened:
    """A client: the stream's target answered from this address."""

    stream_id: int
    address: IPAddress


@dataclass(slots=True)
class Answered:
    """A client: the answer to `resolve`."""

    stream_id: int
    reason: EndReason
    addresses: tuple[IPAddress, ...]
    name: str = field(default="", repr=False)


@dataclass(slots=True)
class PeerFinished:
    """The other side sends no more on this stream; `closed` when this side had finished too."""

    stream_id: int
    closed: bool


@dataclass(slots=True)
class StreamEnded:
    """The other side ended both directions."""

    stream_id: int
    reason: EndReason


@dataclass(slots=True)
class Credit:
    """More may be sent: on this stream, or on any (0)."""

    stream_id: int


@dataclass(slots=True)
class HopAdded:
    """A client: this many hops have proved themselves."""

    hops: int


@dataclass(slots=True)
class Built:
    """A client: the circuit has all its hops."""


Action = (
    PassOn
    | ExtendTo
    | OpenTarget
    | LookUp
    | Deliver
    | Opened
    | Answered
    | PeerFinished
    | StreamEnded
    | Credit
    | HopAdded
    | Built
)
