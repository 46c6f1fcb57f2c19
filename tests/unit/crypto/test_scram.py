"""SCRAM-SHA-256-PLUS: honest logins, also with another implementation in both directions; formats, stages, limits."""

import hmac
from collections.abc import Callable
from hashlib import pbkdf2_hmac, sha256

import pytest
import scramp
from hypothesis import given, settings
from hypothesis import strategies as st

from common.crypto import scram
from common.crypto.scram import (
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    ClientFirst,
    ScramClient,
    ScramServer,
    Verifier,
    make_verifier,
)
from common.crypto.scram_syntax import MAX_MESSAGE, SERVER_ERRORS
from common.errors import AuthenticationFailed, Malformed, Unexpected
from tests.helpers import PATIENT
from tests.unit.crypto.logins import (
    BINDING,
    FEW,
    OTHER_BINDING,
    PASSWORD,
    SALT,
    VERIFIER,
    answered,
    client_of,
    log_in,
    server_of,
)

SCRAMP_FEW = 4_096  # scramp allows no fewer
MECHANISM = "SCRAM-SHA-256-PLUS"
NAMES = st.text(st.sampled_from("abcXYZ019.,=_-é\u00e5я"), min_size=1, max_size=20)
PASSWORDS = st.text(st.sampled_from("abcXYZ019 ,=!\u00a0\u00e5\u2168яß"), min_size=1, max_size=20)


@given(NAMES, PASSWORDS)
@settings(PATIENT, max_examples=50)
def test_a_login(name: str, password: str) -> None:
    verifier = make_verifier(password, SALT, FEW)
    client = client_of(password, name)
    exchange = log_in(client, verifier)
    assert ClientFirst.parse(exchange.first).name == name
    assert client.verifier == verifier


def test_commas_and_equals_signs_in_a_name_are_escaped() -> None:
    exchange = log_in(client_of(name="a,b=c=2C"))
    assert b",n=a=2Cb=3Dc=3D2C,r=" in exchange.first
    assert ClientFirst.parse(exchange.first).name == "a,b=c=2C"


def test_a_password_typed_on_another_keyboard_is_the_same() -> None:
    log_in(client_of("cafe\u0301\u00a0IX"), make_verifier("caf\u00e9 \u2168", SALT, FEW))


def test_the_smallest_iteration_count_that_is_recommended_works_by_default() -> None:
    verifier = make_verifier(PASSWORD, SALT, MIN_ITERATIONS)
    log_in(ScramClient("alice", PASSWORD, BINDING), verifier)


@given(NAMES, PASSWORDS)
@settings(PATIENT, max_examples=30)
def test_our_client_at_the_server_of_scramp(name: str, password: str) -> None:
    mechanism = scramp.ScramMechanism(MECHANISM)
    stored = mechanism.make_auth_info(password, iteration_count=SCRAMP_FEW)
    asked: list[str] = []

    def look_up(name: str) -> object:
        asked.append(name)
        return stored

    server = mechanism.make_server(look_up, channel_binding=("tls-server-end-point", BINDING))
    client = client_of(password, name)
    server.set_client_first(client.first().decode())
    final = client.final(server.get_server_first().encode())
    server.set_client_final(final.decode())
    client.verify(server.get_server_final().encode())
    assert asked == [name]
    assert client.verifier == Verifier(stored[0], stored[3], stored[1], stored[2])


@given(NAMES, PASSWORDS)
@settings(PATIENT, max_examples=30)
def test_the_client_of_scramp_at_our_server(name: str, password: str) -> None:
    binding = ("tls-server-end-point", BINDING)
    client = scramp.ScramClient([MECHANISM], name, password, channel_binding=binding)
    first = ClientFirst.parse(client.get_client_first().encode())
    assert first.name == name
    server = ScramServer(first, make_verifier(password, SALT, SCRAMP_FEW), BINDING)
    client.set_server_first(server.challenge().decode())
    client.set_server_final(server.finish(client.get_client_final().encode()).decode())


def test_the_client_of_scramp_with_a_wrong_password_or_binding_fails_at_our_server() -> None:
    for password, binding in (("wrong", BINDING), (PASSWORD, OTHER_BINDING)):
        client = scramp.ScramClient(
            [MECHANISM], "alice", password, channel_binding=("tls-server-end-point", binding)
        )
        server = server_of(client.get_client_first().encode(), make_verifier(PASSWORD, SALT, SCRAMP_FEW))
        client.set_server_first(server.challenge().decode())
        with pytest.raises(AuthenticationFailed):
            server.finish(client.get_client_final().encode())


