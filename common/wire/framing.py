"""Bytes to cells: however the bytes are cut, the same cells come out.

What is held between calls is never a whole cell, so at most 16,383 bytes.
"""

from common.errors import Malformed
from common.wire.cells import COMMANDS, HEADER, LINK_COMMANDS, LONG_CELL, LONG_FLAG, SHORT_CELL, ZEROS, Cell

_COMMAND_AT = 4  # the command stands after the circuit id


class CellReader:
    """Takes what arrived on a link and returns the cells that are complete."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Cell]:
        """The cells completed by `data`, in order; raises `Malformed` at the first byte that cannot be one."""
        if self._rest:
            data = self._rest + data
        cells: list[Cell] = []
        at, end = 0, len(data)
        while end - at > _COMMAND_AT:
            size = _size_of(data[at + _COMMAND_AT])
            if end - at < size:
                break
            cells.append(_parse(data, at, size))
            at += size
        self._rest = data[at:]
        return cells


def _size_of(command: int) -> int:
    if (command & ~LONG_FLAG) not in COMMANDS:
        raise Malformed("unknown command")
    return LONG_CELL if command & LONG_FLAG else SHORT_CELL


def _parse(data: bytes, at: int, size: int) -> Cell:
    circuit_id, command, length = HEADER.unpack_from(data, at)
    body_at, cell_end = at + HEADER.size, at + size
    body_end = body_at + length
    if body_end > cell_end:
        raise Malformed("length beyond the cell")
    if data[body_end:cell_end] != ZEROS[: cell_end - body_end]:
        raise Malformed("padding is not zero")
    command &= ~LONG_FLAG
    if (circuit_id == 0) != (command in LINK_COMMANDS):
        raise Malformed("circuit id does not fit the command")
    return Cell(circuit_id, command, data[body_at:body_end])
