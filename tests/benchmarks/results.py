"""What was measured, and the statistics of it. Nothing here waits or asks a clock.

A sample is one value of one measure of one contender in one round. What counts is the median over the rounds, and
between contenders the median of the ratios *within* each round: what slows the machine in a round slows both.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Samples = dict[str, dict[str, list[float | None]]]  # contender: measure: one value per round


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some samples."""

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread | None:
    """None when there are none."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


@dataclass(slots=True)
class Results:
    """All samples of a run; `about` is text about machine and run, `problems` what went wrong.

    `details` is what is measured once and not in rounds, by its name: see `where` and `starts`.
    """

    about: dict[str, str] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, contender: str, measure: str, turn: int, value: float) -> None:
        """Notes a sample of round `turn` (0, 1, ...)."""
        values = self.samples.setdefault(contender, {}).setdefault(measure, [])
        values.extend([None] * (turn + 1 - len(values)))
        values[turn] = value

    def values(self, contender: str, measure: str) -> list[float]:
        """The samples there are."""
        return [value for value in self._by_round(contender, measure) if value is not None]

    def spread(self, contender: str, measure: str) -> Spread | None:
        """Over the rounds."""
        return spread(self.values(contender, measure))

    def ratio(self, contender: str, other: str, measure: str) -> Spread | None:
        """Of contender / other within each round; None when no round has both."""
        pairs = zip(self._by_round(contender, measure), self._by_round(other, measure), strict=False)
        return spread([mine / theirs for mine, theirs in pairs if mine is not None and theirs])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {
            "about": self.about,
            "samples": self.samples,
            "problems": self.problems,
            "details": self.details,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Results":
        """What `to_json` gave."""
        return cls(data["about"], data["samples"], data["problems"], data.get("details", {}))

    def _by_round(self, contender: str, measure: str) -> list[float | None]:
        return self.samples.get(contender, {}).get(measure, [])
