"""Flow control in bytes of DATA, as absolute limits: how much may have been sent since the start.

A *circuit* limit runs 8 MiB ahead of what arrived. Both ends count the same bytes. The sender marks a cell when
it wants a receipt, after the first at most once in 12 KiB, and is owed one SENDME for each mark: it names the
count at the end of that cell plus 8 MiB, and repeats the end of the cell's layer, so a SENDME cannot be made up
by who did not receive it.

A *stream* limit runs ahead of what the application took, by 512 KiB at first. The receiver makes that four times
as much, up to 8 MiB, whenever it was taken at the rate of a whole window in two round trips: a stalled reader
holds little and a long fat path is filled. A new stream may begin with what another has grown to. The estimate
of the round trip is the least time between raising the limit and the first byte beyond the old one, which no
sender can make shorter than it is.

A sender at its limit stops reading its source. Data beyond a limit, a mark too early, or a SENDME that is wrong
or early, is `WindowViolated` and ends the circuit. Below the circuit's limit its sender keeps a
`CongestionWindow`.
"""

import hmac
from collections import deque
from dataclasses import dataclass

from common.circuit.congestion import MIN_STEP
from common.errors import WindowViolated

CIRCUIT_WINDOW = 8 * 2**20
STREAM_WINDOW = 512 * 2**10
MAX_STREAM_WINDOW = 8 * 2**20
GROWTH = 4  # times: a circuit's window may grow by more in a round trip, and must not wait for this one
_RENEWAL = 3 / 8  # of a window: when so much was taken a stream's limit is told anew,
_FREE_RENEWAL = 1 / 8  # or so much, and a cell goes out anyway


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a SENDME tells the sender: when the marked cell was sent, and how many bytes are answered by it."""

    sent_at: float
    newly: int


class CircuitSendWindow:
    """The sending half for a circuit, and which proofs of receipt are owed."""

    __slots__ = ("_marked", "_owed", "answered", "limit", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0  # the part of it that has arrived, as far as SENDMEs say
        self.limit = CIRCUIT_WINDOW
        self._marked = 0  # `sent` at the end of the last marked cell
        self._owed: deque[tuple[int, bytes, float]] = deque()

    @property
    def left(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    @property
    def flying(self) -> int:
        """Bytes sent and not answered."""
        return self.sent - self.answered

    def cell_sent(self, count: int, step: int) -> bool:
        """A cell with `count` bytes of DATA goes out; True when it should be marked: `marked` follows then.

        That is for a receipt each `step` bytes (>= 12 KiB). The first cell that is nearly full is marked too: it
        tells the round trip of a cell with nothing before it.
        """
        self.sent = sent = self.sent + count
        if sent > self.limit:
            raise WindowViolated("sent beyond the circuit's limit")
        return sent - self._marked >= step or (not self._marked and count >= MIN_STEP)

    def marked(self, proof: bytes, now: float) -> None:
        """That cell was sealed with a mark; `proof`: the end of its innermost layer."""
        self._marked = self.sent
        self._owed.append((self.sent, proof, now))

    def stuck(self, step: int) -> bool:
        """Whether nothing is owed although more than `step` is flying: the step has shrunk meanwhile."""
        return not self._owed and self.sent - self._marked >= step

    def credit(self, total: int, proof: bytes) -> Receipt:
        """A SENDME arrived: it must be the next one owed, with its proof."""
        if not self._owed:
            raise WindowViolated("a SENDME that nobody owes")
        arrived, expected_proof, sent_at = self._owed.popleft()
        if total != arrived + CIRCUIT_WINDOW or not hmac.compare_digest(proof, expected_proof):
            raise WindowViolated("a wrong SENDME")
        newly = arrived - self.answered
        self.answered = arrived
        self.limit = total
        return Receipt(sent_at, newly)


class CircuitReceiveWindow:
    """The receiving half for a circuit."""

    __slots__ = ("_marked", "arrived", "limit")

    def __init__(self) -> None:
        self.arrived = 0
        self.limit = CIRCUIT_WINDOW
        self._marked = 0

    def data_arrived(self, count: int) -> None:
        """Cells brought `count` bytes of DATA."""
        self.arrived += count
        if self.arrived > self.limit:
            raise WindowViolated("data beyond the circuit's limit")

    def marked(self) -> int:
        """The cell was marked: the new limit, which is owed in a SENDME."""
        least = MIN_STEP if self._marked else 1
        if self.arrived - self._marked < least:
            raise WindowViolated("marks too close to each other")
        self._marked = self.arrived
        self.limit = self.arrived + CIRCUIT_WINDOW
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
        sent = self.sent + count
        if sent > self.limit:
            raise WindowViolated("sent beyond the stream's limit")
        self.sent = sent

    def credit(self, total: int) -> None:
        """A SENDME arrived: it must raise the limit, and not beyond what any honest receiver would grant."""
        if not self.limit < total <= self.sent + MAX_STREAM_WINDOW:
            raise WindowViolated("a wrong stream SENDME")
        self.limit = total


class StreamReceiveWindow:
    """The receiving half for a stream; `now` is in seconds on any monotonic clock."""

    __slots__ = ("_probe", "_since", "_since_taken", "arrived", "limit", "round_trip", "taken", "window")

    def __init__(self, now: float, learned: int = 0) -> None:
        """`learned`: the window that the path is known to need, if that is more than the first."""
        self.arrived = 0
        self.taken = 0
        self.window = max(learned, STREAM_WINDOW)
        self.limit = STREAM_WINDOW
        self.round_trip: float | None = None
        self._probe: tuple[int, float] | None = None  # (old limit, when it was raised)
        self._since = now  # since when the taking is timed
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

    def advance(self) -> int | None:
        """The new limit when a SENDME is due before anything was taken."""
        if self.window <= self.limit or self.taken:
            return None
        self.limit = self.window
        return self.limit

    def data_taken(self, count: int, now: float, *, free: bool = False) -> int | None:
        """The application took `count` bytes; the new limit when a SENDME is due.

        `free`: it shares a cell with something else, so it may be told earlier.
        """
        self.taken += count
        if 2 * (self.taken - self._since_taken) >= self.window:
            self._grow(now)
        raised = self.taken + self.window
        if raised - self.limit < self.window * (_FREE_RENEWAL if free else _RENEWAL):
            return None
        if self._probe is None:
            self._probe = (self.limit, now)
        self.limit = raised
        return raised

    def _grow(self, now: float) -> None:
        """Half a window was taken: looking as often, the slow beginning of a stream does not count for long."""
        taken, seconds = self.taken - self._since_taken, now - self._since
        if self.round_trip is not None and self.window * seconds <= 2 * self.round_trip * taken:
            self.window = min(GROWTH * self.window, MAX_STREAM_WINDOW)
        self._since, self._since_taken = now, self.taken
