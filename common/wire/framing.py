"""Bytes to cells: however the bytes are cut, the same cells come out.

What is held between calls is never a whole cell, so at most 16,383 bytes.
"""

from common.errors import Malformed
from common.wire.cells import COMMANDS, HEADER, LINK_COMMANDS, LONG_CELL, LONG_FLAG, SHORT_CELL, ZEROS, Cell

_COMMAND_AT = 4  # the command stands after the circuit id
_HEADER_SIZE = HEADER.size
# By the command as it stands in a cell: the cell's size, the command itself, and whether it is the link's own.
_KINDS = {
    command | flag: (size, command, command in LINK_COMMANDS)
    for command in COMMANDS
    for flag, size in ((0, SHORT_CELL), (LONG_FLAG, LONG_CELL))
}
_unpack_header = HEADER.unpack_from
_new_cell = tuple.__new__  # what the class itself calls, by a function of Python's that takes as long again


class CellReader:
    """Takes what arrived on a link and returns the cells that are complete.

    `own` tells whether the last `feed` returned any of the link's own cells (circuit id 0) among them.
    """

    __slots__ = ("_rest", "own")

    def __init__(self) -> None:
        self.own = False
        self._rest = b""

    def feed(self, *records: bytes) -> list[Cell]:
        """The cells completed by these bytes, in order; raises `Malformed` at the first that cannot be one."""
        cells: list[Cell] = []
        rest, self.own = self._rest, False
        for record in records:
            data = rest + record if rest else record
            view = memoryview(data)
            at, end = 0, len(data)
            while end - at >= _HEADER_SIZE:
                circuit_id, command, length = _unpack_header(data, at)
                kind = _KINDS.get(command)
                if kind is None:
                    raise Malformed("unknown command")
                size, command, own = kind
                cell_end = at + size
                if cell_end > end:
                    break
                body_at = at + _HEADER_SIZE
                body_end = body_at + length
                if body_end > cell_end:
                    raise Malformed("length beyond the cell")
                if data[body_end:cell_end] != ZEROS[: cell_end - body_end]:
                    raise Malformed("padding is not zero")
                if own:
                    self.own = True
                if own is bool(circuit_id):
                    raise Malformed("circuit id does not fit the command")
                at = cell_end
                cells.append(_new_cell(Cell, (circuit_id, command, view[body_at:body_end])))
            rest = data[at:]
            if len(rest) > _COMMAND_AT and rest[_COMMAND_AT] not in _KINDS:
                raise Malformed("unknown command")
        self._rest = rest
        return cells
