"""Frozen bytes of protocol version 1: `protocol_v1.json` says where they come from.

Messages have theirs beside the messages' tests, as hexadecimal one can read.
"""

import hmac
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.crypto.handshake import ClientHandshake, EphemeralKeys, HopKeys, Suite, answer
from common.crypto.kdf import PROTOCOL_ID, PURPOSES, expand, extract
from common.crypto.layers import SUITES, FernetSealer, Kind, Sealer
from common.wire.cells import Cell, encode_cell
from common.wire.framing import CellReader
from tests.helpers import open_layer

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "protocol_v1.json").read_text())
Vector = dict[str, Any]


def unhex(vector: Vector, *names: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(vector[name]) for name in names)


def test_the_origin_is_said() -> None:
    assert "protocol version 1" in VECTORS["origin"]


@pytest.mark.parametrize("vector", VECTORS["cells"], ids=range(len(VECTORS["cells"])))
def test_cells(vector: Vector) -> None:
    body, start = unhex(vector, "body", "without_padding")
    cell = start + bytes(vector["size"] - len(start))
    assert encode_cell(vector["circuit_id"], vector["command"], body) == cell
    assert CellReader().feed(cell) == [Cell(vector["circuit_id"], vector["command"], body)]


@pytest.mark.parametrize("vector", VECTORS["kdf"], ids=range(len(VECTORS["kdf"])))
def test_kdf(vector: Vector) -> None:
    secret, transcript_hash, seed = unhex(vector, "secret", "transcript_hash", "seed")
    assert extract(secret) == seed
    assert {purpose: expand(seed, purpose, transcript_hash).hex() for purpose in PURPOSES} == vector["keys"]


@pytest.mark.parametrize("vector", VECTORS["handshakes"], ids=lambda vector: Suite(vector["suite"]).name)
def test_handshake_of_the_client(vector: Vector) -> None:
    """Every input is fixed, so CREATE and the keys are the very same bytes."""
    identity, b, x, seed, create, created, forward, backward = unhex(
        vector, "identity", "b", "x", "mlkem_seed", "create", "created", "forward", "backward"
    )
    onion_key = X25519PrivateKey.from_private_bytes(b).public_key().public_bytes_raw()
    client = ClientHandshake(
        identity,
        onion_key,
        Suite(vector["suite"]),
        EphemeralKeys(X25519PrivateKey.from_private_bytes(x), MLKEM768PrivateKey.from_seed_bytes(seed)),
    )
    assert client.create == create
    assert client.finish(created) == HopKeys(Suite(vector["suite"]), forward, backward)


@pytest.mark.parametrize("vector", VECTORS["handshakes"], ids=lambda vector: Suite(vector["suite"]).name)
def test_handshake_of_the_relay(vector: Vector) -> None:
    """Its encapsulation is random; its Y is not, and a client with the vector's secrets agrees with the answer."""
    identity, b, x, y, seed, create, created = unhex(
        vector, "identity", "b", "x", "y", "mlkem_seed", "create", "created"
    )
    secret = X25519PrivateKey.from_private_bytes(b)
    onion_key = secret.public_key().public_bytes_raw()
    answered, keys = answer(
        create, identity, {onion_key: secret}, ephemeral=X25519PrivateKey.from_private_bytes(y)
    )
    assert answered[:32] == created[:32]
    client = ClientHandshake(
        identity,
        onion_key,
        Suite(vector["suite"]),
        EphemeralKeys(X25519PrivateKey.from_private_bytes(x), MLKEM768PrivateKey.from_seed_bytes(seed)),
    )
    assert client.finish(answered) == keys


@pytest.mark.parametrize("vector", VECTORS["handshakes"], ids=lambda vector: Suite(vector["suite"]).name)
def test_handshake_by_the_formula(vector: Vector) -> None:
    """The relay's side of the kept transcript, with hmac and hashlib alone around the primitives."""
    b, y, seed, create, created, forward, backward = unhex(
        vector, "b", "y", "mlkem_seed", "create", "created", "forward", "backward"
    )
    x_public = X25519PublicKey.from_public_bytes(create[66:98])
    secret = (
        X25519PrivateKey.from_private_bytes(y).exchange(x_public)
        + X25519PrivateKey.from_private_bytes(b).exchange(x_public)
        + MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(created[32:1_120])
    )
    transcript = PROTOCOL_ID + create + created[:1_120]
    prk = hmac.digest(sha256(PROTOCOL_ID).digest(), secret, "sha256")
    keys = {
        purpose: hmac.digest(prk, label + sha256(transcript).digest() + b"\x01", "sha256")
        for purpose, label in PURPOSES.items()
    }
    assert (keys["forward"], keys["backward"]) == (forward, backward)
    assert hmac.digest(keys["auth"], transcript, "sha256") == created[1_120:]


@pytest.mark.parametrize("vector", VECTORS["layers"], ids=lambda vector: Suite(vector["suite"]).name)
def test_layers(vector: Vector) -> None:
    suite, (key,) = Suite(vector["suite"]), unhex(vector, "key")
    entropy = iter(vector["entropy"])
    sealer: Sealer = SUITES[suite].sealer(key)
    if suite is Suite.FERNET:
        sealer = FernetSealer(key, lambda _count: bytes.fromhex(next(entropy)))
    opener = SUITES[suite].opener(key)
    for made in vector["layers"]:
        body, layer = unhex(made, "body", "layer")
        assert sealer.seal(Kind(made["kind"]), body) == layer
        assert open_layer(opener, layer) == (Kind(made["kind"]), body)


def test_aes_gcm_layers_by_the_primitive() -> None:
    vector = next(vector for vector in VECTORS["layers"] if vector["suite"] == Suite.AES_GCM)
    (key,) = unhex(vector, "key")
    for counter, made in enumerate(vector["layers"]):
        body, layer = unhex(made, "body", "layer")
        assert AESGCM(key[:16]).encrypt(counter.to_bytes(12, "big"), bytes([made["kind"]]) + body, None) == layer
