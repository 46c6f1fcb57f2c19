"""SASLprep: the examples of RFC 4013, every code point there is, and the same answers as scramp's."""

import stringprep
import unicodedata
from itertools import chain

import pytest
import scramp.utils
from hypothesis import given
from hypothesis import strategies as st

from common.crypto.saslprep import MAX_CHARACTERS, saslprep
from common.errors import Malformed
from tests.helpers import PATIENT

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
PAIRS = st.sampled_from("aA1 \u00a0\u00ad\u0627\u05d0\u0660\u0301\u2168\ufb01\u3000\u0000\u200f\U0001f511\ud800")


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013, section 3: the first five
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("correct horse", "correct horse"),
        ("a\u00a0b\u3000c", "a b c"),
        ("e\u0301", "\u00e9"),
        ("\u212b", "\u00c5"),
        ("a\u200db\ufe0f", "ab"),
        ("\u0627\u0031\u0627", "\u0627\u0031\u0627"),
        ("\u05d0\u05d1", "\u05d0\u05d1"),
        (" ", " "),
        ("\u00df\u0130", "\u00df\u0130"),  # case is not folded
    ],
)
def test_what_is_prepared(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\u0007",  # RFC 4013, section 3: the last two
        "\u0627\u0031",
        "",
        "\u00ad",
        "a\x00b",
        "a\x7f",
        "a\u0085",
        "\ue000",
        "\ufdd0",
        "\ud800",
        "\ufffd",
        "\u2ff0",
        "\u200e",
        "\u202e",
        "\U000e0041",
        "\u0627a\u0627",
        "a\u0627",
        "1\u0627",
        "\U0001f511",  # a key, newer than Unicode 3.2
        "\u0221",
        "\u20bf",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        saslprep(text)


def test_every_code_point_by_itself() -> None:
    """Against the tables: refused are the prohibited, the unassigned, and what is mapped to nothing.

    Beyond the first plane, a sample, and the letters of mathematics.
    """
    tables = [getattr(stringprep, f"in_table_{name}") for name in (
        "a1", "b1", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9",
    )]  # fmt: skip
    for code in chain(range(0x10000), range(0x1D000, 0x1D800), range(0x10000, 0x110000, 0x101)):
        character = chr(code)
        try:
            prepared = saslprep(character)
        except Malformed:
            normal = unicodedata.ucd_3_2_0.normalize("NFKC", character)
            single = any(table(each) for table in tables for each in character + normal)
            assert single or stringprep.in_table_d1(normal[0]) != stringprep.in_table_d1(normal[-1]), hex(code)
        else:
            assert not any(table(each) for table in tables for each in prepared), hex(code)
            assert saslprep(prepared) == prepared, hex(code)


@given(TEXTS | st.text(PAIRS, max_size=6))
@PATIENT
def test_prepared_alike_by_an_independent_implementation(text: str) -> None:
    try:
        theirs = scramp.utils.saslprep(text)
    except scramp.utils.ScramException:
        theirs = ""
    try:
        ours = saslprep(text)
    except Malformed:
        ours = ""
    assert ours == theirs


@given(TEXTS | st.text(PAIRS, max_size=6))
@PATIENT
def test_prepared_twice_is_prepared_once(text: str) -> None:
    try:
        prepared = saslprep(text)
    except Malformed:
        return
    assert saslprep(prepared) == prepared
    prepared.encode("utf-8")


def test_the_longest() -> None:
    assert saslprep("a" * MAX_CHARACTERS) == "a" * MAX_CHARACTERS
    assert len(saslprep("\ufdfa" * MAX_CHARACTERS)) == 18 * MAX_CHARACTERS
    with pytest.raises(Malformed):
        saslprep("a" * (MAX_CHARACTERS + 1))


def test_no_refusal_repeats_the_password() -> None:
    for password in ("hunter2\x00hunter2", "hunter2\U0001f511", "hunter2\u0627", "hunter2" * 1_000):
        with pytest.raises(Malformed) as caught:
            saslprep(password)
        assert "hunter2" not in str(caught.value)
