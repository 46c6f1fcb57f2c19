"""A token bucket: so many at once, so many a second after that."""

from collections.abc import Callable
from time import monotonic


class TokenBucket:
    """Not thread-safe: one thread asks."""

    __slots__ = ("_burst", "_clock", "_rate", "_since", "_tokens")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        """`rate` a second, `burst` at once."""
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._clock = clock
        self._since = clock()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
