"""Bytes to cells: however the bytes are cut, the same cells come out.

What is held between calls is never a whole cell, so at most 16,383 bytes.
"""

from common.errors import Malformed
from common.wire.cells import COMMANDS, HEADER, LINK_COMMANDS, LONG_CELL, LONG_FLAG, SHORT_CELL, ZEROS, Cell

_COMMAND_AT = 4  # the command stands after the circuit id
_SIZES = {command: SHORT_CELL for command in COMMANDS} | {command | LONG_FLAG: LONG_CELL for command in COMMANDS}
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
            while end - at >= HEADER.size:
                circuit_id, command, length = HEADER.unpack_from(data, at)
                size = _SIZES.get(command)
                if size is None:
                    raise Malformed("unknown command")
                if end - at < size:
                    break
                body_at = at + HEADER.size
                body_end = body_at + length
                at += size
                if body_end > at:
                    raise Malformed("length beyond the cell")
                if data[body_end:at] != ZEROS[: at - body_end]:
                    raise Malformed("padding is not zero")
                command &= ~LONG_FLAG
                own = command in LINK_COMMANDS
                if (circuit_id == 0) != own:
                    raise Malformed("circuit id does not fit the command")
                if own:
                    self.own = True
                cells.append(_new_cell(Cell, (circuit_id, command, view[body_at:body_end])))
            rest = data[at:]
            if len(rest) > _COMMAND_AT and rest[_COMMAND_AT] not in _SIZES:
                raise Malformed("unknown command")
        self._rest = rest
        return cells
