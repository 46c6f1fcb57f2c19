"""A client, relays and an exit with its targets, joined in memory: the real state machines and no socket.

Each link is two lanes of encoded cells. What is sent goes through `encode_cell`, then through the test's hook, then
through a `CellReader` at the other end. Node 0 is the client, node n the n-th relay; link n joins node n and n + 1.
Whatever a node raises ends the circuit: it is kept in `failures`, and DESTROY runs both ways.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from ipaddress import IPv4Address
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.circuit.actions import (
    Action,
    Credit,
    Deliver,
    ExtendTo,
    LookUp,
    Opened,
    OpenTarget,
    PassOn,
    PeerFinished,
    StreamEnded,
)
from common.circuit.endpoint import Endpoint
from common.circuit.hop import Hop
from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite, answer
from common.errors import EndReason, ProtocolError, Unexpected
from common.wire.cells import Cell, Command, decode_destroy, encode_cell, encode_destroy
from common.wire.framing import CellReader
from tests.helpers import FakeClock

ADDRESS = IPv4Address("192.0.2.1")
REFUSING_PORT = 1  # a target there refuses
COUNTING_PORT = 7_000  # a target there only counts; every other echoes


class Way(Enum):
    """Which way a cell runs."""

    FORWARD = auto()
    BACKWARD = auto()


Hook = Callable[[int, Way, bytes], list[bytes]]  # link, way and an encoded cell: what arrives instead


def unchanged(_link: int, _way: Way, cell: bytes) -> list[bytes]:
    """The hook of a network that is not attacked."""
    return [cell]


class Speaker:
    """What stands behind an endpoint: what it will send as limits allow, and all that it was given."""

    def __init__(self, endpoint: Endpoint, now: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self.now = now
        self.received: dict[int, bytearray] = {}
        self.opened: set[int] = set()
        self.finished: set[int] = set()  # the other side sends no more
        self.ended: dict[int, EndReason] = {}
        self._waiting: dict[int, bytearray] = {}
        self._finishing: set[int] = set()

    def send(self, stream_id: int, data: bytes) -> None:
        """Sends `data` now or as soon as limits allow."""
        self._waiting.setdefault(stream_id, bytearray()).extend(data)
        self.flush()

    def finish(self, stream_id: int) -> None:
        """Half-closes once all is sent."""
        self._finishing.add(stream_id)
        self.flush()

    def flush(self) -> None:
        """Sends what limits allow."""
        for stream_id, waiting in list(self._waiting.items()):
            size = min(len(waiting), self.endpoint.sendable(stream_id, self.now()))
            if size:
                self.endpoint.send(stream_id, bytes(waiting[:size]))
                del waiting[:size]
            if not waiting:
                del self._waiting[stream_id]
        for stream_id in self._finishing - self._waiting.keys() - self.ended.keys():
            self._finishing.discard(stream_id)
            self.endpoint.finish(stream_id)

    def handle(self, action: Action) -> None:
        """Does what the endpoint asks for."""
        match action:
            case Deliver(stream_id, pieces):
                data = b"".join(pieces)
                self.received.setdefault(stream_id, bytearray()).extend(data)
                if stream_id in self.opened:
                    self.endpoint.taken(stream_id, len(data), self.now())
            case Opened(stream_id):
                self.opened.add(stream_id)
            case PeerFinished(stream_id):
                self.finished.add(stream_id)
            case StreamEnded(stream_id, reason):
                self.ended[stream_id] = reason
                self._waiting.pop(stream_id, None)
            case Credit():
                self.flush()


class Exit(Speaker):
    """An exit with targets that echo, count or refuse."""

    def __init__(self, endpoint: Endpoint, now: Callable[[], float]) -> None:
        super().__init__(endpoint, now)
        self.dialled: list[tuple[str, int]] = []
        self.looked_up: list[str] = []
        self._counting: set[int] = set()

    def handle(self, action: Action) -> None:
        """See `Speaker.handle`."""
        super().handle(action)
        match action:
            case OpenTarget(stream_id, host, port):
                self.dialled.append((host, port))
                if port == REFUSING_PORT:
                    self.endpoint.reset(stream_id, EndReason.REFUSED)
                    return
                if port == COUNTING_PORT:
                    self._counting.add(stream_id)
                self.endpoint.connected(stream_id, ADDRESS, 60)
                self.opened.add(stream_id)
            case LookUp(stream_id, host):
                self.looked_up.append(host)
                self.endpoint.resolved(stream_id, EndReason.DONE, (ADDRESS,), 60)
            case Deliver(stream_id, pieces) if stream_id in self.opened and stream_id not in self._counting:
                self.send(stream_id, b"".join(pieces))
            case PeerFinished(stream_id):
                if stream_id in self._counting:
                    self.send(stream_id, len(self.received.get(stream_id, b"")).to_bytes(8, "big"))
                self.finish(stream_id)


class Relay:
    """A relay's long-term keys and its place on the circuit."""

    def __init__(self, number: int) -> None:
        self.identity = bytes([number]) * 32
        self.secret = X25519PrivateKey.generate()
        self.onion_key = self.secret.public_key().public_bytes_raw()
        self.hop: Hop | None = None
        self.exit: Exit | None = None

    def describe(self) -> PathHop:
        """What a directory document says of this relay."""
        return PathHop(self.identity, self.onion_key, f"relay{self.identity[0]}", 9_000)

    def created(self, create: bytes, now: Callable[[], float]) -> bytes:
        """Takes its place on the circuit: the CREATED body."""
        if self.hop is not None:
            raise Unexpected("CREATE twice")
        created, keys = answer(create, self.identity, {self.onion_key: self.secret})
        self.hop = Hop(self.identity, keys)
        self.exit = Exit(self.hop.endpoint, now)
        return created


