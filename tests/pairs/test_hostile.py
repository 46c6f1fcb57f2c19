"""What relays, links and peers may try: each attempt ends the circuit, and nothing of it reaches a target.

A change in the forward direction is found by the next relay: it opens a layer. Backward, relays only seal, so the
client finds it, unless the cell itself is no cell any more; no relay between can read what was changed.
"""

from collections.abc import Callable
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.circuit.congestion import MIN_STEP
from common.circuit.hop import Hop
from common.circuit.origin import Origin, PathHop
from common.circuit.window import CIRCUIT_WINDOW
from common.crypto.handshake import Suite, answer
from common.crypto.layers import SUITES, Kind
from common.errors import AuthenticationFailed, Malformed, ProtocolError, TooLarge, Unexpected, WindowViolated
from common.wire.cells import HEADER, SHORT_CELL, Command
from common.wire.messages import (
    CREATED_BODY,
    Begin,
    Data,
    Drop,
    Extend,
    Extended,
    Message,
    Sendme,
)
from tests.helpers import flip
from tests.pairs.memory_network import COUNTING_PORT, Hook, MemoryNetwork, Relay, Way

BOTH = pytest.mark.parametrize("suite", list(Suite))
LINKS = pytest.mark.parametrize("link", range(3))
WAYS = pytest.mark.parametrize("way", list(Way))
HOPS = 3
LONG_FLAG_BIT = (4, 7)  # changes the cell's size: the reader waits for more, as for any cell not yet whole


class Attack:
    """A hook that changes the n-th RELAY cell that passes one place from now on."""

    def __init__(self, link: int, way: Way, change: Callable[[bytes], list[bytes]], number: int = 0) -> None:
        self.place = link, way
        self.change = change
        self.number = number
        self.done = False

    def __call__(self, link: int, way: Way, cell: bytes) -> list[bytes]:
        """See `Hook`."""
        if (link, way) != self.place or cell[4] & 0x7F != Command.RELAY or self.done:
            return [cell]
        self.number -= 1
        if self.number >= 0:
            return [cell]
        self.done = True
        return self.change(cell)


class Holding:
    """A hook that holds a cell back until the next one of its lane has passed."""

    def __init__(self, link: int, way: Way) -> None:
        self.place = link, way
        self.held: bytes | None = None

    def __call__(self, link: int, way: Way, cell: bytes) -> list[bytes]:
        """See `Hook`."""
        if (link, way) != self.place or cell[4] & 0x7F != Command.RELAY:
            return [cell]
        if self.held is None:
            self.held = cell
            return []
        held, self.held = self.held, None
        return [cell, held] if held else [cell]


def attacked(suite: Suite, hook: Hook, data: bytes = b"request") -> tuple[MemoryNetwork, int]:
    """A built circuit on which `data` was sent and came back; then the hook is set and `data` sent again."""
    network = MemoryNetwork(HOPS, suite)
    assert network.build()
    stream_id = network.begin()
    network.client.send(stream_id, data)
    network.run()
    assert network.client.received[stream_id] == data
    network.hook = hook
    network.client.send(stream_id, data)
    network.run()
    return network, stream_id


def flip_layer(cell: bytes, at: int) -> bytes:
    """The cell with a bit changed in its layer, at a place drawn by `at`."""
    length = HEADER.unpack_from(cell)[2]
    return flip(cell, HEADER.size + at % length, at % 8)


def assert_ended(network: MemoryNetwork, nodes: set[int]) -> ProtocolError:
    """The circuit ended for a fault that one of `nodes` found first, and everywhere."""
    node, error = network.failures[0]
    assert node in nodes
    assert network.destroyed == set(range(HOPS + 1))
    return error


def finders(link: int, way: Way) -> set[int]:
    return {link + 1} if way is Way.FORWARD else {link, 0}


@BOTH
@LINKS
@WAYS
def test_a_flipped_bit_anywhere_ends_the_circuit(suite: Suite, link: int, way: Way) -> None:
    """Header, layer or padding: the fault is found where the next key or parser is, and no byte of it is used."""
    random = Random(link)
    places = [(at, bit) for at in range(HEADER.size) for bit in range(8) if (at, bit) != LONG_FLAG_BIT]
    places += [(random.randrange(HEADER.size, SHORT_CELL), random.randrange(8)) for _ in range(60)]
    for at, bit in places:
        network, stream_id = attacked(suite, Attack(link, way, lambda cell, at=at, bit=bit: [flip(cell, at, bit)]))  # type: ignore[misc]
        assert_ended(network, finders(link, way))
        assert network.exit.received[stream_id] == b"request" * (1 if way is Way.FORWARD else 2)
        assert network.client.received[stream_id] == b"request"


