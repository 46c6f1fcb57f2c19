"""However the bytes are cut, the same cells come out; what is no cell is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Malformed
from common.wire.cells import (
    HEADER,
    LONG_CELL,
    LONG_FLAG,
    MAX_BODY,
    MAX_SHORT_BODY,
    SHORT_CELL,
    Cell,
    Command,
    encode_cell,
)
from common.wire.framing import CellReader
from tests.helpers import PATIENT, Feed, feed_three_ways, flip, refused_three_ways


def reader() -> Feed[Cell]:
    return CellReader().feed


CELLS = [
    Cell(0, Command.HELLO, b"\x01\x00\x01"),
    Cell(1, Command.CREATE, b"c" * 1_282),
    Cell(0xFFFFFFFF, Command.RELAY, b""),
    Cell(2, Command.RELAY, bytes(MAX_SHORT_BODY)),
    Cell(2, Command.RELAY, b"ends in zeros" + bytes(10)),
    Cell(3, Command.RELAY, b"x" * MAX_BODY),
    Cell(0, Command.PADDING, b""),
    Cell(3, Command.DESTROY, b"\x01"),
    Cell(4, Command.RELAY, b"y" * 16_000),
]


def raw_cell(circuit_id: int, command: int, length: int, after: bytes = b"") -> bytes:
    size = LONG_CELL if command & LONG_FLAG else SHORT_CELL
    return (HEADER.pack(circuit_id, command, length) + after).ljust(size, b"\0")


def test_cells_come_out_alike_however_they_are_cut() -> None:
    data = b"".join(encode_cell(*cell) for cell in CELLS)
    feed_three_ways(reader, data, CELLS, trailing=encode_cell(*CELLS[5])[:-1])


def test_cells_come_out_alike_where_each_is_a_record() -> None:
    assert CellReader().feed(*(encode_cell(*cell) for cell in CELLS)) == CELLS


def test_what_looks_like_a_whole_cell_is_none_behind_the_beginning_of_another() -> None:
    """A record as long as a cell, that begins in the middle of one and looks like one."""
    inner = encode_cell(7, Command.RELAY, b"." * MAX_BODY)
    outer = encode_cell(8, Command.RELAY, inner[:MAX_BODY])
    stream = outer + encode_cell(9, Command.RELAY, b"z" * MAX_BODY)
    cut = HEADER.size
    cells = CellReader().feed(stream[:cut], stream[cut : cut + LONG_CELL], stream[cut + LONG_CELL :])
    assert stream[cut : cut + 5] == inner[:5]
    assert [cell.circuit_id for cell in cells] == [8, 9]


@given(st.lists(st.integers(1, 5_000), max_size=20))
@settings(PATIENT, max_examples=50)
def test_cells_come_out_alike_whatever_the_segments(cuts: list[int]) -> None:
    data = b"".join(encode_cell(*cell) for cell in CELLS)
    feed, at = reader(), 0
    cells: list[Cell] = []
    for cut in [*cuts, len(data)]:
        cells += feed(data[at : at + cut])
        at += cut
    assert cells == CELLS


def test_a_truncated_cell_is_not_a_cell_yet() -> None:
    for cell in (CELLS[0], CELLS[5]):
        data = encode_cell(*cell)
        for cut in (0, 1, 4, 5, 6, 7, 8, len(data) - 1):
            held = CellReader()
            assert held.feed(data[:cut]) == []
            assert held.feed(data[cut:]) == [cell]


def test_less_than_a_cell_is_held() -> None:
    data = b"".join(encode_cell(*cell) for cell in CELLS)
    held = CellReader()
    held.feed(data + encode_cell(*CELLS[5])[:-1])
    assert len(held._rest) == LONG_CELL - 1


@pytest.mark.parametrize("command", [6, 7, 0x7F, 0x86, 0xFF])
def test_an_unknown_command_is_refused_at_its_byte(command: int) -> None:
    with pytest.raises(Malformed, match="unknown command"):
        CellReader().feed(b"\0\0\0\1" + bytes([command]))
    refused_three_ways(reader, raw_cell(1, command, 0), Malformed)


@pytest.mark.parametrize(
    ("command", "length"),
    [(4, MAX_SHORT_BODY + 1), (4, 0xFFFF), (0x84, MAX_BODY + 1), (0x84, 0xFFFF), (0, 1_018), (5, 40_000)],
)
def test_a_length_beyond_the_cell_is_refused(command: int, length: int) -> None:
    refused_three_ways(reader, raw_cell(1 if command else 0, command, length), Malformed)


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[1], CELLS[2], CELLS[4], CELLS[6], CELLS[8]])
def test_padding_that_is_not_zero_is_refused_at_every_edge(cell: Cell) -> None:
    data = encode_cell(*cell)
    first = HEADER.size + len(cell.body)
    for at in {first, first + 1, (first + len(data)) // 2, len(data) - 2, len(data) - 1}:
        with pytest.raises(Malformed, match="padding"):
            CellReader().feed(flip(data, at))


def test_a_length_that_cuts_the_body_is_refused() -> None:
    with pytest.raises(Malformed, match="padding"):
        CellReader().feed(raw_cell(1, Command.RELAY, 3, b"body"))


@pytest.mark.parametrize("command", list(Command))
def test_circuit_id_0_is_the_link_and_only_the_link(command: Command) -> None:
    of_link = command in (Command.PADDING, Command.HELLO)
    good, bad = (0, 1) if of_link else (1, 0)
    assert CellReader().feed(raw_cell(good, command, 0)) == [Cell(good, command, b"")]
    refused_three_ways(reader, raw_cell(bad, command, 0), Malformed)
    refused_three_ways(reader, raw_cell(bad, command | LONG_FLAG, 0), Malformed)
