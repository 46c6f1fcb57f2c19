"""Families: a relay names one only with the signature of the family's key."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.descriptor import verify_member
from common.directory.document import DirectoryDocument
from common.directory.family import family_proof, verify_family
from common.directory.path import choose_path
from common.errors import DirectoryError, NotEnoughSignatures
from tests.helpers import flip
from tests.unit.directory.relays import NETWORK, FakeRelay, make_document

FAMILY = Ed25519PrivateKey.generate()


def member(number: int) -> FakeRelay:
    relay = FakeRelay(number)
    family, proof = family_proof(FAMILY, NETWORK, relay.identity)
    relay.plain = relay.describe(family=family, family_proof=proof)
    return relay


def test_a_member_and_a_relay_without_family_are_believed() -> None:
    for relay in (member(1), FakeRelay(2)):
        assert verify_member(relay.envelope(), NETWORK) == relay.plain


def test_a_relay_cannot_claim_another_s_family() -> None:
    honest, thief = member(1), FakeRelay(2)
    family, proof = honest.plain.family, honest.plain.family_proof
    own_proof = family_proof(thief.key, NETWORK, thief.identity)[1]
    for claimed in (proof, own_proof, b"", flip(family_proof(FAMILY, NETWORK, thief.identity)[1], 3)):
        envelope = thief.envelope(family=family, family_proof=claimed)
        with pytest.raises(NotEnoughSignatures):
            verify_member(envelope, NETWORK)
    with pytest.raises(NotEnoughSignatures):
        verify_family("", proof, NETWORK, honest.identity)
    with pytest.raises(NotEnoughSignatures):
        verify_family(family, proof, "elsewhere", honest.identity)


def test_a_client_refuses_a_document_with_a_family_that_is_not_proved() -> None:
    thief = FakeRelay(2)
    entry = thief.entry(family=member(1).plain.family, family_proof=bytes(64))
    document = dataclasses.replace(make_document(member(1)), relays=(entry,))
    with pytest.raises(NotEnoughSignatures):
        DirectoryDocument.decode(document.encode())
    assert DirectoryDocument.decode(make_document(member(1), thief).encode()).relays


def test_no_path_uses_two_of_one_family() -> None:
    entries = [member(1).entry(), member(2).entry(), FakeRelay(3).entry()]
    path = choose_path(entries, 3)
    assert len(path.relays) == 2
    with pytest.raises(DirectoryError):
        choose_path(entries[:2], 2)
