"""The handshake agrees only with the relay that was meant, and only when nothing was touched."""

import hmac
from hashlib import sha256
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from common.crypto.handshake import ClientHandshake, Create, EphemeralKeys, HopKeys, Suite, answer
from common.crypto.kdf import PROTOCOL_ID, PURPOSES
from common.errors import AuthenticationFailed, Malformed, ProtocolError
from common.wire.messages import CREATE_BODY, CREATED_BODY
from tests.helpers import flip

P = 2**255 - 19
# Every point of small order of Curve25519 and its twist, in all encodings, with and without the ignored top bit.
_ORDER_8 = (
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
)
_CANONICAL = [value.to_bytes(32, "little") for value in (0, 1, P - 1, P, P + 1)] + [
    bytes.fromhex(x) for x in _ORDER_8
]
LOW_ORDER = _CANONICAL + [point[:31] + bytes([point[31] | 0x80]) for point in _CANONICAL]

IDENTITY = b"i" * 32
B = X25519PrivateKey.from_private_bytes(b"b" * 32)
ONION_KEY = B.public_key().public_bytes_raw()
ONION_KEYS = {ONION_KEY: B}
SUITES = pytest.mark.parametrize("suite", list(Suite))


def client(
    suite: Suite = Suite.FERNET, identity: bytes = IDENTITY, onion_key: bytes = ONION_KEY
) -> ClientHandshake:
    return ClientHandshake(identity, onion_key, suite)


@SUITES
def test_both_sides_get_the_same_keys(suite: Suite) -> None:
    ours = client(suite)
    created, theirs = answer(ours.create, IDENTITY, ONION_KEYS)
    keys = ours.finish(created)
    assert (len(ours.create), len(created)) == (CREATE_BODY, CREATED_BODY) == (1_282, 1_152)
    assert keys == theirs
    assert keys.suite is suite
    assert keys.forward != keys.backward
    assert len(keys.forward) == len(keys.backward) == 32


def test_keys_are_fresh_each_time() -> None:
    keys = [answer(client().create, IDENTITY, ONION_KEYS)[1] for _ in range(3)]
    ours = client()
    keys += [ours.finish(answer(ours.create, IDENTITY, ONION_KEYS)[0]) for _ in range(3)]
    assert len({key for pair in keys for key in (pair.forward, pair.backward)}) == 12


def test_the_schedule_is_the_written_one() -> None:
    """Recomputed from the formula with the standard library's HMAC."""
    x, y = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    mlkem = MLKEM768PrivateKey.generate()
    ours = ClientHandshake(IDENTITY, ONION_KEY, Suite.AES_GCM, EphemeralKeys(x, mlkem))
    created, keys = answer(ours.create, IDENTITY, ONION_KEYS, ephemeral=y)
    assert created[:32] == y.public_key().public_bytes_raw()
    secret = x.exchange(y.public_key()) + x.exchange(B.public_key()) + mlkem.decapsulate(created[32:1_120])
    transcript = PROTOCOL_ID + ours.create + created[:1_120]
    seed = hmac.digest(sha256(PROTOCOL_ID).digest(), secret, "sha256")

    def key(label: str) -> bytes:
        return hmac.digest(seed, PURPOSES[label] + sha256(transcript).digest() + b"\x01", "sha256")

    assert created[1_120:] == hmac.digest(key("auth"), transcript, "sha256")
    assert keys == HopKeys(Suite.AES_GCM, key("forward"), key("backward"))


def test_create_is_taken_apart_as_it_was_put_together() -> None:
    create = Create.decode(client(Suite.AES_GCM).create)
    assert (
        create.encode() == bytes([1, 2]) + create.identity + create.onion_key + create.ephemeral + create.mlkem_key
    )
    assert (create.suite, create.identity, create.onion_key) == (Suite.AES_GCM, IDENTITY, ONION_KEY)


@pytest.mark.parametrize("change", [b"\x00\x01", b"\x02\x01", b"\x01\x00", b"\x01\x03", b"\xff\xff"])
def test_an_unknown_handshake_or_suite_is_malformed(change: bytes) -> None:
    with pytest.raises(Malformed):
        answer(change + client().create[2:], IDENTITY, ONION_KEYS)


def test_a_create_of_another_length_is_malformed() -> None:
    create = client().create
    for body in (b"", create[:1], create[:-1], create + b"\0", create[:98]):
        with pytest.raises(Malformed):
            answer(body, IDENTITY, ONION_KEYS)


def test_a_created_of_another_length_fails() -> None:
    ours = client()
    created, _ = answer(ours.create, IDENTITY, ONION_KEYS)
    for body in (b"", created[:-1], created + b"\0"):
        with pytest.raises(AuthenticationFailed):
            ours.finish(body)


def test_a_relay_refuses_what_is_meant_for_another_identity() -> None:
    with pytest.raises(AuthenticationFailed):
        answer(client(identity=b"j" * 32).create, IDENTITY, ONION_KEYS)


def test_a_relay_refuses_an_onion_key_it_does_not_hold() -> None:
    other = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(AuthenticationFailed):
        answer(client(onion_key=other).create, IDENTITY, ONION_KEYS)


def test_a_relay_accepts_the_previous_onion_key_while_it_holds_it() -> None:
    newer = X25519PrivateKey.generate()
    both = {newer.public_key().public_bytes_raw(): newer} | ONION_KEYS
    for onion_key in both:
        ours = client(onion_key=onion_key)
        created, theirs = answer(ours.create, IDENTITY, both)
        assert ours.finish(created) == theirs


