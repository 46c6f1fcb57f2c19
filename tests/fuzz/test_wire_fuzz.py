"""Whatever arrives, only `ProtocolError` comes out: every parser, and every state machine behind its parser."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from common.circuit.hop import Hop
from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import ClientHandshake, Create, EphemeralKeys, HopKeys, Suite, answer
from common.crypto.layers import SUITES, Kind
from common.errors import ProtocolError
from common.wire.cells import choose_version, decode_destroy, encode_cell
from common.wire.codec import Reader
from common.wire.framing import CellReader
from common.wire.messages import HEADER, MessageCommand, decode_messages
from tests.helpers import PATIENT

B = X25519PrivateKey.from_private_bytes(b"b" * 32)
ONION_KEY = B.public_key().public_bytes_raw()
IDENTITY = b"i" * 32
KEYS = HopKeys(Suite.AES_GCM, b"f" * 32, b"b" * 32)


@cache
def client() -> ClientHandshake:
    x, mlkem = X25519PrivateKey.from_private_bytes(b"x" * 32), MLKEM768PrivateKey.from_seed_bytes(b"m" * 64)
    return ClientHandshake(IDENTITY, ONION_KEY, Suite.FERNET, EphemeralKeys(x, mlkem))


PARSERS: dict[str, Callable[[bytes], object]] = {
    "messages": decode_messages,
    "hello": choose_version,
    "destroy": decode_destroy,
    "create": Create.decode,
    "answer": lambda data: answer(data, IDENTITY, {ONION_KEY: B}),
    "finish": lambda data: client().finish(data),
    "name": lambda data: Reader(data).short_string(),
    "cells": lambda data: CellReader().feed(data),
    "fernet layer": lambda data: SUITES[Suite.FERNET].opener(b"k" * 32).open([data]),
    "aes-gcm layer": lambda data: SUITES[Suite.AES_GCM].opener(b"k" * 32).open([data]),
}


@st.composite
def message_like(draw: st.DrawFn) -> bytes:
    """Bytes with the outer form of messages, so that the inner parsers are reached."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        data = draw(st.binary(max_size=40) | st.sampled_from([1_152, 1_318]).map(bytes))
        command = draw(st.sampled_from(MessageCommand) | st.integers(0, 255))
        parts.append(HEADER.pack(command, draw(st.integers(0, 3)), len(data)) + data)
    return b"".join(parts)


BYTES = st.binary(max_size=2_000) | message_like()


@pytest.mark.parametrize("name", PARSERS)
@given(data=BYTES)
@PATIENT
def test_parser(name: str, data: bytes) -> None:
    with suppress(ProtocolError):
        PARSERS[name](data)


@given(st.integers(0, 1_281), st.binary(min_size=1, max_size=32))
@PATIENT
def test_a_changed_create(at: int, junk: bytes) -> None:
    create = client().create
    with suppress(ProtocolError):
        answer((create[:at] + junk + create[at + len(junk) :])[:1_282], IDENTITY, {ONION_KEY: B})


@given(st.binary(min_size=1_152, max_size=1_152))
@settings(PATIENT, max_examples=30)
def test_a_made_up_created_is_refused(created: bytes) -> None:
    with pytest.raises(ProtocolError):
        client().finish(created)


@given(st.lists(st.binary(max_size=3_000), max_size=8), st.integers(0, 5), st.binary(max_size=1_000))
@PATIENT
def test_a_link_in_pieces(pieces: list[bytes], command: int, body: bytes) -> None:
    reader = CellReader()
    with suppress(ProtocolError):
        reader.feed(encode_cell(int(command > 1), command, body))
        for piece in pieces:
            reader.feed(piece)
            assert len(reader._rest) < 16_384


@given(st.lists(BYTES, max_size=6), st.booleans())
@PATIENT
def test_a_hop_behind_its_layer(bodies: list[bytes], deliver: bool) -> None:
    hop = Hop(IDENTITY, KEYS)
    sealer = SUITES[KEYS.suite].sealer(KEYS.forward)
    with suppress(ProtocolError):
        for body in bodies:
            hop.receive_forward([sealer.seal(Kind.DELIVER if deliver else Kind.FORWARD, body)], 0.0)
            hop.take_cells(0)


@given(st.lists(BYTES, max_size=6))
@PATIENT
def test_a_client_behind_its_layers(bodies: list[bytes]) -> None:
    origin = Origin([PathHop(IDENTITY, ONION_KEY, "relay", 1)], Suite.AES_GCM)
    created, keys = answer(origin.create, IDENTITY, {ONION_KEY: B})
    origin.created(created)
    origin.endpoint.begin("target", 1, 0.0)
    sealer = SUITES[keys.suite].sealer(keys.backward)
    with suppress(ProtocolError):
        for body in bodies:
            origin.receive([sealer.seal(Kind.DELIVER, body)], 0.0)
            origin.take_cells(0)
