"""An end of a circuit: every message at every state, closing in every order, limits, and packing into cells."""

from hashlib import sha256
from ipaddress import IPv4Address
from itertools import count

import pytest

from common.circuit import endpoint as endpoint_module
from common.circuit.actions import (
    Action,
    Answered,
    Credit,
    Deliver,
    LookUp,
    Opened,
    OpenTarget,
    PeerFinished,
    StreamEnded,
)
from common.circuit.congestion import INITIAL, MIN_STEP
from common.circuit.endpoint import LAST_STREAM_ID, Endpoint
from common.circuit.stream import TABLE, Event, Side, State, Stream
from common.circuit.window import CIRCUIT_WINDOW, STREAM_WINDOW
from common.crypto.handshake import HopKeys, Suite
from common.crypto.layers import SUITES
from common.crypto.onion import LayerStack
from common.errors import EndReason, Malformed, TooLarge, Unexpected, WindowViolated
from common.wire.cells import MAX_SHORT_BODY
from common.wire.messages import (
    CREATE_BODY,
    CREATED_BODY,
    Begin,
    Connected,
    Data,
    Direction,
    Drop,
    End,
    Extend,
    Extended,
    Mark,
    Message,
    Resolve,
    Resolved,
    Sendme,
    decode_messages,
)

ADDRESS = IPv4Address("192.0.2.1")
MAX_MESSAGES = 15_865
NO_PROOF = bytes(16)
SIDES = pytest.mark.parametrize("side", list(Side))


def endpoint(side: Side) -> Endpoint:
    """Its cells are its messages; the proof of the n-th cell is a digest of n."""
    number = count()
    return Endpoint(side, lambda *messages: (b"".join(messages), proof(next(number))), MAX_MESSAGES)


def proof(number: int) -> bytes:
    return sha256(number.to_bytes(8, "big")).digest()[:16]


def said(end: Endpoint) -> list[Message]:
    return [message for cell in end.take_cells(0) for message in decode_messages(cell)]


def got(end: Endpoint, *messages: Message) -> list[Action]:
    actions: list[Action] = []
    end.receive_cells([(b"".join(message.encode() for message in messages), NO_PROOF)], 0.0, actions)
    return actions


def opened(side: Side) -> Endpoint:
    """Stream 1 is open on this side; what it said is taken away."""
    end = endpoint(side)
    if side is Side.CLIENT:
        end.begin("target", 1, 0.0)
        got(end, Connected(1, ADDRESS, 0))
    else:
        got(end, Begin(1, "target", 1))
        end.connected(1, ADDRESS, 0)
    end.take_cells(0)
    return end


def in_state(side: Side, state: State) -> Endpoint:
    """An endpoint whose stream 1 stands in `state`, brought there by hand."""
    end = endpoint(side)
    end._highest = 0 if state is State.IDLE else 1
    if state not in (State.IDLE, State.CLOSED):
        end._streams[1] = Stream(side, state, 0.0)
    return end


MESSAGES: dict[Event, Message] = {
    Event.GOT_BEGIN: Begin(1, "target", 1),
    Event.GOT_RESOLVE: Resolve(1, "target"),
    Event.GOT_RESOLVED: Resolved(1, EndReason.DONE),
    Event.GOT_CONNECTED: Connected(1, ADDRESS, 0),
    Event.GOT_DATA: Data(1, b"data"),
    Event.GOT_SENDME: Sendme(1, 2 * STREAM_WINDOW),
    Event.GOT_END_SENDING: End(1, Direction.SENDING, EndReason.DONE),
    Event.GOT_END_BOTH: End(1, Direction.BOTH, EndReason.RESET),
}


@SIDES
@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(MESSAGES))
def test_every_message_at_every_state(side: Side, state: State, event: Event) -> None:
    end = in_state(side, state)
    to = TABLE[side].get((state, event))
    if to is None:
        with pytest.raises(Unexpected):
            got(end, MESSAGES[event])
        return
    got(end, MESSAGES[event])
    left = end._streams[1].state if 1 in end._streams else State.CLOSED
    assert left is to
    assert end.open_streams == (to is not State.CLOSED)


@SIDES
@pytest.mark.parametrize("message", [Extend("h", 1, bytes(32), bytes(CREATE_BODY)), Extended(bytes(CREATED_BODY))])
def test_messages_about_hops_have_no_place_here(side: Side, message: Message) -> None:
    with pytest.raises(Unexpected):
        got(opened(side), message)