@BOTH
@LINKS
@WAYS
def test_a_cell_of_another_size_delivers_nothing(suite: Suite, link: int, way: Way) -> None:
    network, stream_id = attacked(suite, Attack(link, way, lambda cell: [flip(cell, *LONG_FLAG_BIT)]))
    assert network.client.received[stream_id] == b"request"
    network.hook = lambda _link, _way, cell: [cell]
    for _ in range(16):
        network.client.send(stream_id, bytes(200))
        network.run()
    if way is Way.FORWARD:
        assert_ended(network, finders(link, way))
    assert network.client.received[stream_id] == b"request"


@BOTH
@LINKS
@WAYS
def test_a_flipped_bit_in_a_long_cell_ends_the_circuit(suite: Suite, link: int, way: Way) -> None:
    random = Random(link)
    for _ in range(20):
        at = random.randrange(16_384)
        attack = Attack(link, way, lambda cell, at=at: [flip_layer(cell, at)], number=1)  # type: ignore[misc]
        network, stream_id = attacked(suite, attack, bytes(40_000))
        assert isinstance(assert_ended(network, finders(link, way)), AuthenticationFailed)
        assert len(network.client.received[stream_id]) < 80_000


@BOTH
@LINKS
@WAYS
def test_a_replayed_cell_ends_the_circuit(suite: Suite, link: int, way: Way) -> None:
    network, stream_id = attacked(suite, Attack(link, way, lambda cell: [cell, cell]))
    assert isinstance(assert_ended(network, finders(link, way)), AuthenticationFailed)
    assert network.exit.received[stream_id] == b"request" * 2  # once each


@BOTH
@LINKS
def test_an_old_cell_ends_the_circuit(suite: Suite, link: int) -> None:
    network = MemoryNetwork(HOPS, suite)
    assert network.build()
    stream_id = network.begin(COUNTING_PORT)
    network.run()
    old = next(
        cell for at, way, cell in network.carried if (at, way) == (link, Way.FORWARD) and cell[4] & 0x7F == 4
    )
    network.client.send(stream_id, bytes(200_000))
    network.run()
    network.hook = Attack(link, Way.FORWARD, lambda _cell: [old])
    network.client.send(stream_id, b"x")
    network.run()
    assert isinstance(assert_ended(network, {link + 1}), AuthenticationFailed)
    assert len(network.exit.received[stream_id]) == 200_000


@BOTH
@LINKS
@WAYS
def test_a_dropped_cell_is_noticed_at_the_next(suite: Suite, link: int, way: Way) -> None:
    network, stream_id = attacked(suite, Attack(link, way, lambda _cell: []))
    assert network.failures == []
    network.client.send(stream_id, b"next")
    network.run()
    assert isinstance(assert_ended(network, finders(link, way)), AuthenticationFailed)
    assert b"next" not in network.client.received[stream_id]


@BOTH
@LINKS
@WAYS
def test_reordered_cells_end_the_circuit(suite: Suite, link: int, way: Way) -> None:
    network, stream_id = attacked(suite, Holding(link, way))
    network.client.send(stream_id, b"next")
    network.run()
    assert isinstance(assert_ended(network, finders(link, way)), AuthenticationFailed)
    assert b"next" not in network.client.received[stream_id]


@BOTH
def test_tagging_between_the_first_and_the_last_relay_fails(suite: Suite) -> None:
    """The first relay marks the layer it passes on; the relay between ends the circuit, so the last never sees
    a cell that the mark could be found in."""
    network = speaking(suite)
    stream_id = network.begin()
    network.run()
    network.carried.clear()
    network.hook = Attack(1, Way.FORWARD, lambda cell: [flip_layer(cell, 93)])
    network.client.send(stream_id, b"request")
    network.run()
    assert_ended(network, {2})
    assert [cell[4] & 0x7F for link, way, cell in network.carried if (link, way) == (2, Way.FORWARD)] == [
        Command.DESTROY
    ]


@BOTH
def test_tagging_backward_is_not_readable_by_the_first_relay(suite: Suite) -> None:
    """The last relay's mark is under the middle's layer when the first gets it; the client then ends the circuit."""
    network, _ = attacked(suite, Attack(2, Way.BACKWARD, lambda cell: [flip_layer(cell, 20)]))
    assert isinstance(assert_ended(network, {0}), AuthenticationFailed)


