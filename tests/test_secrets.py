"""No key is in any `repr`: not of what holds it, not of what holds that, not of an error about it."""

import base64
import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import common
from common.circuit.endpoint import Endpoint
from common.circuit.hop import Hop
from common.circuit.origin import Origin, PathHop
from common.circuit.stream import Side
from common.crypto.handshake import ClientHandshake, Create, EphemeralKeys, HopKeys, Suite, answer
from common.crypto.layers import SUITES, Kind
from common.crypto.onion import LayerStack
from common.crypto.scram import ClientFirst, ScramClient, ScramServer, make_verifier
from common.errors import ProtocolError

IDENTITY = b"i" * 32
FORWARD, BACKWARD = bytes(range(100, 132)), bytes(range(132, 164))
X, B, SEED = b"x-secret" * 4, b"b-secret" * 4, b"m-secret" * 8
PURE = ("wire", "crypto", "directory", "circuit", "login")
SECRET_FIELDS = {
    "forward",
    "backward",
    "secret",
    "password",
    "stored_key",
    "server_key",
    "private",
    "seed",
    "isolation",
}


def spellings(secret: bytes) -> set[str]:
    """How bytes may look in a text."""
    half = secret[: len(secret) // 2]
    return {form for part in (secret, half) for form in (
        part.hex(), repr(part)[2:-1], base64.b64encode(part).decode().rstrip("="),
        base64.urlsafe_b64encode(part).decode().rstrip("="), str(list(part))[1:-1], str(int.from_bytes(part, "big")),
    )}  # fmt: skip


def texts(thing: object, depth: int = 4) -> Iterator[str]:
    """What the thing prints as, and what its own attributes print as, where they are ours."""
    yield repr(thing)
    yield str(thing)
    yield f"{thing}"
    if depth and type(thing).__module__.startswith("common."):
        names = [*getattr(type(thing), "__slots__", ()), *getattr(thing, "__dict__", {})]
        for name in names:
            value = getattr(thing, name, None)
            if not isinstance(value, bytes):
                yield from texts(value, depth - 1)


def holders(suite: Suite) -> dict[str, object]:
    onion_secret = X25519PrivateKey.from_private_bytes(B)
    onion_key = onion_secret.public_key().public_bytes_raw()
    x, mlkem = X25519PrivateKey.from_private_bytes(X), MLKEM768PrivateKey.from_seed_bytes(SEED)
    handshake = ClientHandshake(IDENTITY, onion_key, suite, EphemeralKeys(x, mlkem))
    keys = HopKeys(suite, FORWARD, BACKWARD)
    stack = LayerStack()
    stack.add(keys)
    origin = Origin([PathHop(IDENTITY, onion_key, "relay", 1)], suite)
    origin.created(answer(origin.create, IDENTITY, {onion_key: onion_secret})[0])
    return {
        "keys": keys,
        "handshake": handshake,
        "create": Create.decode(handshake.create),
        "sealer": SUITES[suite].sealer(FORWARD),
        "opener": SUITES[suite].opener(FORWARD),
        "stack": stack,
        "hop": Hop(IDENTITY, keys),
        "origin": origin,
        "endpoint": Endpoint(Side.CLIENT, stack.originate, 1_000),
        "a tuple of keys": (keys, [keys], {"keys": keys}),
    }


@pytest.mark.parametrize("suite", list(Suite))
def test_no_key_is_in_any_repr(suite: Suite) -> None:
    secrets = {form for secret in (FORWARD, BACKWARD, X, B, SEED) for form in spellings(secret)}
    for name, holder in holders(suite).items():
        for text in texts(holder):
            assert not [form for form in secrets if form in text], name


def test_no_password_verifier_or_proof_is_in_any_repr() -> None:
    """At each stage of a login, on both sides."""
    password, binding = "a-password-of-somebody", bytes(32)
    verifier = make_verifier(password, bytes(16), 64)
    client = ScramClient("alice", password, binding, min_iterations=64)
    first = ClientFirst.parse(client.first())
    server = ScramServer(first, verifier, binding)
    secrets = {password, *spellings(password.encode()), *spellings(verifier.stored_key), *spellings(verifier.server_key)}

    def search() -> None:
        for holder in (client, server, first, verifier, [verifier], {"verifier": verifier}):
            assert not [form for text in texts(holder) for form in secrets if form in text], type(holder)

    search()
    final = client.final(server.challenge())
    secrets.add(final.rpartition(b",p=")[2].decode())
    search()
    signature = server.finish(final)
    secrets.add(signature[2:].decode())
    client.verify(signature)
    search()


def test_the_search_would_find_a_key() -> None:
    leaking = dataclasses.make_dataclass("Leaking", ["key"])(FORWARD)
    assert any(form in text for text in texts(leaking) for form in spellings(FORWARD))


@pytest.mark.parametrize("suite", list(Suite))
def test_no_key_is_in_an_error(suite: Suite) -> None:
    sealer, opener = SUITES[suite].sealer(FORWARD), SUITES[suite].opener(BACKWARD)
    with pytest.raises(ProtocolError) as caught:
        opener.open([sealer.seal(Kind.DELIVER, b"body")])
    assert caught.value.args == ("layer",)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def modules() -> Iterator[ModuleType]:
    """The modules of the pure folders."""
    for folder in PURE:
        package = importlib.import_module(f"{common.__name__}.{folder}")
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            yield importlib.import_module(found.name)


def test_no_dataclass_prints_a_secret_field() -> None:
    """By name: a field that holds a secret says `repr=False`."""
    checked = set()
    for module in modules():
        for thing in vars(module).values():
            if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == module.__name__:
                for field in dataclasses.fields(thing):
                    if field.name in SECRET_FIELDS:
                        assert not field.repr, f"{thing.__module__}.{thing.__name__}.{field.name}"
                        checked.add(field.name)
    assert {"forward", "backward", "stored_key", "server_key"} <= checked
