"""Flow control in bytes of DATA, as absolute limits: how much may have been sent since the start.

A *circuit* limit runs 8 MiB ahead of what arrived. Both ends count the same bytes; each time the count crosses a
multiple of 1 MiB, the receiver owes one SENDME that names that mark plus 8 MiB and repeats the end of the layer
that crossed it, so a SENDME cannot be made up by who did not receive the cell.

A *stream* limit runs ahead of what the application took, by 512 KiB at first. The receiver doubles that, up to
8 MiB, whenever a whole window was taken within two round trips: a stalled reader holds little and a long fat path
is filled. Its estimate of the round trip is the least time between raising the limit and the first byte beyond the
old one, which no sender can make shorter than it is.

A sender at its limit stops reading its source. Data beyond a limit, or a SENDME that is wrong or early, is
`WindowViolated` and ends the circuit.
"""

import hmac
from collections import deque

from common.errors import WindowViolated

CIRCUIT_WINDOW = 8 * 2**20
CIRCUIT_STEP = CIRCUIT_WINDOW // 8
STREAM_WINDOW = 512 * 2**10
MAX_STREAM_WINDOW = 8 * 2**20
_RENEWALS = 8  # a stream limit is renewed after each eighth of its window


class CircuitSendWindow:
    """The sending half for a circuit, and which proofs of receipt are owed."""

    __slots__ = ("_owed", "limit", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.limit = CIRCUIT_WINDOW
        self._owed: deque[tuple[int, bytes]] = deque()

    @property
    def left(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    def cell_sent(self, count: int, proof: bytes) -> None:
        """A cell with `count` bytes of DATA was sealed; `proof` is the end of its innermost layer."""
        mark = (self.sent // CIRCUIT_STEP + 1) * CIRCUIT_STEP
        self.sent += count
        if self.sent > self.limit:
            raise WindowViolated("sent beyond the circuit's limit")
        if self.sent >= mark:
            self._owed.append((mark + CIRCUIT_WINDOW, proof))

    def credit(self, total: int, proof: bytes) -> None:
        """A SENDME arrived: it must be the next one owed, with its proof."""
        if not self._owed:
            raise WindowViolated("a SENDME that nobody owes")
        expected_total, expected_proof = self._owed.popleft()
        if total != expected_total or not hmac.compare_digest(proof, expected_proof):
            raise WindowViolated("a wrong SENDME")
        self.limit = total


class CircuitReceiveWindow:
    """The receiving half for a circuit."""

    __slots__ = ("arrived", "limit")

    def __init__(self) -> None:
        self.arrived = 0
        self.limit = CIRCUIT_WINDOW

    def cell_arrived(self, count: int) -> int | None:
        """A cell brought `count` bytes of DATA; the new limit when a SENDME is due."""
        mark = (self.arrived // CIRCUIT_STEP + 1) * CIRCUIT_STEP
        self.arrived += count
        if self.arrived > self.limit:
            raise WindowViolated("data beyond the circuit's limit")
        if self.arrived < mark:
            return None
        self.limit = mark + CIRCUIT_WINDOW
        return self.limit


class StreamSendWindow:
    """The sending half for a stream."""

    __slots__ = ("limit", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.limit = STREAM_WINDOW

    @property
    def left(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    def take(self, count: int) -> None:
        """`count` bytes are sent."""
        if count > self.left:
            raise WindowViolated("sent beyond the stream's limit")
        self.sent += count

    def credit(self, total: int) -> None:
        """A SENDME arrived: it must raise the limit, and not beyond what any honest receiver would grant."""
        if not self.limit < total <= self.sent + MAX_STREAM_WINDOW:
            raise WindowViolated("a wrong stream SENDME")
        self.limit = total


class StreamReceiveWindow:
    """The receiving half for a stream; `now` is in seconds on any monotonic clock."""

    __slots__ = ("_probe", "_since", "_since_taken", "arrived", "limit", "round_trip", "taken", "window")

    def __init__(self, now: float) -> None:
        self.arrived = 0
        self.taken = 0
        self.window = STREAM_WINDOW
        self.limit = STREAM_WINDOW
        self.round_trip: float | None = None
        self._probe: tuple[int, float] | None = None  # (old limit, when it was raised)
        self._since = now  # when the window now being taken began
        self._since_taken = 0

    def data_arrived(self, count: int, now: float) -> None:
        """`count` bytes arrived."""
        self.arrived += count
        if self.arrived > self.limit:
            raise WindowViolated("data beyond the stream's limit")
        if self._probe is not None and self.arrived > self._probe[0]:
            sample = now - self._probe[1]
            self.round_trip = sample if self.round_trip is None else min(self.round_trip, sample)
            self._probe = None

    def data_taken(self, count: int, now: float) -> int | None:
        """The application took `count` bytes; the new limit when a SENDME is due."""
        self.taken += count
        self._grow(now)
        raised = self.taken + self.window
        if raised - self.limit < self.window // _RENEWALS:
            return None
        if self._probe is None:
            self._probe = (self.limit, now)
        self.limit = raised
        return raised

    def _grow(self, now: float) -> None:
        if self.taken - self._since_taken < self.window:
            return
        if self.round_trip is not None and now - self._since <= 2 * self.round_trip:
            self.window = min(2 * self.window, MAX_STREAM_WINDOW)
        self._since, self._since_taken = now, self.taken
