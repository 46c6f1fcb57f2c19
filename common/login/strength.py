"""How hard a password is to guess, roughly, as a hint for who chooses one. No password is refused for it.

The estimate counts guesses by a patient program that has the verifier: characters that follow from the one before
(repeated, next in the alphabet or on the keyboard) and words that everybody tries first are worth little.
"""

import math

ENOUGH = 60.0  # bits: at 600,000 iterations a rack of graphics cards (a million tries a second) takes 18,000 years
FAIR = 40.0  # bits: the same rack takes twelve days
_ROWS = (
    "abcdefghijklmnopqrstuvwxyz", "01234567890",
    "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop",
)  # fmt: skip
_TRIED_FIRST = (
    "password", "passwort", "motdepasse", "letmein", "welcome", "admin", "dragon", "monkey", "football",
    "master", "sunshine", "princess", "login", "hello", "secret", "changeme", "default", "trustno", "iloveyou",
)  # fmt: skip
_STEPS = frozenset(row[at : at + 2] for row in _ROWS for at in range(len(row) - 1))
_FOLLOWS = _STEPS | {pair[::-1] for pair in _STEPS}


def bits(password: str, name: str = "") -> float:
    """The estimate in bits; `name` is what else is known of the owner."""
    text = password.casefold()
    for word in sorted({*_TRIED_FIRST, name.casefold()} - {""}, key=len, reverse=True):
        text = text.replace(word, "\0")
    total = 0.0
    each = math.log2(_alphabet(password))
    for at, character in enumerate(text):
        before = text[at - 1] if at else ""
        if character == "\0":
            total += 5.0  # one of the words, in one spelling or another
        elif character == before or before + character in _FOLLOWS:
            total += 1.0
        elif at >= 2 and text[at - 2 : at + 1].count(character) > 1:
            total += 2.0
        else:
            total += each
    return total


def hint(password: str, name: str = "") -> str:
    """A sentence for the owner; empty when there is nothing to say."""
    found = bits(password, name)
    if found >= ENOUGH:
        return ""
    if found >= FAIR:
        return "this password is fair; some more characters, or another word, would make it strong"
    return "this password is weak: who steals the server's data can guess it; four random words are strong"


def _alphabet(password: str) -> int:
    """How many characters there are of the kinds that it uses."""
    kinds = (
        (str.islower, 26),
        (str.isupper, 26),
        (str.isdigit, 10),
        (lambda each: each.isascii() and not each.isalnum(), 33),
        (lambda each: not each.isascii(), 100),
    )
    return sum(count for test, count in kinds if any(map(test, password))) or 1
