"""A client's circuit: it grows only by hops that prove themselves, and only its last hop may speak."""

from ipaddress import IPv4Address

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.circuit.actions import Action, Built, HopAdded, Opened
from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite, answer
from common.crypto.layers import MAX_HOPS, SUITES, Kind, Opener, Sealer
from common.errors import AuthenticationFailed, ProtocolError, TooLarge, Unexpected
from common.wire.cells import Bytes
from common.wire.messages import (
    CREATED_BODY,
    Begin,
    Connected,
    Data,
    Drop,
    Extend,
    Extended,
    Message,
    decode_messages,
)
from tests.helpers import flip, open_layer

BOTH = pytest.mark.parametrize("suite", list(Suite))


class Bench:
    """An origin, and the relays' half of its layers."""

    def __init__(self, hops: int, suite: Suite = Suite.AES_GCM) -> None:
        self.secrets = [X25519PrivateKey.generate() for _ in range(hops)]
        self.onion_keys = [secret.public_key().public_bytes_raw() for secret in self.secrets]
        self.path = [
            PathHop(bytes([hop]) * 32, key, f"relay{hop}", 9_000 + hop) for hop, key in enumerate(self.onion_keys)
        ]
        self.origin = Origin(self.path, suite)
        self.openers: list[Opener] = []
        self.sealers: list[Sealer] = []

    def answers(self, create: bytes) -> bytes:
        hop = len(self.sealers)
        created, keys = answer(create, self.path[hop].identity, {self.onion_keys[hop]: self.secrets[hop]})
        self.openers.append(SUITES[keys.suite].opener(keys.forward))
        self.sealers.append(SUITES[keys.suite].sealer(keys.backward))
        return created

    def layered(self, speaker: int, body: bytes) -> bytes:
        layer = self.sealers[speaker].seal(Kind.DELIVER, body)
        for sealer in reversed(self.sealers[:speaker]):
            layer = sealer.seal(Kind.FORWARD, layer)
        return layer

    def says(self, speaker: int, *messages: Message) -> list[Action]:
        body = b"".join(message.encode() for message in messages)
        return self.origin.receive([self.layered(speaker, body)], 0.0)

    def extend(self) -> Extend:
        """What the origin says to its last hop: it must be EXTEND."""
        body: Bytes
        (body,) = self.origin.take_cells(0)
        for opener in self.openers:
            _, body = open_layer(opener, body)
        (message,) = decode_messages(body)
        assert isinstance(message, Extend)
        return message

    def build(self) -> list[Action]:
        actions = self.origin.created(self.answers(self.origin.create))
        while not self.origin.built:
            speaker = len(self.sealers) - 1
            actions += self.says(speaker, Extended(self.answers(self.extend().create)))
        return actions


@BOTH
@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_a_circuit_grows_hop_by_hop(suite: Suite, hops: int) -> None:
    bench = Bench(hops, suite)
    assert bench.build() == [*(HopAdded(done) for done in range(1, hops + 1)), Built()]
    assert bench.origin.built
    assert bench.origin.take_cells(0) == []


def test_each_extend_names_the_next_relay_of_the_path() -> None:
    bench = Bench(3)
    bench.origin.created(bench.answers(bench.origin.create))
    for hop in (1, 2):
        extend = bench.extend()
        assert (extend.host, extend.port, extend.identity) == (f"relay{hop}", 9_000 + hop, bytes([hop]) * 32)
        bench.says(hop - 1, Extended(bench.answers(extend.create)))


def test_what_a_new_hop_says_may_come_together_with_what_makes_it_one() -> None:
    bench = Bench(2)
    bench.origin.created(bench.answers(bench.origin.create))
    extended = Extended(bench.answers(bench.extend().create))
    cells = [bench.layered(0, said) for said in (Drop(7).encode(), Drop(7).encode(), extended.encode())]
    cells += [bench.layered(1, Drop(7).encode()) for _ in range(3)]
    assert bench.origin.receive(cells, 0.0) == [HopAdded(2), Built()]
    assert bench.says(1, Drop(7)) == []


