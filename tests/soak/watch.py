"""What a network's processes hold over time, and whether it stays flat.

Numbers go up and down with circuits and links, so single looks are not compared: the highest of the last third of a
run must not be above the highest of its first third, but for an allowance. What leaks with each request, each
circuit or each minute is far beyond that after an hour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

THREADS = 4  # allowance: builders and dials come and go
DESCRIPTORS = 12  # links to relays that were not used before, and streams that linger
MEMORY = 12_582_912  # bytes: a heap that settles
MEMORY_SHARE = 0.10  # or that part of what a process had


class Watched(Protocol):
    """A process that can be looked at."""

    name: str

    def threads(self) -> int: ...
    def descriptors(self) -> int: ...
    def memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Look:
    """What one process held at one moment; memory in bytes."""

    threads: int
    descriptors: int
    memory: int

    def __str__(self) -> str:
        return f"{self.threads} threads {self.descriptors} files {self.memory / 1e6:.0f} MB"


Looks = Mapping[str, Look]  # by the process's name


def look(processes: Sequence[Watched]) -> Looks:
    """All of them, now."""
    return {each.name: Look(each.threads(), each.descriptors(), each.memory()) for each in processes}


def grown(looks: Sequence[Looks]) -> list[str]:
    """A sentence for all that did not stay flat; at least three looks, the oldest first."""
    third = len(looks) // 3
    return compare(looks[:third], looks[-third:])


def compare(early: Sequence[Looks], late: Sequence[Looks]) -> list[str]:
    """A sentence for each number of each process whose highest is above the allowance in the later looks."""
    sentences = []
    for name in late[-1]:
        before, after = [each[name] for each in early], [each[name] for each in late]
        memory = max(each.memory for each in before)
        for what, had, has, more in (
            ("threads", max(e.threads for e in before), max(e.threads for e in after), THREADS),
            ("descriptors", max(e.descriptors for e in before), max(e.descriptors for e in after), DESCRIPTORS),
            ("bytes of memory", memory, max(e.memory for e in after), max(MEMORY, int(memory * MEMORY_SHARE))),
        ):
            if has > had + more:
                sentences.append(f"{name} grows: it had {had:,} {what} at first, and {has:,} in the end")
    return sentences
