"""What a link costs: two processes over loopback, long cells one way, then the echo of one short cell.

    python -m tests.benchmarks.link [--megabytes N] [--echoes N]

Prints MB/s and CPU seconds per GB (both processes together), and the echo's median and 95th percentile.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

from common.errors import Closed
from common.net import link_opening
from common.net.deadline import Deadline
from common.net.link import Link
from common.net.listener import Listener
from common.net.pump import Pump
from common.net.tls import server_context
from common.wire.cells import MAX_BODY, Cell, Command
from tests.net.certificates import make_certificate

_BULK, _ECHO = 1, 2  # circuit ids: what the other side does with a cell
_PATIENCE = 120.0


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class _Server:
    """Drops bulk cells and echoes others."""

    def link_cells(self, link: Link, cells: list[Cell]) -> None:
        for circuit_id, command, body in cells:
            if circuit_id == _ECHO:
                link.send(circuit_id, command, body)

    def link_drained(self, link: Link, circuit_ids: list[int]) -> None:
        pass

    def link_closed(self, link: Link, error: Closed) -> None:
        pass


class _Client:
    """Knows when a circuit has drained and when an echo is back."""

    def __init__(self) -> None:
        self.drained = threading.Event()
        self.echoed = threading.Event()

    def link_cells(self, link: Link, cells: list[Cell]) -> None:
        self.echoed.set()

    def link_drained(self, link: Link, circuit_ids: list[int]) -> None:
        self.drained.set()

    def link_closed(self, link: Link, error: Closed) -> None:
        self.drained.set()
        self.echoed.set()


def _serve(pipe: Connection, certificate: Path, key: Path) -> None:
    pump = Pump()
    pump.start()
    context = server_context(certificate, key)
    listener = Listener(("127.0.0.1", 0), context, _Server(), lambda link: link.start(pump))
    listener.start()
    pipe.send(listener.address)
    while pipe.recv():
        pipe.send(_cpu())
    listener.close(Deadline(5))
    pump.stop(Deadline(5))


def _cpu_of_both(pipe: Connection) -> float:
    pipe.send(True)
    return _cpu() + float(pipe.recv())


def _bulk(link: Link, client: _Client, cells: int) -> float:
    """Seconds until `cells` long cells have arrived, sent no faster than the link drains."""
    body = bytes(MAX_BODY)
    begun = perf_counter()
    for _ in range(cells):
        if link.congested(_BULK):
            client.drained.clear()
            if link.congested(_BULK):
                client.drained.wait(_PATIENCE)
        link.send(_BULK, Command.RELAY, body)
    link.drain(Deadline(_PATIENCE))
    _echo(link, client, 1)
    return perf_counter() - begun


def _echo(link: Link, client: _Client, times: int) -> list[float]:
    taken = []
    for _ in range(times):
        client.echoed.clear()
        begun = perf_counter()
        link.send(_ECHO, Command.RELAY, b"echo")
        client.echoed.wait(_PATIENCE)
        taken.append(perf_counter() - begun)
    return taken


def main() -> None:
    """Runs both measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=1_000)
    parser.add_argument("--echoes", type=int, default=5_000)
    options = parser.parse_args()
    cells = options.megabytes * 1_000_000 // MAX_BODY
    with tempfile.TemporaryDirectory() as folder:
        certificate, key, identity = make_certificate(Path(folder))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, certificate, key))
        process.start()
        client = _Client()
        link = link_opening.dial(ours.recv(), identity, client, Deadline(10))
        pump = Pump()
        pump.start()
        link.start(pump)
        _echo(link, client, 200)
        echoes = _echo(link, client, options.echoes)
        cpu = _cpu_of_both(ours)
        seconds = _bulk(link, client, cells)
        cpu = _cpu_of_both(ours) - cpu
        ours.send(False)
        process.join(10)
        link.close()
        link.join(Deadline(5))
        pump.stop(Deadline(5))
    gigabytes = cells * MAX_BODY / 1e9
    print(f"one way, long cells: {gigabytes * 1e3 / seconds:.0f} MB/s, {cpu / gigabytes:.2f} CPU s/GB")
    median, p95 = statistics.median(echoes), statistics.quantiles(echoes, n=20)[-1]
    print(f"echo of a short cell: median {median * 1e6:.0f} us, 95 % {p95 * 1e6:.0f} us")


if __name__ == "__main__":
    main()
