"""How much of a link may be on its way, so that on a slow path the queue stands here and not in the network.

Where a host's uplink is the slowest of a path, what waits for it waits in front of it: behind the kernel, where a
quiet circuit's cell passes no other. So a link gives its kernel no more than the path holds (what is acknowledged
in a second times the round trip without a queue) and a little. The rest waits in the outbox, where the quietest
circuit is served first. Tor does alike by TCP's own window (KIST; Jansen, Geddes, Wacek, Sherr and Syverson 2014),
but that one has the network's queue in it.

A queue that stays although the link holds back is others', and is taken for the path's: a link that shares its
uplink with a greedy sender would starve.

Pure arithmetic: what the kernel tells of a connection in, `limit` and `wait` out.
"""

ENGAGE, BUSY = 0.010, 32_768  # seconds of queue, and bytes on their way, from which a link holds back,
LEAVE, IDLE = 0.002, 8_192  # until one of them is less than this; a little is acknowledged late by itself
TARGET = 0.005  # seconds of queue that are meant to stand, and these bytes, by which links come to equal shares;
MORE = 4_096  # cells are given whole, so up to one more stands
CELL = 16_384  # bytes
WAVERING = 2.0  # times what round trips vary by is no queue, but a path that wavers
SLOWLY = 0.01  # of the way that this goes up at a look, and down at once: a queue that moves is no such path
FASTEST = 6_553_600  # bytes a second: above, a batch of a link takes less than 10 ms, and nobody waits long
RECENT = 2  # measurements of which the highest counts: one that met a pause says too little
MEMORY = 20  # measurements in which a path that is fast shows it: one that loses segments stands still at times
GROWTH = 1.25  # times what was measured before the recent ones: more than that is a connection that still starts
PAUSE = 3.0  # round trips without a look, after which what was measured says nothing
PATIENCE = 2.0  # seconds of holding back, after which more is others' queue than the meant one,
OWN, CELLS = 0.010, 2  # these seconds, and what so many cells take
SOONEST, LATEST = 0.002, 0.020  # seconds until another look pays
_NEVER = float("inf")


class PathQueue:
    """One link, at its sender. Times are seconds, sizes bytes, rates bytes a second."""

    __slots__ = ("_acked", "_base", "_held_until", "_least", "_rates", "_since", "_wavers", "limit", "rate")

    def __init__(self) -> None:
        self.limit = 0  # unacknowledged bytes from which no more is to be sent; 0: as many as there are
        self.rate = 0.0  # what the path carries; 0: not known
        self._rates: list[float] = []
        self._since = 0.0  # when the present measurement began, and
        self._acked = 0  # what was acknowledged then
        self._wavers = 0.0  # what round trips vary by without a queue that moves
        self._base = 0.0  # the path's round trip, others' queue in it; 0: the least one
        self._held_until = 0.0  # when a queue that stayed is others', and
        self._least = _NEVER  # the least round trip meanwhile

    def seen(self, now: float, round_trip: float, variation: float, least: float, acked: int) -> None:
        """What the kernel tells: round trip, smoothed, its variation, the least one; bytes acknowledged so far."""
        self._measure(now, round_trip, acked)
        self._wavers = min(variation, self._wavers + (variation - self._wavers) * SLOWLY)
        base = max(least, self._base)
        noise = WAVERING * self._wavers
        if not self._queues(round_trip, base, noise):
            self.limit, self._base = 0, 0.0
            return
        if not self.limit:
            self._held_until, self._least = now + PATIENCE, _NEVER
        self._least = min(self._least, round_trip)
        if now > self._held_until:
            if self._least > base + noise + TARGET + OWN + CELLS * CELL / max(self._rates):
                self._base = base = self._least - TARGET
                self._rates[-1] = self.rate = max(self._rates)  # what it carried before it held back
            self._held_until, self._least = now + PATIENCE, _NEVER
        self.limit = int(self.rate * (base + TARGET + noise)) + MORE

    def wait(self, unacknowledged: int) -> float:
        """Seconds until the path has carried what is more than the limit; more than 0."""
        return min(max((unacknowledged - self.limit) / max(self.rate, 1.0), SOONEST), LATEST)

    def _queues(self, round_trip: float, base: float, noise: float) -> bool:
        """Whether a queue stands that this link makes longer."""
        most = max(self._rates, default=0.0)
        if not 0 < most < FASTEST:
            return False
        flying, queue = self.rate * round_trip, round_trip - base
        if self.limit:
            return flying > IDLE and queue > LEAVE
        steady = self.rate <= GROWTH * max(self._rates[:-RECENT], default=0.0)
        return steady and flying > BUSY and queue > ENGAGE + noise

    def _measure(self, now: float, round_trip: float, acked: int) -> None:
        passed = now - self._since
        if passed < round_trip or passed <= 0:
            return
        fresh = passed < PAUSE * round_trip
        self._rates = [*self._rates[1 - MEMORY :], (acked - self._acked) / passed] if fresh else []
        self.rate = max(self._rates[-RECENT:], default=0.0)
        self._since, self._acked = now, acked
