"""Envelopes: nothing but the exact bytes, type and keys verifies."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import MAX_SIGNATURES, Envelope, pae, sign, verify
from common.errors import Malformed, NotEnoughSignatures, ProtocolError, TooLarge

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER_PUBLIC = OTHER.public_key().public_bytes_raw()
LIMIT = 10_000


def test_pae_is_that_of_the_dsse_specification() -> None:
    # The example of the DSSE v1 protocol document.
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == expected


def test_a_signed_payload_comes_back_and_the_encoding_too() -> None:
    envelope = sign("a-type", b"\x00payload", KEY, OTHER)
    assert Envelope.decode(envelope.encode(), LIMIT) == envelope
    assert verify(envelope, "a-type", {PUBLIC}) == b"\x00payload"
    assert verify(envelope, "a-type", {PUBLIC, OTHER_PUBLIC}, threshold=2) == b"\x00payload"


def test_every_flipped_bit_of_an_envelope_is_refused() -> None:
    data = sign("a-type", b"some payload", KEY).encode()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ProtocolError, NotEnoughSignatures)):
            verify(Envelope.decode(bytes(changed), LIMIT), "a-type", {PUBLIC})


def test_one_type_never_passes_for_another() -> None:
    with pytest.raises(Malformed):
        verify(sign("a-type", b"x", KEY), "b-type", {PUBLIC})
    moved = Envelope("b-type", b"x", sign("a-type", b"x", KEY).signatures)
    with pytest.raises(NotEnoughSignatures):
        verify(moved, "b-type", {PUBLIC})


def test_a_key_counts_once_and_an_untrusted_key_not_at_all() -> None:
    with pytest.raises(NotEnoughSignatures):
        verify(sign("a-type", b"x", KEY, KEY), "a-type", {PUBLIC, OTHER_PUBLIC}, threshold=2)
    with pytest.raises(NotEnoughSignatures):
        verify(sign("a-type", b"x", OTHER), "a-type", {PUBLIC})
    with pytest.raises(NotEnoughSignatures):
        verify(Envelope("a-type", b"x", ()), "a-type", {PUBLIC})


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b" ",
        lambda data: b"\n" + data,
        lambda data: data.replace(b'"payload"', b'"p\\u0061yload"'),
        lambda data: data.replace(b"}", b',"extra":1}', 1),
        lambda data: data.replace(b'"payload":', b'"payload":"eA==","payload":'),
        lambda data: b"[]",
        lambda data: b"[" * 100_000,
        lambda data: b"\xff",
        lambda data: b"",
    ],
)
def test_an_envelope_has_one_spelling(change: object) -> None:
    assert callable(change)
    data = sign("a-type", b"x", KEY).encode()
    with pytest.raises(Malformed):
        Envelope.decode(change(data), 1_000_000)


def test_limits_of_an_envelope() -> None:
    data = sign("a-type", bytes(1_000), KEY).encode()
    with pytest.raises(TooLarge):
        Envelope.decode(data, len(data) - 1)
    many = sign("a-type", b"x", *[KEY] * (MAX_SIGNATURES + 1)).encode()
    with pytest.raises(Malformed):
        Envelope.decode(many, LIMIT)
