"""What a login must withstand: recordings, somebody in the middle, a false server, a stolen database."""

import base64
import hmac
import string
from collections.abc import Callable

import pytest

from common.crypto import scram
from common.crypto.scram import ClientFirst, ScramClient, decoy_verifier, make_verifier
from common.crypto.scram_syntax import MAX_MESSAGE
from common.errors import AuthenticationFailed, Malformed, Unexpected
from tests.unit.crypto.logins import (
    BINDING,
    FEW,
    OTHER_BINDING,
    PASSWORD,
    SALT,
    VERIFIER,
    challenged,
    client_of,
    log_in,
    nonce_of,
    server_of,
)


def test_two_logins_never_look_alike() -> None:
    """Of equal name, password, verifier and certificate: every message has something new in it, to the proof."""
    exchanges = [log_in(client_of()) for _ in range(20)]
    for part in ("first", "challenge", "final", "signature"):
        assert len({getattr(exchange, part) for exchange in exchanges}) == 20
    proofs = {exchange.final.rpartition(b",p=")[2] for exchange in exchanges}
    nonces = {nonce_of(exchange.challenge) for exchange in exchanges}
    assert len(proofs) == len(nonces) == 20


def test_a_replayed_proof_is_refused() -> None:
    recorded = log_in(client_of())
    server = server_of(recorded.first)
    server.challenge()
    with pytest.raises(AuthenticationFailed):
        server.finish(recorded.final)


def test_a_replayed_proof_with_the_new_nonce_is_refused() -> None:
    recorded = log_in(client_of())
    server = server_of(recorded.first)
    nonce = nonce_of(server.challenge())
    with pytest.raises(AuthenticationFailed):
        server.finish(recorded.final.replace(nonce_of(recorded.challenge), nonce))


def test_a_right_proof_over_another_nonce_is_refused() -> None:
    """The proof covers the nonce, and an honest one is right whatever it says: so the nonce is compared as well."""
    server, final = challenged()
    nonce, other = nonce_of(final), nonce_of(final)[:-1] + b"~"
    without_proof, _, proof = final.rpartition(b",p=")
    forged = without_proof.replace(nonce, other)
    covered = [b",".join((server._bare, server._challenge, each)) for each in (without_proof, forged)]
    client_key = _xor(base64.b64decode(proof), _hmac(VERIFIER.stored_key, covered[0]))
    right = base64.b64encode(_xor(client_key, _hmac(VERIFIER.stored_key, covered[1])))
    with pytest.raises(AuthenticationFailed):
        server.finish(forged + b",p=" + right)


def test_a_challenge_works_once() -> None:
    server, final = challenged()
    server.finish(final)
    with pytest.raises(Unexpected):
        server.finish(final)


def test_a_wrong_proof_uses_the_challenge_up() -> None:
    server, final = challenged()
    with pytest.raises(AuthenticationFailed):
        server.finish(b"nonsense")
    with pytest.raises(Unexpected):
        server.finish(final)


def test_a_wrong_binding_is_refused() -> None:
    """Somebody in the middle relays every byte, under another certificate."""
    with pytest.raises(AuthenticationFailed):
        log_in(client_of(binding=OTHER_BINDING))


def test_a_middle_that_writes_the_right_binding_in_is_refused() -> None:
    client = client_of(binding=OTHER_BINDING)
    server = server_of(client.first())
    final = client.final(server.challenge())
    seen, told = (base64.b64encode(scram.GS2_HEADER + binding) for binding in (OTHER_BINDING, BINDING))
    assert seen in final
    with pytest.raises(AuthenticationFailed):
        server.finish(final.replace(seen, told))


@pytest.mark.parametrize("header", ["n,,", "y,,", "p=tls-unique,,", "p=tls-exporter,,", ",,", ""])
def test_a_login_without_our_channel_binding_is_refused(header: str) -> None:
    bare = client_of().first().removeprefix(scram.GS2_HEADER)
    with pytest.raises(Malformed):
        ClientFirst.parse(header.encode() + bare)