@SIDES
def test_drop_is_thrown_away(side: Side) -> None:
    end = opened(side)
    assert got(end, Drop(100)) == []
    assert end.take_cells(0) == []


def test_what_cells_bring_one_after_the_other_is_delivered_together() -> None:
    client = opened(Side.CLIENT)
    actions = client.receive([Data(1, b"a"), Data(1, b"b")], NO_PROOF, 0.0)
    assert client.receive([Data(1, b"c"), MESSAGES[Event.GOT_END_SENDING]], NO_PROOF, 0.0, actions) is actions
    assert actions == [Deliver(1, [b"a", b"b", b"c"]), PeerFinished(1, closed=False)]


def test_streams_that_alternate_keep_the_order_of_their_bytes() -> None:
    exit_ = endpoint(Side.EXIT)
    came = got(exit_, Begin(1, "t", 1), Begin(2, "t", 1), Data(1, b"a"), Data(2, b"b"), Data(1, b"c"), Data(1, b"d"))
    assert came[2:] == [Deliver(1, [b"a"]), Deliver(2, [b"b"]), Deliver(1, [b"c", b"d"])]


def test_a_run_of_cells_is_what_its_cells_are_one_by_one() -> None:
    """Of two streams in turns, with what is no DATA between them, and a mark whose receipt counts what came before."""
    one, both = opened(Side.EXIT), opened(Side.EXIT)
    cells: list[list[Message]] = [[Begin(2, "t", 1)]]
    for stream_id in (1, 1, 2, 2, 1, 2, 1, 1):
        cells.append([Data(stream_id, bytes([len(cells)]) * MIN_STEP)])
    cells[4].append(Mark())
    cells[6:6] = [[Drop(9)], [Data(1, b"a"), Data(2, b"b")], [Data(2, b"c")], [Sendme(1, 2 * STREAM_WINDOW)]]
    bodies = [(b"".join(message.encode() for message in cell), proof(n)) for n, cell in enumerate(cells)]
    actions: list[Action] = []
    both.receive_cells(bodies, 0.0, actions)
    singly: list[Action] = []
    for body in bodies:
        one.receive_cells([body], 0.0, singly)
    assert actions == singly
    assert said(both) == said(one) == [Sendme(0, 4 * MIN_STEP + CIRCUIT_WINDOW, proof(4))]
    assert both.bytes_received == one.bytes_received == 8 * MIN_STEP + 3


@pytest.mark.parametrize("limit", ["stream", "circuit"])
def test_a_run_of_cells_beyond_a_limit_ends_the_circuit(limit: str) -> None:
    end = opened(Side.EXIT)
    window = end._streams[1].receive_window if limit == "stream" else end._receive_window
    window.limit = 3 * 8_192 - 1
    with pytest.raises(WindowViolated):
        end.receive_cells([(Data(1, bytes(8_192)).encode(), NO_PROOF)] * 3, 0.0, [])


def test_a_stream_from_begin_to_end() -> None:
    client, exit_ = endpoint(Side.CLIENT), endpoint(Side.EXIT)
    assert client.begin("target", 443, 0.0) == 1
    client.send(1, b"early")
    assert got(exit_, *said(client)) == [
        OpenTarget(1, "target", 443, Begin(1, "x", 1).flags),
        Deliver(1, [b"early"]),
    ]
    assert exit_.connected(1, ADDRESS, 60)
    exit_.send(1, b"answer")
    assert got(client, *said(exit_)) == [Opened(1, ADDRESS), Deliver(1, [b"answer"])]
    assert not client.finish(1)
    assert got(exit_, *said(client)) == [PeerFinished(1, closed=False)]
    exit_.send(1, b"more")
    assert exit_.finish(1)
    assert got(client, *said(exit_)) == [Deliver(1, [b"more"]), PeerFinished(1, closed=True)]
    assert client.open_streams == exit_.open_streams == 0
    assert client.used_streams == exit_.used_streams == 1


def test_a_look_up() -> None:
    client, exit_ = endpoint(Side.CLIENT), endpoint(Side.EXIT)
    assert client.resolve("a.example", 0.0) == 1
    assert got(exit_, *said(client)) == [LookUp(1, "a.example")]
    exit_.resolved(1, EndReason.DONE, (ADDRESS,), 60)
    assert got(client, *said(exit_)) == [Answered(1, EndReason.DONE, (ADDRESS,))]
    assert client.open_streams == exit_.open_streams == 0


