"""A moment after which waiting ends, on the monotonic clock."""

import time


class Deadline:
    """`Deadline(5.0)` is five seconds from now; pass it down instead of a duration."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never below 0: what to hand to `wait_for` or `settimeout`."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self._end
