"""A relay's signed self-description.

A descriptor is valid when
1. its envelope is of `DESCRIPTOR_TYPE`, at most `MAX_ENVELOPE` bytes, and carries exactly one signature;
2. that signature verifies;
3. the payload has exactly the fields below, each of its type and within its limit;
4. the identity inside is the key that signed.
So nobody but the holder of an identity key says anything about that relay: not another relay, not a gateway.

The same key signs a `Proof` of a request to a gateway. It names the network, the gateway and a number that this
gateway made up for this connection, so a proof is good once, here, and a recorded descriptor alone does nothing.
"""

import hashlib
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import KEY_SIZE, SIGNATURE_SIZE, Envelope, sign, verify
from common.directory.addresses import MAX_TEXT, Address, parse_address
from common.directory.exit_policy import MAX_TEXT as MAX_POLICY
from common.directory.exit_policy import ExitPolicy
from common.directory.family import verify_family
from common.errors import Malformed, NotEnoughSignatures
from common.wire.strict_json import Fields, decode_hex, decode_json, encode_base64, encode_json

DESCRIPTOR_TYPE = "application/vnd.onion-network.descriptor+json"
PROOF_TYPE = "application/vnd.onion-network.proof+json"
MAX_ENVELOPE = 4_096  # bytes: 10,000 of them still fit into the largest directory document
MAX_PROOF = 1_024  # bytes; real ones have about 600
MAX_SOFTWARE = 64
MAX_ONION_KEYS = 3  # the current one, the previous one, and one to spare
MAX_VERSIONS = 8
NONCE_SIZE = 32
NICKNAME = re.compile(r"[A-Za-z0-9_-]{1,19}")
FAMILY = re.compile(r"([0-9a-f]{64})?")
NETWORK = re.compile(r"[A-Za-z0-9._-]{1,64}")