@BOTH
def test_failures_say_nothing_about_what_failed(suite: Suite) -> None:
    """No oracle: whatever was changed within a layer, all that leaves a relay is the same DESTROY."""
    seen = set()
    for at in (0, 8, 9, 25, 40, 63, 64, 65, 66):
        attack = Attack(0, Way.FORWARD, lambda cell, at=at: [flip_layer(cell, at)])  # type: ignore[misc]
        network, _ = attacked(suite, attack)
        _, error = network.failures[0]
        last = [cell[4:] for link, way, cell in network.carried if (link, way) == (0, Way.BACKWARD)][-1]
        seen.add((type(error), error.args, last))
    assert len(seen) == 1


# ---- handshakes


class Impostor(Relay):
    """Claims another relay's identity without its onion secret."""

    def __init__(self, of: Relay) -> None:
        super().__init__(0)
        self.identity, self.onion_key = of.identity, of.onion_key


class Selfish(Relay):
    """Answers EXTEND by itself, as if it were the next relay too."""

    def __init__(self, number: int, target: Relay) -> None:
        super().__init__(number)
        self.target = target

    def fake(self, extend: Extend) -> bytes:
        """A CREATED made with a key of its own for the target's onion key."""
        return answer(extend.create, extend.identity, {self.target.onion_key: X25519PrivateKey.generate()})[0]


@BOTH
@pytest.mark.parametrize("position", range(HOPS))
def test_a_relay_that_lies_about_its_identity_is_no_hop(suite: Suite, position: int) -> None:
    network = MemoryNetwork(HOPS, suite)
    network.relays[position] = Impostor(network.relays[position])
    assert not network.build()
    assert network.failures[0][0] == 0
    assert isinstance(network.failures[0][1], AuthenticationFailed)


@BOTH
@pytest.mark.parametrize("position", range(HOPS))
def test_a_relay_refuses_a_create_for_another_identity(suite: Suite, position: int) -> None:
    network = MemoryNetwork(HOPS, suite)
    path = list(network.path)
    path[position] = PathHop(b"?" * 32, path[position].onion_key, "relay", 9_000)
    network.path = path
    assert not network.build()
    assert network.failures[0][0] == position + 1


@BOTH
def test_a_middle_relay_that_answers_extend_itself_makes_the_client_abort(suite: Suite) -> None:
    network = MemoryNetwork(HOPS, suite)
    selfish = Selfish(1, network.relays[1])
    origin = Origin([selfish.describe(), network.relays[1].describe()], suite)
    created = selfish.created(origin.create, network.clock)
    origin.created(created)
    assert selfish.hop is not None
    (body,) = origin.take_cells(0)
    (action,) = selfish.hop.receive_forward([body], 0.0)
    extend = Extend(action.host, action.port, action.identity, action.create)  # type: ignore[union-attr]
    selfish.hop.extended(selfish.fake(extend))
    (body,) = selfish.hop.take_cells(0)
    with pytest.raises(AuthenticationFailed):
        origin.receive([body], 0.0)
    assert not origin.built


@BOTH
@pytest.mark.parametrize("command", [Command.CREATE, Command.CREATED])
def test_a_flipped_bit_in_a_handshake_builds_no_circuit(suite: Suite, command: Command) -> None:
    random = Random(command)
    for _ in range(40):
        network = MemoryNetwork(HOPS, suite)
        link, at = random.randrange(HOPS), HEADER.size + random.randrange(CREATED_BODY)

        def hook(where: int, _way: Way, cell: bytes, link: int = link, at: int = at) -> list[bytes]:
            return [flip(cell, at)] if where == link and cell[4] & 0x7F == command else [cell]

        network.hook = hook
        assert not network.build()
        assert network.failures


# ---- well formed at the wrong moment


def speaking(suite: Suite, hops: int = HOPS) -> MemoryNetwork:
    network = MemoryNetwork(hops, suite)
    assert network.build()
    return network


@BOTH
@pytest.mark.parametrize("speaker", [1, 2])
@pytest.mark.parametrize("message", [Data(1, b"forged"), Drop(10), Extended(bytes(CREATED_BODY))])
def test_a_middle_relay_that_speaks_to_the_client_is_refused(suite: Suite, speaker: int, message: Message) -> None:
    network = speaking(suite)
    network.begin()
    network.run()
    hop = network.relays[speaker - 1].hop
    assert hop is not None
    hop.endpoint.tell(message)
    network.run()
    assert network.failures[0][0] == 0
    assert isinstance(network.failures[0][1], Unexpected)
    assert network.client.received == {}


