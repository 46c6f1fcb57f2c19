"""Keys on disk: made once, kept, never shown, and never replaced in silence."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.errors import ConfigError
from common.net.tls import TlsSession, client_context, server_context
from common.ops.keystore import RENEW_AFTER, load_or_create_identity, load_or_create_onion_keys

NOW = 1_800_000_000.0


def test_an_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    first = load_or_create_identity(tmp_path / "keys")
    second = load_or_create_identity(tmp_path / "keys")
    assert first.public == second.public == first.private_key.public_key().public_bytes_raw()
    assert first.certificate.read_bytes() == second.certificate.read_bytes()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600


def test_the_certificate_proves_the_identity_over_tls(tmp_path: Path) -> None:
    identity = load_or_create_identity(tmp_path)
    client = TlsSession(client_context(), server_side=False)
    server = TlsSession(server_context(identity.certificate, identity.key), server_side=True)
    done = False
    for _ in range(4):
        done = client.handshake()
        server.feed(client.outgoing())
        server.handshake()
        client.feed(server.outgoing())
    assert done
    assert client.peer_identity() == identity.public


def test_a_missing_or_foreign_certificate_is_made_again(tmp_path: Path) -> None:
    identity = load_or_create_identity(tmp_path / "a")
    other = load_or_create_identity(tmp_path / "b")
    for content in (None, b"damaged", other.certificate.read_bytes(), b""):
        identity.certificate.unlink()
        if content is not None:
            identity.certificate.write_bytes(content)
        assert load_or_create_identity(tmp_path / "a").public == identity.public
        server_context(identity.certificate, identity.key)


@pytest.mark.parametrize("content", [b"", b"damaged", b"\xff\xfe"])
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=r"identity\.pem: is no Ed25519 key; restore it"):
        load_or_create_identity(tmp_path)
    assert (tmp_path / "identity.pem").read_bytes() == content


def test_another_kind_of_key_is_not_an_identity(tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    (tmp_path / "identity.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="is no Ed25519 key"):
        load_or_create_identity(tmp_path)


def test_onion_keys_are_renewed_every_day_and_the_old_one_stays_for_a_while(tmp_path: Path) -> None:
    first = load_or_create_onion_keys(tmp_path, NOW)
    assert first.previous is None
    assert load_or_create_onion_keys(tmp_path, NOW + RENEW_AFTER - 1).current.public == first.current.public
    second = load_or_create_onion_keys(tmp_path, NOW + RENEW_AFTER)
    assert second.current.public != first.current.public
    assert second.current.created == NOW + RENEW_AFTER
    assert second.previous is not None
    assert second.previous.public == first.current.public
    assert set(second.accepted()) == {first.current.public, second.current.public}
    again = load_or_create_onion_keys(tmp_path, NOW + RENEW_AFTER + 600)
    assert set(again.accepted()) == set(second.accepted())


def test_an_old_onion_key_is_deleted_from_disk(tmp_path: Path) -> None:
    first = load_or_create_onion_keys(tmp_path, NOW)
    load_or_create_onion_keys(tmp_path, NOW + RENEW_AFTER)
    third = load_or_create_onion_keys(tmp_path, NOW + RENEW_AFTER + 1200)
    assert third.previous is None
    secret = first.current.private_key.private_bytes_raw().hex()
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_clock_set_back_does_not_stop_renewal(tmp_path: Path) -> None:
    future = load_or_create_onion_keys(tmp_path, NOW + 30 * RENEW_AFTER)
    assert load_or_create_onion_keys(tmp_path, NOW).current.public != future.current.public


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"nonsense", b"\xff", b"[1]", b'[{"private": "00", "created": 1}]', b'[{"created": 1}]', 100_000 * b"["],
    ids=lambda content: content[:9],
)
def test_damaged_onion_keys_are_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "onion_keys.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"onion_keys\.json: is damaged; remove it"):
        load_or_create_onion_keys(tmp_path, NOW)


def test_no_secret_in_any_repr(tmp_path: Path) -> None:
    keys = load_or_create_onion_keys(tmp_path, NOW)
    assert "private_key" not in repr(keys)
    assert "private_key" not in repr(load_or_create_identity(tmp_path))
    assert stat.S_IMODE((tmp_path / "onion_keys.json").stat().st_mode) == 0o600
