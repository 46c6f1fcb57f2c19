"""The bytes of a cell, HELLO and DESTROY."""

import pytest

from common.errors import DestroyReason, Malformed, TooLarge
from common.wire.cells import (
    LONG_CELL,
    LONG_FLAG,
    MAX_BODY,
    MAX_SHORT_BODY,
    SHORT_CELL,
    Command,
    choose_version,
    decode_destroy,
    encode_cell,
    encode_destroy,
    encode_hello,
)


def test_a_cell_byte_by_byte() -> None:
    assert encode_cell(0x01020304, Command.RELAY, b"body") == (
        b"\x01\x02\x03\x04" + b"\x04" + b"\x00\x04" + b"body" + bytes(1_013)
    )


def test_a_long_cell_byte_by_byte() -> None:
    body = b"b" * 1_018
    assert encode_cell(0xFFFFFFFF, Command.RELAY, body) == (
        b"\xff\xff\xff\xff" + b"\x84" + b"\x03\xfa" + body + bytes(16_384 - 7 - 1_018)
    )


@pytest.mark.parametrize("size", [0, 1, MAX_SHORT_BODY - 1, MAX_SHORT_BODY])
def test_the_smallest_cell_that_fits_is_short(size: int) -> None:
    cell = encode_cell(1, Command.RELAY, b"x" * size)
    assert len(cell) == SHORT_CELL == 1_024
    assert cell[4] == Command.RELAY


@pytest.mark.parametrize("size", [MAX_SHORT_BODY + 1, MAX_BODY - 1, MAX_BODY])
def test_what_does_not_fit_a_short_cell_is_in_a_long_one(size: int) -> None:
    cell = encode_cell(1, Command.RELAY, b"x" * size)
    assert len(cell) == LONG_CELL == 16_384
    assert cell[4] == Command.RELAY | LONG_FLAG


def test_an_oversized_body_is_refused() -> None:
    assert MAX_BODY == 16_377
    with pytest.raises(TooLarge):
        encode_cell(1, Command.RELAY, bytes(MAX_BODY + 1))


def test_hello_chooses_the_highest_common_version() -> None:
    assert encode_hello((1, 258)) == b"\x02\x00\x01\x01\x02"
    assert choose_version(encode_hello((1, 2, 3)), own=(2, 3, 4)) == 3
    assert choose_version(encode_hello()) == 1


def test_no_common_version_is_said_clearly() -> None:
    with pytest.raises(Malformed, match=r"we speak \[1\], the peer \[7, 9\]"):
        choose_version(encode_hello((9, 7)))


@pytest.mark.parametrize(
    "body", [b"", b"\x00", b"\x01", b"\x01\x00", b"\x01\x00\x01\x00", b"\x02\x00\x01", b"\xff\x00\x01"]
)
def test_what_is_no_hello_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        choose_version(body)


@pytest.mark.parametrize("reason", list(DestroyReason))
def test_every_destroy_reason_comes_back(reason: DestroyReason) -> None:
    assert decode_destroy(encode_destroy(reason)) is reason


@pytest.mark.parametrize("body", [b"", b"\x00\x00", b"\x08", b"\xff"])
def test_destroy_is_one_known_byte(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_destroy(body)
