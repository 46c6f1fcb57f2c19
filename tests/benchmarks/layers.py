"""What the pieces of the hot path cost one by one: the real functions, in one thread, with the real sizes.

    python -m tests.benchmarks.layers

Each is timed by the thread's CPU clock. `expected` adds them up for a download through three relays: how often each
is done per GB by each process follows from the protocol.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from time import thread_time
from typing import TypeVar

from common.crypto.handshake import HopKeys, Suite
from common.crypto.layers import SUITES, Kind
from common.net.link import BATCH
from common.net.tls import TlsSession, client_context, server_context
from common.ops.values import SUITES as SUITE_NAMES
from common.wire.cells import LONG_CELL, Command, encode_cell
from common.wire.framing import CellReader
from common.wire.messages import HEADER
from tests.net.certificates import make_certificate

CELLS = 256  # handled in one measurement
REPEATS = 15
HOPS = 3
PROCESSES = ("client", "entry", "middle", "exit")
TLS, LAYERS, FRAMING = "TLS", "layers", "framing"
_AT_ONCE = BATCH // LONG_CELL  # cells that a link encrypts at once

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU seconds for one long cell, the least of `REPEATS`, and the bytes of a stream that it carries."""

    data: int
    seal: float
    open: float
    tls_write: float
    tls_read: float
    encode: float
    parse: float


def measure(suite: Suite, folder: Path) -> Costs:
    """All of them; `folder` takes a certificate."""
    parts = SUITES[suite]
    seal, opened, bodies = _layer_costs(suite)
    write, read = _tls_costs(folder)
    encode, parse = _framing_costs(bodies)
    return Costs(parts.max_messages - HEADER.size, seal, opened, write, read, encode, parse)


def expected(costs: Costs) -> dict[str, dict[str, float]]:
    """CPU seconds per GB of a download, by process and piece."""
    cells = 1e9 / costs.data
    read, write = costs.tls_read, costs.tls_write
    passed_on = {TLS: read + write, LAYERS: costs.seal, FRAMING: costs.parse + costs.encode}
    by_process = {
        "client": {TLS: read, LAYERS: HOPS * costs.open, FRAMING: costs.parse},
        "entry": passed_on,
        "middle": passed_on,
        "exit": {TLS: write, LAYERS: costs.seal, FRAMING: costs.encode},
    }
    return {who: {piece: cells * each for piece, each in pieces.items()} for who, pieces in by_process.items()}


def _layer_costs(suite: Suite) -> tuple[float, float, list[bytes]]:
    """Seconds to seal and to open a layer, the mean over the hops, and the bodies of the sealed cells."""
    parts = SUITES[suite]
    seals, opens = [], []
    layers: list[bytes] = []
    for _ in range(REPEATS):
        keys = [HopKeys(suite, os.urandom(32), os.urandom(32)) for _ in range(HOPS)]
        layers = [os.urandom(parts.max_messages) for _ in range(CELLS)]
        sealing = opening = 0.0
        for hop in reversed(keys):
            sealer = parts.sealer(hop.backward)
            if hop is keys[-1]:
                seconds, layers = _timed(partial(sealer.seal, Kind.DELIVER), layers)
            else:
                seconds, wrapped = _timed(sealer.wrap, _runs(layers))
                layers = list(chain.from_iterable(wrapped))
                seconds /= _AT_ONCE
            sealing += seconds
        inside = layers
        for hop in keys:
            seconds, opened = _timed(parts.opener(hop.backward).open, _runs(inside))
            inside = [bytes(body) for _, bodies in opened for body in bodies]
            opening += seconds / _AT_ONCE
        seals.append(sealing / HOPS)
        opens.append(opening / HOPS)
    return min(seals), min(opens), layers


def _runs(cells: Sequence[bytes]) -> list[Sequence[bytes]]:
    """As many together as a link brings."""
    return [cells[at : at + _AT_ONCE] for at in range(0, len(cells), _AT_ONCE)]


def _tls_costs(folder: Path) -> tuple[float, float]:
    """Seconds to encrypt and to decrypt a cell, with as many at once as a link takes."""
    certificate, key, _ = make_certificate(folder)
    near = TlsSession(client_context(), server_side=False)
    far = TlsSession(server_context(certificate, key), server_side=True)
    done = False
    while not done:
        done = near.handshake()
        far.feed(near.outgoing())
        far.handshake()
        near.feed(far.outgoing())

    def write(batch: bytes) -> bytes:
        near.write(batch)
        return near.outgoing()

    def read(ciphertext: bytes) -> list[bytes]:
        far.feed(ciphertext)
        return far.read()

    writes, reads = [], []
    batches = [os.urandom(BATCH) for _ in range(CELLS // _AT_ONCE)]
    for _ in range(REPEATS):
        seconds, encrypted = _timed(write, batches)
        writes.append(seconds / _AT_ONCE)
        seconds, _ = _timed(read, encrypted)
        reads.append(seconds / _AT_ONCE)
    return min(writes), min(reads)


def _framing_costs(bodies: list[bytes]) -> tuple[float, float]:
    """Seconds to make a cell of a body, and to find it in what TLS gives: a record is a cell."""
    encodes, parses = [], []
    for _ in range(REPEATS):
        seconds, cells = _timed(partial(encode_cell, 1, Command.RELAY), bodies)
        encodes.append(seconds)
        seconds, _ = _timed(CellReader().feed, cells)
        parses.append(seconds)
    return min(encodes), min(parses)


def _timed(work: Callable[[Input], Output], inputs: Sequence[Input]) -> tuple[float, list[Output]]:
    """CPU seconds for one of the inputs, and what came of all."""
    begun = thread_time()
    outputs = [work(each) for each in inputs]
    return (thread_time() - begun) / len(inputs), outputs


def main() -> None:
    """Prints microseconds per cell, and what they come to."""
    for name, suite in SUITE_NAMES.items():
        with tempfile.TemporaryDirectory() as folder:
            costs = measure(suite, Path(folder))
        print(f"{name}: {costs.data:,} bytes of a stream in a long cell")
        for piece, seconds in asdict(costs).items():
            if piece != "data":
                print(f"  {piece:10} {seconds * 1e6:7.1f} us a cell")
        for who, pieces in expected(costs).items():
            print(f"  {who:10}", ", ".join(f"{piece} {seconds:.2f} s/GB" for piece, seconds in pieces.items()))


if __name__ == "__main__":
    main()
