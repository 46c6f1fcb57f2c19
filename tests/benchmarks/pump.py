"""Measures the pump alone: `python -m tests.benchmarks.pump [MEGABYTES]`.

Two processes over loopback TCP with a plug on each side: bulk one way, echo of 64 bytes, new connections a second.
"""

import argparse
import multiprocessing
import socket
import statistics
import threading
import time
from multiprocessing.connection import Connection

from common.net.deadline import Deadline
from common.net.pump import Plug, Pump

CHUNK = 16_000  # about what a long cell carries
AHEAD = 1 << 20  # bytes the bulk sender keeps queued, as a stream's window would
ECHOES = 5_000
CONNECTIONS = 4_000
AT_ONCE = 32


class _Base:
    def __init__(self) -> None:
        self.done = threading.Event()

    def plug_connected(self, plug: Plug) -> None:
        """Nothing to do."""

    def plug_wants(self, plug: Plug) -> int:
        return 1 << 20

    def plug_received(self, plug: Plug, data: bytes) -> None:
        """Nothing to do."""

    def plug_ended(self, plug: Plug) -> None:
        plug.close()

    def plug_drained(self, plug: Plug, count: int) -> None:
        """Nothing to do."""

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        print("failed:", error)
        self.done.set()


class _Echo(_Base):
    def plug_received(self, plug: Plug, data: bytes) -> None:
        plug.write(data)


class _Sink(_Base):
    """Counts, and answers with one byte at the end."""

    def plug_ended(self, plug: Plug) -> None:
        plug.write(b"!")
        plug.close()


class _Bulk(_Base):
    def __init__(self, total: int) -> None:
        super().__init__()
        self.left = total

    def fill(self, plug: Plug) -> None:
        while self.left > 0 and plug.queued < AHEAD:
            plug.write(bytes(CHUNK))
            self.left -= CHUNK
        if self.left <= 0:
            plug.finish()

    def plug_drained(self, plug: Plug, count: int) -> None:
        self.fill(plug)

    def plug_received(self, plug: Plug, data: bytes) -> None:
        plug.close()
        self.done.set()


class _Asker(_Base):
    def __init__(self, times: int) -> None:
        super().__init__()
        self.took: list[float] = []
        self.times = times

    def ask(self, plug: Plug) -> None:
        self.began = time.perf_counter()
        plug.write(bytes(64))

    def plug_received(self, plug: Plug, data: bytes) -> None:
        self.took.append(time.perf_counter() - self.began)
        if len(self.took) == self.times:
            plug.close()
            self.done.set()
        else:
            self.ask(plug)


class _Visitor(_Base):
    """Connects, echoes once, closes, connects again."""

    def __init__(self, pump: Pump, port: int, times: int) -> None:
        super().__init__()
        self.pump, self.port, self.left = pump, port, times

    def visit(self) -> None:
        self.pump.connect(socket.AF_INET, ("127.0.0.1", self.port), self, 5.0).write(bytes(64))

    def plug_received(self, plug: Plug, data: bytes) -> None:
        plug.close()
        self.left -= 1
        if self.left:
            self.visit()
        else:
            self.done.set()


def _serve(pipe: Connection) -> None:
    pump = Pump("server")
    pump.start()
    for owner in (_Sink(), _Echo()):
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        pump.listen(sock, lambda accepted, owner=owner: pump.attach(accepted, owner))  # type: ignore[misc]
        pipe.send(sock.getsockname()[1])
    pipe.recv()
    pump.stop(Deadline(5))


def main() -> None:
    """Prints one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", type=int, nargs="?", default=1_000)
    total = parser.parse_args().megabytes * 1_000_000
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    server = context.Process(target=_serve, args=(other,))
    server.start()
    sink, echo = pipe.recv(), pipe.recv()
    pump = Pump("client")
    pump.start()
    began = time.perf_counter()
    bulk = _Bulk(total)
    plug = pump.attach(socket.create_connection(("127.0.0.1", sink)), bulk)
    pump.call(lambda: bulk.fill(plug))
    bulk.done.wait(120)
    print(f"bulk one way: {total / (time.perf_counter() - began) / 1e6:.0f} MB/s")
    asker = _Asker(ECHOES)
    plug = pump.attach(socket.create_connection(("127.0.0.1", echo)), asker)
    pump.call(lambda: asker.ask(plug))
    asker.done.wait(120)
    print(f"echo 64 bytes: median {statistics.median(asker.took) * 1e6:.0f} us")
    began = time.perf_counter()
    visitors = [_Visitor(pump, echo, CONNECTIONS // AT_ONCE) for _ in range(AT_ONCE)]
    for visitor in visitors:
        visitor.visit()
    for visitor in visitors:
        visitor.done.wait(120)
    print(f"connect, echo, close: {CONNECTIONS / (time.perf_counter() - began):.0f}/s with {AT_ONCE} at once")
    pump.stop(Deadline(5))
    pipe.send(None)
    server.join(10)


if __name__ == "__main__":
    main()
