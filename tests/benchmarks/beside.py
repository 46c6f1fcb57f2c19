"""Fairness: a stream that is used like a prompt, beside bulk streams through the same relays."""

import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter, sleep

from tests.benchmarks.helper import Helper
from tests.benchmarks.processes import Processes
from tests.benchmarks.socks import Failed, Route
from tests.benchmarks.work import MESSAGE, OPEN_TIME

EVERY = 0.1  # seconds between two messages of the prompt: quick typing
SETTLE = 1.0  # seconds that the bulk streams run before anything counts
_ANSWER_TIME = 5.0  # seconds an echo may take


@dataclass(frozen=True, slots=True)
class Beside:
    """`echoes`: round trips of the prompt in seconds; `shares`: bytes of each bulk stream in the same time."""

    echoes: list[float]
    shares: list[int]
    problems: list[str] = field(default_factory=list)

    @property
    def slowest(self) -> float:
        """The slowest bulk stream in percent of the fastest: 100 is fair."""
        return slowest(self.shares)


def slowest(shares: Sequence[int]) -> float:
    """The least in percent of the most; 0 when nothing came."""
    most = max(shares, default=0)
    return 100.0 * min(shares) / most if most else 0.0


def prompt_beside(
    route: Route, streams: int, seconds: float, processes: Processes, *, isolated: bool = False
) -> Beside:
    """The prompt for so many seconds, while another process downloads over `streams` streams.

    With `isolated` each stream, the prompt too, has a circuit of its own, else all share one.
    """
    words = ["isolated"] if isolated else []
    with Helper(processes, "bulk", route.entry, route.target or 0, streams, *words) as bulk:
        try:
            opened = bulk.answer()["open"]
            if opened < streams:
                raise Failed(f"only {opened} of {streams} bulk streams opened")
            with route.open(OPEN_TIME, isolated=isolated) as sock:
                sock.sendall(b"E\n")
                _echo_for(sock, SETTLE)
                bulk.ask("begin")
                echoes = _echo_for(sock, seconds)
            report = bulk.ask("count")
        finally:
            processes.end([bulk.process])
    return Beside(echoes, report["counts"], report["problems"])


def _echo_for(sock: socket.socket, seconds: float) -> list[float]:
    """A message every 100 ms, or as soon as the one before is back; round trips in seconds."""
    message = os.urandom(MESSAGE)
    taken: list[float] = []
    start = due = perf_counter()
    while due < start + seconds:
        sleep(max(0.0, due - perf_counter()))
        begun = perf_counter()
        sock.sendall(message)
        left = MESSAGE
        while left:
            if not select.select([sock], [], [], _ANSWER_TIME)[0]:
                raise Failed(f"the prompt heard nothing for {_ANSWER_TIME:.0f} s")
            count = len(sock.recv(left))
            if not count:
                raise Failed("the prompt's stream ended")
            left -= count
        taken.append(perf_counter() - begun)
        due = max(due + EVERY, perf_counter())
    return taken
