"""Looking again before falling asleep, where what comes next comes within a millisecond.

A core on which everything sleeps halts, and takes 30 us and more to wake, in a virtual machine above all: that is
a third of an echo through three relays of one house. So where of late waits were mostly short, the next is spent
looking (Linux calls it busy polling, hypervisors halt polling). It must cost nobody much:

* after each look whoever was woken meanwhile has the core (of other sessions and containers only so: against one
  that is always busy, a looker keeps its fair share of the core). Who finds that others worked there sleeps: the
  kernel wakes who sleeps on a core that is free, while one who looks stays where it is,
* who has much to do between two waits, as in a transfer, falls asleep at once: others need the core,
* over time each pump looks for no more than a `SHARE`. Who talks, pauses and talks again does not notice.
"""

import os
from collections.abc import Callable
from math import inf
from time import monotonic

from common.net.poller import Handler

SHORT = 0.001  # seconds of waiting that are worth it: an echo over three relays of one house, a new stream there
LIGHT = 0.0003  # seconds of work between two waits: a cell or two, or a new stream
ENOUGH = 4  # such waits before looking begins;
MOST = 16  # more are not counted, so that it soon ends;
LONG_WAIT = 12  # a longer wait takes so many back, down to none,
HEAVY_WORK = 32  # and after more work so many are needed first
LATE = 0.0001  # seconds from look to look, in which others have worked,
OTHERS = 6  # which takes so many back
SHARE = 0.05  # of the time,
SAVED = 0.5  # seconds of which may be used in a row; who has used them up rests
RESTED = SAVED / 2  # until so much is saved: where some look now and then and others do not, all wait longer

Events = list[tuple[Handler, int]]


class BusyPoll:
    """Around `wait`, a poller's. One thread only."""

    __slots__ = ("_clock", "_give_way", "_left", "_resting", "_score", "_wait", "_woken")

    def __init__(
        self,
        wait: Callable[[float | None], Events],
        clock: Callable[[], float] = monotonic,
        give_way: Callable[[], object] = os.sched_yield,
    ) -> None:
        self._wait = wait
        self._clock = clock
        self._give_way = give_way
        self._score = 0
        self._left = SAVED  # seconds of looking
        self._resting = False
        self._woken = clock()

    def wait(self, seconds: float | None) -> Events:
        """As the poller's, which is asked for no more than that in all."""
        if seconds == 0:
            return self._wait(0)
        begin = self._clock()
        worked = begin - self._woken
        if worked > LIGHT:
            self._score = -HEAVY_WORK
        events: Events = []
        if self._score >= ENOUGH and not self._resting:
            events = self._look(begin, SHORT if seconds is None else min(SHORT, seconds))
            looked = self._clock() - begin
            self._left -= min(looked, SHORT)  # what was more, others had
            self._resting = self._left <= 0
            if seconds is not None:
                seconds = max(0.0, seconds - looked)
        if not events:
            events = self._wait(seconds)
        self._woken = now = self._clock()
        self._left = min(SAVED, self._left + SHARE * (worked + now - begin))
        if self._left >= RESTED:
            self._resting = False
        if now - begin <= SHORT:
            self._score = min(self._score + 1, MOST)
        elif self._score > 0:
            self._score = max(0, self._score - LONG_WAIT)
        return events

    def _look(self, begin: float, seconds: float) -> Events:
        before = begin
        while True:
            events = self._wait(0)
            now = self._clock()
            if now - before > LATE:
                self._score -= OTHERS
                return events
            if events or now >= begin + seconds:
                return events
            before = now
            try:
                self._give_way()
            except OSError:  # forbidden, as some containers forbid much: it looks no more
                self._left = -inf
                return events
