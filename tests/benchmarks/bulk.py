"""Load as a program: `python -m tests.benchmarks.bulk ENTRY TARGET STREAMS [isolated|small]`; TARGET 0: no proxy.

It opens the streams, says so, and downloads over all of them, so that who measures something beside them has a
process of its own. With `small` it opens no stream at first, but so many workers open one new stream after another
and fetch 1,024 bytes over each. Commands and answers are those of `helper.Helper`; it ends with its input.
    begin     counts from now on          {}
    count     bytes of each stream, or    {"counts": [...], "problems": [...]}
              streams of each worker, since
"""

import json
import os
import socket
import sys
from functools import partial

from common.net.deadline import Deadline
from tests.benchmarks.loop import READ, Loop, Task
from tests.benchmarks.socks import Route
from tests.benchmarks.target import MB
from tests.benchmarks.work import fetching, open_streams

ENDLESS = 1_000_000 * MB  # bytes asked for: more than comes before the end
LONGEST = 120.0  # seconds after which it ends by itself: who started it has gone
_CHUNK = 1 << 18
_COMMANDS = 0  # standard input's descriptor
_MOST_PROBLEMS = 3  # told


class Load:
    """Counts what its tasks do."""

    def __init__(self, size: int, problems: list[str]) -> None:
        self._problems = problems
        self._counts = [0] * size
        self._space = bytearray(_CHUNK)
        self._over = False

    def download(self, socks: list[socket.socket]) -> None:
        """Over streams that are open, until nobody is there any more."""
        with Loop() as loop:
            for number, sock in enumerate(socks):
                loop.spawn(self._read(number, sock))
            self._run(loop)

    def fetch(self, route: Route) -> None:
        """A little over each of many new streams, until nobody is there any more."""
        with Loop() as loop:
            for number in range(len(self._counts)):
                loop.spawn(fetching(loop, route, partial(self._fetched, number), self._problems))
            self._run(loop)

    def _run(self, loop: Loop) -> None:
        deadline = Deadline(LONGEST)
        loop.spawn(self._obey())
        while not (self._over or deadline.expired):
            loop.turn(deadline)

    def _fetched(self, number: int) -> bool:
        self._counts[number] += 1
        return not self._over

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
                case b"count\n":
                    moved = [now - then for now, then in zip(self._counts, begun, strict=True)]
                    print(json.dumps({"counts": moved, "problems": self._problems[:_MOST_PROBLEMS]}), flush=True)
                case _:
                    self._over = True


def main() -> None:
    """See the module."""
    entry, target, streams = (int(word) for word in sys.argv[1:4])
    words = sys.argv[4:]
    route = Route(entry, target or None)
    problems: list[str] = []
    load = Load(streams, problems)
    if "small" in words:
        print(json.dumps({"open": streams}), flush=True)
        load.fetch(route)
    else:
        socks = open_streams(route, streams, problems, isolated="isolated" in words)
        print(json.dumps({"open": len(socks)}), flush=True)
        load.download(socks)


if __name__ == "__main__":
    main()
