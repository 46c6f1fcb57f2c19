"""Strict JSON: each value is of its type and within its limit, or `Malformed`."""

import pytest

from common.errors import Malformed
from common.wire.strict_json import Fields, decode_base64, decode_hex, decode_json, encode_json


def test_json_is_strict() -> None:
    for text in (b'{"a":1,"a":2}', b"NaN", b"Infinity", b"1" * 5_000, b"{", b"'a'", 100_000 * b"["):
        with pytest.raises(Malformed):
            decode_json(text)
    with pytest.raises(ValueError, match="compliant"):
        encode_json(float("nan"))


@pytest.mark.parametrize("value", [True, "1", 1.0, None, -1, 101, []])
def test_an_integer_field_takes_integers_only(value: object) -> None:
    with pytest.raises(Malformed):
        Fields({"n": value}, "test", ("n",)).integer("n", 0, 100)


@pytest.mark.parametrize("value", [True, "1", None, -0.5, 1e300, 10**400, []])
def test_a_number_field_takes_sensible_numbers_only(value: object) -> None:
    with pytest.raises(Malformed):
        Fields({"n": value}, "test", ("n",)).number("n")


@pytest.mark.parametrize("value", [1, None, "x" * 11, "é", "a\nb", "\x00", "\ud800"])
def test_a_text_field_takes_short_printable_ascii_only(value: object) -> None:
    with pytest.raises(Malformed):
        Fields({"n": value}, "test", ("n",)).text("n", 10)


def test_base64_and_hex_are_strict() -> None:
    assert decode_base64("") == b""
    assert decode_base64("eA==") == b"x"
    for text in ("eA", "eA=", "eA==\n", " eA==", "e-==", "é"):
        with pytest.raises(Malformed):
            decode_base64(text)
    assert decode_hex("0a", 1) == b"\n"
    for value in ("0A", "0", "", " 0a", "0x", 10, None, "0a0a"):
        with pytest.raises(Malformed):
            decode_hex(value, 1)
