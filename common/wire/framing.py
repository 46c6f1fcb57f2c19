"""Bytes to cells: however the bytes are cut, the same cells come out.

What is held between calls is never a whole cell, so at most 16,383 bytes.
"""

from common.errors import Malformed
from common.wire.cells import (
    COMMANDS,
    HEADER,
    LINK_COMMANDS,
    LONG_CELL,
    LONG_FLAG,
    MAX_BODY,
    MAX_SHORT_BODY,
    SHORT_CELL,
    ZEROS,
    Cell,
    Command,
)

_COMMAND_AT = 4  # the command stands after the circuit id
_HEADER_SIZE = HEADER.size
# By the command as it stands in a cell: the cell's size, the most that its body may have, the command itself, and
# whether it is the link's own.
_KINDS = {
    command | flag: (size, size - HEADER.size, command, command in LINK_COMMANDS)
    for command in COMMANDS
    for flag, size in ((0, SHORT_CELL), (LONG_FLAG, LONG_CELL))
}
_RELAY = int(Command.RELAY)
# By a record's size: the command it has if it is just one cell of a circuit, and the most that its body may have.
_ONE_CELL = {SHORT_CELL: (_RELAY, MAX_SHORT_BODY), LONG_CELL: (_RELAY | LONG_FLAG, MAX_BODY)}
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
            one = None if rest else _ONE_CELL.get(len(record))
            if one is not None:
                # Nearly all records are one cell of a circuit. What is not exactly that goes the long way.
                circuit_id, command, length = _unpack_header(record)
                expected, most = one
                padding = most - length
                if command == expected and circuit_id and padding >= 0 and record.endswith(ZEROS[:padding]):
                    body = memoryview(record)[_HEADER_SIZE : _HEADER_SIZE + length]
                    cells.append(_new_cell(Cell, (circuit_id, _RELAY, body)))
                    continue
            data = rest + record if rest else record
            view = memoryview(data)
            at, left = 0, len(data)
            while left >= _HEADER_SIZE:
                circuit_id, command, length = _unpack_header(data, at)
                kind = _KINDS.get(command)
                if kind is None:
                    raise Malformed("unknown command")
                size, most, command, own = kind
                if size > left:
                    break
                padding = most - length
                if padding < 0:
                    raise Malformed("length beyond the cell")
                if padding and data[at + size - padding : at + size] != ZEROS[:padding]:
                    raise Malformed("padding is not zero")
                if own:
                    self.own = True
                if own is bool(circuit_id):
                    raise Malformed("circuit id does not fit the command")
                body_at = at + _HEADER_SIZE
                cells.append(_new_cell(Cell, (circuit_id, command, view[body_at : body_at + length])))
                at += size
                left -= size
            rest = data[at:]
            if len(rest) > _COMMAND_AT and rest[_COMMAND_AT] not in _KINDS:
                raise Malformed("unknown command")
        self._rest = rest
        return cells
