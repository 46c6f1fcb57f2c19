"""Names: one form for what is one name, and one skeleton for what looks like one."""

# ruff: noqa: RUF001 - letters that look alike are what this file is about

import unicodedata
from collections import defaultdict

import pytest
from confusable_homoglyphs.confusables import confusables_data
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Malformed
from common.login.names import MAX_NAME, normal_name, skeleton
from tests.helpers import PATIENT

LIKELY = st.text(st.sampled_from("abzAZ019._-éßŁİıſαΩσςяЯіЁ\u0301\u00ad\u200d \x00日"), max_size=8)


def is_normal(text: str) -> bool:
    try:
        return normal_name(text) == text
    except Malformed:
        return False


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alice", "alice"),
        ("Alice", "alice"),
        ("ALICE.B_c-9", "alice.b_c-9"),
        ("\uff21lice", "alice"),
        ("\ufb01x", "fix"),
        ("e\u0301va", "éva"),
        ("a\u00adb\u200dc", "abc"),
        ("straße", "strasse"),
        ("Ωmega".replace("mega", "μέγα"), "ωμέγα"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("Ірина", "ірина"),
        ("Łódź", "łódź"),
        ("7", "7"),
        ("x" * MAX_NAME, "x" * MAX_NAME),
    ],
)
def test_the_normal_form(text: str, name: str) -> None:
    assert normal_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "\u00ad", " ", "a b", "a\u00a0b", "a\x00b", "a\nb", "a\x1b[31m", "a\u202eb", "a\ud800", "a/b", "a@b", "a,b", "a=b",
        ".", "_", "-", ".a", "a.", "-a", "a--b", "a._b", "a+b", "日本", "שלום", "a\u0301\u0302\u0303b\u0327\u0310", "a\u0661",
        "\U0001f511", "ǀ", "ɑlice", "ʼa", "alicе", "аlice", "αlice", "pаypal", "İ", "x" * (MAX_NAME + 1), "ß" * 33, "x" * 10_000,
    ],
)  # fmt: skip
def test_names_that_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        normal_name(text)


@given(LIKELY | st.text(max_size=8))
@PATIENT
def test_a_normal_form_is_its_own_and_plain_to_see(text: str) -> None:
    try:
        name = normal_name(text)
    except Malformed:
        return
    assert normal_name(name) == name
    assert 1 <= len(name) <= MAX_NAME
    assert name.isprintable() and not any(each.isspace() for each in name)
    assert unicodedata.normalize("NFKC", name) == name == name.casefold()
    assert len(skeleton(name)) <= 4 * MAX_NAME


@given(LIKELY)
@PATIENT
def test_capitals_make_no_other_name(text: str) -> None:
    try:
        name = normal_name(text)
    except Malformed:
        return
    for other in (text.lower(), text.upper(), text.casefold()):
        try:
            assert skeleton(normal_name(other)) == skeleton(name)
        except Malformed:
            pass  # some capitals have more characters, or none that a name may have


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("сосо", "coco"), ("рора", "popa"), ("вот", "bot"), ("ВОТ", "BOT"), ("МАКСИМ", "makcum"),
        ("ρορα", "popa"), ("ОКО", "ΟΚΟ"), ("хор", "χορ"),
        ("l0l", "lol"), ("al1ce", "allce"), ("modern", "modem"), ("vvilly", "willy"),
        ("josé", "jose"), ("łukasz", "lukasz"), ("søren", "soren"), ("dı", "di"), ("æon", "aeon"),
    ],
)  # fmt: skip
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert normal_name(one) != normal_name(other)
    assert skeleton(normal_name(one)) == skeleton(normal_name(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("alice", "alicia"), ("bob", "rob"), ("a.b", "a-b"), ("a.b", "ab"), ("анна", "hanna"), ("ада", "ada"), ("me1", "me2")],
)
def test_names_that_do_not_look_alike_have_two(one: str, other: str) -> None:
    assert skeleton(normal_name(one)) != skeleton(normal_name(other))


def test_whatever_unicode_calls_confusable_has_one_skeleton() -> None:
    """All that a name may hold, against the data of confusable-homoglyphs: alike there, by whatever chain, alike here."""
    leader: dict[str, str] = {}

    def find(text: str) -> str:
        while leader.setdefault(text, text) != text:
            text = leader[text]
        return text

    for text, others in confusables_data.items():
        for other in others:
            leader[find(text)] = find(other["c"].strip("\N{LEFT-TO-RIGHT MARK}"))
    classes: dict[str, set[str]] = defaultdict(set)
    for text in list(leader):
        composed = unicodedata.normalize("NFC", text)
        if is_normal(composed):
            classes[find(text)].add(composed)
    several = [members for members in classes.values() if len(members) > 1]
    assert len(several) > 25
    for members in several:
        assert len({skeleton(name) for name in members}) == 1, members
