"""Fields are read whole or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Malformed
from common.wire.codec import U16, U32, Reader, pack_short_string
from tests.helpers import PATIENT

PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


def test_fields_are_big_endian_and_in_order() -> None:
    reader = Reader(bytes([7, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 9, 9]))
    assert (reader.u8(), reader.u16(), reader.u64(), reader.take(2)) == (7, 0x0102, 256, b"\t\t")
    reader.done()


@pytest.mark.parametrize("read", ["u8", "u16", "u64"])
def test_a_short_field_is_malformed(read: str) -> None:
    size = {"u8": 1, "u16": 2, "u64": 8}[read]
    for held in range(size):
        with pytest.raises(Malformed, match="truncated"):
            getattr(Reader(bytes(held)), read)()


def test_fields_read_at_once_are_read_whole_or_not_at_all() -> None:
    reader = Reader(bytes([7, 1, 2, 3, 4]))
    assert reader.unpack(U16) == (0x0701,)
    with pytest.raises(Malformed, match="truncated"):
        reader.unpack(U32)
    assert reader.unpack(U16) == (0x0203,)
    assert reader.left == 1


def test_take_never_returns_less_than_asked() -> None:
    reader = Reader(b"abc")
    with pytest.raises(Malformed, match="truncated"):
        reader.take(4)
    assert reader.take(3) == b"abc"
    assert reader.take(0) == b""


def test_what_is_left_over_is_malformed() -> None:
    reader = Reader(b"ab")
    reader.u8()
    with pytest.raises(Malformed, match="trailing"):
        reader.done()


@given(PRINTABLE)
@PATIENT
def test_a_short_string_comes_back(text: str) -> None:
    packed = pack_short_string(text)
    reader = Reader(packed)
    assert reader.short_string() == text
    reader.done()
    for cut in range(len(packed)):
        with pytest.raises(Malformed):
            Reader(packed[:cut]).short_string()


@pytest.mark.parametrize("raw", [b"", b" ", b"a b", b"a\0", b"\x7f", b"\xc3\xa9", b"a\n"])
def test_a_name_is_printable_ascii(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Reader(bytes([len(raw)]) + raw).short_string()
    with pytest.raises(Malformed):
        pack_short_string(raw.decode("latin-1"))


def test_a_name_has_at_most_255_bytes() -> None:
    assert pack_short_string("n" * 255)[0] == 255
    with pytest.raises(Malformed):
        pack_short_string("n" * 256)


def test_a_lying_length_is_malformed() -> None:
    with pytest.raises(Malformed):
        Reader(b"\xff" + b"a" * 254).short_string()
