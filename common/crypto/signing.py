"""Signed bytes: Ed25519 signatures in DSSE envelopes, and the strict JSON that everything signed is written in.

* The signature covers the exact payload bytes together with their type (DSSE v1.0.2, "PAE"), so a document of
  one type never passes for another, and nothing depends on how JSON is written.
* Parsing comes after verification: `verify` returns bytes, and only then does anybody read them.
* One envelope has one encoding: what is not exactly what `Envelope.encode` writes is `Malformed`. So whoever
  passes an envelope on (a gateway) cannot be given one that it can read and others cannot.
"""

import base64
import binascii
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import Malformed, NotEnoughSignatures, TooLarge

KEY_SIZE = 32
SIGNATURE_SIZE = 64
MAX_SIGNATURES = 16  # more gateways than any network pins; bounds the work of one envelope
MAX_TYPE = 100  # characters of a payload type


# ---- strict JSON ----


def encode_json(value: object) -> bytes:
    """Compact ASCII JSON; raises `ValueError` for NaN and infinities."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_json(data: bytes) -> object:
    """The value in `data`; `Malformed` also for a repeated name, NaN, infinities and absurd nesting."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a name stands twice in a JSON object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise Malformed(f"{text} is not a JSON number")


class Fields:
    """The members of a JSON object, read by type; raises `Malformed` unless exactly `names` are there."""

    __slots__ = ("_members", "_what")

    def __init__(self, value: object, what: str, names: Collection[str]) -> None:
        if not isinstance(value, dict) or value.keys() != set(names):
            raise Malformed(f"{what}: unknown or missing fields")
        self._members: dict[str, object] = value
        self._what = what

    def text(self, name: str, limit: int) -> str:
        """A string of at most `limit` printable ASCII characters."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > limit or not value.isascii() or not value.isprintable():
            raise self._wrong(name)
        return value

    def integer(self, name: str, lowest: int = 0, highest: int = 2**63 - 1) -> int:
        """An integer (not a boolean, not a float) between `lowest` and `highest`."""
        value = self._members[name]
        if type(value) is not int or not lowest <= value <= highest:
            raise self._wrong(name)
        return value

    def number(self, name: str, highest: float = 2.0**40) -> float:
        """A finite number from 0 to `highest`; the default leaves room for seconds since 1970."""
        value = self._members[name]
        if type(value) not in (int, float):
            raise self._wrong(name)
        assert isinstance(value, int | float)
        if not 0 <= value <= highest or not math.isfinite(value):
            raise self._wrong(name)
        return float(value)

    def items(self, name: str, limit: int) -> list[object]:
        """A list of at most `limit` values, each still to be checked."""
        value = self._members[name]
        if not isinstance(value, list) or len(value) > limit:
            raise self._wrong(name)
        return value

    def binary(self, name: str, limit: int) -> bytes:
        """At most `limit` bytes, written in base64."""
        value = self._members[name]
        if not isinstance(value, str) or len(value) > (limit + 2) // 3 * 4:
            raise self._wrong(name)
        return decode_base64(value)

    def _wrong(self, name: str) -> Malformed:
        return Malformed(f"{self._what}: {name} is not what it must be")


def encode_base64(data: bytes) -> str:
    """Base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes of base64 without whitespace or other extras; raises `Malformed`."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        raise Malformed("not base64") from None


def decode_hex(value: object, size: int) -> bytes:
    """`size` bytes written as lower-case hexadecimal digits; raises `Malformed`."""
    if isinstance(value, str) and len(value) == 2 * size:
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = b""
        if data.hex() == value:
            return data
    raise Malformed(f"not {size} bytes in lower-case hexadecimal")


# ---- envelopes ----


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
        payload = encode_base64(self.payload)
        return encode_json({"payloadType": self.payload_type, "payload": payload, "signatures": signatures})

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