@pytest.mark.parametrize("first", list(Side))
def test_half_close_lets_the_other_direction_go_on(first: Side) -> None:
    client, exit_ = opened(Side.CLIENT), opened(Side.EXIT)
    ends = [(client, exit_), (exit_, client)]
    one, other = ends if first is Side.CLIENT else ends[::-1]
    assert not one[0].finish(1)
    assert one[0].sendable(1, 0.0) == 0
    assert got(one[1], *said(one[0])) == [PeerFinished(1, closed=False)]
    other[0].send(1, b"still")
    assert got(other[1], *said(other[0])) == [Deliver(1, [b"still"])]
    assert other[0].finish(1)
    assert got(other[1], *said(other[0])) == [PeerFinished(1, closed=True)]
    assert client.open_streams == exit_.open_streams == 0


def test_both_finish_at_once() -> None:
    client, exit_ = opened(Side.CLIENT), opened(Side.EXIT)
    client.finish(1)
    exit_.finish(1)
    crossing = said(client), said(exit_)
    assert got(exit_, *crossing[0]) == got(client, *crossing[1]) == [PeerFinished(1, closed=True)]
    assert client.open_streams == exit_.open_streams == 0


@SIDES
def test_a_reset_is_answered_and_reported_once(side: Side) -> None:
    one, other = opened(side), opened(Side.EXIT if side is Side.CLIENT else Side.CLIENT)
    one.reset(1, EndReason.TIMEOUT)
    one.reset(1, EndReason.TIMEOUT)
    assert got(other, *said(one)) == [StreamEnded(1, EndReason.TIMEOUT)]
    assert other.open_streams == 0
    assert got(one, *said(other)) == []
    assert one.open_streams == 0
    assert one.take_cells(0) == other.take_cells(0) == []


def test_resets_that_cross_close_both_sides() -> None:
    client, exit_ = opened(Side.CLIENT), opened(Side.EXIT)
    client.reset(1, EndReason.RESET)
    exit_.reset(1, EndReason.RESET)
    crossing = said(client), said(exit_)
    assert got(exit_, *crossing[0]) == got(client, *crossing[1]) == []
    assert client.open_streams == exit_.open_streams == 0
    assert client.take_cells(0) == exit_.take_cells(0) == []


@SIDES
def test_a_reset_crossing_a_finish_closes_both_sides(side: Side) -> None:
    one, other = opened(side), opened(Side.EXIT if side is Side.CLIENT else Side.CLIENT)
    one.reset(1, EndReason.RESET)
    other.send(1, b"thrown away")
    other.finish(1)
    crossing = said(one), said(other)
    assert got(one, *crossing[1]) == []
    assert got(other, *crossing[0]) == [StreamEnded(1, EndReason.RESET)]
    assert one.open_streams == other.open_streams == 0
    assert one.take_cells(0) == other.take_cells(0) == []


def test_a_reset_before_the_target_answers() -> None:
    client, exit_ = endpoint(Side.CLIENT), endpoint(Side.EXIT)
    client.begin("target", 1, 0.0)
    got(exit_, *said(client))
    client.reset(1, EndReason.RESET)
    exit_.connected(1, ADDRESS, 0)
    exit_.send(1, b"greeting")
    crossing = said(client), said(exit_)
    assert got(client, *crossing[1]) == []
    assert got(exit_, *crossing[0]) == [StreamEnded(1, EndReason.RESET)]
    assert got(client, *said(exit_)) == []
    assert client.open_streams == exit_.open_streams == 0


def test_a_refused_target_with_early_data_in_flight() -> None:
    client, exit_ = endpoint(Side.CLIENT), endpoint(Side.EXIT)
    client.begin("target", 1, 0.0)
    got(exit_, *said(client))
    exit_.reset(1, EndReason.REFUSED)
    client.send(1, b"early")
    client.finish(1)
    assert got(exit_, *said(client)) == []
    assert got(client, *said(exit_)) == [StreamEnded(1, EndReason.REFUSED)]
    assert client.open_streams == exit_.open_streams == 0


def test_connected_after_the_client_reset_says_so() -> None:
    exit_ = endpoint(Side.EXIT)
    got(exit_, Begin(1, "target", 1))
    got(exit_, End(1, Direction.BOTH, EndReason.RESET))
    said(exit_)
    assert not exit_.connected(1, ADDRESS, 0)
    assert exit_.take_cells(0) == []


