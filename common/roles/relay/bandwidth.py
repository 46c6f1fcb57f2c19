"""How fast a relay has really carried cells: what it may say of itself in its descriptor."""

from collections import deque
from collections.abc import Callable

WINDOW = 10.0  # seconds: shorter peaks are not sustained
HOURS = 24  # kept: a quiet night does not make a relay slow


class Bandwidth:
    """The best window of the last day. `total` gives the bytes carried so far; one thread calls `sample`."""

    def __init__(self, total: Callable[[], int], now: float) -> None:
        self._total = total
        self._last = now, total()
        self._hour_ends = now + 3_600.0
        self._peaks: deque[int] = deque([0], maxlen=HOURS)  # of each hour, bytes a second

    @property
    def peak(self) -> int:
        """Bytes a second; 0 before the first window is over. Any thread."""
        return max(self._peaks.copy())

    def sample(self, now: float) -> None:
        """Call it every `WINDOW` seconds, with a clock that never jumps."""
        (since, before), carried = self._last, self._total()
        if now <= since:
            return
        if now >= self._hour_ends:
            self._hour_ends = now + 3_600.0
            self._peaks.append(0)
        self._peaks[-1] = max(self._peaks[-1], int((carried - before) / max(now - since, WINDOW)))
        self._last = now, carried
