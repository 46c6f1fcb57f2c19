"""Signed bytes: Ed25519 signatures in DSSE envelopes around strict JSON (`common/wire/strict_json.py`).

* The signature covers the exact payload bytes together with their type (DSSE v1.0.2, "PAE"), so a document of
  one type never passes for another, and nothing depends on how JSON is written.
* Parsing comes after verification: `verify` returns bytes, and only then does anybody read them.
* One envelope has one encoding: what is not exactly what `Envelope.encode` writes is `Malformed`. So whoever
  passes an envelope on (a gateway) cannot be given one that it can read and others cannot.
"""

import base64
from collections.abc import Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import Malformed, NotEnoughSignatures, TooLarge
from common.wire.strict_json import Fields, decode_hex, decode_json, encode_base64, encode_json

KEY_SIZE = 32
SIGNATURE_SIZE = 64
MAX_SIGNATURES = 16  # more gateways than any network pins; bounds the work of one envelope
MAX_TYPE = 100  # characters of a payload type


@dataclass(frozen=True, slots=True)
class Signature:
    """A public key (32 bytes) and what it signed with (64 bytes); says nothing until verified."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type, and signatures over both."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """The DSSE JSON envelope; a `keyid` is the Ed25519 public key in hexadecimal."""
        signatures = [{"keyid": one.key.hex(), "sig": encode_base64(one.value)} for one in self.signatures]
        payload = base64.b64encode(self.payload)  # megabytes: JSON's own way would look at each character
        parts = encode_json(self.payload_type), payload, encode_json(signatures)
        return b'{"payloadType":%b,"payload":"%b","signatures":%b}' % parts

    @classmethod
    def decode(cls, data: bytes, limit: int) -> "Envelope":
        """The envelope in at most `limit` bytes; raises `TooLarge` or `Malformed`. Nothing is verified yet."""
        if len(data) > limit:
            raise TooLarge("a signed envelope is larger than allowed")
        fields = Fields(decode_json(data), "envelope", ("payloadType", "payload", "signatures"))
        signatures = tuple(_decode_signature(one) for one in fields.items("signatures", MAX_SIGNATURES))
        envelope = cls(fields.text("payloadType", MAX_TYPE), fields.binary("payload", limit), signatures)
        if envelope.encode() != data:
            raise Malformed("an envelope is not in its one spelling")
        return envelope


def _decode_signature(value: object) -> Signature:
    fields = Fields(value, "signature", ("keyid", "sig"))
    signature = fields.binary("sig", SIGNATURE_SIZE)
    if len(signature) != SIGNATURE_SIZE:
        raise Malformed("an Ed25519 signature is 64 bytes")
    return Signature(decode_hex(fields.text("keyid", 2 * KEY_SIZE), KEY_SIZE), signature)


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding, unambiguous for every type and payload."""
    name = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def sign(payload_type: str, payload: bytes, *keys: Ed25519PrivateKey) -> Envelope:
    """An envelope signed by each of `keys`."""
    signed = pae(payload_type, payload)
    signatures = tuple(Signature(key.public_key().public_bytes_raw(), key.sign(signed)) for key in keys)
    return Envelope(payload_type, payload, signatures)


def verify(envelope: Envelope, expected_type: str, trusted_keys: Collection[bytes], threshold: int = 1) -> bytes:
    """The payload, once `threshold` different keys of `trusted_keys` have signed it as `expected_type`.

    Raises `Malformed` for another type and `NotEnoughSignatures` otherwise. A key counts once however often it
    stands in the envelope; a trusted key beside a signature that does not verify counts for nothing.
    """
    if envelope.payload_type != expected_type:
        raise Malformed("signed bytes of another type")
    signed = pae(envelope.payload_type, envelope.payload)
    good = {one.key for one in envelope.signatures if one.key in trusted_keys and _verifies(one, signed)}
    if len(good) < threshold:
        raise NotEnoughSignatures("not signed by whom it must be")
    return envelope.payload


def _verifies(signature: Signature, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(signature.key).verify(signature.value, signed)
    except (InvalidSignature, ValueError):
        return False
    return True