_FIELDS = (
    "nickname",
    "address",
    "identity",
    "onion_keys",
    "exit_policy",
    "family",
    "bandwidth",
    "software",
    "versions",
    "published",
    "family_proof",
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a relay says about itself.

    `identity` and each of `onion_keys` (the current one first) are 32 bytes; `bandwidth` is bytes a second, 0 when
    unknown; `family` is the id of the owner's family with its proof, or both empty (`verify_family` says whether
    they fit: that takes the network's name); `published` is seconds since 1970.
    """

    nickname: str
    address: Address
    identity: bytes
    onion_keys: tuple[bytes, ...]
    exit_policy: str
    family: str
    bandwidth: int
    software: str
    versions: tuple[int, ...]
    published: float
    family_proof: bytes = b""

    @property
    def policy(self) -> ExitPolicy:
        """The parsed exit policy."""
        return ExitPolicy.parse(self.exit_policy)

    def encode(self) -> bytes:
        """The JSON payload that the relay signs."""
        return encode_json(
            {
                "nickname": self.nickname,
                "address": str(self.address),
                "identity": self.identity.hex(),
                "onion_keys": [key.hex() for key in self.onion_keys],
                "exit_policy": self.exit_policy,
                "family": self.family,
                "bandwidth": self.bandwidth,
                "software": self.software,
                "versions": list(self.versions),
                "published": self.published,
                "family_proof": encode_base64(self.family_proof),
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> "Descriptor":
        """The descriptor in a verified payload; raises `Malformed` for anything that `encode` would not write."""
        fields = Fields(decode_json(payload), "descriptor", _FIELDS)
        onion_keys = tuple(decode_hex(key, KEY_SIZE) for key in fields.items("onion_keys", MAX_ONION_KEYS))
        policy = fields.text("exit_policy", MAX_POLICY)
        ExitPolicy.parse(policy)
        if not onion_keys or len(set(onion_keys)) != len(onion_keys):
            raise Malformed("descriptor: onion_keys must be one to three different keys")
        return cls(
            nickname=_matching(NICKNAME, fields.text("nickname", 19), "nickname"),
            address=parse_address(fields.text("address", MAX_TEXT)),
            identity=decode_hex(fields.text("identity", 2 * KEY_SIZE), KEY_SIZE),
            onion_keys=onion_keys,
            exit_policy=policy,
            family=_matching(FAMILY, fields.text("family", 64), "family"),
            bandwidth=fields.integer("bandwidth"),
            software=fields.text("software", MAX_SOFTWARE),
            versions=_decode_versions(fields.items("versions", MAX_VERSIONS)),
            published=fields.number("published"),
            family_proof=fields.binary("family_proof", SIGNATURE_SIZE),
        )


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise Malformed(f"{what} must be of the form {pattern.pattern}")
    return text


def _decode_versions(values: list[object]) -> tuple[int, ...]:
    versions = tuple(value for value in values if type(value) is int and 0 < value < 2**16)
    if not versions or len(versions) != len(values):
        raise Malformed("descriptor: versions must be one to eight protocol versions")
    return versions


def sign_descriptor(descriptor: Descriptor, key: Ed25519PrivateKey) -> bytes:
    """The encoded envelope; raises `Malformed` or `NotEnoughSignatures` when no gateway would take it."""
    envelope = sign(DESCRIPTOR_TYPE, descriptor.encode(), key).encode()
    if verify_descriptor(envelope) != descriptor:
        raise Malformed("descriptor: a field is not in its one spelling")
    return envelope


def verify_descriptor(envelope: bytes) -> Descriptor:
    """The descriptor in an encoded envelope; raises `Malformed`, `TooLarge` or `NotEnoughSignatures`."""
    signer, payload = _verify_by_signer(envelope, MAX_ENVELOPE, DESCRIPTOR_TYPE)
    descriptor = Descriptor.decode(payload)
    if descriptor.identity != signer:
        raise NotEnoughSignatures("a descriptor is not signed by the identity it describes")
    return descriptor


def verify_member(envelope: bytes, network: str) -> Descriptor:
    """As `verify_descriptor`, and the family it names, if any, has signed that the relay belongs to it."""
    descriptor = verify_descriptor(envelope)
    verify_family(descriptor.family, descriptor.family_proof, network, descriptor.identity)
    return descriptor


def _verify_by_signer(data: bytes, limit: int, expected_type: str) -> tuple[bytes, bytes]:
    """The one key that signed, and the payload."""
    envelope = Envelope.decode(data, limit)
    if len(envelope.signatures) != 1:
        raise NotEnoughSignatures("exactly one signature is wanted here")
    signer = envelope.signatures[0].key
    return signer, verify(envelope, expected_type, (signer,))


@dataclass(frozen=True, slots=True)
class Proof:
    """What a relay asks of a gateway, and where: `action` is "register" or "unregister", keys are 32 bytes.

    `subject` is the SHA-256 of the descriptor's envelope that is registered, or of nothing.
    """

    action: str
    network: str
    gateway: bytes
    nonce: bytes
    subject: bytes

    def encode(self) -> bytes:
        """The JSON payload that the relay signs."""
        texts = {"action": self.action, "network": self.network}
        hashes = {"gateway": self.gateway.hex(), "nonce": self.nonce.hex(), "subject": self.subject.hex()}
        return encode_json(texts | hashes)


def registration_proof(network: str, gateway: bytes, nonce: bytes, envelope: bytes) -> Proof:
    """The proof that belongs to registering `envelope` over the connection that `nonce` was made for."""
    return Proof("register", network, gateway, nonce, hashlib.sha256(envelope).digest())


def removal_proof(network: str, gateway: bytes, nonce: bytes) -> Proof:
    """The proof that belongs to unregistering over the connection that `nonce` was made for."""
    return Proof("unregister", network, gateway, nonce, hashlib.sha256().digest())


def sign_proof(proof: Proof, key: Ed25519PrivateKey) -> bytes:
    """The encoded envelope of a proof."""
    return sign(PROOF_TYPE, proof.encode(), key).encode()


def verify_proof(envelope: bytes, expected: Proof) -> bytes:
    """The identity that signed exactly `expected`; raises `Malformed`, `TooLarge` or `NotEnoughSignatures`."""
    signer, payload = _verify_by_signer(envelope, MAX_PROOF, PROOF_TYPE)
    if payload != expected.encode():
        raise NotEnoughSignatures("a proof made for another request, gateway or connection")
    return signer