def test_our_client_with_a_wrong_password_or_binding_fails_at_the_server_of_scramp() -> None:
    mechanism = scramp.ScramMechanism(MECHANISM)
    stored = mechanism.make_auth_info(PASSWORD, iteration_count=SCRAMP_FEW)
    for password, binding in (("wrong", BINDING), (PASSWORD, OTHER_BINDING)):
        server = mechanism.make_server(lambda _: stored, channel_binding=("tls-server-end-point", BINDING))
        client = client_of(password, binding=binding)
        server.set_client_first(client.first().decode())
        final = client.final(server.get_server_first().encode())
        with pytest.raises(scramp.ScramException):
            server.set_client_final(final.decode())
        with pytest.raises(AuthenticationFailed):
            client.verify(server.get_server_final().encode())


# --- the challenge, as the client judges it -------------------------------------------------------------------


@pytest.mark.parametrize("count", ["0", "1", str(FEW - 1), str(MAX_ITERATIONS + 1), "9" * 4_000, "-1", "064", "6e1", "\u0666\u0664", " 64"])
def test_too_few_and_too_many_iterations_get_no_proof(count: str) -> None:
    client = client_of()
    with pytest.raises(Malformed):
        client.final(answered(client, iterations=count))
    with pytest.raises(Unexpected):
        _ = client.verifier


def test_a_client_demands_600_000_iterations_unless_told_otherwise() -> None:
    assert MIN_ITERATIONS == 600_000
    client = ScramClient("alice", PASSWORD, BINDING)
    with pytest.raises(Malformed):
        client.final(answered(client, iterations="599999"))


@pytest.mark.parametrize("size", [0, 1, 15, 65, 1_000])
def test_a_salt_of_the_wrong_size_is_refused(size: int) -> None:
    client = client_of()
    with pytest.raises(Malformed):
        client.final(answered(client, salt=bytes(size)))
    with pytest.raises(Malformed):
        make_verifier(PASSWORD, bytes(size), FEW)


@pytest.mark.parametrize("extra", [b"", b"short", b"with a space in it", b"A" * 257])
def test_the_server_must_add_a_nonce_of_its_own(extra: bytes) -> None:
    client = client_of()
    with pytest.raises((Malformed, AuthenticationFailed)):
        client.final(answered(client, extra=extra))


def test_a_challenge_for_another_login_is_refused() -> None:
    client, other = client_of(), client_of()
    client.first()
    with pytest.raises(AuthenticationFailed):
        client.final(answered(other))


@pytest.mark.parametrize("error", [*sorted(SERVER_ERRORS), "something of its own\x1b[31m"])
def test_errors_of_a_server_are_understood(error: str) -> None:
    expected = error if error in SERVER_ERRORS else "other-error"
    client = client_of()
    client.first()
    with pytest.raises(AuthenticationFailed, match=expected + "$"):
        client.final(f"e={error}".encode())
    client = client_of()
    client.final(answered(client))
    with pytest.raises(AuthenticationFailed, match=expected + "$"):
        client.verify(f"e={error},x=more".encode())


def test_optional_extensions_are_passed_over() -> None:
    client = client_of()
    server = server_of(client.first() + b",x=one,y=two=2")
    server._challenge += b",z=three"
    client._bare += b",x=one,y=two=2"
    client.verify(server.finish(client.final(server.challenge())) + b",w=four")


def test_mandatory_extensions_are_refused() -> None:
    header = scram.GS2_HEADER
    for first in (b"m=x,n=alice,r=" + b"A" * 20, b"n=alice,r=" + b"A" * 20 + b",m=x"):
        with pytest.raises(Malformed):
            ClientFirst.parse(header + first)
    for place in (b"m=x,%b", b"%b,m=x"):
        client = client_of()
        with pytest.raises(Malformed):
            client.final(place % answered(client))
    client = client_of()
    server = server_of(client.first())
    signature = server.finish(client.final(server.challenge()))
    with pytest.raises(AuthenticationFailed):
        client.verify(b"m=x," + signature)


# --- the client-first-message, as the server judges it --------------------------------------------------------


@pytest.mark.parametrize(
    "bare",
    [
        b"",
        b"n=alice",
        b"r=AAAAAAAAAAAAAAAAAAAA",
        b"r=AAAAAAAAAAAAAAAAAAAA,n=alice",
        b"n=,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=alice,r=",
        b"n=alice,r=short",
        b"n=alice,r=" + b"A" * 257,
        b"n=alice,r=AAAAAAAAAA AAAAAAAAAA",
        b"n=alice,r=AAAAAAAAAA\xc3\xa9AAAAAAAAAA",
        b"n=alice,n=bob,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,x",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,x=",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,1=a",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,p=a",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,x=a,x=b",
        b"n=al=ice,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=al=2cice,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=alice=,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=al\x00ice,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,x=\x00",
        b"n=al\nice,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=al\xffice,r=AAAAAAAAAAAAAAAAAAAA",
        b"n=" + b"a" * 257 + b",r=AAAAAAAAAAAAAAAAAAAA",
        b"n=alice,r=AAAAAAAAAAAAAAAAAAAA,x=" + b"A" * MAX_MESSAGE,
    ],
)
def test_first_messages_that_are_refused(bare: bytes) -> None:
    with pytest.raises(Malformed):
        ClientFirst.parse(scram.GS2_HEADER + bare)