def test_a_sendme_or_reset_for_a_closed_stream_is_late_not_wrong() -> None:
    end = opened(Side.CLIENT)
    end.reset(1, EndReason.RESET)
    got(end, End(1, Direction.SENDING, EndReason.DONE))
    assert end.open_streams == 0
    assert got(end, Sendme(1, 2 * STREAM_WINDOW), End(1, Direction.BOTH, EndReason.RESET)) == []


@SIDES
def test_a_sendme_for_a_stream_that_never_was_is_unexpected(side: Side) -> None:
    with pytest.raises(Unexpected):
        got(opened(side), Sendme(2, 2 * STREAM_WINDOW))


def test_data_for_a_closed_stream_is_unexpected() -> None:
    end = opened(Side.EXIT)
    end.finish(1)
    got(end, End(1, Direction.SENDING, EndReason.DONE))
    with pytest.raises(Unexpected):
        got(end, Data(1, b"late"))


# ---- stream ids


@pytest.mark.parametrize("second", [Begin(5, "t", 1), Begin(4, "t", 1), Resolve(5, "t"), Resolve(1, "t")])
def test_stream_ids_only_rise(second: Message) -> None:
    exit_ = endpoint(Side.EXIT)
    got(exit_, Begin(5, "target", 1))
    with pytest.raises(Unexpected, match="was used"):
        got(exit_, second)


def test_the_id_of_a_closed_stream_is_never_used_again() -> None:
    exit_ = opened(Side.EXIT)
    got(exit_, End(1, Direction.BOTH, EndReason.RESET))
    assert exit_.open_streams == 0
    with pytest.raises(Unexpected):
        got(exit_, Begin(1, "target", 1))


def test_a_circuit_that_used_all_its_ids_is_replaced() -> None:
    client = endpoint(Side.CLIENT)
    client._highest = LAST_STREAM_ID - 1
    assert client.begin("target", 1, 0.0) == LAST_STREAM_ID
    for attempt in (client.begin, lambda host, _port, now: client.resolve(host, now)):
        with pytest.raises(TooLarge):
            attempt("target", 1, 0.0)


def test_a_host_that_cannot_be_sent_opens_nothing() -> None:
    client = endpoint(Side.CLIENT)
    for host in ("", "a b", "ü.example", "n" * 256):
        with pytest.raises(Malformed):
            client.begin(host, 1, 0.0)
        with pytest.raises(Malformed):
            client.resolve(host, 0.0)
    assert (client.open_streams, client.used_streams, client.take_cells(0)) == (0, 0, [])


def test_streams_and_look_ups_beyond_the_limit_are_refused_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "MAX_OPEN_STREAMS", 2)
    exit_ = endpoint(Side.EXIT)
    assert len(got(exit_, Begin(1, "t", 1), Resolve(2, "t"))) == 2
    assert got(exit_, Begin(3, "t", 1)) == []
    assert said(exit_) == [End(3, Direction.BOTH, EndReason.LIMIT)]
    assert got(exit_, End(3, Direction.BOTH, EndReason.DONE), Resolve(4, "t")) == []
    assert said(exit_) == [Resolved(4, EndReason.LIMIT)]
    assert exit_.open_streams == 2


# ---- limits


def test_sendable_is_the_smaller_limit() -> None:
    client = opened(Side.CLIENT)
    assert INITIAL - client.max_data < client.sendable(1, 0.0) <= INITIAL < STREAM_WINDOW
    client._congestion.window = CIRCUIT_WINDOW
    assert client.sendable(1, 0.0) == STREAM_WINDOW
    client.send(1, bytes(STREAM_WINDOW))
    assert client.sendable(1, 0.0) == 0
    assert client.sendable(2, 0.0) == 0
    got(client, Sendme(1, 2 * STREAM_WINDOW))
    assert client.sendable(1, 0.0) == STREAM_WINDOW


