"""Bytes to cells: however the bytes are cut, the same cells come out.

What is held between calls is never a whole cell, so at most 16,383 bytes.
"""

from common.errors import Malformed
from common.wire.cells import COMMANDS, HEADER, LINK_COMMANDS, LONG_CELL, LONG_FLAG, SHORT_CELL, ZEROS, Cell

_COMMAND_AT = 4  # the command stands after the circuit id
_SIZES = {command: SHORT_CELL for command in COMMANDS} | {command | LONG_FLAG: LONG_CELL for command in COMMANDS}


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
        view = memoryview(data)
        at, end = 0, len(data)
        while end - at > _COMMAND_AT:
            size = _SIZES.get(data[at + _COMMAND_AT])
            if size is None:
                raise Malformed("unknown command")
            if end - at < size:
                break
            circuit_id, command, length = HEADER.unpack_from(data, at)
            body_at = at + HEADER.size
            body_end = body_at + length
            at += size
            if body_end > at:
                raise Malformed("length beyond the cell")
            if data[body_end:at] != ZEROS[: at - body_end]:
                raise Malformed("padding is not zero")
            command &= ~LONG_FLAG
            if (circuit_id == 0) != (command in LINK_COMMANDS):
                raise Malformed("circuit id does not fit the command")
            cells.append(Cell(circuit_id, command, view[body_at:body_end]))
        self._rest = data[at:]
        return cells
