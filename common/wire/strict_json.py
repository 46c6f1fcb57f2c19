"""Strict JSON: what is signed, or said to a gateway or the login server, is read field by field.

Nothing unexpected is let through. A repeated name, NaN, an infinity, an unknown or missing field, a
value of another type or beyond its limit: each is `Malformed`.
"""

import base64
import binascii
import json
import math
from collections.abc import Collection
from typing import NoReturn

from common.errors import Malformed


def encode_json(value: object) -> bytes:
    """Compact ASCII JSON; raises `ValueError` for NaN and infinities."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_json(data: bytes) -> object:
    """The value in `data`; `Malformed` also for a repeated name, NaN, infinities and absurd nesting."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a name stands twice in a JSON object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise Malformed(f"{text} is not a JSON number")


class Fields:
    """The members of a JSON object, read by type; raises `Malformed` unless exactly `names` are there."""

    __slots__ = ("_members", "_what")

    def __init__(self, value: object, what: str, names: Collection[str]) -> None:
        if not isinstance(value, dict) or value.keys() != set(names):
            raise Malformed(f"{what}: unknown or missing fields")
        self._members: dict[str, object] = value
        self._what = what

    def text(self, name: str, limit: int) -> str:
        """A string of at most `limit` printable ASCII characters."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > limit or not value.isascii() or not value.isprintable():
            raise self._wrong(name)
        return value

    def unicode(self, name: str, limit: int) -> str:
        """A string of at most `limit` characters of any script; half a surrogate pair is none."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > limit or any("\ud800" <= char <= "\udfff" for char in value):
            raise self._wrong(name)
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._members[name]
        if not isinstance(value, bool):
            raise self._wrong(name)
        return value

    def integer(self, name: str, lowest: int = 0, highest: int = 2**63 - 1) -> int:
        """An integer (not a boolean, not a float) between `lowest` and `highest`."""
        value = self._members[name]
        if type(value) is not int or not lowest <= value <= highest:
            raise self._wrong(name)
        return value

    def number(self, name: str, highest: float = 2.0**40) -> float:
        """A finite number from 0 to `highest`; the default leaves room for seconds since 1970."""
        value = self._members[name]
        if type(value) not in (int, float):
            raise self._wrong(name)
        assert isinstance(value, int | float)
        if not 0 <= value <= highest or not math.isfinite(value):
            raise self._wrong(name)
        return float(value)

    def items(self, name: str, limit: int) -> list[object]:
        """A list of at most `limit` values, each still to be checked."""
        value = self._members[name]
        if not isinstance(value, list) or len(value) > limit:
            raise self._wrong(name)
        return value

    def binary(self, name: str, limit: int) -> bytes:
        """At most `limit` bytes, written in base64."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > (limit + 2) // 3 * 4:
            raise self._wrong(name)
        return decode_base64(value)

    def _wrong(self, name: str) -> Malformed:
        return Malformed(f"{self._what}: {name} is not what it must be")


def encode_base64(data: bytes) -> str:
    """Base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes of base64 without whitespace or other extras; raises `Malformed`."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        raise Malformed("not base64") from None


def decode_hex(value: object, size: int) -> bytes:
    """`size` bytes written as lower-case hexadecimal digits; raises `Malformed`."""
    if isinstance(value, str) and len(value) == 2 * size:
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = b""
        if data.hex() == value:
            return data
    raise Malformed(f"not {size} bytes in lower-case hexadecimal")
