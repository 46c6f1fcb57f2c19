"""Circuits between honest nodes: what goes in comes out, whatever its size, shape, order or path."""

import hmac
from collections import deque
from hashlib import sha256
from ipaddress import IPv4Address
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.circuit import endpoint as endpoint_module
from common.circuit import window
from common.circuit.actions import Action, Deliver, LookUp, OpenTarget
from common.circuit.endpoint import Endpoint
from common.circuit.stream import Side
from common.crypto.handshake import Suite
from common.errors import EndReason, TooLarge
from common.wire.cells import HEADER, LONG_CELL, SHORT_CELL, Bytes
from common.wire.messages import decode_messages
from tests.helpers import PATIENT, blocks
from tests.pairs.memory_network import COUNTING_PORT, REFUSING_PORT, MemoryNetwork, Way

BOTH = pytest.mark.parametrize("suite", list(Suite))
SHAPES = {
    "nothing": b"",
    "one byte": b"x",
    "all values": bytes(range(256)) * 5,
    "ends in zeros": b"data" + bytes(3_000),
    "only zeros": bytes(40_000),
    "a full cell": b"c" * 15_855,
    "a byte more": b"c" * 15_861,
    "random": Random(5).randbytes(300_000),
}


def built(hops: int, suite: Suite) -> MemoryNetwork:
    network = MemoryNetwork(hops, suite)
    assert network.build()
    return network


def assert_idle(network: MemoryNetwork) -> None:
    assert network.failures == []
    assert network.client.endpoint.open_streams == network.exit.endpoint.open_streams == 0


@BOTH
@pytest.mark.parametrize("hops", range(1, 9))
def test_every_length_of_circuit_carries_data_exactly(suite: Suite, hops: int) -> None:
    network = built(hops, suite)
    for data in SHAPES.values():
        stream_id = network.begin()
        network.client.send(stream_id, data)
        network.client.finish(stream_id)
        network.run()
        assert network.client.received.get(stream_id, b"") == data
        assert network.exit.received.get(stream_id, b"") == data
        assert stream_id in network.client.finished
    assert_idle(network)
    assert {len(cell) for _, _, cell in network.carried} <= {SHORT_CELL, LONG_CELL}


@pytest.mark.parametrize("hops", [0, 9])
def test_nine_hops_and_none_are_refused(hops: int) -> None:
    with pytest.raises(TooLarge):
        MemoryNetwork(hops, Suite.FERNET).build()


@BOTH
def test_much_data_renews_every_window_both_ways(suite: Suite) -> None:
    """12 MiB to a target that echoes: more than a circuit's and a stream's largest window."""
    network = built(3, suite)
    data = Random(7).randbytes(12 * 2**20)
    stream_id = network.begin()
    network.client.send(stream_id, data)
    network.client.finish(stream_id)
    network.run()
    assert sha256(network.client.received[stream_id]).digest() == sha256(data).digest()
    assert_idle(network)


@BOTH
def test_a_counting_target_gets_every_byte(suite: Suite) -> None:
    network = built(3, suite)
    stream_id = network.begin(COUNTING_PORT)
    network.client.send(stream_id, bytes(2_345_678))
    network.client.finish(stream_id)
    network.run()
    assert int.from_bytes(network.client.received[stream_id], "big") == 2_345_678
    assert_idle(network)


@BOTH
def test_many_streams_interleaved(suite: Suite) -> None:
    network = built(3, suite)
    random = Random(11)
    ids = [network.begin(random.choice([80, COUNTING_PORT])) for _ in range(40)]
    sent = {stream_id: bytearray() for stream_id in ids}
    for _ in range(400):
        stream_id = random.choice(ids)
        piece = random.randbytes(random.randrange(1, 6_000))
        sent[stream_id] += piece
        network.client.send(stream_id, piece)
        if random.random() < 0.2:
            network.run()
    for stream_id in ids:
        network.client.finish(stream_id)
    network.run()
    assert network.exit.received == {stream_id: data for stream_id, data in sent.items() if data}
    assert network.client.finished == set(ids)
    assert_idle(network)


@BOTH
def test_a_refused_target_and_a_look_up(suite: Suite) -> None:
    network = built(3, suite)
    refused = network.begin(REFUSING_PORT)
    network.client.send(refused, b"early")
    network.client.endpoint.resolve("a.example", 0.0)
    network.run()
    assert network.client.ended == {refused: EndReason.REFUSED}
    assert network.exit.looked_up == ["a.example"]
    assert_idle(network)


