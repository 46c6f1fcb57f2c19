"""Descriptors and proofs: only the relay speaks for itself."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import sign
from common.directory.addresses import Address
from common.directory.descriptor import (
    DESCRIPTOR_TYPE,
    MAX_ENVELOPE,
    MAX_PROOF,
    Descriptor,
    registration_proof,
    removal_proof,
    sign_descriptor,
    sign_proof,
    verify_descriptor,
    verify_proof,
)
from common.errors import Malformed, NotEnoughSignatures, ProtocolError, TooLarge
from tests.unit.directory.relays import FakeRelay

RELAY = FakeRelay(family="0a" * 32, family_proof=b"p" * 64, onion_keys=(b"a" * 32, b"b" * 32))


def test_a_descriptor_is_what_was_signed() -> None:
    assert verify_descriptor(RELAY.envelope()) == RELAY.plain


def test_the_largest_descriptor_fits_its_envelope() -> None:
    envelope = RELAY.envelope(
        nickname="n" * 19,
        address=Address(".".join(["a" * 61] * 4), 65535),
        onion_keys=(b"a" * 32, b"b" * 32, b"c" * 32),
        exit_policy="accept *:80," + " " * 1_005 + "default",
        family="f" * 64,
        family_proof=b"p" * 64,
        bandwidth=2**63 - 1,
        software="s" * 64,
        versions=tuple(range(60_000, 60_008)),
        published=1_800_000_000.123456,
    )
    assert len(envelope) <= MAX_ENVELOPE


def test_a_forged_descriptor_is_refused() -> None:
    thief = Ed25519PrivateKey.generate()
    with pytest.raises(NotEnoughSignatures):
        sign_descriptor(RELAY.plain, thief)
    with pytest.raises(NotEnoughSignatures):
        verify_descriptor(sign(DESCRIPTOR_TYPE, RELAY.plain.encode(), thief).encode())
    with pytest.raises(NotEnoughSignatures):
        verify_descriptor(sign(DESCRIPTOR_TYPE, RELAY.plain.encode(), RELAY.key, thief).encode())
    with pytest.raises(NotEnoughSignatures):
        verify_descriptor(sign(DESCRIPTOR_TYPE, RELAY.plain.encode()).encode())
    with pytest.raises(Malformed):
        verify_descriptor(sign("another-type", RELAY.plain.encode(), RELAY.key).encode())


def test_every_flipped_bit_of_a_descriptor_is_refused() -> None:
    envelope = RELAY.envelope()
    for bit in range(0, 8 * len(envelope), 3):
        changed = bytearray(envelope)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ProtocolError, NotEnoughSignatures)):
            verify_descriptor(bytes(changed))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nickname", ""), ("nickname", "n" * 20), ("nickname", "a b"), ("nickname", "a\n"), ("nickname", 1),
        ("address", "nowhere"), ("address", "127.0.0.1:0"), ("address", None),
        ("identity", "00"), ("identity", "AA" * 32), ("identity", 1),
        ("onion_keys", []), ("onion_keys", ["00"]), ("onion_keys", ["00" * 32] * 2), ("onion_keys", "00" * 32),
        ("onion_keys", [f"{n:064x}" for n in range(4)]), ("onion_keys", {}),
        ("exit_policy", "open"), ("exit_policy", ""), ("exit_policy", ["default"]),
        ("family", "a b"), ("family", "f" * 65), ("family", None), ("family", "F" * 64), ("family", "f" * 63),
        ("family_proof", None), ("family_proof", "x"), ("family_proof", "AA==" * 40),
        ("bandwidth", -1), ("bandwidth", 1.5), ("bandwidth", True), ("bandwidth", 2**63),
        ("software", "s" * 65), ("software", "\x1b[31m"), ("software", 1),
        ("versions", []), ("versions", [0]), ("versions", ["1"]), ("versions", [True]), ("versions", list(range(1, 10))),
        ("published", -1), ("published", "now"), ("published", 1e20), ("published", None),
    ],
)  # fmt: skip
def test_an_ill_typed_field_is_malformed(field: str, value: Any) -> None:
    members = json.loads(RELAY.plain.encode())
    members[field] = value
    with pytest.raises(Malformed):
        Descriptor.decode(json.dumps(members).encode())


def test_missing_and_unknown_fields_are_malformed() -> None:
    members = json.loads(RELAY.plain.encode())
    for name in members:
        with pytest.raises(Malformed):
            Descriptor.decode(json.dumps({key: value for key, value in members.items() if key != name}).encode())
    with pytest.raises(Malformed):
        Descriptor.decode(json.dumps(members | {"extra": 1}).encode())


def test_a_proof_is_good_for_one_request_at_one_gateway_over_one_connection() -> None:
    envelope, gateway, nonce = RELAY.envelope(), b"g" * 32, b"n" * 32
    proof = registration_proof("test", gateway, nonce, envelope)
    signed = sign_proof(proof, RELAY.key)
    assert len(signed) <= MAX_PROOF
    assert verify_proof(signed, proof) == RELAY.identity
    for other in (
        registration_proof("other", gateway, nonce, envelope),
        registration_proof("test", b"h" * 32, nonce, envelope),
        registration_proof("test", gateway, b"m" * 32, envelope),
        registration_proof("test", gateway, nonce, envelope + b" "),
        removal_proof("test", gateway, nonce),
    ):
        with pytest.raises(NotEnoughSignatures):
            verify_proof(signed, other)


def test_the_largest_proof_fits() -> None:
    assert len(sign_proof(removal_proof("n" * 64, bytes(32), bytes(32)), RELAY.key)) <= MAX_PROOF


def test_a_descriptor_does_not_pass_for_a_proof() -> None:
    with pytest.raises((Malformed, TooLarge)):
        verify_proof(RELAY.envelope(), removal_proof("test", bytes(32), bytes(32)))
