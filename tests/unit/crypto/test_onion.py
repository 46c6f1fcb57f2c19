"""The stack of layers: who can open what, in both suites and for every number of hops."""

import pytest

from common.crypto.handshake import HopKeys, Suite
from common.crypto.layers import MAX_HOPS, PROOF, SUITES, Kind, Opener, Sealer
from common.crypto.onion import LayerStack
from common.errors import AuthenticationFailed, ProtocolError, TooLarge, Unexpected
from common.wire.cells import Bytes
from tests.helpers import blocks, flip, open_cell, open_layer

BOTH = pytest.mark.parametrize("suite", list(Suite))
LENGTHS = pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))


def circuit(suite: Suite, hops: int) -> tuple[LayerStack, list[Opener], list[Sealer]]:
    """A client's stack, and the relays' halves, first hop first."""
    stack, openers, sealers = LayerStack(), [], []
    for hop in range(hops):
        keys = HopKeys(suite, bytes([hop]) * 32, bytes([100 + hop]) * 32)
        stack.add(keys)
        openers.append(SUITES[suite].opener(keys.forward))
        sealers.append(SUITES[suite].sealer(keys.backward))
    return stack, openers, sealers


def sent_back(sealers: list[Sealer], speaker: int, messages: bytes) -> bytes:
    layer = sealers[speaker].seal(Kind.DELIVER, messages)
    for sealer in reversed(sealers[:speaker]):
        layer = sealer.seal(Kind.FORWARD, layer)
    return layer


@BOTH
@LENGTHS
def test_forward_each_relay_opens_one_layer(suite: Suite, hops: int) -> None:
    layer: Bytes
    stack, openers, _ = circuit(suite, hops)
    for count in range(5):
        layer, proof = stack.originate(b"messages" * count)
        for opener in openers[:-1]:
            kind, layer = open_layer(opener, layer)
            assert kind is Kind.FORWARD
        assert layer[-PROOF:] == proof
        assert open_layer(openers[-1], layer) == (Kind.DELIVER, b"messages" * count)


@BOTH
@LENGTHS
def test_backward_each_relay_seals_one_layer(suite: Suite, hops: int) -> None:
    stack, _, sealers = circuit(suite, hops)
    for count in range(5):
        last = sealers[-1].seal(Kind.DELIVER, b"messages" * count)
        layer = last
        for sealer in reversed(sealers[:-1]):
            layer = sealer.seal(Kind.FORWARD, layer)
        assert open_cell(stack, layer) == (hops - 1, b"messages" * count, last[-PROOF:])


@BOTH
def test_every_hop_can_be_told_apart(suite: Suite) -> None:
    stack, _, sealers = circuit(suite, 4)
    for speaker in (3, 0, 2, 1, 3):
        # a speaker's cell moves only the counters of the hops up to it: exactly those that sealed
        assert open_cell(stack, sent_back(sealers, speaker, b"x"))[0] == speaker


@BOTH
def test_a_run_of_one_hops_cells_is_opened_as_one_by_one(suite: Suite) -> None:
    stack, _, sealers = circuit(suite, 3)
    bodies = [b"messages" * count for count in range(1, 5)]
    hop, found = stack.open([sent_back(sealers, 1, body) for body in bodies])
    assert (hop, [messages for messages, _ in found]) == (1, bodies)


@BOTH
def test_a_run_of_cells_from_two_hops_is_refused(suite: Suite) -> None:
    stack, _, sealers = circuit(suite, 3)
    with pytest.raises(Unexpected):
        stack.open([sent_back(sealers, speaker, b"x") for speaker in (2, 1, 2)])


@BOTH
def test_no_relay_opens_another_relays_layer(suite: Suite) -> None:
    layer: Bytes
    for position in range(3):
        stack, openers, _ = circuit(suite, 3)
        layer, _proof = stack.originate(b"messages")
        for opener in openers[:position]:
            layer = open_layer(opener, layer)[1]
        for other in (index for index in range(3) if index != position):
            with pytest.raises(AuthenticationFailed):
                open_layer(openers[other], layer)


