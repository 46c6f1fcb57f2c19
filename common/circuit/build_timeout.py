"""How long to wait for a circuit before it is given up: learned from the circuits that were built.

The time a circuit took is divided by its hops, since each hop is one round trip more. With `FEWEST` such times the
limit is `SLACK` times their `QUANTILE`, times the hops of the circuit that is to be built, between a floor and a
ceiling; before that it is the ceiling. A path on which one relay is dead is so left within seconds on a fast
network, and a slow one has its time.

Circuits that were given up leave no time behind, so the sample alone could only make the limit shorter. Two things
hold against that: the slack, and that `FORGET_AFTER` circuits given up in a row clear it. The network has changed
then, and is learned anew from the ceiling.
"""

from collections import deque
from math import ceil

KEPT = 100  # times: an hour's circuits of one person
FEWEST = 10  # times before they say anything
QUANTILE = 0.9
SLACK = 3.0  # an honest path may be three times as slow as nine of ten others
FLOOR = 3.0  # seconds: a busy machine's own pauses are no dead relay
CEILING = 8.0  # seconds: 8 hops at 300 ms a round trip take 6
FORGET_AFTER = 3


class BuildTimes:
    """The last times, and what follows from them. Not thread-safe."""

    def __init__(self) -> None:
        self._per_hop: deque[float] = deque(maxlen=KEPT)
        self._given_up = 0

    def built(self, seconds: float, hops: int) -> None:
        """A circuit was built in so many seconds."""
        self._per_hop.append(seconds / hops)
        self._given_up = 0

    def given_up(self) -> None:
        """A circuit was not built in time. (One that a relay refused says nothing about time.)"""
        self._given_up += 1
        if self._given_up >= FORGET_AFTER:
            self._per_hop.clear()

    def limit(self, hops: int) -> float:
        """Seconds to wait for a circuit of so many hops, `FLOOR` to `CEILING`."""
        if len(self._per_hop) < FEWEST:
            return CEILING
        ordered = sorted(self._per_hop)
        slow = ordered[ceil(QUANTILE * len(ordered)) - 1]
        return min(max(SLACK * slow * hops, FLOOR), CEILING)
