"""Links that share a slow uplink, segment by segment, with what their kernels would tell, on a clock of numbers."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from common.net.kernel_queue import LOOK
from common.net.path_queue import PathQueue
from common.wire.cells import LONG_CELL as CELL

SEGMENT = 1_448  # bytes
_STEP = 0.001
_SEGMENTS = [SEGMENT] * (CELL // SEGMENT) + [CELL % SEGMENT]  # of a cell


@dataclass
class Link:
    """One sender: `wanted` is the most that its circuits have on their way at a time, `late` holds answers up."""

    wanted: Callable[[float], int]
    late: Callable[[float], float] = lambda _now: 0.0
    limited: bool = True
    path: PathQueue = field(default_factory=PathQueue)
    acked: int = 0
    limits: list[tuple[float, int]] = field(default_factory=list)
    carried: list[tuple[float, int]] = field(default_factory=list)
    _sent: int = 0
    _full: bool = False
    _smooth: float = 0.0
    _variation: float = 0.0
    _least: float = 1e9
    _look_at: float = 0.0
    _answers: deque[tuple[float, float, int]] = field(default_factory=deque)  # when, sent when, bytes

    def turn(self, now: float, uplink: "Uplink") -> None:
        """Hears what was answered, looks, and sends what may be sent: cells as wholes."""
        while self._answers and self._answers[0][0] <= now:
            when, sent, size = self._answers.popleft()
            self.acked += size
            self._measure(when - sent)
            self.carried.append((now, self.acked))
        if self._smooth and now >= self._look_at:
            self._look_at = now + LOOK
            if self.limited:
                self.path.seen(now, self._smooth, self._variation, self._least, self.acked, full=self._full)
                self._full = False
            self.limits.append((now, self.path.limit))
        while True:
            flying = self._sent - self.acked
            if flying + CELL > self.wanted(now):
                return
            if 0 < self.path.limit <= flying:
                self._full = True
                return
            for size in _SEGMENTS:
                back = uplink.carry(size, now) + self.late(now)
                earliest = self._answers[-1][0] if self._answers else 0.0
                self._answers.append((max(back, earliest), now, size))
                self._sent += size

    def _measure(self, trip: float) -> None:
        """RFC 6298, section 2."""
        self._least = min(self._least, trip)
        if not self._smooth:
            self._smooth, self._variation = trip, trip / 2
            return
        self._variation += (abs(trip - self._smooth) - self._variation) / 4
        self._smooth += (trip - self._smooth) / 8

    def rate(self, begin: float, end: float) -> float:
        """Bytes a second that were acknowledged between these times."""
        got = [acked for when, acked in self.carried if begin <= when < end]
        return (got[-1] - got[0]) / (end - begin) if got else 0.0


class Uplink:
    """What the links share; `others`: seconds of queue that greedy senders elsewhere keep in front of it."""

    def __init__(
        self, rate: Callable[[float], float], delay: float, others: Callable[[float], float] = lambda _now: 0.0
    ) -> None:
        self._rate = rate
        self._delay = delay
        self._others = others
        self._free = 0.0
        self._now = 0.0
        self.links: list[Link] = []
        self.queues: list[tuple[float, float]] = []

    def link(
        self, wanted: Callable[[float], int], late: Callable[[float], float] = lambda _now: 0.0, *, limited: bool = True
    ) -> Link:
        """One more link."""
        link = Link(wanted, late, limited)
        self.links.append(link)
        return link

    def carry(self, size: int, now: float) -> float:
        """When the answer to a segment comes."""
        self._free = max(self._free, now) + size / self._rate(now)
        return self._free + self._others(now) + self._delay

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._now < until:
            for link in self.links:
                link.turn(self._now, self)
            self.queues.append((self._now, max(0.0, self._free - self._now)))
            self._now += _STEP

    def queue(self, begin: float, end: float) -> float:
        """The mean of what waited between these times, in seconds."""
        seen = [queue for when, queue in self.queues if begin <= when < end]
        return sum(seen) / len(seen)