@BOTH
def test_only_the_exit_sees_the_target_and_no_middle_becomes_one(suite: Suite) -> None:
    network = built(4, suite)
    stream_id = network.begin()
    network.client.send(stream_id, b"request")
    network.run()
    assert network.exit.dialled == [("target", 80)]
    assert all(relay.exit is not None and not relay.exit.dialled for relay in network.relays[:-1])


@BOTH
def test_the_client_speaks_to_the_first_relay_only(suite: Suite) -> None:
    """CREATE is sent once by the client; every later hop's CREATE is sent by the relay before it."""
    network = built(5, suite)
    creates = [(link, way) for link, way, cell in network.carried if cell[4] & 0x7F == 2]
    assert creates == [(link, Way.FORWARD) for link in range(5)]


@BOTH
def test_the_same_cell_looks_different_on_every_link(suite: Suite) -> None:
    """No 16 bytes of a cell's body come again on another link, or in another cell, in either direction."""
    network = built(4, suite)
    stream_id = network.begin()
    network.run()
    network.carried.clear()
    network.client.send(stream_id, bytes(9_000))
    network.client.send(stream_id, bytes(9_000))
    network.run()
    assert {link for link, _, _ in network.carried} == {0, 1, 2, 3}
    seen: set[bytes] = set()
    for _, _, cell in network.carried:
        length = HEADER.unpack_from(cell)[2]
        body = blocks(cell[HEADER.size : HEADER.size + length])
        assert body.isdisjoint(seen)
        seen |= body


@BOTH
def test_a_cell_has_the_same_size_on_every_link(suite: Suite) -> None:
    network = built(4, suite)
    stream_id = network.begin()
    network.run()
    for size, cells in ((1, 1), (600, 1), (1_024, 2), (4_000, 1), (5_000, 1)):  # less in all than asks for a receipt
        network.carried.clear()
        network.client.send(stream_id, bytes(size))
        network.run()
        assert len({len(cell) for _, _, cell in network.carried}) == 1
        assert len(network.carried) == 8 * cells  # there and back over four links


# ---- any schedule


def sealed_endpoint(side: Side) -> Endpoint:
    """An endpoint whose cells are its messages with a proof that the other end sees too."""
    number = count()

    def seal(*messages: Bytes) -> tuple[bytes, bytes]:
        cell = b"".join(messages)
        return cell, _proof(next(number), cell)

    return Endpoint(side, seal, 4_000)


def _proof(number: int, messages: bytes) -> bytes:
    return hmac.digest(number.to_bytes(8, "big"), messages, "sha256")[:16]


