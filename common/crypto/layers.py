"""One hop's encryption in one direction: what a layer looks like in each suite.

    kind FORWARD   the body is the next hop's layer: pass it on
    kind DELIVER   the body is messages for this hop

A layer opens only in the order it was sealed: its counter must be the expected one, so a changed, replayed,
reordered or dropped cell fails, forward at the next hop, backward (where relays only seal) at the client. Every
failure is the same `AuthenticationFailed`, and the circuit ends.

`fernet` is the Fernet token format (version, timestamp, IV, AES-128-CBC, HMAC-SHA256) as bytes, without base64:
nested base64 would grow by a third a hop. The timestamp is 0, or each relay would read the client's clock.
"""

import hmac
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from common.crypto.handshake import Suite
from common.errors import AuthenticationFailed, TooLarge
from common.wire.cells import MAX_BODY, Bytes

MAX_HOPS = 8
PROOF = 16  # the last bytes of a layer, which a SENDME repeats as proof of receipt
_LAST_COUNTER = 2**32 - 1


class Kind(IntEnum):
    """What the body of a layer is."""

    FORWARD = 0
    DELIVER = 1


_KINDS = tuple(Kind)  # by number


class Sealer(Protocol):
    """Makes the layers of one direction, in order."""

    def seal(self, kind: Kind, *body: Bytes) -> bytes:
        """The layer around `body`, which may come in pieces; raises `TooLarge` when the counter is used up."""

    def wrap(self, layers: Sequence[Bytes]) -> list[bytes]:
        """A FORWARD layer around each; raises as `seal`."""


class Opener(Protocol):
    """Opens the layers of one direction, in the order they were sealed."""

    opened: int  # how many so far, and so the counter that the next must have

    def open(self, layers: Sequence[Bytes]) -> tuple[list[Kind], list[Bytes]]:
        """Their kinds, and what is inside of them; raises `AuthenticationFailed` if one is wrong.

        The circuit is over then.
        """


_BLOCK = 16
_TAG = 32
_FERNET_HEAD = b"\x80" + bytes(8)  # version and a timestamp that is always 0
_IV_AT = len(_FERNET_HEAD)
_FERNET_AROUND = _IV_AT + _BLOCK + _TAG
_PLAIN_HEAD = struct.Struct(">IBB")  # counter, kind, zero
_PADDING = [bytes([count]) * count for count in range(_BLOCK + 1)]  # PKCS #7 (RFC 5652, section 6.3)