@pytest.mark.parametrize("hops", [0, 9, 100])
def test_a_path_has_1_to_8_hops(hops: int) -> None:
    with pytest.raises(TooLarge):
        Bench(hops)


def test_create_is_for_the_first_hop_once() -> None:
    bench = Bench(2)
    assert bench.origin.create == bench.origin.create
    bench.origin.created(bench.answers(bench.origin.create))
    with pytest.raises(Unexpected):
        _ = bench.origin.create


def test_created_twice_is_refused() -> None:
    bench = Bench(2)
    created = bench.answers(bench.origin.create)
    bench.origin.created(created)
    with pytest.raises(Unexpected, match="twice"):
        bench.origin.created(created)


def test_a_wrong_created_builds_nothing() -> None:
    bench = Bench(2)
    created = bench.answers(bench.origin.create)
    for wrong in (b"", flip(created, 0), flip(created, CREATED_BODY - 1), created + b"\0"):
        with pytest.raises(AuthenticationFailed):
            bench.origin.created(wrong)
    assert not bench.origin.built
    assert bench.origin.take_cells(0) == []


def test_a_wrong_extended_builds_nothing() -> None:
    bench = Bench(2)
    bench.origin.created(bench.answers(bench.origin.create))
    created = bench.answers(bench.extend().create)
    with pytest.raises(AuthenticationFailed):
        bench.says(0, Extended(flip(created, 40)))
    assert not bench.origin.built


def test_a_relay_cell_before_created_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Bench(1).origin.receive([bytes(200)], 0.0)


@pytest.mark.parametrize("message", [Begin(1, "t", 1), Data(1, b"x"), Extend("h", 1, bytes(32), bytes(1_282))])
def test_only_extended_is_legal_while_a_circuit_is_built(message: Message) -> None:
    bench = Bench(2)
    bench.origin.created(bench.answers(bench.origin.create))
    with pytest.raises(Unexpected):
        bench.says(0, message)


def test_extended_is_alone_in_its_cell() -> None:
    bench = Bench(2)
    bench.origin.created(bench.answers(bench.origin.create))
    created = Extended(bench.answers(bench.extend().create))
    with pytest.raises(Unexpected):
        bench.says(0, created, created)


@BOTH
@pytest.mark.parametrize("speaker", [0, 1])
@pytest.mark.parametrize("message", [Drop(1), Data(1, b"x"), Extended(bytes(CREATED_BODY))])
def test_a_middle_hop_that_speaks_is_refused(suite: Suite, speaker: int, message: Message) -> None:
    bench = Bench(3, suite)
    bench.build()
    with pytest.raises(Unexpected, match="not the last"):
        bench.says(speaker, message)


def test_extended_on_a_built_circuit_is_refused() -> None:
    bench = Bench(1)
    bench.build()
    with pytest.raises(Unexpected):
        bench.says(0, Extended(bytes(CREATED_BODY)))


def test_drop_from_the_last_hop_is_thrown_away() -> None:
    bench = Bench(2)
    bench.origin.created(bench.answers(bench.origin.create))
    assert bench.says(0, Drop(5)) == []
    bench.says(0, Drop(1), Extended(bench.answers(bench.extend().create)))
    assert bench.origin.built
    assert bench.says(1, Drop(5), Drop(0)) == []


def test_messages_of_the_last_hop_reach_the_streams() -> None:
    bench = Bench(2)
    bench.build()
    stream_id = bench.origin.endpoint.begin("target", 1, 0.0)
    assert len(bench.origin.take_cells(0)) == 1
    address = IPv4Address("192.0.2.1")
    assert bench.says(1, Connected(stream_id, address, 0)) == [Opened(stream_id, address)]


def test_a_built_circuit_keeps_no_handshake_secret() -> None:
    bench = Bench(2)
    bench.build()
    assert bench.origin._handshake is None