@BOTH
def test_a_changed_backward_layer_is_refused_by_the_client(suite: Suite) -> None:
    """A relay that seals cannot check; the client opens all layers and finds it, wherever it happened."""
    for changed_by in range(3):
        stack, _, sealers = circuit(suite, 3)
        layer = sealers[2].seal(Kind.DELIVER, b"x")
        for hop in (1, 0):
            if changed_by == hop + 1:
                layer = flip(layer, len(layer) // 2)
            layer = sealers[hop].seal(Kind.FORWARD, layer)
        if changed_by == 0:
            layer = flip(layer, len(layer) // 2)
        with pytest.raises(AuthenticationFailed) as caught:
            open_cell(stack, layer)
        assert caught.value.args == ("layer",)


@BOTH
def test_a_layer_that_the_last_hop_passes_on_is_refused(suite: Suite) -> None:
    stack, _, sealers = circuit(suite, 1)
    with pytest.raises(AuthenticationFailed):
        open_cell(stack, sealers[0].seal(Kind.FORWARD, b"there is no further hop"))


def test_a_stack_without_hops_opens_nothing() -> None:
    with pytest.raises(AuthenticationFailed):
        open_cell(LayerStack(), bytes(100))


@BOTH
def test_a_ninth_hop_is_refused(suite: Suite) -> None:
    stack, _, _ = circuit(suite, MAX_HOPS)
    with pytest.raises(TooLarge):
        stack.add(HopKeys(suite, b"f" * 32, b"b" * 32))
    assert len(stack) == MAX_HOPS


@BOTH
def test_the_largest_body_fits_eight_hops_both_ways(suite: Suite) -> None:
    layer: Bytes
    stack, openers, sealers = circuit(suite, MAX_HOPS)
    messages = bytes(SUITES[suite].max_messages)
    layer, _ = stack.originate(messages)
    assert len(layer) == 16_377
    for opener in openers:
        _, layer = open_layer(opener, layer)
    assert layer == messages
    layer = sent_back(sealers, MAX_HOPS - 1, messages)
    assert len(layer) == 16_377
    assert open_cell(stack, layer)[1] == messages


@BOTH
def test_one_cell_has_no_block_in_common_between_links(suite: Suite) -> None:
    layer: Bytes
    stack, openers, _ = circuit(suite, 4)
    layer, _ = stack.originate(bytes(2_000))
    seen: set[bytes] = set()
    for opener in openers:
        found = blocks(bytes(layer))
        assert found.isdisjoint(seen)
        seen |= found
        _, layer = open_layer(opener, layer)


def test_suites_may_differ_between_hops() -> None:
    layer: Bytes
    stack = LayerStack()
    first, second = HopKeys(Suite.FERNET, b"1" * 32, b"2" * 32), HopKeys(Suite.AES_GCM, b"3" * 32, b"4" * 32)
    stack.add(first)
    stack.add(second)
    layer, _ = stack.originate(b"x")
    _, layer = open_layer(SUITES[first.suite].opener(first.forward), layer)
    assert open_layer(SUITES[second.suite].opener(second.forward), layer) == (Kind.DELIVER, b"x")


@BOTH
def test_all_failures_are_protocol_errors_alike(suite: Suite) -> None:
    stack, _, sealers = circuit(suite, 2)
    good = sent_back(sealers, 1, b"x")
    seen = set()
    for bad in (b"", bytes(57), bytes(16_377), good[:-1], flip(good, 0), flip(good, len(good) - 1)):
        with pytest.raises(ProtocolError) as caught:
            open_cell(stack, bad)
        seen.add((type(caught.value), caught.value.args))
    assert seen == {(AuthenticationFailed, ("layer",))}