EXTEND = Extend("relay", 9_000, b"z" * 32, bytes(1_282))
ILL_TIMED: dict[str, tuple[list[Message], type[ProtocolError]]] = {
    "EXTEND after BEGIN": ([Begin(1, "t", 1), EXTEND], Unexpected),
    "EXTEND twice": ([EXTEND, EXTEND], Unexpected),
    "BEGIN after EXTEND": ([EXTEND, Begin(1, "t", 1)], Unexpected),
    "EXTEND to itself": ([Extend("relay", 9_000, b"\x03" * 32, bytes(1_282))], Unexpected),
    "DATA before BEGIN": ([Data(1, b"x")], Unexpected),
    "SENDME nobody owes": (
        [Begin(1, "t", 1), Sendme(0, CIRCUIT_WINDOW + MIN_STEP, bytes(16))],
        WindowViolated,
    ),
    "stream SENDME before BEGIN": ([Sendme(1, 2**20)], Unexpected),
    "BEGIN twice": ([Begin(1, "t", 1), Begin(1, "t", 1)], Unexpected),
}


@BOTH
@pytest.mark.parametrize("name", ILL_TIMED)
@pytest.mark.parametrize("together", [True, False])
def test_what_is_ill_timed_ends_the_circuit(suite: Suite, name: str, together: bool) -> None:
    messages, expected = ILL_TIMED[name]
    network = speaking(suite)
    network.hook = lambda _link, way, cell: [cell] if way is Way.FORWARD or cell[4] == Command.DESTROY else []
    for message in messages:
        network.origin.endpoint.tell(message)
        if not together:
            network.run()
    network.run()
    assert network.failures[0][0] == HOPS
    assert isinstance(network.failures[0][1], expected)
    assert not network.exit.received


@BOTH
def test_an_exit_that_acknowledges_without_having_received_is_caught(suite: Suite) -> None:
    """It may count the bytes that will come, but not know the end of a layer it has not got."""
    network = speaking(suite, 1)
    stream_id = network.begin()
    network.run()
    network.hook = lambda _link, way, cell: [] if way is Way.FORWARD else [cell]  # nothing arrives any more
    network.client.endpoint.send(stream_id, bytes(network.client.endpoint.sendable(stream_id, 0.0)))
    network.run()
    arrived = network.client.endpoint._send_window._owed[0][0]
    network.exit.endpoint.tell(Sendme(0, arrived + CIRCUIT_WINDOW, Random(1).randbytes(16)))
    network.run()
    assert network.failures[0][0] == 0
    assert isinstance(network.failures[0][1], WindowViolated)


@BOTH
def test_an_exit_that_sends_beyond_the_limit_is_caught(suite: Suite) -> None:
    network = speaking(suite, 1)
    stream_id = network.begin()
    network.run()
    for _ in range(40):
        network.exit.endpoint.tell(Data(stream_id, bytes(15_000)))
    network.client.opened.clear()  # the application takes nothing
    network.run()
    assert network.failures[0][0] == 0
    assert isinstance(network.failures[0][1], WindowViolated)
    assert len(network.client.received[stream_id]) <= 512 * 1_024


@BOTH
def test_an_exit_that_fills_cells_beyond_eight_layers_is_stopped(suite: Suite) -> None:
    """What it sends must leave room for any path; the relay whose layer does not fit ends the circuit."""
    network = speaking(suite, 8)
    hop = network.relays[-1].hop
    assert hop is not None
    body = hop._sealer.seal(Kind.DELIVER, bytes(SUITES[suite].max_messages + 1))
    network.send_cell(7, Way.BACKWARD, Command.RELAY, body)
    network.run()
    node, error = network.failures[0]
    assert isinstance(error, TooLarge)
    assert node == 1


@BOTH
def test_nothing_is_skipped_in_silence(suite: Suite) -> None:
    """An unknown message from a hostile exit, in a layer that verifies."""
    network = speaking(suite)
    hop = network.relays[-1].hop
    assert isinstance(hop, Hop)
    network.send_cell(HOPS - 1, Way.BACKWARD, Command.RELAY, hop._sealer.seal(Kind.DELIVER, b"\x63\0\1\0\0"))
    network.run()
    assert network.failures[0][0] == 0
    assert isinstance(network.failures[0][1], Malformed)
