"""The keys of a daemon on disk: one identity for good, and onion keys that change every day.

    identity.pem       Ed25519 private key, PEM (PKCS 8), mode 0600
    certificate.pem    self-signed X.509 certificate of that key for TLS; made again when missing
    onion_keys.json    the X25519 keys in use, newest first, with their creation times; mode 0600
    succession.json    only after a change of identity: the statement that both keys signed; not secret

A family's key stands in a file of its own, which its owner copies to all his relays.

A file that is there and damaged is never replaced in silence: a new identity would be a new relay.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from common.directory.succession import sign_succession
from common.errors import ConfigError
from common.ops.files import private_folder, read_private, write_private

RENEW_AFTER = 24 * 3600.0  # seconds until a new onion key: a stolen one opens no more than a day's circuits
_KEEP_PREVIOUS = 2 * 600.0  # seconds an old one stays: a directory document's life, twice for slow clocks
_VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)  # as long as can be written: only the key counts
_VALID_UNTIL = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """A daemon's Ed25519 key, and the PEM files for TLS."""

    private_key: Ed25519PrivateKey = field(repr=False)
    public: bytes  # 32 bytes: who this daemon is
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class OnionKey:
    """An X25519 key that circuits are agreed with, and when it was made (Unix time)."""

    private_key: X25519PrivateKey = field(repr=False)
    public: bytes  # 32 bytes
    created: float


@dataclass(frozen=True, slots=True)
class OnionKeys:
    """The key to publish, and the one before it while clients may still use that."""

    current: OnionKey
    previous: OnionKey | None

    def accepted(self) -> dict[bytes, X25519PrivateKey]:
        """Public to private key of all that are accepted now."""
        keys = [self.current] if self.previous is None else [self.current, self.previous]
        return {key.public: key.private_key for key in keys}


def load_or_create_identity(folder: Path) -> Identity:
    """The identity kept in `folder`; made at first. Raises `ConfigError`: a damaged key, or the disk refuses."""
    private_folder(folder)
    key_file, certificate_file = folder / "identity.pem", folder / "certificate.pem"
    private_key = _load_or_create_key(key_file)
    public = private_key.public_key().public_bytes_raw()
    if not _certifies(certificate_file, public):
        write_private(certificate_file, _self_signed(private_key))
    return Identity(private_key, public, certificate_file, key_file)


def load_or_create_onion_keys(folder: Path, now: float) -> OnionKeys:
    """The onion keys kept in `folder`, renewed when due. Call it now and then: it also deletes the previous one.

    Raises `ConfigError` when the file is damaged or the disk refuses.
    """
    private_folder(folder)
    path = folder / "onion_keys.json"
    data = read_private(path)
    held = [] if data is None else _parse_onion_keys(path, data)
    keys = held
    if not held or abs(now - held[0].created) >= RENEW_AFTER:  # abs: a clock that was wrong must not stop renewal
        keys = [_onion_key(X25519PrivateKey.generate(), now), *held[:1]]
    elif now - held[0].created >= _KEEP_PREVIOUS:
        keys = held[:1]
    if keys != held:
        write_private(path, _onion_keys_json(keys))
    return OnionKeys(keys[0], keys[1] if len(keys) > 1 else None)


def load_onion_keys(folder: Path) -> OnionKeys:
    """The onion keys kept in `folder`, which another process renews. Raises `ConfigError`: damaged, or missing."""
    path = folder / "onion_keys.json"
    keys = _parse_onion_keys(path, read_private(path) or b"")
    return OnionKeys(keys[0], keys[1] if len(keys) > 1 else None)


def load_or_create_family_key(path: Path) -> Ed25519PrivateKey:
    """The key that the relays of one owner share; made if there is none. Raises `ConfigError`."""
    private_folder(path.parent)
    return _load_or_create_key(path)


def load_succession(folder: Path) -> bytes:
    """The statement that goes with each registration, empty for a relay that never changed its identity."""
    return read_private(folder / "succession.json") or b""


def replace_identity(folder: Path, network: str) -> Identity:
    """Gives the relay of `folder` a new identity, and the statement for the gateways, signed by both keys.

    The old key stays as `identity.old.pem`. When the process dies half way, the old identity is still in force.
    """
    old = load_or_create_identity(folder)
    new = Ed25519PrivateKey.generate()
    write_private(folder / "identity.old.pem", _to_pem(old.private_key))
    write_private(folder / "succession.json", sign_succession(network, old.private_key, new))
    write_private(folder / "identity.pem", _to_pem(new))
    return load_or_create_identity(folder)


def _load_or_create_key(path: Path) -> Ed25519PrivateKey:
    pem = read_private(path)
    if pem is not None:
        return _parse_identity(path, pem)
    key = Ed25519PrivateKey.generate()
    write_private(path, _to_pem(key))
    return key


def _to_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _parse_identity(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: is no Ed25519 key; restore it, or remove it to become somebody else")
    return key


def _certifies(path: Path, public: bytes) -> bool:
    pem = read_private(path)
    try:
        key = x509.load_pem_x509_certificate(pem or b"").public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    return key.public_bytes_raw() == public if hasattr(key, "public_bytes_raw") else False


def _self_signed(private_key: Ed25519PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])  # without meaning: the key is the name
    builder = x509.CertificateBuilder(name, name, private_key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(_VALID_FROM).not_valid_after(_VALID_UNTIL)
    return builder.sign(private_key, None).public_bytes(Encoding.PEM)


def _onion_key(private_key: X25519PrivateKey, created: float) -> OnionKey:
    return OnionKey(private_key, private_key.public_key().public_bytes_raw(), created)


def _parse_onion_keys(path: Path, data: bytes) -> list[OnionKey]:
    try:
        items = [(bytes.fromhex(item["private"]), float(item["created"])) for item in json.loads(data)]
        keys = [_onion_key(X25519PrivateKey.from_private_bytes(raw), created) for raw, created in items]
    except (ValueError, TypeError, KeyError, RecursionError):
        keys = []
    if not 1 <= len(keys) <= 2:
        raise ConfigError(f"{path}: is damaged; remove it, and new onion keys are made") from None
    return keys


def _onion_keys_json(keys: list[OnionKey]) -> bytes:
    items = [{"private": key.private_key.private_bytes_raw().hex(), "created": key.created} for key in keys]
    return json.dumps(items).encode() + b"\n"
