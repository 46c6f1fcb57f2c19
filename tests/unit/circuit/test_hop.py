"""A relay's place on a circuit: what a client may send it, at every state."""

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from common.circuit.actions import Deliver, ExtendTo, LookUp, OpenTarget, PassOn
from common.circuit.hop import TABLE, Got, Hop, HopState
from common.crypto.handshake import HopKeys, Suite
from common.crypto.layers import MAX_HOPS, SUITES, Kind
from common.crypto.onion import LayerStack
from common.errors import AuthenticationFailed, Malformed, ProtocolError, TooLarge, Unexpected
from common.wire.cells import MAX_BODY
from common.wire.messages import (
    CREATE_BODY,
    CREATED_BODY,
    Begin,
    BeginFlags,
    Connected,
    Data,
    Drop,
    Extend,
    Extended,
    Message,
    Resolve,
    Sendme,
    decode_messages,
)
from tests.helpers import open_cell

OWN, NEXT = b"o" * 32, b"n" * 32
EXTEND = Extend("next", 9_001, NEXT, b"c" * CREATE_BODY)
BOTH = pytest.mark.parametrize("suite", list(Suite))
CREATED = b"d" * CREATED_BODY


class Bench:
    """A hop and the client's half of its layers."""

    def __init__(self, suite: Suite = Suite.FERNET) -> None:
        keys = HopKeys(suite, b"f" * 32, b"b" * 32)
        self.hop = Hop(OWN, keys)
        self.sealer = SUITES[suite].sealer(keys.forward)
        self.stack = LayerStack()
        self.stack.add(keys)

    def says(self, *messages: Message) -> list[object]:
        body = b"".join(message.encode() for message in messages)
        return list(self.hop.receive_forward([self.sealer.seal(Kind.DELIVER, body)], 0.0))

    def passes(self, layer: bytes) -> list[object]:
        return list(self.hop.receive_forward([self.sealer.seal(Kind.FORWARD, layer)], 0.0))

    def hears(self) -> list[Message]:
        return [
            message
            for cell in self.hop.take_cells(0)
            for message in decode_messages(open_cell(self.stack, cell)[1])
        ]


def fresh(bench: Bench) -> None:
    assert bench.hop.state is HopState.FRESH


def extending(bench: Bench) -> None:
    bench.says(EXTEND)


def middle(bench: Bench) -> None:
    extending(bench)
    bench.hop.extended(CREATED)
    bench.hears()


def exiting(bench: Bench) -> None:
    bench.says(Begin(1, "target", 1))


STATES: dict[HopState, Callable[[Bench], None]] = {
    HopState.FRESH: fresh,
    HopState.EXTENDING: extending,
    HopState.MIDDLE: middle,
    HopState.EXIT: exiting,
}
INPUTS: dict[Got, Callable[[Bench], list[object]]] = {
    Got.LAYER: lambda bench: bench.passes(bytes(100)),
    Got.EXTEND: lambda bench: bench.says(EXTEND),
    Got.STREAM: lambda bench: bench.says(Begin(2, "target", 1)),
}


@BOTH
@pytest.mark.parametrize("state", list(HopState))
@pytest.mark.parametrize("got", list(Got))
def test_every_input_at_every_state(suite: Suite, state: HopState, got: Got) -> None:
    bench = Bench(suite)
    STATES[state](bench)
    assert bench.hop.state is state
    to = TABLE.get((state, got))
    if to is None:
        with pytest.raises(Unexpected):
            INPUTS[got](bench)
    else:
        INPUTS[got](bench)
        assert bench.hop.state is to


def test_extend_is_handed_on_and_answered() -> None:
    bench = Bench()
    assert bench.says(EXTEND) == [ExtendTo("next", 9_001, NEXT, b"c" * CREATE_BODY)]
    bench.hop.extended(CREATED)
    assert [message for message in bench.hears() if not isinstance(message, Drop)] == [Extended(CREATED)]
    assert bench.passes(b"the next hop's layer") == [PassOn([b"the next hop's layer"])]


@BOTH
@pytest.mark.parametrize("state", list(HopState))
def test_cells_for_this_hop_and_for_later_ones_in_one_read(suite: Suite, state: HopState) -> None:
    """A middle passes its part on, in order; nobody else has a later hop, however the cells are mixed."""
    bench = Bench(suite)
    STATES[state](bench)
    own = Drop(12).encode()
    mixed = [(Kind.FORWARD, b"one"), (Kind.DELIVER, own), (Kind.FORWARD, b"two")]
    bodies = [bench.sealer.seal(kind, body) for kind, body in mixed]
    if state is HopState.MIDDLE:
        assert bench.hop.receive_forward(bodies, 0.0) == [PassOn([b"one", b"two"])]
    else:
        with pytest.raises(Unexpected):
            bench.hop.receive_forward(bodies, 0.0)


