"""Work for one relay from a process that itself does as little as it can: `python -m tests.benchmarks.relay_load`.

    HOST PORT IDENTITY ONION_KEY LINKS PID...     (both keys in hex; the pids are the relay's workers)

Links are dialled until each worker has its share of them. A line on standard input is a command, a line of JSON on
standard output its answer:

    handshakes SECONDS     CREATE over all links, the same body each time: the relay does a whole handshake, we none
    cells SUITE MB         so many MB of full RELAY cells, sealed before the clock starts; the relay opens each
"""

import json
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from time import monotonic, process_time

from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite
from common.errors import DestroyReason
from common.net.tls import client_context
from common.ops.values import SUITES
from common.wire.cells import (
    LONG_CELL,
    MAX_BODY,
    SHORT_CELL,
    Cell,
    Command,
    encode_cell,
    encode_destroy,
    encode_hello,
)
from common.wire.framing import CellReader
from common.wire.messages import Drop
from tests.net.processes import peer_of

BATCH = 16  # handshakes on the way on each link
AROUND = 128  # bytes of a cell's body left for what is around the messages, whatever the suite
_DIALS = 100  # for each link: some go to a worker that has its share


class Peer:
    """One link, without threads or tables."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._sock: ssl.SSLSocket = client_context().wrap_socket(socket.create_connection(address))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(encode_cell(0, Command.HELLO, encode_hello()))
        self._reader = CellReader()
        self._space = bytearray(LONG_CELL)
        self.take(SHORT_CELL)
        self._ids = count(1)
        self._alive: list[int] = []

    @property
    def own(self) -> tuple[str, int]:
        """Its address here."""
        host, port = self._sock.getsockname()
        return str(host), int(port)

    def take(self, size: int) -> None:
        """Waits for that many bytes of cells and looks at none."""
        while size > 0:
            got = self._sock.recv_into(self._space, min(size, LONG_CELL))
            if not got:
                raise ConnectionError("the relay ended the link")
            size -= got

    def cell(self) -> Cell:
        """The next cell, when nothing else is on the way."""
        while True:
            for cell in self._reader.feed(self._sock.recv(LONG_CELL)):
                return cell

    def handshakes(self, create: bytes, until: float) -> int:
        """Creates circuits and ends them until then; how many."""
        done = 0
        goodbye = encode_destroy(DestroyReason.FINISHED)
        while monotonic() < until:
            ids = [next(self._ids) for _ in range(BATCH)]
            cells = [encode_cell(circuit_id, Command.DESTROY, goodbye) for circuit_id in self._alive]
            cells += [encode_cell(circuit_id, Command.CREATE, create) for circuit_id in ids]
            self._sock.sendall(b"".join(cells))
            self.take(len(self._alive) * SHORT_CELL + BATCH * LONG_CELL)
            self._alive = ids
            done += BATCH
        self._sock.sendall(
            b"".join(encode_cell(circuit_id, Command.DESTROY, goodbye) for circuit_id in self._alive)
        )
        self.take(len(self._alive) * SHORT_CELL)
        self._alive = []
        return done

    def sealed(self, hop: PathHop, suite: Suite, size: int) -> tuple[Origin, int, bytearray]:
        """A new circuit, and `size` bytes of cells for it that the relay opens and throws away; then one it answers."""
        circuit_id, origin = next(self._ids), Origin([hop], suite)
        self._sock.sendall(encode_cell(circuit_id, Command.CREATE, origin.create))
        origin.created(self.cell().body)
        cells = bytearray()
        message = Drop(MAX_BODY - AROUND).encode()
        while len(cells) < size:
            cells += encode_cell(circuit_id, Command.RELAY, origin._stack.originate(message)[0])
        origin.endpoint.begin(hop.host, hop.port, 0.0)  # the relay's own port, which no exit dials
        (last,) = origin.take_cells(0.0)
        return origin, circuit_id, cells + encode_cell(circuit_id, Command.RELAY, last)

    def send(self, origin: Origin, circuit_id: int, cells: bytearray) -> None:
        """Sends them and waits for the answer to the last, which proves that all have been opened."""
        self._sock.sendall(cells)
        assert origin.receive([self.cell().body], 0.0)
        self._sock.sendall(encode_cell(circuit_id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED)))
        assert self.cell().command == Command.DESTROY

    def close(self) -> None:
        """Hangs up."""
        self._sock.close()


class Load:
    """The links, and what is done on all of them at once."""

    def __init__(self, hop: PathHop, links: int, workers: Sequence[int]) -> None:
        self._hop = hop
        self._peers: list[Peer] = []
        self._pool = ThreadPoolExecutor(links)
        shares = Counter(dict.fromkeys(workers, links // len(workers)))
        for _ in range(_DIALS * links):
            peer = Peer((hop.host, hop.port))
            worker = peer_of(peer.own, set(workers))
            if shares[worker]:
                shares[worker] -= 1
                self._peers.append(peer)
            else:
                peer.close()
            if not +shares:
                return
        raise AssertionError("a worker gets no links")

    def handshakes(self, seconds: float) -> float:
        """How many were done."""
        create = Origin([self._hop], Suite.FERNET).create
        until = monotonic() + seconds
        return float(sum(self._pool.map(lambda peer: peer.handshakes(create, until), self._peers)))

    def seal(self, suite: Suite, size: int) -> Callable[[], float]:
        """Makes the cells; what is returned sends them and says how many bytes they were."""
        each = size // len(self._peers)
        made = [peer.sealed(self._hop, suite, each) for peer in self._peers]

        def send() -> float:
            list(self._pool.map(lambda peer, what: peer.send(*what), self._peers, made))
            return float(sum(len(cells) for *_, cells in made))

        return send

    def close(self) -> None:
        """Hangs up on all links."""
        self._pool.shutdown()
        for peer in self._peers:
            peer.close()


def _say(**values: float | bool) -> None:
    print(json.dumps(values), flush=True)


def main() -> None:
    """Answers commands until standard input ends."""
    host, port, identity, onion_key, links, *workers = sys.argv[1:]
    hop = PathHop(bytes.fromhex(identity), bytes.fromhex(onion_key), host, int(port))
    load = Load(hop, int(links), [int(pid) for pid in workers])
    _say(ready=True)
    work: Callable[[], float]
    for line in iter(sys.stdin.readline, ""):
        match line.split():
            case ["handshakes", seconds]:
                work = partial(load.handshakes, float(seconds))
            case ["cells", suite, megabytes]:
                work = load.seal(SUITES[suite], int(megabytes) * 1_000_000)
            case _:
                raise ValueError(f"no command: {line}")
        _say(sealed=True)
        sys.stdin.readline()  # "go"
        begun, cpu = monotonic(), process_time()
        done = work()
        _say(done=done, seconds=monotonic() - begun, cpu=process_time() - cpu)


if __name__ == "__main__":
    main()
