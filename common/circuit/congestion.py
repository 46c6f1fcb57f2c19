"""Congestion control: how much of a circuit may be on its way, so that queues in relays stay short.

The window follows delay. The least round trip seen is the path's own (the *base*); what the least of the last
rounds has more than that is a queue that stands. A round lasts until what had been sent at its start is
answered. The window aims at

    what is delivered in a base round trip and the allowed queueing time, and `QUEUE_SIZE`

(the form of FAST TCP, Wei, Jin, Low and Hegde 2006). The allowed time is longer for a small window than for a
large one, so circuits that share a link come to have equal windows; it gives a fast link something to do while
threads wake up. Growing by bytes and shrinking by a part helps with that. It shrinks by the best of several rounds
only: a segment that was lost, or a busy machine, holds answers up for a moment, and that is no queue.

At first the window doubles each round (slow start), or becomes at once what the rate at which receipts come
back asks for, up to `JUMP` times as much: on a long path doubling would take a second. That rate may be a whole
link's, and the base others' queue, so no more than `JUMP_BASE` of it is taken at once. Slow start ends when a
queue stands. Soon after, and when no round trip was as short as the base for `BASE_AGE` seconds of sending, the
window is halved for two rounds, and the second measures without this circuit's own queue: others' were taken
for the path, or the path has become longer. A window that nobody needed does not grow.

The TCP of the links starts slowly too, and what waits for it looks like a queue. So a slow start that ended with a
small window is taken up once more, when rounds have been free of queues.

On a slow path the window is spread over the base round trip. Receipts come in bunches, since they wait in the same
queues as cells do; to answer each bunch with one of cells keeps it going, and who shares the link waits for it.

Pure arithmetic: bytes and seconds in, `window` and `wait` out.
"""

from math import sqrt

INITIAL = 128 * 2**10  # bytes on their way before anything is known: 0.1 s of a 10 Mbit/s link
FLOOR = 32 * 2**10  # never less: two long cells
MIN_STEP = 12 * 2**10  # bytes from mark to mark, at least: a nearly full cell; both ends know it
QUEUE_SIZE = 16 * 2**10  # bytes of queue that a circuit with a window of 256 KiB keeps; it grows as its root
QUEUE_WORK = 3_000.0  # allowed seconds of queue times bytes of window: 12 ms at 256 KiB; but not less than
LEAST_QUEUE_TIME = 0.005  # seconds,
QUEUE_SHARE = 0.1  # this part of the base round trip, since what wavers is larger on long paths,
WAVER_PART = 1 / 3  # and this part of what rounds' trips differ by: links that lose segments stop and catch up,
MOST_WAVER = 0.35  # but no more for that than this part of the base; and never more in all than
MOST_QUEUE_TIME = 0.060  # seconds
WAVER_MEMORY = 5  # rounds of which the median counts: a link that stood still once is not one that wavers
MEMORY = 4  # rounds of which the best counts
SMOOTHING = 0.5  # of the way to its aim that a window goes in a round
FREE_ROUNDS = 3  # more rounds at the limit with the allowed queue than with more, and it grows quickly again
YOUNG_GROWTH = 1.25  # a round, after slow start and until a queue has stood: what ended it may have been no queue
JUMP = 8  # times the window that a round of slow start may become, when the rate is seen to be so high
JUMP_BASE = 0.2  # seconds of that rate, and the allowed queue's, at most: a longer base may be others' queue
JUMP_TIME = 0.002  # seconds of receipts, and
JUMP_BYTES = 48 * 2**10  # bytes answered by them, before they tell a rate
OVERSHOOT = 2.0  # times that rate's window up to which slow start goes on doubling
COLD = 512 * 2**10  # bytes: slow start that ended with no more may have met the links' own
BASE_AGE = 10.0  # seconds
FIRST_LOOK = 0.7  # seconds of sending before the base is measured first: many transfers are over by then
STALE = 3  # measurements in a row that still met a queue: after that the base goes half of the way to them
QUIET_TIME = 0.015  # seconds more than the base that such a measurement may show and still confirm it
DRAINED = 0.5  # of what the path holds without a queue is on its way while the base is measured
MARK_TIME = 0.015  # seconds from mark to mark: each receipt is a cell of its own through all relays
MARK_PART = 1 / 3  # of a window from mark to mark at most,
MOST_MARK_PART = 2 / 3  # or as much of it as stands in a queue, which keeps the path busy meanwhile, up to this;
START_PART = 1 / 16  # in slow start, where receipts tell the rate
PACED_RATE = 3_072_000  # bytes a second at most where sending is paced, 5 ms for a cell: timers are coarse
PACED_BASE = 0.020  # seconds of a base round trip: on a shorter path bunches are short too
PACE_SLACK = 0.005  # seconds by which timers may be late without a loss
_LATEST = 8  # round trips of which the least tells slow start about a queue: more than half a round's
_TICK = 1e-5  # seconds: no round trip is shorter, whatever a coarse clock says
_NEVER = float("inf")