def test_nobody_logs_in_for_somebody_else() -> None:
    bare = client_of().first().removeprefix(scram.GS2_HEADER)
    with pytest.raises(Malformed):
        ClientFirst.parse(b"p=tls-server-end-point,a=admin," + bare)


def test_a_server_without_the_verifier_is_detected() -> None:
    """It names a salt, accepts any proof, and signs with what it has; or repeats what it saw in another login."""
    recorded = log_in(client_of())
    client = client_of()
    first = client.first()
    fake = server_of(first, make_verifier("what the fake believes", SALT, FEW))
    final = client.final(fake.challenge())
    with pytest.raises(AuthenticationFailed):
        fake.finish(final)
    with pytest.raises(AuthenticationFailed):
        client.verify(recorded.signature)


@pytest.mark.parametrize("answer", [b"v=", b"v=" + base64.b64encode(bytes(32)), b"", b"ok", b"v=AA==", b"\xff"])
def test_a_server_that_accepts_anything_is_detected(answer: bytes) -> None:
    client = client_of()
    client.final(server_of(client.first()).challenge())
    with pytest.raises(AuthenticationFailed):
        client.verify(answer)


def test_the_clients_own_proof_is_no_signature_of_the_server() -> None:
    client = client_of()
    final = client.final(server_of(client.first()).challenge())
    with pytest.raises(AuthenticationFailed):
        client.verify(b"v=" + final.rpartition(b",p=")[2])


@pytest.mark.parametrize("known", ["stored_key", "server_key"])
def test_the_database_alone_does_not_log_in(known: str) -> None:
    """Whoever stole the verifier makes a proof of each key, as if it were the ClientKey."""
    client = client_of("unknown to the thief")
    server = server_of(client.first())
    challenge = server.challenge()
    without_proof = client.final(challenge).rpartition(b",p=")[0]
    bare = client._bare
    signature = _hmac(VERIFIER.stored_key, b",".join((bare, challenge, without_proof)))
    proof = _xor(getattr(VERIFIER, known), signature)
    with pytest.raises(AuthenticationFailed):
        server.finish(without_proof + b",p=" + base64.b64encode(proof))


def test_the_database_and_a_recorded_login_together_do_log_in() -> None:
    """What SCRAM does not protect (RFC 5802, section 9); the recording is inside TLS, so it takes the server's key."""
    recorded = log_in(client_of())
    without_proof, _, proof = recorded.final.rpartition(b",p=")
    bare = recorded.first.removeprefix(scram.GS2_HEADER)
    signature = _hmac(VERIFIER.stored_key, b",".join((bare, recorded.challenge, without_proof)))
    client_key = _xor(base64.b64decode(proof), signature)

    server = server_of(recorded.first)
    challenge = server.challenge()
    without_proof = without_proof.replace(nonce_of(recorded.challenge), nonce_of(challenge))
    signature = _hmac(VERIFIER.stored_key, b",".join((bare, challenge, without_proof)))
    assert server.finish(without_proof + b",p=" + base64.b64encode(_xor(client_key, signature)))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def test_unknown_and_wrong_fail_alike() -> None:
    """The messages have the same form and length, and the same error comes at the same step."""
    outcomes = []
    for verifier in (VERIFIER, decoy_verifier(b"the server's secret", "alice", FEW)):
        client = client_of("wrong")
        server = server_of(client.first(), verifier)
        challenge = server.challenge()
        with pytest.raises(AuthenticationFailed) as caught:
            server.finish(client.final(challenge))
        outcomes.append((len(challenge), challenge.count(b","), type(caught.value), caught.value.args))
    assert outcomes[0] == outcomes[1]


