"""Looking again before falling asleep, where what comes next comes within a fraction of a millisecond.

A core on which everything sleeps halts, and takes 30 us and more to wake, in a virtual machine above all: that is
a third of an echo through three relays of one house. So after some short waits in a row the next is spent looking
(Linux calls it busy polling, hypervisors halt polling). It must cost nobody much:

* after each look everyone else who wants the core has it; if somebody does, sleeping is better: the kernel wakes
  who sleeps on a core that is free, while one who looks stays where it is,
* who has much to do between two waits, as in a transfer, falls asleep at once: others need the core,
* over time it looks for no more than a `SHARE`. Who talks, pauses and talks again does not notice the limit.
"""

import os
from collections.abc import Callable
from time import monotonic

from common.net.poller import Handler

SHORT = 0.0005  # seconds of waiting that are worth it: half an echo over three relays on one machine
LIGHT = 0.0003  # seconds of work between two waits: a cell or two, or a new stream
ENOUGH = 4  # such waits before looking begins;
MOST = 16  # more are not counted, so that it soon ends;
LONG_WAIT = 4  # a longer wait counts as so many short ones fewer,
HEAVY_WORK = 32  # and after more work so many are needed first
LATE = 0.0001  # seconds from look to look, by which others have work for the core,
OTHERS = 6  # which counts as so many short waits fewer
SHARE = 0.05  # of the time,
SAVED = 0.5  # seconds of which may be used in a row

Events = list[tuple[Handler, int]]


class BusyPoll:
    """Around `wait`, a poller's. One thread only."""

    __slots__ = ("_clock", "_give_way", "_left", "_score", "_wait", "_woken")

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
        self._woken = clock()

    def wait(self, seconds: float | None) -> Events:
        """As the poller's, which is asked for no more than that in all."""
        begin = self._clock()
        worked = begin - self._woken
        if worked > LIGHT:
            self._score = -HEAVY_WORK
        events: Events = []
        if self._score >= ENOUGH and self._left > 0:
            events = self._look(begin + (SHORT if seconds is None else min(SHORT, seconds)))
            looked = self._clock() - begin
            self._left -= looked
            if seconds is not None:
                seconds = max(0.0, seconds - looked)
        if not events:
            events = self._wait(seconds)
        self._woken = now = self._clock()
        self._left = min(SAVED, self._left + SHARE * (worked + now - begin))
        if now - begin <= SHORT:
            self._score = min(self._score + 1, MOST)
        elif self._score > 0:
            self._score = max(0, self._score - LONG_WAIT)
        return events

    def _look(self, until: float) -> Events:
        looked = self._clock()
        while True:
            events = self._wait(0)
            now = self._clock()
            if now - looked > LATE:
                self._score -= OTHERS
                return events
            if events or now >= until:
                return events
            looked = now
            self._give_way()
