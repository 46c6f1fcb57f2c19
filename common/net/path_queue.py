"""How much of a link may be on its way, so that on a slow path the queue stands here and not in the network.

Where a host's uplink is the slowest of a path, what waits for it waits in front of it: behind the kernel, where a
quiet circuit's cell passes no other. So a link gives its kernel no more than the path holds (what is acknowledged
in a second times the round trip without a queue) and a little. The rest waits in the outbox, where the quietest
circuit is served first. Tor does alike by TCP's own window (KIST; Jansen, Geddes, Wacek, Sherr and Syverson 2014),
but that one has the network's queue in it.

A link that carries much less since it holds back was not the one that made the queue: others did, or answers are
late for another reason. It then lets go, and tries again after a while that doubles each time.

Pure arithmetic: what the kernel tells of a connection in, `limit` and `wait` out.
"""

from common.wire.cells import LONG_CELL

ENGAGE = 0.010  # seconds of queue from which a link holds back
LEAVE = 0.002  # seconds of queue with which that ends
BUSY = 2 * LONG_CELL  # bytes on their way without which it does not begin: a little is acknowledged late by itself
IDLE = LONG_CELL // 2  # bytes on their way with which it ends
TARGET = 0.005  # seconds of queue that are meant to stand; cells are given whole, so up to one more stands
MORE = 4_096  # bytes besides, as many for each link: that is what makes their shares equal
WAVERING = 2.0  # times what round trips vary by is no queue, but a path that wavers
LONGER = 0.5  # seconds that the limit stays as it was: TCPs that measure their path (BBR) stand still for 0.2 s
SLOWLY = 0.01  # of the way that this goes up at a look, and down at once: a queue that moves is no such path
FASTEST = 3_072_000  # bytes a second, 5 ms for a cell: above, and where segments are lost, there is more to lose
RECENT = 2  # measurements of which the higher counts: one that met a pause says too little
MEMORY = 20  # measurements in which a path that is fast shows it: one that loses segments stands still at times
GROWTH = 1.25  # times what was measured before the recent ones: more than that is a connection that still starts
PAUSE = 3.0  # round trips without a look, after which what was measured says nothing
JUDGED = 1.0  # seconds of holding back, or
JUDGED_TRIPS = 8  # round trips if they are more; the best of the second half is compared with what was before
FADING = 0.97  # of what was before, and no less than what is now, is compared with the next time
WANTED = 0.75  # of the looks meanwhile, at least, found that the limit held something back; else nothing is judged
LOSS = 0.65  # of it or less, and the link lets go
FIRST_REST, LONGEST_REST = 2.0, 64.0  # seconds until it tries again
GOOD = 4  # times in a row that it lost nothing, after which the next rest is a short one again
_SOONEST, _LATEST = 0.002, 0.020  # seconds until another look pays,
_SOONEST_PART, _LATEST_PART = 1 / 16, 1 / 4  # or these parts of the round trip if they are more


class PathQueue:
    """One link, at its sender. Times are seconds, sizes bytes, rates bytes a second."""

    __slots__ = (
        "_acked",
        "_base",
        "_before",
        "_full_looks",
        "_good",
        "_held_until",
        "_judged_at",
        "_looks",
        "_rates",
        "_rest",
        "_resting_until",
        "_round_trip",
        "_since",
        "_wavers",
        "limit",
        "rate",
    )

    def __init__(self) -> None:
        self.limit = 0  # unacknowledged bytes from which no more is to be sent; 0: as many as there are
        self.rate = 0.0  # what the path carries; 0: not known
        self._round_trip = 0.0
        self._base = float("inf")  # the least round trip ever: the kernel forgets its own after minutes of a queue
        self._wavers = 0.0  # what round trips vary by without a queue that moves
        self._rates: list[float] = []
        self._since = 0.0  # when the present measurement began, and
        self._acked = 0  # what was acknowledged then
        self._before = 0.0  # the rate that it must not lose: when it began to hold back, fading since
        self._held_until = 0.0  # whether there is a queue or not
        self._judged_at = 0.0
        self._looks = self._full_looks = 0  # since then
        self._good = 0
        self._rest = FIRST_REST
        self._resting_until = 0.0

    def seen(
        self, now: float, round_trip: float, variation: float, least: float, acked: int, *, full: bool
    ) -> None:
        """What the kernel tells: round trip, smoothed, its variation, the least one; bytes acknowledged so far.

        `full`: the limit has held something back since the last look.
        """
        self._round_trip = round_trip
        self._base = min(self._base, least)
        self._measure(now, acked)
        self._wavers = min(variation, self._wavers + (variation - self._wavers) * SLOWLY)
        noise = WAVERING * self._wavers
        if not self._queues(now, noise):
            if now >= self._held_until:
                self.limit = 0
            return
        self._held_until = now + LONGER
        self._looks += 1
        self._full_looks += full
        if not self.limit:
            self._before = self.rate
            self._judge_later(now)
        elif now >= self._judged_at and not self._pays(now):
            self.limit = 0
            return
        self.limit = int(self.rate * (self._base + TARGET + noise)) + MORE

    def wait(self, unacknowledged: int) -> float:
        """Seconds until the path has carried what is more than the limit; more than 0."""
        least = max(_SOONEST, self._round_trip * _SOONEST_PART)
        most = max(_LATEST, self._round_trip * _LATEST_PART)
        return min(max((unacknowledged - self.limit) / max(self.rate, 1.0), least), most)

    def _queues(self, now: float, noise: float) -> bool:
        """Whether a queue stands that this link may have made."""
        most = max(self._rates, default=0.0)
        if not 0 < most < FASTEST:
            return False
        flying, queue = self.rate * self._round_trip, self._round_trip - self._base
        if self.limit:
            return flying > IDLE and queue > LEAVE
        steady = self.rate <= GROWTH * max(self._rates[:-RECENT], default=0.0)
        return steady and flying > BUSY and queue > ENGAGE + noise and now >= self._resting_until

    @property
    def _trial(self) -> float:
        return max(JUDGED, JUDGED_TRIPS * self._round_trip)

    def _judge_later(self, now: float) -> None:
        self._judged_at = now + self._trial
        self._looks = self._full_looks = 0

    def _pays(self, now: float) -> bool:
        """Whether the link carries what it did before, or has less to send; if not, it rests."""
        wanted = self._full_looks >= WANTED * self._looks
        last = max(RECENT, int(self._trial / self._round_trip / 2))
        if max(self._rates[-last:]) > LOSS * self._before or not wanted:
            self._good += wanted
            if self._good >= GOOD:
                self._rest = FIRST_REST
            self._before = max(self.rate, FADING * self._before if wanted else 0.0)
            self._judge_later(now)
            return True
        self._good = 0
        self._resting_until = now + self._rest
        self._rest = min(2 * self._rest, LONGEST_REST)
        return False

    def _measure(self, now: float, acked: int) -> None:
        passed = now - self._since
        if passed < self._round_trip or passed <= 0:
            return
        rate = (acked - self._acked) / passed
        if passed >= PAUSE * self._round_trip:
            self._rates = []
        elif not self.limit or rate > self.rate or self._round_trip - self._base > LEAVE:
            self._rates = [*self._rates[1 - MEMORY :], rate]  # a path that is not busy carries less than it can
        self.rate = max(self._rates[-RECENT:], default=0.0)
        self._since, self._acked = now, acked
