"""The cell: the only thing that is ever on a link.

    circuit id (4) | command (1: low 7 bits, high bit = long cell) | length (2) | body | zero padding

A short cell is 1,024 bytes in all, a long one 16,384: one TLS record. Senders use the smallest that fits.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from common.errors import DestroyReason, Malformed, TooLarge

HEADER = struct.Struct(">IBH")
SHORT_CELL = 1_024
LONG_CELL = 16_384
MAX_SHORT_BODY = SHORT_CELL - HEADER.size
MAX_BODY = LONG_CELL - HEADER.size
LONG_FLAG = 0x80
ZEROS = bytes(LONG_CELL)
_pack_header = HEADER.pack

VERSIONS = (1,)  # protocol versions this software speaks
Bytes = bytes | memoryview  # what is only read, or joined to something: a view saves a copy
Pieces = tuple[int, bytes, Bytes, bytes]  # a cell not joined yet: its size, 1,024 or 16,384; header, body, padding


class Command(IntEnum):
    """What a cell is for."""

    PADDING = 0
    HELLO = 1
    CREATE = 2
    CREATED = 3
    RELAY = 4
    DESTROY = 5


LINK_COMMANDS = frozenset({Command.PADDING, Command.HELLO})  # circuit id 0; all others: not 0
COMMANDS: dict[int, Command] = {int(command): command for command in Command}


class Cell(NamedTuple):
    """One cell without its padding; `body` is 0 to 16,377 bytes."""

    circuit_id: int
    command: int
    body: Bytes


def encode_cell(circuit_id: int, command: int, body: Bytes) -> bytes:
    """The 1,024 or 16,384 bytes of a cell; raises `TooLarge` when the body does not fit."""
    return join_cells(cut_cells(circuit_id, command, (body,)))


def cut_cells(circuit_id: int, command: int, bodies: Sequence[Bytes]) -> list[Pieces]:
    """A circuit's cells in pieces, which whoever sends them joins with others'; raises as `encode_cell`."""
    cells: list[Pieces] = []
    known = -1
    size, header, padding = 0, b"", b""
    for body in bodies:
        length = len(body)
        if length != known:  # bodies that come together are mostly of one length
            known = length
            if length <= MAX_SHORT_BODY:
                size, header = SHORT_CELL, _pack_header(circuit_id, command, length)
                padding = ZEROS[: MAX_SHORT_BODY - length]
            elif length <= MAX_BODY:
                size, header = LONG_CELL, _pack_header(circuit_id, command | LONG_FLAG, length)
                padding = ZEROS[: MAX_BODY - length]
            else:
                raise TooLarge("a cell's body is at most 16,377 bytes")
        cells.append((size, header, body, padding))
    return cells


# In C, as each cell is asked several times.
size_of: Callable[[Pieces], int] = itemgetter(0)
_BYTES = itemgetter(1, 2, 3)


def join_cells(cells: Iterable[Pieces]) -> bytes:
    """As they are on a link."""
    return b"".join(chain.from_iterable(map(_BYTES, cells)))


def encode_hello(versions: tuple[int, ...] = VERSIONS) -> bytes:
    """The body of HELLO: a count, then the protocol versions spoken, two bytes each."""
    return bytes([len(versions)]) + b"".join(version.to_bytes(2, "big") for version in versions)


def choose_version(hello: Bytes, own: tuple[int, ...] = VERSIONS) -> int:
    """The highest version that both sides speak; `Malformed` when there is none, or the body is not a HELLO."""
    if not hello or len(hello) != 1 + 2 * hello[0]:
        raise Malformed("not a HELLO")
    theirs = {int.from_bytes(hello[at : at + 2], "big") for at in range(1, len(hello), 2)}
    common = theirs.intersection(own)
    if not common:
        raise Malformed(f"no common protocol version: we speak {sorted(own)}, the peer {sorted(theirs)}")
    return max(common)


def encode_destroy(reason: DestroyReason) -> bytes:
    """The body of DESTROY: one byte."""
    return bytes([reason])


def decode_destroy(body: Bytes) -> DestroyReason:
    """The reason in a DESTROY; raises `Malformed`."""
    if len(body) != 1:
        raise Malformed("DESTROY is one byte")
    try:
        return DestroyReason(body[0])
    except ValueError:
        raise Malformed("unknown DESTROY reason") from None
