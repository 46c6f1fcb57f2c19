"""Congestion control: how much of a circuit may be on its way, so that queues in relays stay short.

The window follows delay. The least round trip ever seen is the path's own (`base`); what the least of the last
rounds has more than that is a queue that stands. A round is a window's worth of answers. The window aims at

    delivered in a base round trip  +  what is delivered in `QUEUE_TIME`  +  `QUEUE_SIZE`

so at equilibrium each circuit keeps `QUEUE_SIZE` bytes waiting at the slowest link, which makes circuits share it
evenly (FAST TCP, Wei, Jin, Low and Hegde 2006, has that form), and all of them together `QUEUE_TIME` more, so that
a fast path has enough to do while threads wake up. Taking the *least* of a few rounds keeps it from giving way when
a lost segment or a busy machine holds answers up for a moment.

It starts by doubling in each round until a queue stands (slow start), and again when a limited window has met no queue
for some rounds. Every `BASE_AGE` seconds without a round trip as short as `base` the window is halved for one round,
to learn whether the path has become longer. A window that was not used does not grow.

Pure arithmetic: bytes and seconds in, `window` out.
"""

INITIAL = 256 * 2**10  # bytes on their way before anything is known: 0.2 s of a 10 Mbit/s link
FLOOR = 64 * 2**10  # never less: four long cells
QUEUE_TIME = 0.020  # seconds of queue that all circuits together may keep
QUEUE_SIZE = 16 * 2**10  # bytes of queue each circuit keeps: a long cell
MEMORY = 3  # rounds of which the least round trip counts
SMOOTHING = 0.5  # of the way to its aim the window goes in a round
FREE_ROUNDS = 4  # rounds at the limit without a queue after which it doubles again
BASE_AGE = 10.0  # seconds after which the base round trip is measured anew
_SLACK = 0.001  # seconds: a round trip so little longer than the base confirms it
_STEPS = 8  # answers in a round
MIN_STEP = 32 * 2**10  # bytes between two answers, at least: both ends know it


class CongestionWindow:
    """One circuit and direction, at its sender."""

    __slots__ = (
        "_base",
        "_base_at",
        "_ceiling",
        "_free_rounds",
        "_last",
        "_limited",
        "_probing",
        "_recent",
        "_round_end",
        "_round_least",
        "_starting",
        "_was_limited",
        "window",
    )

    def __init__(self, ceiling: int) -> None:
        """`ceiling`: the flow-control window, beyond which growing is of no use."""
        self.window = INITIAL
        self._ceiling = ceiling
        self._base = float("inf")  # seconds
        self._base_at = 0.0
        self._last = [float("inf")] * 3  # the latest round trips
        self._recent: list[float] = []  # the least round trips of the last rounds
        self._round_least = float("inf")
        self._round_end = 0  # the round ends when what had been sent by its start is answered
        self._limited = self._was_limited = False  # the window held something back, in this round and the last
        self._starting = True
        self._free_rounds = 0
        self._probing = 0  # the window that a measurement of the base has put aside

    @property
    def step(self) -> int:
        """Bytes after which the sender asks for an answer."""
        return max(MIN_STEP, self.window // _STEPS)

    def refused(self) -> None:
        """There was more to send than the window allowed."""
        self._limited = True

    def measured(self, round_trip: float, newly: int, answered: int, sent: int, now: float) -> None:
        """An answer came `round_trip` seconds after what it is about was sent; `newly` bytes are answered by it.

        `answered` and `sent` are totals since the start.
        """
        if round_trip <= self._base + _SLACK:
            self._base = min(self._base, round_trip)
            self._base_at = now
        self._round_least = min(self._round_least, round_trip)
        self._last = [*self._last[1:], round_trip]
        if self._starting:
            self._slow_start(newly)
        if answered >= self._round_end:
            self._end_round(now)
            self._round_end = sent

    def _slow_start(self, newly: int) -> None:
        standing = min(self._last)
        if standing - self._base > QUEUE_TIME + self._base / 8:
            self._starting = False
            self._recent = [standing]
            self._set(self._aim(standing))
        elif self._limited or self._was_limited:
            self._set(self.window + newly)

    def _end_round(self, now: float) -> None:
        least, self._round_least = self._round_least, float("inf")
        limited = self._limited or self._was_limited
        self._limited, self._was_limited = False, self._limited
        if self._probing:
            self._base, self._base_at = least, now
            self._recent = []
            self.window, self._probing = self._probing, 0
            return
        self._recent = [*self._recent[1 - MEMORY :], least]
        standing = min(self._recent)
        if not self._starting:
            aim = self._aim(standing)
            if limited or aim < self.window:
                self._set(self.window + SMOOTHING * (aim - self.window))
            free = limited and standing - self._base < QUEUE_TIME / 2
            self._free_rounds = self._free_rounds + 1 if free else 0
            self._starting = self._free_rounds >= FREE_ROUNDS
        if now - self._base_at > BASE_AGE:
            self._probing = self.window
            self._set(self.window / 2)

    def _aim(self, standing: float) -> float:
        """The window at which just the wanted queue would stand."""
        return self.window * (self._base + QUEUE_TIME) / standing + QUEUE_SIZE

    def _set(self, window: float) -> None:
        self.window = int(min(max(window, FLOOR), self._ceiling))