class Schedule:
    """Two honest ends, cells in flight between them, and applications that do what they like when they like."""

    def __init__(self) -> None:
        self.ends = {side: sealed_endpoint(side) for side in Side}
        self.flying: dict[Side, deque[bytes]] = {side: deque() for side in Side}  # to this side
        self.arrived = {side: count() for side in Side}
        self.untaken: dict[tuple[Side, int], int] = {}
        self.dialling: set[int] = set()
        self.looking_up: set[int] = set()
        self.finished: set[tuple[Side, int]] = set()
        self.sent: dict[tuple[Side, int], bytearray] = {}
        self.got: dict[tuple[Side, int], bytearray] = {}
        self.was_reset: set[int] = set()
        self.now = 0.0

    def act(self, side: Side, what: str, pick: int, size: int) -> None:
        """One thing that one side does, if it can be done; then its cells fly."""
        end, other = self.ends[side], self._other(side)
        self.now += size / 100_000
        ids = [
            stream_id
            for stream_id in end._streams
            if stream_id not in self.dialling | self.looking_up or side is Side.CLIENT
        ]
        stream_id = ids[pick % len(ids)] if ids else 0
        if what == "arrive":
            self._arrive(side)
        elif what == "begin" and side is Side.CLIENT:
            end.begin("target", 80, self.now)
        elif what == "resolve" and side is Side.CLIENT:
            end.resolve("name", self.now)
        elif what == "answer" and side is Side.EXIT:
            self._answer(pick, refuse=size % 4 == 0)
        elif what == "send" and (allowed := min(size, end.sendable(stream_id, self.now))):
            data = bytes([pick % 256]) * allowed
            self.sent.setdefault((side, stream_id), bytearray()).extend(data)
            end.send(stream_id, data)
        elif what == "take":
            self._take(side, stream_id, size)
        elif what == "finish":
            self._finish(side, stream_id)
        elif what == "reset":
            self._reset(side, stream_id)
        self.flying[other].extend(end.take_cells(0))

    def settle(self) -> None:
        """Everything arrives and is taken, every target answers, and all streams are finished by both sides."""
        for _ in range(300):
            for side in Side:
                while self.flying[side]:
                    self.act(side, "arrive", 0, 0)
                self.act(Side.EXIT, "answer", 0, 1)
                for stream_id in list(self.ends[side]._streams):
                    self._take(side, stream_id, 10**9)
                    self._finish(side, stream_id)
                self.act(side, "nothing", 0, 0)
            if not any(self.flying.values()) and not any(end.open_streams for end in self.ends.values()):
                return
        raise AssertionError("streams stay open")

    def _other(self, side: Side) -> Side:
        return Side.EXIT if side is Side.CLIENT else Side.CLIENT

    def _arrive(self, side: Side) -> None:
        if not self.flying[side]:
            return
        cell = self.flying[side].popleft()
        proof = _proof(next(self.arrived[side]), cell)
        for action in self.ends[side].receive(decode_messages(cell), proof, self.now):
            self._handle(side, action)

    def _handle(self, side: Side, action: Action) -> None:
        match action:
            case OpenTarget(stream_id):
                self.dialling.add(stream_id)
            case LookUp(stream_id):
                self.looking_up.add(stream_id)
            case Deliver(stream_id, pieces):
                data = b"".join(pieces)
                self.untaken[side, stream_id] = self.untaken.get((side, stream_id), 0) + len(data)
                self.got.setdefault((side, stream_id), bytearray()).extend(data)

    def _answer(self, pick: int, refuse: bool) -> None:
        end = self.ends[Side.EXIT]
        waiting = sorted(self.dialling | self.looking_up)
        if not waiting:
            return
        stream_id = waiting[pick % len(waiting)]
        if stream_id in self.looking_up:
            end.resolved(stream_id, EndReason.DONE, (), 0)
        elif refuse:
            self.was_reset.add(stream_id)
            end.reset(stream_id, EndReason.REFUSED)
        else:
            end.connected(stream_id, IPv4Address("192.0.2.1"), 0)
        self.dialling.discard(stream_id)
        self.looking_up.discard(stream_id)

    def _take(self, side: Side, stream_id: int, size: int) -> None:
        if side is Side.EXIT and stream_id in self.dialling:
            return
        count = min(size, self.untaken.get((side, stream_id), 0))
        if count:
            self.untaken[side, stream_id] -= count
            self.ends[side].taken(stream_id, count, self.now)

    def _finish(self, side: Side, stream_id: int) -> None:
        stream = self.ends[side]._streams.get(stream_id)
        if stream is not None and stream.may_send and (side, stream_id) not in self.finished:
            self.finished.add((side, stream_id))
            self.ends[side].finish(stream_id)

    def _reset(self, side: Side, stream_id: int) -> None:
        stream = self.ends[side]._streams.get(stream_id)
        if stream is not None and stream.state.name != "RESOLVING":
            self.was_reset.add(stream_id)
            self.ends[side].reset(stream_id, EndReason.RESET)


WHAT = ["arrive"] * 4 + ["begin", "resolve", "answer", "send", "send", "take", "finish", "reset"]
ACTS = st.tuples(st.sampled_from(Side), st.sampled_from(WHAT), st.integers(0, 255), st.integers(1, 40_000))


@given(st.lists(ACTS, max_size=150), st.integers(0, 2**32))
@settings(PATIENT, max_examples=200)
def test_no_schedule_of_two_honest_ends_breaks_the_protocol(
    acts: list[tuple[Side, str, int, int]], seed: int
) -> None:
    """Small windows, so that limits are reached and renewed all the time; messages delayed both ways. Never a
    ProtocolError; at the end both stream tables are empty, and what no reset cut short has come whole."""
    small = {"CIRCUIT_WINDOW": 64_000, "STREAM_WINDOW": 16_000, "MAX_STREAM_WINDOW": 64_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint_module, "MAX_OPEN_STREAMS", 6)
        for name, value in small.items():
            patch.setattr(window, name, value)
        schedule, random = Schedule(), Random(seed)
        for act in acts:
            schedule.act(*act)
        for _ in range(300):
            schedule.act(
                random.choice(list(Side)), random.choice(WHAT), random.randrange(256), random.randrange(1, 40_000)
            )
        schedule.settle()
    for (side, stream_id), data in schedule.sent.items():
        other = Side.EXIT if side is Side.CLIENT else Side.CLIENT
        got = schedule.got.get((other, stream_id), bytearray())
        assert data.startswith(got)
        if stream_id not in schedule.was_reset and (Side.EXIT, stream_id) in schedule.finished:
            assert got == data