class CongestionWindow:
    """One circuit and direction, at its sender."""

    __slots__ = (
        "_ceiling",
        "_cold",
        "_first",
        "_free_rounds",
        "_jump_limit",
        "_latest",
        "_least",
        "_limited",
        "_most",
        "_next",
        "_probing",
        "_put_by",
        "_recent",
        "_round_end",
        "_spread",
        "_spreads",
        "_stale",
        "_starting",
        "_told",
        "_unconfirmed",
        "_was_limited",
        "_young",
        "base",
        "pace",
        "step",
        "window",
    )

    def __init__(self, ceiling: int) -> None:
        """`ceiling`: the flow-control window, beyond which growing is of no use."""
        self.window = INITIAL
        self.step = MIN_STEP  # bytes after which the sender asks for a receipt
        self.pace = 0.0  # seconds that each byte takes; 0: sending is not paced
        self._next = 0.0  # when the next may be sent
        self._ceiling = ceiling
        self.base = _NEVER  # seconds: the path's own round trip, infinite before one was seen
        # Seconds of sending since a round trip was as short. The first look at the base comes early, yet not at
        # once: it takes two round trips, and many transfers are over by then.
        self._unconfirmed = BASE_AGE - FIRST_LOOK
        self._latest: list[float] = []  # round trips
        self._least = _NEVER  # round trip of this round, and
        self._most = 0.0
        self._spreads: list[float] = []  # what the trips of each of the last rounds differ by, and
        self._spread = 0.0  # the median of it
        self._recent: list[tuple[float, int]] = []  # the least round trips of the last rounds, and their windows
        self._round_end = 0
        self._limited = self._was_limited = False  # the window held something back, in this round and the last
        self._starting = True
        self._cold = True  # slow start may begin once more
        self._first: tuple[float, int] | None = None  # receipt of a round: when, and bytes answered by then
        self._jump_limit = JUMP * INITIAL
        self._told = _NEVER  # the window that the rate of this round asks for
        self._young = True  # no queue has stood for some rounds since the last slow start
        self._stale = 0
        self._free_rounds = 0
        self._probing = 0  # rounds to go
        self._put_by = (0, 0.0)  # the window before that, and the least round trip with it

    def refused(self) -> None:
        """There was more to send than the window allowed."""
        self._limited = True

    def sent(self, now: float, size: int) -> None:
        """`size` bytes of DATA were sealed at `now`, on the clock of receipts."""
        if self.pace:
            self._next = now + self.wait(now, size)

    def wait(self, now: float, unsent: int = 0) -> float:
        """Seconds until a cell may be begun, when `unsent` bytes are sealed before it; 0 or less: now."""
        return max(self._next, now - PACE_SLACK) + unsent * self.pace - now if self.pace else 0.0

    def measured(self, now: float, round_trip: float, newly: int, answered: int, sent: int) -> None:
        """A receipt came at `now`, `round_trip` seconds after its cell was sent; `newly` bytes are answered by it.

        `answered` and `sent` are totals since the start.
        """
        round_trip = max(round_trip, _TICK)
        if 2 * (sent - answered) >= self.window:
            self._limited = True
        if round_trip <= self.base:
            self.base = round_trip
            if not self._starting:
                self._unconfirmed = 0.0
        self._least = min(self._least, round_trip)
        self._most = max(self._most, round_trip)
        self._latest = [*self._latest[1 - _LATEST :], round_trip]
        if self._starting:
            self._start(newly)
        if self._starting:
            self._jump(now, answered)
        if answered >= self._round_end:
            self._end_round()
            self._round_end = sent
            self._first = None
            self._jump_limit = JUMP * self.window
        self._set_step()
        self._set_pace()

    def _set_pace(self) -> None:
        pace = self.base / self.window
        slow = self.base >= PACED_BASE and pace * PACED_RATE >= 1
        self.pace = pace if slow and not self._starting else 0.0

    def _set_step(self) -> None:
        step = int(self.window * START_PART)
        if not self._starting:
            least = min(self._latest)
            queued = min(1 - self.base / least, MOST_MARK_PART)
            step = int(self.window * min(max(MARK_PART, queued), MARK_TIME / least))
        self.step = max(MIN_STEP, step)

    def _allowed(self, window: float) -> float:
        """Seconds of queue that may stand with this window."""
        return min(max(QUEUE_WORK / window, self._noise), MOST_QUEUE_TIME)

    @property
    def _noise(self) -> float:
        """Seconds by which round trips waver without a queue."""
        waver = min(self._spread * WAVER_PART, self.base * MOST_WAVER)
        return max(LEAST_QUEUE_TIME, self.base * QUEUE_SHARE, waver)

    def _start(self, newly: int) -> None:
        """Slow start."""
        least = min(self._latest)
        if least - self.base > 2 * self._allowed(self.window):
            self._starting = False
            self._cold = self._cold and self.window <= COLD
            self._recent = [(least, self.window)]
            self._set(self._aim(least, self.window))
        elif self._limited or self._was_limited:
            self._set(min(self.window + newly, max(self.window, OVERSHOOT * self._told)))

    def _jump(self, now: float, answered: int) -> None:
        """Slow start need not double blindly: what comes back in a row tells the rate of the slowest link."""
        if self._first is None:
            self._first = now, answered
            return
        since, count = now - self._first[0], answered - self._first[1]
        if since >= JUMP_TIME and count >= JUMP_BYTES and (self._limited or self._was_limited):
            allowed = self._allowed(self.window)
            self._told = count / since * (self.base + allowed)
            most = count / since * (min(self.base, JUMP_BASE) + allowed)
            self._set(max(self.window, min(self._jump_limit, most)))

    def _end_round(self) -> None:
        least, self._least = self._least, _NEVER
        self._spreads = [*self._spreads[1 - WAVER_MEMORY :], self._most - least]
        self._spread = sorted(self._spreads)[(len(self._spreads) - 1) // 2]
        self._most = 0.0
        limited = self._limited or self._was_limited
        self._limited, self._was_limited = False, self._limited
        self._unconfirmed += least
        if self._probing:
            self._probe(least)
            return
        self._recent = [*self._recent[1 - MEMORY :], (least, self.window)]
        if not self._starting:
            self._follow(least, limited)
            if self._unconfirmed > BASE_AGE:
                self._drain()

    def _follow(self, least: float, limited: bool) -> None:
        """The window follows the queue that stands: up by this round, down by the best of the last.

        A round had about the window that it ended with; one that had less says nothing for more.
        """
        up = self._aim(least, self.window)
        down = max(self._aim(time, min(window, self.window)) for time, window in self._recent)
        if least > 2 * (self.base + self._allowed(self.window)):
            self._young = False
            self._set(up)
        elif up > self.window and limited:
            self._set(max(up, self.window * YOUNG_GROWTH) if self._young else up)
        elif down < self.window:
            self._young = False
            self._set(self.window + SMOOTHING * (down - self.window))
        free = limited and least - self.base < self._allowed(self.window)
        self._free_rounds = max(0, self._free_rounds + (1 if free else -1))
        if self._free_rounds == FREE_ROUNDS:
            self._free_rounds = 0
            self._young = True
            if self._cold:
                self._cold = False
                self._starting = True
                self._told = _NEVER

    def _drain(self) -> None:
        """Two rounds with half the window, or less than the path holds, will tell the base."""
        standing = min(time for time, _ in self._recent)
        self._probing, self._put_by = 2, (self.window, standing)
        self._set(self.window * min(0.5, DRAINED * self.base / standing))

    def _probe(self, least: float) -> None:
        """A round with half the window: the first still met the queue of the whole one."""
        self._probing -= 1
        if not self._probing:
            self._stale = self._stale + 1 if least > self.base + max(QUIET_TIME, self._noise) else 0
            if self._stale == STALE:
                self.base, self._stale = (self.base + least) / 2, 0
            self._unconfirmed = 0.0
            self._recent = []
            window, standing = self._put_by
            self._set(min(window, self._aim(standing, window)))

    def _aim(self, least: float, window: int) -> float:
        """The window at which just the wanted queue would stand, by the least round trip with `window`."""
        part = min(1.0, (self.base + self._allowed(window)) / least)
        return window * part + QUEUE_SIZE * sqrt(window / 262_144)

    def _set(self, window: float) -> None:
        self.window = int(min(max(window, FLOOR), self._ceiling))
