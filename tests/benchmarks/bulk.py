"""Bulk streams as a program: `python -m tests.benchmarks.bulk ENTRY TARGET STREAMS [isolated]`; TARGET 0: no proxy.

It opens the streams, says so, and downloads over all of them until it is told to end, so that who measures a quiet
stream beside them has a process of its own. Commands and answers are those of `helper.Helper`:
    begin     counts from now on                {}
    end       the bytes of each stream since    {"bytes": [...], "problems": [...]}
"""

import json
import os
import socket
import sys

from common.net.deadline import Deadline
from tests.benchmarks.loop import READ, Loop, Task
from tests.benchmarks.socks import Route
from tests.benchmarks.target import MB
from tests.benchmarks.work import open_streams

ENDLESS = 1_000_000 * MB  # bytes asked for: more than comes before the end
LONGEST = 120.0  # seconds after which it ends by itself: who started it has gone
_CHUNK = 1 << 18
_COMMANDS = 0  # standard input's descriptor


class Bulk:
    """Reads all streams, and counts."""

    def __init__(self, socks: list[socket.socket], problems: list[str]) -> None:
        self._socks = socks
        self._problems = problems
        self._counts = [0] * len(socks)
        self._space = bytearray(_CHUNK)
        self._over = False

    def run(self) -> None:
        """Until it is told to end, or nobody is there to tell."""
        deadline = Deadline(LONGEST)
        with Loop() as loop:
            for number, sock in enumerate(self._socks):
                loop.spawn(self._read(number, sock))
            loop.spawn(self._obey())
            while not (self._over or deadline.expired):
                loop.turn(deadline)

    def _read(self, number: int, sock: socket.socket) -> Task:
        try:
            sock.send(b"D %d\n" % ENDLESS)
            while True:
                yield sock.fileno(), READ
                count = sock.recv_into(self._space)
                self._counts[number] += count
                if not count:
                    self._problems.append("a bulk stream ended early")
                    return
        except OSError as error:
            self._problems.append(str(error))

    def _obey(self) -> Task:
        begun = self._counts
        while not self._over:
            yield _COMMANDS, READ
            match os.read(_COMMANDS, 64):
                case b"begin\n":
                    begun = list(self._counts)
                    print("{}", flush=True)
                case b"end\n":
                    moved = [now - then for now, then in zip(self._counts, begun, strict=True)]
                    print(json.dumps({"bytes": moved, "problems": self._problems}), flush=True)
                    self._over = True
                case _:
                    self._over = True


def main() -> None:
    """See the module."""
    entry, target, streams = (int(word) for word in sys.argv[1:4])
    problems: list[str] = []
    socks = open_streams(Route(entry, target or None), streams, problems, isolated=len(sys.argv) > 4)
    print(json.dumps({"open": len(socks)}), flush=True)
    Bulk(socks, problems).run()


if __name__ == "__main__":
    main()
