"""Directory documents: only the newest one that the pinned gateways signed, with relays that speak for themselves."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import sign
from common.directory.descriptor import MAX_ENVELOPE as MAX_DESCRIPTOR
from common.directory.document import (
    CLOCK_SKEW,
    DOCUMENT_TYPE,
    MAX_ENVELOPE,
    MAX_RELAYS,
    DirectoryDocument,
    TrustedDirectory,
    sign_document,
)
from common.errors import DirectoryError, Malformed, NotEnoughSignatures, OnionError, StaleDocument
from common.wire.strict_json import encode_json
from tests.helpers import flip
from tests.unit.directory.relays import NETWORK, NOW, FakeRelay, make_document

GATEWAY = Ed25519PrivateKey.generate()
SECOND = Ed25519PrivateKey.generate()
PUBLIC = GATEWAY.public_key().public_bytes_raw()
RELAYS = (FakeRelay(1), FakeRelay(2))
DOCUMENT = make_document(*RELAYS)


def trusted(*keys: Ed25519PrivateKey, threshold: int = 1) -> TrustedDirectory:
    public = frozenset(key.public_key().public_bytes_raw() for key in keys or (GATEWAY,))
    return TrustedDirectory(NETWORK, public, threshold)


def test_a_document_is_what_was_signed() -> None:
    directory = trusted()
    envelope = sign_document(DOCUMENT, GATEWAY)
    assert directory.update(envelope, NOW) == DOCUMENT
    assert directory.document == DOCUMENT
    assert directory.envelope == envelope
    assert directory.update(envelope, NOW + 1) == DOCUMENT


def test_a_tampered_document_is_refused() -> None:
    envelope = sign_document(DOCUMENT, GATEWAY)
    directory = trusted()
    for at in range(0, len(envelope), 2):
        with pytest.raises(OnionError):
            directory.update(flip(envelope, at, at % 8), NOW)
    assert directory.document is None


def test_an_unsigned_document_or_one_of_another_gateway_is_refused() -> None:
    with pytest.raises(NotEnoughSignatures):
        trusted().update(sign_document(DOCUMENT), NOW)
    with pytest.raises(NotEnoughSignatures):
        trusted().update(sign_document(DOCUMENT, SECOND), NOW)
    with pytest.raises(NotEnoughSignatures):
        trusted(GATEWAY, SECOND, threshold=2).update(sign_document(DOCUMENT, GATEWAY, GATEWAY), NOW)
    trusted(GATEWAY, SECOND, threshold=2).update(sign_document(DOCUMENT, GATEWAY, SECOND), NOW)


def test_an_expired_document_is_refused() -> None:
    with pytest.raises(StaleDocument):
        trusted().update(sign_document(DOCUMENT, GATEWAY), NOW + 600)
    directory = trusted()
    directory.update(sign_document(DOCUMENT, GATEWAY), NOW + 599)
    with pytest.raises(StaleDocument):
        directory.update(sign_document(DOCUMENT, GATEWAY), NOW + 600)


def test_a_document_from_the_future_is_refused_beyond_the_clock_skew() -> None:
    envelope = sign_document(DOCUMENT, GATEWAY)
    trusted().update(envelope, NOW - CLOCK_SKEW)
    with pytest.raises(StaleDocument):
        trusted().update(envelope, NOW - CLOCK_SKEW - 1)


def test_an_older_document_is_refused_and_the_held_one_stays() -> None:
    directory = trusted()
    directory.update(sign_document(DOCUMENT, GATEWAY), NOW)
    with pytest.raises(StaleDocument):
        directory.update(sign_document(make_document(RELAYS[0], serial=6), GATEWAY), NOW)
    assert directory.document == DOCUMENT
    newer = make_document(RELAYS[0], serial=8)
    assert directory.update(sign_document(newer, GATEWAY), NOW) == newer


def test_an_expired_document_still_says_which_serials_are_older() -> None:
    directory = trusted()
    with pytest.raises(StaleDocument):
        directory.update(sign_document(make_document(serial=9, valid_until=NOW - 1), GATEWAY), NOW)
    with pytest.raises(StaleDocument):
        directory.update(sign_document(make_document(serial=8), GATEWAY), NOW)


def test_two_documents_with_one_serial_are_refused() -> None:
    directory = trusted()
    directory.update(sign_document(DOCUMENT, GATEWAY), NOW)
    with pytest.raises(StaleDocument):
        directory.update(sign_document(make_document(RELAYS[0]), GATEWAY), NOW)


def test_another_network_s_document_is_refused() -> None:
    with pytest.raises(DirectoryError, match="network"):
        trusted().update(sign_document(make_document(network="other"), GATEWAY), NOW)


def test_a_gateway_cannot_invent_keys_for_a_relay() -> None:
    """It holds its own key, and may sign any document; a relay's descriptor it cannot sign."""
    victim, entry = RELAYS[0], RELAYS[0].entry()
    stolen = victim.describe(onion_keys=(b"\x66" * 32,))
    forged = sign("application/vnd.onion-network.descriptor+json", stolen.encode(), GATEWAY).encode()
    lie = dataclasses.replace(DOCUMENT, relays=(dataclasses.replace(entry, envelope=forged),))
    with pytest.raises(NotEnoughSignatures):
        trusted().update(sign_document(lie, GATEWAY), NOW)


def test_a_known_descriptor_is_recognised_by_all_its_bytes() -> None:
    directory = trusted()
    directory.update(sign_document(DOCUMENT, GATEWAY), NOW)
    tampered = flip(RELAYS[0].envelope(), 60)
    lie = dataclasses.replace(
        DOCUMENT, serial=8, relays=(dataclasses.replace(RELAYS[0].entry(), envelope=tampered),)
    )
    with pytest.raises(OnionError):
        directory.update(sign_document(lie, GATEWAY), NOW)


def test_no_identity_and_no_nickname_stands_twice() -> None:
    twin = FakeRelay(1, nickname="RELAY2")
    for relays in ((RELAYS[0], RELAYS[0]), (RELAYS[1], twin)):
        with pytest.raises(Malformed):
            trusted().update(sign_document(make_document(*relays), GATEWAY), NOW)


def test_the_payload_is_parsed_after_verification_and_strictly() -> None:
    for payload in (b"", b"{}", b"[]", DOCUMENT.encode()[:-1], encode_json({"network": NETWORK})):
        with pytest.raises(NotEnoughSignatures):
            trusted().update(sign(DOCUMENT_TYPE, payload, SECOND).encode(), NOW)
        with pytest.raises(Malformed):
            trusted().update(sign(DOCUMENT_TYPE, payload, GATEWAY).encode(), NOW)


def test_flags_are_short_words() -> None:
    for flags in (("a b",), ("UPPER",), ("x" * 17,), ("a",) * 9):
        odd = dataclasses.replace(RELAYS[0].entry(), flags=flags)
        with pytest.raises(Malformed):
            DirectoryDocument.decode(dataclasses.replace(DOCUMENT, relays=(odd,)).encode())


def test_the_largest_document_fits_its_envelope() -> None:
    entry_overhead = 300  # observations, punctuation and escaped quotes
    assert MAX_RELAYS * (MAX_DESCRIPTOR + entry_overhead) * 4 // 3 < MAX_ENVELOPE
