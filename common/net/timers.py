"""What a pump is to do later, by the time when it is due."""

import heapq
import itertools
from collections.abc import Callable
from time import monotonic

STALE_TIMERS = 64  # cancelled ones tolerated before the heap is swept: a connect's live for seconds


class Timer:
    """One function that is called later, once."""

    __slots__ = ("_timers", "function")

    def __init__(self, timers: "Timers", function: Callable[[], object]) -> None:
        self._timers = timers
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """Any thread; on the pump's thread the function is then certain not to run."""
        if self.function is not None:
            self.function = None
            self._timers.cancelled()


Entry = tuple[float, int, Timer]  # when it is due, by `monotonic`; which came first; the timer


class Timers:
    """The pump's thread only, but for `entry` and `Timer.cancel`."""

    def __init__(self, call: Callable[[Callable[[], object]], object], bug: Callable[[], object]) -> None:
        """`call` runs a function soon on the pump's thread; `bug` hears, in an `except`, of one that failed."""
        self._call = call
        self._bug = bug
        self.heap: list[Entry] = []  # the one due first in front
        self._numbers = itertools.count()
        self._stale = 0  # cancelled ones: a hint when to sweep, so a lost update does no harm
        self._sweeps = False  # the pump will

    def entry(self, seconds: float, function: Callable[[], object]) -> Entry:
        """For `add`: due so many seconds from now."""
        return monotonic() + seconds, next(self._numbers), Timer(self, function)

    def add(self, entry: Entry) -> None:
        """It is called when due."""
        if entry[2].function is not None:  # else another thread has changed its mind already
            heapq.heappush(self.heap, entry)

    def run(self) -> None:
        """Calls what is due."""
        heap, now = self.heap, monotonic()
        while heap:
            when, _, timer = heap[0]
            function = timer.function
            if function is not None and when > now:
                return
            heapq.heappop(heap)
            if function is None:
                self._stale -= 1
            else:
                timer.function = None
                try:
                    function()
                except Exception:
                    self._bug()

    def cancelled(self) -> None:
        """For timers: what is cancelled leaves the heap now and then, not only when it would be due."""
        self._stale += 1
        if self._stale > STALE_TIMERS and not self._sweeps:
            self._sweeps = True
            self._call(self._sweep)

    def _sweep(self) -> None:
        self._sweeps = False  # first: who cancels from now on asks again
        if self._stale * 2 > len(self.heap):
            self._stale = 0
            self.heap[:] = [entry for entry in self.heap if entry[2].function is not None]
            heapq.heapify(self.heap)
