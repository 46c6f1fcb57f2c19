"""HKDF as RFC 5869 writes it, and one purpose per key."""

import hmac
from hashlib import sha256

import pytest

from common.crypto.kdf import KEY_SIZE, PROTOCOL_ID, PURPOSES, expand, extract


def rfc5869_extract(salt: bytes, secret: bytes) -> bytes:
    """Section 2.2."""
    return hmac.digest(salt, secret, "sha256")


def rfc5869_expand_32(seed: bytes, info: bytes) -> bytes:
    """Section 2.3, where one block of output is enough."""
    return hmac.digest(seed, info + b"\x01", "sha256")


@pytest.mark.parametrize("secret", [b"", b"s", bytes(96), bytes(range(96))])
def test_extract_is_hkdf_with_the_protocols_salt(secret: bytes) -> None:
    assert extract(secret) == rfc5869_extract(sha256(PROTOCOL_ID).digest(), secret)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_expand_is_hkdf_with_the_purpose_and_the_transcript(purpose: str) -> None:
    digest = sha256(b"transcript").digest()
    assert expand(b"s" * 32, purpose, digest) == rfc5869_expand_32(b"s" * 32, PURPOSES[purpose] + digest)


def test_every_purpose_seed_and_transcript_gives_another_key() -> None:
    keys = {
        expand(seed * 32, purpose, transcript * 32)
        for purpose in PURPOSES
        for seed in (b"a", b"b")
        for transcript in (b"t", b"u")
    }
    assert len(keys) == 4 * len(PURPOSES)
    assert {len(key) for key in keys} == {KEY_SIZE}


def test_no_purpose_begins_with_another() -> None:
    """With a fixed-length digest behind it, no two inputs of the KDF can then agree."""
    for one in PURPOSES.values():
        assert [other for other in PURPOSES.values() if other.startswith(one)] == [one]


def test_a_purpose_outside_the_table_does_not_exist() -> None:
    with pytest.raises(KeyError):
        expand(bytes(32), "other", bytes(32))
