"""A trace holds the cells of one stream, by name and size, and nothing of what they carry."""

import pytest

from common.circuit.trace import MAX_CELLS, Trace
from common.crypto.handshake import HopKeys, Suite
from common.crypto.layers import SUITES, Kind
from common.crypto.onion import LayerStack
from common.wire.cells import Bytes
from common.wire.messages import Begin, Data
from tests.helpers import open_cell, open_layer

BEGIN, DATA = Begin(7, "secret.example", 80).encode(), Data(7, b"secret").encode()


def test_messages_are_told_by_name_and_size_only() -> None:
    trace = Trace()
    trace.begin("circuit", 7)
    trace.record(True, BEGIN + DATA, [300, 200])
    (cell,) = trace.cells
    assert [(message.command, message.stream_id, message.data) for message in cell.messages] == [
        ("BEGIN", 7, len(BEGIN) - 5),
        ("DATA", 7, 6),
    ]
    assert cell.message_bytes == len(BEGIN + DATA)
    assert cell.layers == (300, 200)
    assert "secret" not in repr(trace.cells)


@pytest.mark.parametrize(("layer", "cell"), [(1_017, 1_024), (1_018, 16_384)])
def test_the_cell_is_the_smallest_that_fits(layer: int, cell: int) -> None:
    trace = Trace()
    trace.begin(None, 7)
    trace.record(False, DATA, [layer])
    assert trace.cells[0].cells == (cell,)


def test_other_streams_are_left_out_and_a_new_circuit_begins_anew() -> None:
    trace = Trace()
    trace.begin("first", 7)
    trace.record(True, Data(8, b"x").encode(), [100])
    assert not trace.cells
    trace.record(True, DATA, [100])
    trace.begin("second", 8)
    assert (trace.cells, trace.owner) == ([], "second")


def test_what_is_remembered_is_bounded() -> None:
    trace = Trace()
    trace.begin(None, 7)
    for _ in range(MAX_CELLS + 3):
        trace.record(True, DATA, [100])
    assert (len(trace.cells), trace.more) == (MAX_CELLS, 3)


@pytest.mark.parametrize("data", [b"", b"\x03", b"\xff" * 9, DATA[:-1]])
def test_a_malformed_rest_is_left_to_who_decodes_it(data: bytes) -> None:
    trace = Trace()
    trace.begin(None, 7)
    trace.record(False, data, [100])


@pytest.mark.parametrize("suite", list(Suite))
def test_a_tap_sees_the_size_of_every_layer_and_changes_none(suite: Suite) -> None:
    layer: Bytes
    keys = [HopKeys(suite, bytes([hop]) * 32, bytes([hop + 100]) * 32) for hop in range(3)]
    tapped = LayerStack()
    for key in keys:
        tapped.add(key)
    seen: list[tuple[bool, Bytes, tuple[int, ...]]] = []
    tapped.tap = lambda out, messages, sizes: seen.append((out, messages, tuple(sizes)))
    layer, _ = tapped.originate(DATA)
    sizes = []
    for key in keys:
        sizes.append(len(layer))
        _, layer = open_layer(SUITES[suite].opener(key.forward), layer)
    assert seen == [(True, DATA, tuple(sizes))]
    layer = SUITES[suite].sealer(keys[2].backward).seal(Kind.DELIVER, DATA)
    sizes = [len(layer)]
    for key in keys[1::-1]:
        layer = SUITES[suite].sealer(key.backward).seal(Kind.FORWARD, layer)
        sizes.insert(0, len(layer))
    assert open_cell(tapped, layer)[1] == DATA
    assert seen[1] == (False, DATA, tuple(sizes))