def test_sendable_counts_what_is_not_in_a_cell_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that send one after the other, before their cells are taken, share the circuit's limit."""
    client = endpoint(Side.CLIENT)
    client._congestion.window = 2 * CIRCUIT_WINDOW
    streams = [client.begin("target", 1, 0.0) for _ in range(CIRCUIT_WINDOW // STREAM_WINDOW + 3)]
    sent = 0
    for stream_id in streams:
        size = client.sendable(stream_id, 0.0)
        client.send(stream_id, bytes(size))
        sent += size
    assert sent == CIRCUIT_WINDOW
    client.take_cells(0)
    assert {client.sendable(stream_id, 0.0) for stream_id in streams} == {0}


def test_more_than_the_limit_is_never_sent_and_nothing_for_a_stream_that_has_ended() -> None:
    client = opened(Side.CLIENT)
    with pytest.raises(WindowViolated):
        client.send(1, bytes(STREAM_WINDOW + 1))
    client.finish(1)
    assert client.take_cells(0)
    client.send(1, b"x")
    assert client.take_cells(0) == []


def test_more_than_the_circuits_limit_is_never_sent() -> None:
    client = endpoint(Side.CLIENT)
    ids = [client.begin("target", 1, 0.0) for _ in range(CIRCUIT_WINDOW // STREAM_WINDOW + 1)]
    for stream_id in ids[:-1]:
        client.send(stream_id, bytes(STREAM_WINDOW))
    with pytest.raises(WindowViolated):
        client.send(ids[-1], b"x")


@SIDES
def test_data_beyond_a_streams_limit_ends_the_circuit(side: Side) -> None:
    end = opened(side)
    for _ in range(STREAM_WINDOW // 8_192):
        got(end, Data(1, bytes(8_192)))
    with pytest.raises(WindowViolated):
        got(end, Data(1, b"x"))


def test_data_beyond_the_circuits_limit_ends_the_circuit() -> None:
    """An honest limit rises as data arrives, so only one that was not renewed can be crossed."""
    end = opened(Side.EXIT)
    end._receive_window.limit = 8_192
    got(end, Data(1, bytes(8_192)))
    with pytest.raises(WindowViolated):
        got(end, Data(1, b"x"))


@SIDES
@pytest.mark.parametrize("total", [0, STREAM_WINDOW, 2**64 - 1])
def test_a_wrong_stream_sendme_ends_the_circuit(side: Side, total: int) -> None:
    with pytest.raises(WindowViolated):
        got(opened(side), Sendme(1, total))


@SIDES
def test_a_circuit_sendme_that_nobody_owes_ends_the_circuit(side: Side) -> None:
    with pytest.raises(WindowViolated):
        got(opened(side), Sendme(0, MIN_STEP + CIRCUIT_WINDOW, NO_PROOF))


def test_a_circuit_sendme_repeats_the_proof_of_the_crossing_cell() -> None:
    client, exit_ = opened(Side.CLIENT), opened(Side.EXIT)
    number = 1  # `opened` has used the client's first cell
    renewals = 0
    while renewals < 3:
        client.send(1, bytes(client.sendable(1, 0.0)))
        for cell in client.take_cells(0):
            for action in exit_.receive(decode_messages(cell), proof(number), 0.0):
                assert isinstance(action, Deliver)
                exit_.taken(1, sum(map(len, action.pieces)), 0.0)
            number += 1
        for message in said(exit_):
            assert isinstance(message, Sendme)
            renewals += message.stream_id == 0
            assert got(client, message) == [Credit(message.stream_id)]


def test_limits_count_data_that_a_resetting_stream_throws_away() -> None:
    end = opened(Side.CLIENT)
    end.reset(1, EndReason.RESET)
    assert got(end, Data(1, bytes(1_000))) == []
    assert end._receive_window.arrived == 1_000


@SIDES
def test_what_was_taken_is_told_while_the_peer_may_send(side: Side) -> None:
    end = opened(side)
    got(end, *(Data(1, bytes(8_192)) for _ in range(24)))
    end.taken(1, 196_608, 0.0)
    assert said(end) == [Sendme(1, STREAM_WINDOW + 196_608)]
    got(end, *(Data(1, bytes(8_192)) for _ in range(24)), End(1, Direction.SENDING, EndReason.DONE))
    end.taken(1, 196_608, 0.0)
    assert end.take_cells(0) == []
    end.taken(7, 1, 0.0)  # gone already


def test_what_was_taken_is_told_in_the_cell_of_a_receipt() -> None:
    """Not in one of its own: each is sealed, and opened by all relays."""
    end = opened(Side.CLIENT)
    got(end, *(Data(1, bytes(8_192)) for _ in range(8)))
    assert not end.taken(1, 65_535, 0.0)
    assert end.take_cells(0) == []
    end.receive([Data(1, b"."), Mark()], bytes(16), 0.0)
    assert end.taken(1, 2, 0.0)
    (cell,) = end.take_cells(0)
    receipt, limit = decode_messages(cell)
    assert isinstance(receipt, Sendme) and receipt.stream_id == 0
    assert limit == Sendme(1, STREAM_WINDOW + 65_537)


# ---- packing


def test_messages_share_a_cell_in_their_order() -> None:
    client = endpoint(Side.CLIENT)
    ids = [client.begin("target", 1, 0.0) for _ in range(3)]
    client.send(ids[0], b"early")
    client.finish(ids[1])
    (cell,) = client.take_cells(0)
    kinds = [type(message) for message in decode_messages(cell)]
    assert kinds == [Begin, Begin, Begin, Data, End]
    assert client.take_cells(0) == []


@pytest.mark.parametrize(
    "size", [1, MAX_MESSAGES - 11, MAX_MESSAGES - 10, MAX_MESSAGES - 9, 5 * MAX_MESSAGES, 100_000]
)
def test_data_is_cut_to_fit_and_comes_together_again(size: int) -> None:
    client = opened(Side.CLIENT)
    data = bytes(range(256)) * (size // 256 + 1)
    client.send(1, data[:size])
    cells = client.take_cells(0)
    assert max(map(len, cells)) <= MAX_MESSAGES
    assert len(cells) == -(-size // (MAX_MESSAGES - 10))  # the header, and room for a MARK
    pieces = [message for cell in cells for message in decode_messages(cell)]
    assert b"".join(piece.data for piece in pieces if isinstance(piece, Data)) == data[:size]


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("hops", [3, 4, 5])
@pytest.mark.parametrize("size", [1, 600, 700, 1_024, 1_500, 2_048, 2_600])
def test_a_little_more_than_a_short_cell_holds_is_in_a_few_short_ones(suite: Suite, hops: int, size: int) -> None:
    """On all links of all paths that are drawn unless somebody asks for longer ones; the uplink is the worst."""
    stack = LayerStack()
    for hop in range(hops):
        stack.add(HopKeys(suite, bytes([hop]) * 32, bytes([hop]) * 32))
    client = Endpoint(Side.CLIENT, stack.originate, SUITES[suite].max_messages)
    client.begin("target", 1, 0.0)
    client.take_cells(0)
    data = bytes(range(256)) * 12
    client.send(1, data[:size])
    client.finish(1)
    cells = client.take_cells(0)
    assert len(cells) == -(-size // (687 if suite is Suite.FERNET else 922))
    assert max(map(len, cells)) <= MAX_SHORT_BODY


@pytest.mark.parametrize("suite", list(Suite))
def test_a_full_short_cell_with_a_mark_is_short_on_all_links_of_five_hops(suite: Suite) -> None:
    stack = LayerStack()
    for hop in range(5):
        stack.add(HopKeys(suite, bytes([hop]) * 32, bytes([hop]) * 32))
    packing = Endpoint(Side.CLIENT, stack.originate, SUITES[suite].max_messages).packing
    layer, _ = stack.originate(bytes(packing._short), Mark().encode())
    assert MAX_SHORT_BODY - 16 < len(layer) <= MAX_SHORT_BODY


def test_what_is_in_a_few_short_cells_comes_together_again() -> None:
    client = opened(Side.CLIENT)
    data = bytes(range(256)) * 12
    said: list[Message] = []
    for size in range(700, 3_000, 37):
        client.send(1, data[:size])
        client.tell(Drop(0))
        cells = client.take_cells(0)
        messages = [message for cell in cells for message in decode_messages(cell)]
        assert b"".join(message.data for message in messages if isinstance(message, Data)) == data[:size]
        assert client.packing.unsealed == 0 and not client.packing.outgoing
        said += messages
    assert sum(isinstance(message, Drop) for message in said) == len(range(700, 3_000, 37))


def test_what_is_large_and_no_data_is_in_a_long_cell() -> None:
    """EXTEND, which is never cut."""
    client = endpoint(Side.CLIENT)
    extend = Extend("relay", 1, bytes(32), bytes(CREATE_BODY))
    client.tell(Drop(0))
    client.tell(extend)
    client.tell(Drop(0))
    assert [decode_messages(cell) for cell in client.take_cells(0)] == [[Drop(0)], [extend], [Drop(0)]]


def test_no_cell_is_empty_or_too_large() -> None:
    client = opened(Side.CLIENT)
    for _ in range(40):
        client.send(1, bytes(5_000))
        client.begin("n" * 255, 1, 0.0)
    cells = client.take_cells(0)
    assert all(0 < len(cell) <= MAX_MESSAGES for cell in cells)
    messages = [message for cell in cells for message in decode_messages(cell)]
    assert sum(not isinstance(message, Mark) for message in messages) == 80
