"""The hybrid handshake that gives a client and one relay fresh keys: X25519 (RFC 7748) and ML-KEM-768 (FIPS 203).

    CREATE    type (1) | suite (1) | identity (32) | onion key B (32) | X (32) | ML-KEM key (1,184)
    CREATED   Y (32) | ML-KEM ciphertext (1,088) | proof (32)

    secret     = X25519(x,Y) | X25519(x,B) | mlkem_shared
    transcript = PROTOCOL_ID | CREATE body | Y | ciphertext
    proof      = HMAC-SHA256(K("auth"), transcript)

Only who holds b, the secret of the onion key that the relay's identity signed, can make the proof. Every failure
is the same `AuthenticationFailed`.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from common.crypto.kdf import PROTOCOL_ID, expand, extract
from common.errors import AuthenticationFailed, Malformed
from common.wire.codec import Reader
from common.wire.messages import CREATE_BODY, CREATED_BODY

HANDSHAKE_TYPE = 1
MLKEM_KEY = 1_184
MLKEM_CIPHERTEXT = 1_088
X25519_KEY = 32
PROOF = 32


class Suite(IntEnum):
    """The layer cipher of a circuit, chosen by the client in CREATE."""

    FERNET = 1
    AES_GCM = 2


@dataclass(frozen=True, slots=True)
class HopKeys:
    """The two layer keys that a client shares with one relay, 32 bytes each."""

    suite: Suite
    forward: bytes = field(repr=False)
    backward: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Create:
    """A CREATE body taken apart."""

    suite: Suite
    identity: bytes
    onion_key: bytes
    ephemeral: bytes
    mlkem_key: bytes

    def encode(self) -> bytes:
        """1,282 bytes."""
        head = bytes([HANDSHAKE_TYPE, self.suite])
        return head + self.identity + self.onion_key + self.ephemeral + self.mlkem_key

    @classmethod
    def decode(cls, body: bytes) -> "Create":
        """Raises `Malformed`."""
        reader = Reader(body)
        handshake_type, suite = reader.u8(), reader.u8()
        if handshake_type != HANDSHAKE_TYPE or suite not in (Suite.FERNET, Suite.AES_GCM):
            raise Malformed("unknown handshake or suite")
        identity, onion_key, ephemeral = reader.take(32), reader.take(X25519_KEY), reader.take(X25519_KEY)
        create = cls(Suite(suite), identity, onion_key, ephemeral, reader.take(MLKEM_KEY))
        reader.done()
        return create


class EphemeralKeys:
    """What a client makes anew for each handshake. To make them is a third of a handshake, 130 of 390 us."""

    __slots__ = ("mlkem", "mlkem_public", "x", "x_public")

    def __init__(self, x: X25519PrivateKey | None = None, mlkem: MLKEM768PrivateKey | None = None) -> None:
        """The two secrets are made here unless a test vector brings its own."""
        self.x = x or X25519PrivateKey.generate()
        self.mlkem = mlkem or MLKEM768PrivateKey.generate()
        self.x_public = self.x.public_key().public_bytes_raw()
        self.mlkem_public = self.mlkem.public_key().public_bytes_raw()


class ClientHandshake:
    """The client's half with one relay: `create` is sent, `finish` takes the answer, once."""

    def __init__(
        self, identity: bytes, onion_key: bytes, suite: Suite, keys: EphemeralKeys | None = None
    ) -> None:
        """`keys` are for this handshake alone; made here if None."""
        self._keys = keys or EphemeralKeys()
        self._onion_key = onion_key
        self._suite = suite
        ours, mlkem_key = self._keys.x_public, self._keys.mlkem_public
        self.create = Create(suite, identity, onion_key, ours, mlkem_key).encode()

    def finish(self, created: bytes) -> HopKeys:
        """The shared keys; raises `AuthenticationFailed` unless the relay proves the onion key."""
        if len(created) != CREATED_BODY:
            raise AuthenticationFailed("handshake")
        reader = Reader(created)
        theirs, ciphertext, proof = reader.take(X25519_KEY), reader.take(MLKEM_CIPHERTEXT), reader.take(PROOF)
        try:
            secret = (
                self._keys.x.exchange(X25519PublicKey.from_public_bytes(theirs))
                + self._keys.x.exchange(X25519PublicKey.from_public_bytes(self._onion_key))
                + self._keys.mlkem.decapsulate(ciphertext)
            )
        except ValueError:  # a low-order point gives the all-zero result, which the library refuses
            raise AuthenticationFailed("handshake") from None
        expected, keys = _schedule(secret, self.create, theirs, ciphertext, self._suite)
        if not hmac.compare_digest(expected, proof):
            raise AuthenticationFailed("handshake")
        return keys


def answer(
    create_body: bytes,
    identity: bytes,
    onion_keys: Mapping[bytes, X25519PrivateKey],
    *,
    ephemeral: X25519PrivateKey | None = None,
) -> tuple[bytes, HopKeys]:
    """The relay's half: the CREATED body (1,152 bytes) and the keys.

    `onion_keys` maps the public keys the relay accepts now to their secrets. Raises `Malformed` or
    `AuthenticationFailed` (another relay's identity, an onion key not held, a low-order or invalid key).
    """
    create = Create.decode(create_body)
    onion_secret = onion_keys.get(create.onion_key)
    if onion_secret is None or not hmac.compare_digest(create.identity, identity):
        raise AuthenticationFailed("handshake")
    y = ephemeral or X25519PrivateKey.generate()
    try:
        theirs = X25519PublicKey.from_public_bytes(create.ephemeral)
        mlkem_shared, ciphertext = MLKEM768PublicKey.from_public_bytes(create.mlkem_key).encapsulate()
        secret = y.exchange(theirs) + onion_secret.exchange(theirs) + mlkem_shared
    except ValueError:
        raise AuthenticationFailed("handshake") from None
    ours = y.public_key().public_bytes_raw()
    proof, keys = _schedule(secret, create_body, ours, ciphertext, create.suite)
    return ours + ciphertext + proof, keys


def _schedule(
    secret: bytes, create_body: bytes, relay_ephemeral: bytes, ciphertext: bytes, suite: Suite
) -> tuple[bytes, HopKeys]:
    """The relay's proof and the layer keys, from the shared secret and all that was said."""
    transcript = PROTOCOL_ID + create_body + relay_ephemeral + ciphertext
    digest = sha256(transcript).digest()
    seed = extract(secret)
    proof = hmac.digest(expand(seed, "auth", digest), transcript, "sha256")
    return proof, HopKeys(suite, expand(seed, "forward", digest), expand(seed, "backward", digest))


assert 2 + 32 + 2 * X25519_KEY + MLKEM_KEY == CREATE_BODY
assert X25519_KEY + MLKEM_CIPHERTEXT + PROOF == CREATED_BODY
