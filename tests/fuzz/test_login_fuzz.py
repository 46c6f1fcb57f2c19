"""Whatever arrives in a login, and whenever: only the documented errors come out, and nobody is let in by it."""

import base64
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.crypto.saslprep import saslprep
from common.crypto.scram import (
    GS2_HEADER,
    MAX_NAME,
    ClientFirst,
    ScramClient,
    ScramServer,
    Verifier,
    make_verifier,
)
from common.errors import AuthenticationFailed, Malformed, Unexpected
from common.login.names import normal_name, skeleton
from tests.helpers import PATIENT

BINDING = b"b" * 32
VERIFIER = make_verifier("right", b"s" * 16, 8)
NONCE = b"0123456789abcdef"
ODD_TEXTS = st.sampled_from([
    "", "\x00", "a\x00b", "\n", "\x1b[31m", "\x7f", "\u202e", "\ud800", "\U0001f511", "=", ",", "=2C", "=3d", "m=x",
    "a" * 10_000, "\ufdfa" * 1_024, "\u0301" * 500, "\u05d0a", "\u200d", "9" * 5_000,
])  # fmt: skip
TEXTS = ODD_TEXTS | st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
VALUES = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(base64.b64encode),
    st.integers(-1, 10**8).map(lambda number: str(number).encode()),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.just(NONCE),
    st.just(NONCE + b"fedcba9876543210"),
    st.just(base64.b64encode(GS2_HEADER + BINDING)),
)
ATTRIBUTES = st.tuples(st.sampled_from("nrscipvemaxN1 "), VALUES).map(lambda pair: pair[0].encode() + b"=" + pair[1])
LISTS = st.lists(ATTRIBUTES, max_size=6).map(b",".join)
MESSAGES = st.one_of(st.binary(max_size=200), LISTS, LISTS.map(GS2_HEADER.__add__), st.just(b"a" * 1_000_000))


def client_of(password: str = "right", name: str = "alice") -> ScramClient:
    """Fewer than 100,000 iterations are asked for only by accident; the limit itself has its own tests."""
    return ScramClient(name, password, BINDING, NONCE, min_iterations=1)


def cuts(message: bytes, how: str, at: int, junk: bytes) -> bytes:
    """An honest message, damaged."""
    at %= len(message) + 1
    return {
        "truncated": message[:at],
        "headless": message[at:],
        "more in it": message[:at] + junk + message[at:],
        "instead": message[:at] + junk + message[at + len(junk) :],
        "twice": message + message,
        "nothing": b"",
    }[how]


DAMAGE = (st.sampled_from(["truncated", "headless", "more in it", "instead", "twice", "nothing"]), st.integers(0, 400), st.binary(min_size=1, max_size=8) | st.sampled_from([b"\x00", b"\xff", b",", b"=", b",m=x"]))


@given(MESSAGES)
@PATIENT
def test_a_first_message(data: bytes) -> None:
    with suppress(Malformed):
        first = ClientFirst.parse(data)
        assert first.name == saslprep(first.name)
        ScramServer(first, VERIFIER, BINDING).challenge()


@given(*DAMAGE)
@PATIENT
def test_a_damaged_first_message(how: str, at: int, junk: bytes) -> None:
    with suppress(Malformed):
        ClientFirst.parse(cuts(client_of().first(), how, at, junk))


@given(MESSAGES)
@PATIENT
def test_a_challenge(data: bytes) -> None:
    client = client_of()
    client.first()
    with suppress(Malformed, AuthenticationFailed):
        client.final(_few_iterations(data))


@given(*DAMAGE)
@PATIENT
def test_a_damaged_challenge(how: str, at: int, junk: bytes) -> None:
    client = client_of()
    server = ScramServer(ClientFirst.parse(client.first()), VERIFIER, BINDING)
    with suppress(Malformed, AuthenticationFailed):
        client.final(_few_iterations(cuts(server.challenge(), how, at, junk)))


def _few_iterations(data: bytes) -> bytes:
    """A count that would take seconds, cut: it is legal, and `test_scram.py` knows where it ends."""
    head, found, count = data.partition(b",i=")
    return head + found + (count[:4] if count[:5].isdigit() else count)


@given(MESSAGES)
@PATIENT
def test_a_final_message(data: bytes) -> None:
    """There is no proof in it, so it is refused, whatever it is."""
    server = ScramServer(ClientFirst.parse(client_of().first()), VERIFIER, BINDING, b"fedcba9876543210")
    server.challenge()
    with pytest.raises(AuthenticationFailed):
        server.finish(data)


@given(*DAMAGE)
@PATIENT
def test_a_damaged_final_message(how: str, at: int, junk: bytes) -> None:
    client = client_of()
    server = ScramServer(ClientFirst.parse(client.first()), VERIFIER, BINDING)
    final = client.final(server.challenge())
    damaged = cuts(final, how, at, junk)
    if damaged != final:
        with pytest.raises(AuthenticationFailed):
            server.finish(damaged)


@given(MESSAGES)
@PATIENT
def test_a_signature(data: bytes) -> None:
    client = client_of()
    client.final(ScramServer(ClientFirst.parse(client.first()), VERIFIER, BINDING).challenge())
    with pytest.raises(AuthenticationFailed):
        client.verify(data)


Step = Callable[[bytes], object]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), LISTS), max_size=12))
@settings(PATIENT, max_examples=150)
def test_stages_in_any_order(steps: list[tuple[int, bool, bytes]]) -> None:
    """Each with what an honest other side says, or with anything: it goes on, or a documented error comes out.

    The client is satisfied only by a server whose `finish` was satisfied by the client.
    """
    client = client_of()
    server = ScramServer(ClientFirst.parse(client_of().first()), VERIFIER, BINDING)
    said = {"challenge": b"", "final": b"", "signature": b""}

    def run(step: int, data: bytes) -> None:
        if step == 0:
            client.first()
        elif step == 1:
            said["challenge"] = server.challenge()
        elif step == 2:
            said["final"] = client.final(data or said["challenge"])
        elif step == 3:
            said["signature"] = server.finish(data or said["final"])
        else:
            client.verify(data or said["signature"])
            assert said["signature"]

    for step, honest, junk in steps:
        with suppress(Malformed, AuthenticationFailed, Unexpected):
            run(step, b"" if honest else _few_iterations(junk))


@given(TEXTS)
@PATIENT
def test_any_password_and_any_name(text: str) -> None:
    """The same are refused for a verifier as for a login, before anything is sent."""
    try:
        verifier = make_verifier(text, b"s" * 16, 1)
    except Malformed:
        with pytest.raises(Malformed):
            client_of(password=text)
        with pytest.raises(Malformed):
            client_of(name=text)
        return
    try:
        client = client_of(text, text)
        first = ClientFirst.parse(client.first())
    except Malformed:
        assert max(len(text), len(saslprep(text))) > MAX_NAME
        client = client_of(text)
        first = ClientFirst.parse(client.first())
    server = ScramServer(first, verifier, BINDING)
    client.verify(server.finish(client.final(server.challenge())))


@given(TEXTS)
@PATIENT
def test_any_name(text: str) -> None:
    with suppress(Malformed):
        skeleton(normal_name(text))


@given(st.binary(max_size=100), st.integers(-1, 2**70), st.binary(max_size=40), st.binary(max_size=40))
@PATIENT
def test_any_verifier(salt: bytes, iterations: int, stored_key: bytes, server_key: bytes) -> None:
    with suppress(Malformed):
        Verifier(salt, iterations, stored_key, server_key)