def test_impersonation_without_the_onion_secret_fails() -> None:
    """Who lacks b claims the relay's identity and onion key, and answers with a secret of his own."""
    attacker = X25519PrivateKey.generate()
    ours = client()
    created, _ = answer(ours.create, IDENTITY, {ONION_KEY: attacker})
    with pytest.raises(AuthenticationFailed):
        ours.finish(created)


def test_an_answer_to_another_create_fails() -> None:
    ours, other = client(), client()
    created, _ = answer(other.create, IDENTITY, ONION_KEYS)
    with pytest.raises(AuthenticationFailed):
        ours.finish(created)


def test_an_answer_for_the_other_suite_fails() -> None:
    """A relay between, who changes the suite in CREATE, is found out: the transcript differs."""
    ours = client(Suite.AES_GCM)
    created, _ = answer(bytes([1, Suite.FERNET]) + ours.create[2:], IDENTITY, ONION_KEYS)
    with pytest.raises(AuthenticationFailed):
        ours.finish(created)


def test_a_changed_byte_anywhere_in_create_fails() -> None:
    random = Random(1)
    ours = client()
    for at in [*range(2 + 32 + 32 + 32 + 40), *random.sample(range(138, CREATE_BODY), 60), CREATE_BODY - 1]:
        with pytest.raises(ProtocolError):
            created, _ = answer(flip(ours.create, at, random.randrange(8)), IDENTITY, ONION_KEYS)
            ours.finish(created)


def test_a_changed_byte_anywhere_in_created_fails() -> None:
    random = Random(2)
    ours = client()
    created, _ = answer(ours.create, IDENTITY, ONION_KEYS)
    for at in range(CREATED_BODY):
        changed = flip(created, at, random.randrange(7) if at == 31 else random.randrange(8))
        with pytest.raises(AuthenticationFailed) as caught:
            ours.finish(changed)
        assert caught.value.args == ("handshake",)
    assert ours.finish(created)


def test_the_ignored_bit_of_x25519_is_bound_too() -> None:
    """X25519 ignores the top bit (RFC 7748, section 5); the transcript does not."""
    ours = client()
    created, _ = answer(ours.create, IDENTITY, ONION_KEYS)
    with pytest.raises(AuthenticationFailed):
        ours.finish(flip(created, 31, 7))


@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_a_low_order_point_is_refused_by_both_sides(point: bytes) -> None:
    ours = client()
    with pytest.raises(AuthenticationFailed):  # as the client's X
        answer(ours.create[:66] + point + ours.create[98:], IDENTITY, ONION_KEYS)
    created, _ = answer(ours.create, IDENTITY, ONION_KEYS)
    with pytest.raises(AuthenticationFailed):  # as the relay's Y
        ours.finish(point + created[32:])
    poisoned = client(onion_key=point)
    created, _ = answer(poisoned.create, IDENTITY, {point: B})
    with pytest.raises(AuthenticationFailed):  # as the onion key in a directory
        poisoned.finish(created)


@pytest.mark.parametrize(
    "mlkem_key", [b"\xff" * 1_184, b"\x01\xfd\xff" + bytes(1_181)], ids=["all ones", "not below q"]
)
def test_an_mlkem_key_that_is_none_is_refused(mlkem_key: bytes) -> None:
    """Coefficients of q or more fail the modulus check (FIPS 203, section 7.2)."""
    with pytest.raises(AuthenticationFailed):
        answer(client().create[:98] + mlkem_key, IDENTITY, ONION_KEYS)


def test_all_failures_look_alike() -> None:
    ours = client()
    created, _ = answer(ours.create, IDENTITY, ONION_KEYS)
    seen = set()
    for attempt in (
        lambda: ours.finish(created[:-1]),
        lambda: ours.finish(flip(created, 1_151)),
        lambda: ours.finish(bytes(32) + created[32:]),
        lambda: answer(ours.create, b"j" * 32, ONION_KEYS),
        lambda: answer(ours.create, IDENTITY, {}),
        lambda: answer(ours.create[:66] + bytes(32) + ours.create[98:], IDENTITY, ONION_KEYS),
        lambda: answer(ours.create[:98] + b"\xff" * 1_184, IDENTITY, ONION_KEYS),
    ):
        with pytest.raises(AuthenticationFailed) as caught:
            attempt()
        seen.add((type(caught.value), caught.value.args, caught.value.reason, caught.value.__cause__))
    assert len(seen) == 1


def test_forward_secrecy_against_a_leaked_onion_key() -> None:
    """All that a relay keeps (b) and all that was on the links give one of the three parts of the secret.

    With X and Y in the transcript, b computes X25519(b,X); the other X25519 result and the ML-KEM secret need a
    secret that was made for this circuit alone and that neither side holds on to once it has the keys.
    """
    ours = client()
    created, keys = answer(ours.create, IDENTITY, ONION_KEYS)
    assert ours.finish(created) == keys
    ephemeral = X25519PublicKey.from_public_bytes(ours.create[66:98])
    recovered = B.exchange(ephemeral)
    transcript = PROTOCOL_ID + ours.create + created[:1_120]
    for guess in (recovered, recovered + recovered, bytes(32) + recovered + bytes(32), recovered * 3):
        seed = hmac.digest(sha256(PROTOCOL_ID).digest(), guess, "sha256")
        assert (
            hmac.digest(seed, PURPOSES["forward"] + sha256(transcript).digest() + b"\x01", "sha256")
            != keys.forward
        )
    replayed, other = answer(ours.create, IDENTITY, ONION_KEYS)  # the same CREATE to the same relay again
    assert {other.forward, other.backward}.isdisjoint({keys.forward, keys.backward})
    assert replayed[:1_120] != created[:1_120]
    assert set(HopKeys.__slots__) == {"suite", "forward", "backward"}  # what is kept has no place for a secret
