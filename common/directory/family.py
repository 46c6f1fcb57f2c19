"""A family: the relays of one owner, which no path uses two of.

A family is an Ed25519 key. Its public half (hexadecimal) is the family's id, which each member's descriptor names
together with the family key's signature over the network and the member's identity. So nobody joins a family whose
key he does not have, and a proof is good for one relay of one network only.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import KEY_SIZE, Envelope, Signature, sign, verify
from common.errors import NotEnoughSignatures
from common.wire.strict_json import decode_hex, encode_json

FAMILY_TYPE = "application/vnd.onion-network.family+json"


def family_proof(key: Ed25519PrivateKey, network: str, identity: bytes) -> tuple[str, bytes]:
    """The family's id, and the proof (64 bytes) that the relay with `identity` belongs to it."""
    (signature,) = sign(FAMILY_TYPE, _statement(network, identity), key).signatures
    return signature.key.hex(), signature.value


def verify_family(family: str, proof: bytes, network: str, identity: bytes) -> None:
    """Nothing for a relay without family; raises `NotEnoughSignatures` when the family did not say so."""
    if not family and not proof:
        return
    if not family:
        raise NotEnoughSignatures("a proof of no family")
    key = decode_hex(family, KEY_SIZE)
    envelope = Envelope(FAMILY_TYPE, _statement(network, identity), (Signature(key, proof),))
    verify(envelope, FAMILY_TYPE, (key,))


def _statement(network: str, identity: bytes) -> bytes:
    return encode_json({"network": network, "identity": identity.hex()})
