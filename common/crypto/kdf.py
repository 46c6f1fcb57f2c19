"""Keys from secrets: HKDF-SHA256 (RFC 5869), with every purpose a key may have in one table."""

from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

PROTOCOL_ID = b"private-onion-network 1 x25519 ml-kem-768 sha256"
KEY_SIZE = 32

PURPOSES = {
    "auth": b"handshake: the relay's proof",
    "forward": b"layer: client to relay",
    "backward": b"layer: relay to client",
}


def extract(secret: bytes) -> bytes:
    """HKDF-Extract with the protocol's salt: a 32-byte seed."""
    return HKDF.extract(SHA256(), sha256(PROTOCOL_ID).digest(), secret)


def expand(seed: bytes, purpose: str, transcript_hash: bytes) -> bytes:
    """HKDF-Expand for one purpose of the table, bound to the transcript: a 32-byte key."""
    return HKDFExpand(SHA256(), KEY_SIZE, PURPOSES[purpose] + transcript_hash).derive(seed)