def test_extend_to_itself_is_refused() -> None:
    with pytest.raises(Unexpected, match="itself"):
        Bench().says(Extend("next", 9_001, OWN, bytes(CREATE_BODY)))


@pytest.mark.parametrize("other", [EXTEND, Begin(1, "target", 1)])
def test_extend_is_alone_in_its_cell(other: Message) -> None:
    for messages in ((EXTEND, other), (other, EXTEND)):
        with pytest.raises(Unexpected):
            Bench().says(*messages)


def test_extend_after_begin_and_begin_after_extend_are_refused() -> None:
    for first, second in (
        (EXTEND, Begin(1, "t", 1)),
        (Begin(1, "t", 1), EXTEND),
        (EXTEND, EXTEND),
        (Resolve(1, "t"), EXTEND),
    ):
        bench = Bench()
        bench.says(first)
        with pytest.raises(Unexpected):
            bench.says(second)


@pytest.mark.parametrize(
    "message", [Data(1, b"x"), Sendme(1, 2**20), Connected(1, IPv4Address("192.0.2.1"), 0), Extended(CREATED)]
)
def test_what_no_client_says_first_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError):
        Bench().says(message)


@pytest.mark.parametrize("state", list(HopState))
def test_drop_is_legal_always_and_moves_nothing(state: HopState) -> None:
    bench = Bench()
    STATES[state](bench)
    assert bench.says(Drop(10), Drop(0)) == []
    assert bench.hop.state is state


def test_drop_beside_other_messages_is_taken_out() -> None:
    bench = Bench()
    assert bench.says(Drop(3), Begin(1, "target", 80), Drop(3), Data(1, b"x")) == [
        OpenTarget(1, "target", 80, BeginFlags.ANY),
        Deliver(1, [b"x"]),
    ]
    assert bench.says(Resolve(2, "name")) == [LookUp(2, "name")]
    assert len(Bench().says(Drop(1), EXTEND)) == 1


@pytest.mark.parametrize("state", [HopState.FRESH, HopState.MIDDLE, HopState.EXIT])
def test_created_that_nobody_asked_for_is_refused(state: HopState) -> None:
    bench = Bench()
    STATES[state](bench)
    with pytest.raises(Unexpected):
        bench.hop.extended(CREATED)


@BOTH
def test_extended_leaves_room_for_the_hops_of_a_path_and_no_more(suite: Suite) -> None:
    bench = Bench(suite)
    extending(bench)
    bench.hop.extended(CREATED)
    (cell,) = bench.hop.take_cells(0)
    before = Bench(suite)
    middle(before)
    for _ in range(MAX_HOPS - 1):
        (cell,) = before.hop.receive_backward([cell])
    with pytest.raises(TooLarge):
        before.hop.receive_backward([cell])


@pytest.mark.parametrize("size", [0, 1, CREATED_BODY - 1, CREATED_BODY + 1, MAX_BODY])
def test_a_created_of_another_length_is_not_carried(size: int) -> None:
    bench = Bench()
    extending(bench)
    with pytest.raises(Malformed):
        bench.hop.extended(bytes(size))
    assert bench.hop.take_cells(0) == []


@pytest.mark.parametrize("state", [HopState.FRESH, HopState.EXTENDING, HopState.EXIT])
def test_a_backward_cell_needs_a_next_hop(state: HopState) -> None:
    bench = Bench()
    STATES[state](bench)
    with pytest.raises(Unexpected):
        bench.hop.receive_backward([bytes(100)])


@BOTH
def test_a_backward_cell_gets_one_more_layer_while_it_fits(suite: Suite) -> None:
    bench = Bench(suite)
    middle(bench)
    around = len(bench.hop.receive_backward([bytes(89)])[0]) - 89
    assert len(bench.hop.receive_backward([bytes(MAX_BODY - around)])[0]) <= MAX_BODY
    with pytest.raises(TooLarge):
        bench.hop.receive_backward([bytes(89), bytes(MAX_BODY - around + 16)])


@BOTH
def test_a_hop_that_is_not_addressed_reads_nothing(suite: Suite) -> None:
    bench = Bench(suite)
    with pytest.raises(AuthenticationFailed):
        bench.hop.receive_forward(
            [SUITES[suite].sealer(b"x" * 32).seal(Kind.DELIVER, Begin(1, "t", 1).encode())], 0.0
        )


def test_malformed_messages_end_the_circuit() -> None:
    bench = Bench()
    with pytest.raises(Malformed):
        bench.hop.receive_forward([bench.sealer.seal(Kind.DELIVER, b"\xff\0\1\0\0")], 0.0)