class MemoryNetwork:
    """One circuit. Tests may replace `hook`, any relay, or what a directory says of one (`path`)."""

    def __init__(self, hops: int, suite: Suite, seed: int = 0) -> None:
        self.suite = suite
        self.clock = FakeClock()
        self.hook: Hook = unchanged
        self.relays = [Relay(number) for number in range(1, hops + 1)]
        self.path: Sequence[PathHop] = [relay.describe() for relay in self.relays]
        self.failures: list[tuple[int, ProtocolError]] = []
        self.destroyed: set[int] = set()  # nodes whose circuit has ended
        self.carried: list[tuple[int, Way, bytes]] = []  # every cell that was ever sent
        self._random = Random(seed)
        self._circuit_ids = [self._random.randrange(1, 2**32) for _ in range(hops)]
        self._lanes: dict[tuple[int, Way], deque[bytes]] = {(n, way): deque() for n in range(hops) for way in Way}
        self._readers = {lane: CellReader() for lane in self._lanes}
        self.origin: Origin
        self.client: Speaker

    # ---- what tests do

    def build(self) -> bool:
        """Sends CREATE and runs; whether the circuit got all its hops."""
        self.origin = Origin(self.path, self.suite)
        self.client = Speaker(self.origin.endpoint, self.clock)
        self.send_cell(0, Way.FORWARD, Command.CREATE, self.origin.create)
        self.run()
        return self.origin.built

    @property
    def exit(self) -> Exit:
        """The last relay's."""
        found = self.relays[-1].exit
        assert found is not None
        return found

    def begin(self, port: int = 80) -> int:
        """The client opens a stream; nothing is run yet."""
        return self.client.endpoint.begin("target", port, self.clock())

    def run(self) -> None:
        """Until nothing is on any link; which lane moves next is drawn, each lane keeps its order."""
        self._flush_all()
        while waiting := [lane for lane, cells in self._lanes.items() if cells]:
            link, way = self._random.choice(waiting)
            self._arrive(link, way, self._lanes[link, way].popleft())

    def send_cell(self, link: int, way: Way, command: Command, body: bytes) -> None:
        """Puts a cell on a link, through the hook."""
        if link == len(self.relays):
            return  # the last relay was told to extend: nobody is there to answer
        cell = encode_cell(self._circuit_ids[link], command, body)
        self.carried.append((link, way, cell))
        self._lanes[link, way].extend(self.hook(link, way, cell))

    # ---- what nodes do

    def _arrive(self, link: int, way: Way, data: bytes) -> None:
        node = link + 1 if way is Way.FORWARD else link
        if node in self.destroyed:
            return
        try:
            for cell in self._readers[link, way].feed(data):
                self._receive(node, way, cell)
                self._flush(node)
        except ProtocolError as error:
            self.failures.append((node, error))
            self._destroy(node, encode_destroy(error.reason))

    def _receive(self, node: int, way: Way, cell: Cell) -> None:
        if cell.circuit_id != self._circuit_ids[node - (way is Way.FORWARD)]:
            raise Unexpected("no such circuit")
        if cell.command == Command.DESTROY:
            self._destroy(node, encode_destroy(decode_destroy(cell.body)))
        elif node == 0:
            self._client_receives(cell)
        elif way is Way.FORWARD:
            self._relay_receives(node, cell)
        else:
            self._relay_receives_back(node, cell)

    def _client_receives(self, cell: Cell) -> None:
        if cell.command == Command.CREATED:
            self.origin.created(cell.body)
        elif cell.command == Command.RELAY:
            for action in self.origin.receive([cell.body], self.clock()):
                self.client.handle(action)
        else:
            raise Unexpected("at a client")

    def _relay_receives(self, node: int, cell: Cell) -> None:
        relay = self.relays[node - 1]
        if cell.command == Command.CREATE:
            self.send_cell(node - 1, Way.BACKWARD, Command.CREATED, relay.created(bytes(cell.body), self.clock))
        elif cell.command == Command.RELAY and relay.hop is not None and relay.exit is not None:
            for action in relay.hop.receive_forward([cell.body], self.clock()):
                if isinstance(action, PassOn):
                    for body in action.bodies:
                        self.send_cell(node, Way.FORWARD, Command.RELAY, bytes(body))
                elif isinstance(action, ExtendTo):
                    self.send_cell(node, Way.FORWARD, Command.CREATE, action.create)
                else:
                    relay.exit.handle(action)
        else:
            raise Unexpected("at a relay")

    def _relay_receives_back(self, node: int, cell: Cell) -> None:
        hop = self.relays[node - 1].hop
        assert hop is not None
        if cell.command == Command.CREATED:
            hop.extended(cell.body)
        elif cell.command == Command.RELAY:
            for layer in hop.receive_backward([cell.body]):
                self.send_cell(node - 1, Way.BACKWARD, Command.RELAY, layer)
        else:
            raise Unexpected("at a relay")

    def _flush(self, node: int) -> None:
        if node in self.destroyed:
            return
        if node == 0:
            for body in self.origin.take_cells(self.clock()):
                self.send_cell(0, Way.FORWARD, Command.RELAY, body)
            return
        hop = self.relays[node - 1].hop
        for body in hop.take_cells(self.clock()) if hop is not None else []:
            self.send_cell(node - 1, Way.BACKWARD, Command.RELAY, body)

    def _flush_all(self) -> None:
        for node in range(len(self.relays) + 1):
            self._flush(node)

    def _destroy(self, node: int, body: bytes) -> None:
        """Ends the circuit at this node and tells both neighbours."""
        if node in self.destroyed:
            return
        self.destroyed.add(node)
        if node > 0:
            self.send_cell(node - 1, Way.BACKWARD, Command.DESTROY, body)
        if node < len(self.relays):
            self.send_cell(node, Way.FORWARD, Command.DESTROY, body)