class FernetSealer:
    """See the module; key: 16 bytes for signing, then 16 for encryption, as in a Fernet key."""

    def __init__(self, key: bytes, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._hmac = HMAC(key[:16], SHA256())
        # One CBC context for all tokens. A random block goes in first and comes out encrypted: that is the
        # token's IV (NIST SP 800-38A, appendix C, first method), and the chain goes on from it as from any IV.
        self._cbc = Cipher(AES(key[16:]), CBC(bytes(_BLOCK))).encryptor()
        self._entropy = entropy
        self._counter = 0

    def seal(self, kind: Kind, *body: Bytes) -> bytes:
        """57 bytes and the padded body: 64 bytes longer than a body that is itself a layer."""
        if self._counter > _LAST_COUNTER:
            raise TooLarge("the layer's counter is used up")
        head = _PLAIN_HEAD.pack(self._counter, kind, 0)
        self._counter += 1
        padding = _PADDING[_BLOCK - (len(head) + sum(map(len, body))) % _BLOCK]
        # Each join is one copy of 16 KiB, each `+` would be another.
        encrypted = self._cbc.update(b"".join((self._entropy(_BLOCK), head, *body, padding)))
        tag = self._hmac.copy()
        tag.update(_FERNET_HEAD)
        tag.update(encrypted)
        return b"".join((_FERNET_HEAD, encrypted, tag.finalize()))

    def wrap(self, layers: Sequence[Bytes]) -> list[bytes]:
        """64 bytes longer than each."""
        seal, kind = self.seal, Kind.FORWARD
        return [seal(kind, layer) for layer in layers]


class FernetOpener:
    """See the module; the key is cut as the sealer's."""

    def __init__(self, key: bytes) -> None:
        self._hmac = HMAC(key[:16], SHA256())
        # One CBC context for all tokens: feeding the IV as a block first makes it the chain's value.
        self._cbc = Cipher(AES(key[16:]), CBC(bytes(_BLOCK))).decryptor()
        self.opened = 0

    def open(self, layers: Sequence[Bytes]) -> tuple[list[Kind], list[Bytes]]:
        """See `Opener`."""
        opened = list(map(self._open, layers))
        return [kind for kind, _ in opened], [body for _, body in opened]

    def _open(self, layer: Bytes) -> tuple[Kind, Bytes]:
        """Checks the signature first, then all the rest."""
        size = len(layer) - _FERNET_AROUND
        if size <= 0 or size % _BLOCK:
            raise AuthenticationFailed("layer")
        view = memoryview(layer)  # its slices are no copies
        tag = self._hmac.copy()
        tag.update(view[:-_TAG])
        if not hmac.compare_digest(tag.finalize(), view[-_TAG:]) or view[:_IV_AT] != _FERNET_HEAD:
            raise AuthenticationFailed("layer")
        plain = self._cbc.update(view[_IV_AT:-_TAG])
        padding = plain[-1]
        if not 0 < padding <= _BLOCK or not plain.endswith(_PADDING[padding]):
            raise AuthenticationFailed("layer")
        body_end = len(plain) - padding
        if body_end < _BLOCK + _PLAIN_HEAD.size:
            raise AuthenticationFailed("layer")
        counter, kind, zero = _PLAIN_HEAD.unpack_from(plain, _BLOCK)
        if counter != self.opened or kind >= len(_KINDS) or zero:
            raise AuthenticationFailed("layer")
        self.opened += 1
        return _KINDS[kind], memoryview(plain)[_BLOCK + _PLAIN_HEAD.size : body_end]


_GCM_TAG = 16
_KIND_BYTES = {Kind.FORWARD: b"\0", Kind.DELIVER: b"\1"}
# A counter as nonce is safe because a key lives for one hop and direction of one circuit, and is sealed
# with by one side only: no nonce is used twice (NIST SP 800-38D, section 8.2.1).
_GCM_NONCE = 12  # bytes


class AesGcmSealer:
    """AES-128-GCM with the counter as nonce; key: the first 16 bytes."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key[:16])
        self._counter = 0

    def seal(self, kind: Kind, *body: Bytes) -> bytes:
        """17 bytes longer than the body."""
        counter = self._counter
        if counter > _LAST_COUNTER:
            raise TooLarge("the layer's counter is used up")
        self._counter = counter + 1
        return self._aead.encrypt(counter.to_bytes(_GCM_NONCE, "big"), b"".join((_KIND_BYTES[kind], *body)), None)

    def wrap(self, layers: Sequence[Bytes]) -> list[bytes]:
        """17 bytes longer than each."""
        first = self._counter
        self._counter = following = first + len(layers)
        if following > _LAST_COUNTER + 1:
            raise TooLarge("the layer's counter is used up")
        encrypt, kind = self._aead.encrypt, _KIND_BYTES[Kind.FORWARD]
        nonces = range(first, following)
        return [
            encrypt(nonce.to_bytes(_GCM_NONCE, "big"), kind + layer, None)
            for nonce, layer in zip(nonces, layers, strict=True)
        ]


class AesGcmOpener:
    """See `AesGcmSealer`."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key[:16])
        self.opened = 0

    def open(self, layers: Sequence[Bytes]) -> tuple[list[Kind], list[Bytes]]:
        """See `Opener`."""
        decrypt, counter = self._aead.decrypt, self.opened
        kinds: list[Kind] = []
        bodies: list[Bytes] = []
        try:
            for layer in layers:
                plain = decrypt(counter.to_bytes(_GCM_NONCE, "big"), layer, None)
                kinds.append(_KINDS[plain[0]])
                bodies.append(memoryview(plain)[1:])
                counter += 1
        except (InvalidTag, ValueError, IndexError):  # the last: nothing inside, or no such kind
            raise AuthenticationFailed("layer") from None
        if counter > _LAST_COUNTER + 1:
            raise AuthenticationFailed("layer")
        self.opened = counter
        return kinds, bodies


@dataclass(frozen=True, slots=True)
class SuiteParts:
    """What a suite is made of; `max_messages`: most bytes of messages in a cell that 8 layers may wrap."""

    sealer: Callable[[bytes], Sealer]
    opener: Callable[[bytes], Opener]
    max_messages: int


def _fernet_max_messages() -> int:
    innermost = MAX_BODY - (MAX_HOPS - 1) * (_FERNET_AROUND + 7)
    blocks = (innermost - _FERNET_AROUND) // _BLOCK
    return blocks * _BLOCK - 1 - _PLAIN_HEAD.size


SUITES: dict[Suite, SuiteParts] = {
    Suite.FERNET: SuiteParts(FernetSealer, FernetOpener, _fernet_max_messages()),
    Suite.AES_GCM: SuiteParts(AesGcmSealer, AesGcmOpener, MAX_BODY - MAX_HOPS * (1 + _GCM_TAG)),
}