# --- stages, passwords, verifiers -----------------------------------------------------------------------------


def test_a_stage_used_twice_or_out_of_order_raises() -> None:
    misuses: list[Callable[[ScramClient], object]] = [
        lambda one: one.final(b""),
        lambda one: one.verify(b""),
        lambda one: one.verifier,
    ]
    for misuse in misuses:
        with pytest.raises(Unexpected):
            misuse(client_of())
    client = client_of()
    first = client.first()
    for early in (client.first, lambda: client.verify(b"")):
        with pytest.raises(Unexpected):
            early()
    with pytest.raises(Unexpected):
        server_of(first).finish(b"")
    server = server_of(first)
    challenge = server.challenge()
    with pytest.raises(Unexpected):
        server.challenge()
    signature = server.finish(client.final(challenge))
    with pytest.raises(Unexpected):
        client.final(challenge)
    client.verify(signature)
    with pytest.raises(Unexpected):
        client.verify(signature)


def test_a_failed_challenge_cannot_be_followed_by_another() -> None:
    client = client_of()
    good = answered(client)
    with pytest.raises(Malformed):
        client.final(b"nonsense")
    with pytest.raises(Unexpected):
        client.final(good)


@pytest.mark.parametrize("password", ["", "\u00ad", "a\x00b", "a\nb", "a" * 10_000, "\ud800", "\U0001f511"])
def test_passwords_that_are_refused_before_anything_is_sent(password: str) -> None:
    with pytest.raises(Malformed):
        make_verifier(password, SALT, FEW)
    with pytest.raises(Malformed):
        client_of(password)


def test_a_long_password_counts_to_its_last_character() -> None:
    long = "a" * 1_023
    log_in(client_of(long + "b"), make_verifier(long + "b", SALT, FEW))
    with pytest.raises(AuthenticationFailed):
        log_in(client_of(long + "c"), make_verifier(long + "b", SALT, FEW))


def test_the_password_is_forgotten_with_the_proof() -> None:
    client = client_of()
    assert client._password == PASSWORD.encode()
    client.final(answered(client))
    assert client._password == b""


def test_verifiers_of_other_sizes_are_refused() -> None:
    good = {"salt": SALT, "iterations": FEW, "stored_key": bytes(32), "server_key": bytes(32)}
    Verifier(**good)  # type: ignore[arg-type]
    for change in ({"salt": b""}, {"iterations": 0}, {"iterations": MAX_ITERATIONS + 1}, {"stored_key": bytes(31)}, {"server_key": bytes(33)}):
        with pytest.raises(Malformed):
            Verifier(**{**good, **change})  # type: ignore[arg-type]


def test_verifiers_are_equal_when_all_of_them_is() -> None:
    assert make_verifier(PASSWORD, SALT, FEW) == VERIFIER
    assert hash(make_verifier(PASSWORD, SALT, FEW)) == hash(VERIFIER)
    for other in (make_verifier("other", SALT, FEW), make_verifier(PASSWORD, SALT[::-1], FEW), make_verifier(PASSWORD, SALT, FEW + 1)):
        assert other != VERIFIER
    assert VERIFIER != "a verifier"


def test_a_verifier_is_the_formula_of_the_rfc() -> None:
    salted = pbkdf2_hmac("sha256", PASSWORD.encode(), SALT, FEW)
    assert VERIFIER.stored_key == sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert VERIFIER.server_key == hmac.digest(salted, b"Server Key", "sha256")


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33)])
def test_a_binding_of_another_size_is_a_mistake_of_ours(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        client_of(binding=wrong)
    with pytest.raises(ValueError):
        server_of(client_of().first(), binding=wrong)


@pytest.mark.parametrize("wrong", [b"", b"short", b"A" * 257, b"comma,comma,comma,comma", b"white space white space"])
def test_a_nonce_that_cannot_be_sent_is_a_mistake_of_ours(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        ScramClient("alice", PASSWORD, BINDING, wrong)
    with pytest.raises(ValueError):
        ScramServer(ClientFirst.parse(client_of().first()), VERIFIER, BINDING, wrong)