def test_a_decoy_is_the_same_each_time_and_another_for_each_name_and_server() -> None:
    decoys = [decoy_verifier(secret, name, FEW) for secret in (b"s" * 32, b"t" * 32) for name in ("alice", "bob")]
    assert decoys == [
        decoy_verifier(secret, name, FEW) for secret in (b"s" * 32, b"t" * 32) for name in ("alice", "bob")
    ]
    for part in ("salt", "stored_key", "server_key"):
        assert len({getattr(decoy, part) for decoy in decoys}) == 4


def _without(part: bytes) -> Callable[[bytes], bytes]:
    return lambda final: b",".join(each for each in final.split(b",") if not each.startswith(part))


def _next_digit(digit: bytes) -> bytes:
    """Of base64: differs in the last bit only, which is no bit of the proof."""
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits
    return digits[digits.index(digit.decode()) + 1].encode()


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no proof": _without(b"p="),
    "no nonce": _without(b"r="),
    "no binding": _without(b"c="),
    "short proof": lambda final: final[:-8] + b"AAA=",
    "empty proof": lambda final: final.rpartition(b",p=")[0] + b",p=",
    "zero proof": lambda final: final.rpartition(b",p=")[0] + b",p=" + base64.b64encode(bytes(32)),
    "loose base64": lambda final: final.replace(b",p=", b",p=\n"),
    "base64 in another spelling": lambda final: final[:-2] + _next_digit(final[-2:-1]) + b"=",
    "the nonce cut": lambda final: final.replace(nonce_of(final), nonce_of(final)[:-1]),
    "the nonce longer": lambda final: final.replace(nonce_of(final), nonce_of(final) + b"A"),
    "a mandatory extension": lambda final: final.replace(b",p=", b",m=must,p="),
    "an extension that the proof does not cover": lambda final: final.replace(b",p=", b",x=new,p="),
    "twice": lambda final: final + b"," + final,
    "a NUL": lambda final: final + b"\x00",
    "not UTF-8": lambda final: final + b"\xff",
    "a line": lambda final: final + b"\n",
    "huge": lambda final: final + b",x=" + b"A" * MAX_MESSAGE,
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_all_failures_of_the_server_are_alike(forge: Callable[[bytes], bytes]) -> None:
    server, final = challenged()
    with pytest.raises(AuthenticationFailed) as caught:
        server.finish(forge(final))
    wrong_server, wrong = challenged("wrong")
    with pytest.raises(AuthenticationFailed) as expected:
        wrong_server.finish(wrong)
    assert caught.value.args == expected.value.args
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_bit_of_the_final_message_may_be_flipped() -> None:
    for at in range(len(challenged()[1]) * 8):
        server, final = challenged()
        damaged = bytearray(final)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(AuthenticationFailed):
            server.finish(bytes(damaged))


def test_no_bit_of_the_challenge_may_be_flipped() -> None:
    """Whoever changes the salt, the count or a nonce on the way makes the login fail."""
    length = len(server_of(client_of().first()).challenge())
    for at in range(length * 8):
        client = ScramClient("alice", PASSWORD, BINDING, min_iterations=1)
        server = server_of(client.first())
        damaged = bytearray(server.challenge())
        damaged[at // 8] ^= 1 << at % 8
        try:
            final = client.final(bytes(damaged))
        except (Malformed, AuthenticationFailed):
            continue
        with pytest.raises(AuthenticationFailed):
            server.finish(final)


@pytest.mark.parametrize("side", ["client", "server"])
def test_secrets_are_compared_in_constant_time(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides is `hmac.compare_digest`: with one that always says no, what is right is refused too."""
    client = client_of()
    server = server_of(client.first())
    final = client.final(server.challenge())
    signature = server.finish(final) if side == "client" else b""
    seen: list[bytes] = []

    def no(one: bytes, other: bytes) -> bool:
        seen.extend((one, other))
        return False

    monkeypatch.setattr("common.crypto.scram.hmac.compare_digest", no)
    with pytest.raises(AuthenticationFailed):
        if side == "client":
            client.verify(signature)
        else:
            server.finish(final)
    secret = base64.b64decode(signature[2:]) if side == "client" else VERIFIER.stored_key
    assert secret in seen
