"""Reading fixed-width fields from bytes: what is short is `Malformed`, and so is what is left over."""

import re
import struct
from typing import Any

from common.errors import Malformed

U16 = struct.Struct(">H")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
is_printable = re.compile(rb"[\x21-\x7e]{1,255}").fullmatch  # a name or an address as it may stand on the wire


class Reader:
    """A cursor over bytes received from a peer."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes; raises `Malformed` when fewer are left."""
        end = self._at + count
        if end > len(self._data):
            raise Malformed("truncated")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def unpack(self, fields: struct.Struct) -> tuple[Any, ...]:
        """Several fields at once, which is faster; raises as `take`."""
        try:
            values = fields.unpack_from(self._data, self._at)
        except struct.error:
            raise Malformed("truncated") from None
        self._at += fields.size
        return values

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Two bytes, big-endian."""
        return int.from_bytes(self.take(2), "big")

    def u64(self) -> int:
        """Eight bytes, big-endian."""
        return int.from_bytes(self.take(8), "big")

    def short_string(self) -> str:
        """A length byte, then that many bytes of printable ASCII (host names and addresses)."""
        raw = self.take(self.u8())
        if not is_printable(raw):
            raise Malformed("not a printable name")
        return raw.decode("ascii")

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return len(self._data) - self._at

    def done(self) -> None:
        """Raises `Malformed` when bytes are left over."""
        if self._at != len(self._data):
            raise Malformed("trailing bytes")


def pack_short_string(text: str) -> bytes:
    """A length byte and the ASCII bytes of `text`; raises `Malformed` when it cannot be written so."""
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        raise Malformed("not an ASCII name") from None
    if not is_printable(raw):
        raise Malformed("not a printable name of 1 to 255 bytes")
    return bytes([len(raw)]) + raw
