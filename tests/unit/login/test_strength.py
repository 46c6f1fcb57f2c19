"""The hint about passwords: only an order is promised, and that it never stops anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.login.strength import ENOUGH, FAIR, bits, hint


@pytest.mark.parametrize(
    "password", ["", "a", "12345678", "password", "Password1", "qwertyuiop", "aaaaaaaaaaaaaaaa", "alice1998", "letmein!"]
)
def test_such_passwords_are_weak(password: str) -> None:
    assert bits(password, "alice") < FAIR
    assert "weak" in hint(password, "alice")


@pytest.mark.parametrize("password", ["correct horse battery staple", "vX9#kq2!Lm4z", "почтовый ящик за рекой"])
def test_such_passwords_are_strong(password: str) -> None:
    assert bits(password) >= ENOUGH
    assert hint(password) == ""


def test_between_them_it_is_said() -> None:
    assert "fair" in hint("kwmrptxv9z")


def test_the_own_name_is_worth_little() -> None:
    assert bits("genevieve-de-brabant", "genevieve") < bits("genevieve-de-brabant")


@given(st.text(max_size=200), st.text(max_size=30))
def test_any_text_has_an_estimate_and_more_characters_never_lower_it_much(password: str, name: str) -> None:
    assert 0 <= bits(password, name) < 10 * len(password) + 1
    hint(password, name)
