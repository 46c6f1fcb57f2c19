"""SASLprep (RFC 4013): one spelling for names and passwords that look the same, whatever keyboard wrote them.

A profile of stringprep (RFC 3454) for *stored strings*, in this order:

1. spaces that are not ASCII become U+0020, and what is commonly mapped to nothing (soft hyphens, joiners) goes;
2. Unicode normalisation form KC, by the tables of Unicode 3.2;
3. controls, private use, non-characters, surrogates, tags, and what changes the display are refused;
4. text from right to left stands alone, and both begins and ends the string;
5. code points that Unicode 3.2 does not assign are refused: a later Unicode may normalise them in another way,
   and a password would stop working on the day a computer is updated. Emoji are among them.

The tables never change, so two computers never disagree. No message contains a character of the text.
"""

import stringprep
import unicodedata

from common.errors import Malformed

MAX_CHARACTERS = 1_024  # more than anybody types; bounds the work of one call
_UNICODE = unicodedata.ucd_3_2_0
_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, limit: int = MAX_CHARACTERS) -> str:
    """The prepared string, never empty; raises `Malformed`, with a sentence that a person may be shown.

    At most `limit` characters go in. Some become several (by NFKC at most 18), so more may come out.
    """
    if len(text) > limit:
        raise Malformed(f"more than {limit:,} characters")
    if text.isascii():  # nothing to map or to normalise, and no other table has a character of ASCII
        prepared, prohibited = text, not text.isprintable()
    else:
        prepared = _UNICODE.normalize("NFKC", _map(text))
        prohibited = any(table(each) for each in set(prepared) for table in _PROHIBITED)
    if not prepared:
        raise Malformed("no characters that count")
    if prohibited:
        raise Malformed("a control character, or another that may not be used")
    if not prepared.isascii():
        _check_unassigned(prepared)
        _check_direction(prepared)
    return prepared


def _map(text: str) -> str:
    """RFC 4013, section 2.1."""
    kept = (each for each in text if not stringprep.in_table_b1(each))
    return "".join(" " if stringprep.in_table_c12(each) else each for each in kept)


def _check_unassigned(text: str) -> None:
    """RFC 4013, section 2.5, for stored strings."""
    if any(stringprep.in_table_a1(each) for each in set(text)):
        raise Malformed("a character that is newer than Unicode 3.2, as emoji are: it may not be used")


def _check_direction(text: str) -> None:
    """RFC 3454, section 6, rules 2 and 3; rule 1 is one of the prohibited tables."""
    characters = set(text)
    if not any(stringprep.in_table_d1(each) for each in characters):
        return
    mixed = any(stringprep.in_table_d2(each) for each in characters)
    if mixed or not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
        raise Malformed("letters written from right to left beside others")
