"""Frozen logins: `scram.json` says where they come from."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.crypto import scram
from common.crypto.scram import ClientFirst, ScramClient, ScramServer, Verifier, make_verifier

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "scram.json").read_text())
Vector = dict[str, Any]


@pytest.fixture(params=VECTORS["exchanges"], ids=lambda vector: vector["title"])
def vector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Vector:
    """RFC 7677 shows an exchange without channel binding, which the code does not have: the header is replaced."""
    vector: Vector = request.param
    monkeypatch.setattr(scram, "GS2_HEADER", vector["header"].encode())
    monkeypatch.setattr(scram, "BINDING_SIZE", len(vector["binding"]) // 2)
    return vector


def verifier_of(vector: Vector) -> Verifier:
    salt, stored_key, server_key = (bytes.fromhex(vector[name]) for name in ("salt", "stored_key", "server_key"))
    return Verifier(salt, vector["iterations"], stored_key, server_key)


def test_the_origin_is_said() -> None:
    assert "RFC 7677" in VECTORS["origin"]


def test_the_client_sends_these_bytes(vector: Vector) -> None:
    binding, nonce = bytes.fromhex(vector["binding"]), vector["client_nonce"].encode()
    client = ScramClient(vector["name"], vector["password"], binding, nonce, min_iterations=4_096)
    assert client.first().decode() == vector["client_first"]
    assert client.final(vector["server_first"].encode()).decode() == vector["client_final"]
    client.verify(vector["server_final"].encode())
    assert client.verifier == verifier_of(vector)


def test_the_server_sends_these_bytes(vector: Vector) -> None:
    first = ClientFirst.parse(vector["client_first"].encode())
    assert (first.name, first.nonce) == (vector["name"], vector["client_nonce"])
    binding, nonce = bytes.fromhex(vector["binding"]), vector["server_nonce"].encode()
    server = ScramServer(first, verifier_of(vector), binding, nonce)
    assert server.challenge().decode() == vector["server_first"]
    assert server.finish(vector["client_final"].encode()).decode() == vector["server_final"]


def test_the_verifier_has_these_keys(vector: Vector) -> None:
    assert make_verifier(vector["password"], bytes.fromhex(vector["salt"]), 4_096) == verifier_of(vector)
