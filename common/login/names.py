"""What a user's name may be, the one form it is stored in, and how to tell that two names look alike.

The **normal form** is what the server stores and everybody is shown: SASLprep, case folding, NFKC. It has 1 to 64
characters: letters, digits and `.`, `_`, `-`; the signs stand between letters or digits, and never two in a row.
All letters are of one script of `_SCRIPTS`; so a Cyrillic letter never stands in a Latin word.

The **skeleton** finds what that cannot: a whole word of one script that looks like a word of another, and words
that differ by an accent or a stroke, which is easily overlooked. Two names with the same skeleton look alike, in
small letters as they are shown, or as somebody may write them in capitals. The server accepts one name for each
skeleton. It is for comparing only, and never shown.

The table is our own. The package confusable-homoglyphs has the data of Unicode's confusables for every script, but
no skeletons: it judges one word by itself, and a whole Cyrillic word passes. It loads 0.9 MB at each start, of
which some dozen pairs concern these letters. So it serves the tests, which hold this table against its data.
"""

# ruff: noqa: RUF001 - letters that look alike are what this file is about

import unicodedata
from itertools import pairwise

from common.crypto.saslprep import saslprep
from common.errors import Malformed

MAX_NAME = 64
_SIGNS = frozenset("._-")
_DIGITS = frozenset("0123456789")
_UNICODE = unicodedata.ucd_3_2_0  # as SASLprep: the forms of later versions are not needed for these letters

# Letters without their accents, in small. What is not here cannot be in a name, phonetic letters above all: too
# many of them look like others.
_SCRIPTS = {
    "Latin": frozenset("abcdefghijklmnopqrstuvwxyzæðøþđħıłŋœŧ"),
    "Greek": frozenset("αβγδεζηθικλμνξοπρστυφχψω"),
    "Cyrillic": frozenset("абвгдежзийклмнопрстуфхцчшщъыьэюяђєѕіјљњћџґғәҗқңүұһө"),
}

# Each looks like the second, small or as a capital; where the two disagree the small one counts. Strokes are left
# out as accents are.
_ALIKE = {
    "0": "o", "1": "l", "m": "rn", "w": "vv", "æ": "ae", "ð": "d", "ø": "o", "þ": "p", "đ": "d", "ħ": "h",
    "ı": "i", "ł": "l", "ŋ": "n", "œ": "oe", "ŧ": "t",
    "α": "a", "β": "b", "γ": "y", "ε": "e", "ζ": "z", "η": "n", "ι": "i", "κ": "k", "μ": "u", "ν": "v", "ο": "o",
    "π": "n", "ρ": "p", "σ": "o", "τ": "t", "υ": "u", "χ": "x", "ω": "vv",
    "а": "a", "б": "6", "в": "b", "г": "r", "е": "e", "з": "3", "и": "u", "к": "k", "м": "rn", "н": "h", "о": "o",
    "п": "n", "р": "p", "с": "c", "т": "t", "у": "y", "ф": "φ", "х": "x", "ъ": "b", "ы": "bl", "ь": "b", "ђ": "h",
    "є": "e", "ѕ": "s", "і": "i", "ј": "j", "ћ": "h", "ґ": "r", "ғ": "r", "қ": "k", "ң": "h", "ү": "y", "ұ": "y",
    "һ": "h", "җ": "ж", "ө": "o",
}  # fmt: skip


def normal_name(text: str) -> str:
    """The normal form of what a person or a peer calls a user; raises `Malformed` with a sentence to show."""
    folded = _UNICODE.normalize("NFKC", saslprep(text).casefold())
    if len(folded) > MAX_NAME:
        raise Malformed(f"a name has at most {MAX_NAME} characters")
    letters = [each for each in folded if each not in _SIGNS and each not in _DIGITS]
    if not all(each.isalpha() for each in letters):
        raise Malformed("a name has letters, digits, and . _ - only")
    bases = {_UNICODE.normalize("NFD", each)[0] for each in letters}
    if bases and not any(bases <= script for script in _SCRIPTS.values()):
        raise Malformed("the letters of a name are all Latin, all Greek or all Cyrillic")
    signs = [each in _SIGNS for each in folded]
    if signs[0] or signs[-1] or any(map(all, pairwise(signs))):
        raise Malformed("each . _ - of a name stands between letters or digits")
    return folded


def skeleton(name: str) -> str:
    """The skeleton of a name in normal form: equal for names that look alike. At most twice as long."""
    plain = (each for each in _UNICODE.normalize("NFD", name) if not unicodedata.combining(each))
    return "".join(_ALIKE.get(each, each) for each in plain)
