"""A relay's change of identity: one statement, signed by the old key and by the new one.

With both signatures nobody can take a relay over, and nobody can push a relay onto somebody else's key. The
statement names the network and holds for ever: the new identity takes over the nickname and the history, and the
old one is refused from then on, also to whoever has stolen it and signs another statement later.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import KEY_SIZE, Envelope, sign, verify
from common.errors import Malformed
from common.wire.strict_json import Fields, decode_hex, decode_json, encode_json

SUCCESSION_TYPE = "application/vnd.onion-network.succession+json"
MAX_SUCCESSION = 1_024  # bytes of an envelope; real ones have about 800


@dataclass(frozen=True, slots=True)
class Succession:
    """In `network` the relay with the identity `old` has the identity `new` (32 bytes each) from now on."""

    network: str
    old: bytes
    new: bytes


def sign_succession(network: str, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> bytes:
    """The encoded envelope of a statement."""
    identities = {name: key.public_key().public_bytes_raw().hex() for name, key in (("old", old), ("new", new))}
    return sign(SUCCESSION_TYPE, encode_json({"network": network} | identities), old, new).encode()


def verify_succession(envelope: bytes, network: str) -> Succession:
    """The statement; raises `Malformed`, `TooLarge`, or `NotEnoughSignatures` unless both keys signed it."""
    opened = Envelope.decode(envelope, MAX_SUCCESSION)
    signers = tuple(one.key for one in opened.signatures)
    payload = verify(opened, SUCCESSION_TYPE, signers, threshold=2)
    fields = Fields(decode_json(payload), "succession", ("network", "old", "new"))
    old, new = (decode_hex(fields.text(name, 2 * KEY_SIZE), KEY_SIZE) for name in ("old", "new"))
    if signers != (old, new) or fields.text("network", 64) != network:
        raise Malformed("a succession is signed by the old key, then by the new one, for this network")
    return Succession(network, old, new)
