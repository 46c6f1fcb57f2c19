"""What a relay counts of itself: how much there is of each thing, and of nobody's in particular.

A number is of a whole process and has a fixed name, which ends in a direction or a reason where there are several.
No name, address, target or identity is in here, so none can be on a page that is made of it.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

COUNT_TIME = 1.0  # seconds a process has to tell: a look of a moment, and Prometheus waits ten for all


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one process, or of several together; what is missing is 0."""

    now: Counter[str] = field(default_factory=Counter)  # what there is
    ever: Counter[str] = field(default_factory=Counter)  # since the start: never becomes less

    @classmethod
    def silent(cls, ever: Counter[str]) -> Self:
        """Of a process that does not tell: what there is now is left out, what it had counted is not."""
        return cls(Counter(processes=1, silent_processes=1), ever)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.now + other.now, self.ever + other.ever)

    def to_message(self) -> dict[str, Any]:
        """As a worker tells its parent."""
        return {"now": self.now, "ever": self.ever}

    @classmethod
    def from_message(cls, message: dict[str, dict[str, int]]) -> Self:
        """The same again."""
        return cls(Counter(message["now"]), Counter(message["ever"]))
