"""Both suites through the same tests; then what is Fernet's alone, against the official vectors too."""

import base64
import binascii
import hmac
import json
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB
from cryptography_vectors import open_vector_file
from hypothesis import given
from hypothesis import strategies as st

from common.crypto import layers
from common.crypto.handshake import Suite
from common.crypto.layers import MAX_HOPS, SUITES, FernetOpener, FernetSealer, Kind, Opener, Sealer
from common.errors import AuthenticationFailed, TooLarge
from common.wire.cells import MAX_BODY
from tests.helpers import PATIENT, flip, flips, open_layer

KEY = bytes(range(32))
BOTH = pytest.mark.parametrize("suite", list(Suite))
SIZES = (0, 1, 9, 10, 11, 15, 16, 1_000, 15_865)


def sealer(suite: Suite, key: bytes = KEY) -> Sealer:
    return SUITES[suite].sealer(key)


def opener(suite: Suite, key: bytes = KEY) -> Opener:
    return SUITES[suite].opener(key)


def refused(suite: Suite, layer: bytes, after: list[bytes] | None = None, key: bytes = KEY) -> None:
    """An opener that has opened `after` refuses `layer`, and says no more than that."""
    fresh = opener(suite, key)
    for earlier in after or []:
        open_layer(fresh, earlier)
    with pytest.raises(AuthenticationFailed) as caught:
        open_layer(fresh, layer)
    assert caught.value.args == ("layer",)
    assert caught.value.__cause__ is None


@BOTH
def test_layers_open_in_the_order_they_were_sealed(suite: Suite) -> None:
    ours, theirs = sealer(suite), opener(suite)
    for kind in Kind:
        for size in SIZES:
            body = bytes(size)
            assert open_layer(theirs, ours.seal(kind, body)) == (kind, body)


@pytest.mark.parametrize("suite", list(Suite))
@given(body=st.binary(max_size=400), kind=st.sampled_from(Kind))
@PATIENT
def test_any_body_comes_back(suite: Suite, body: bytes, kind: Kind) -> None:
    assert open_layer(opener(suite), sealer(suite).seal(kind, body)) == (kind, body)


@BOTH
def test_the_same_body_never_gives_the_same_layer(suite: Suite) -> None:
    ours = sealer(suite)
    assert len({ours.seal(Kind.DELIVER, bytes(64)) for _ in range(500)}) == 500


@BOTH
def test_a_wrong_key_is_refused(suite: Suite) -> None:
    layer = sealer(suite).seal(Kind.DELIVER, b"body")
    used = 32 if suite is Suite.FERNET else 16
    for at in range(used):
        refused(suite, layer, key=flip(KEY, at))


@BOTH
def test_a_flipped_bit_at_every_position_is_refused(suite: Suite) -> None:
    layer = sealer(suite).seal(Kind.DELIVER, b"some messages")
    for at in range(len(layer)):
        for bit in range(8):
            refused(suite, flip(layer, at, bit))


@BOTH
def test_a_flipped_bit_in_a_large_layer_is_refused(suite: Suite) -> None:
    layer = sealer(suite).seal(Kind.FORWARD, bytes(15_865))
    for changed in flips(layer, Random(3), 300):
        refused(suite, changed)


@BOTH
def test_a_cut_or_longer_layer_is_refused(suite: Suite) -> None:
    layer = sealer(suite).seal(Kind.DELIVER, b"some messages of two blocks")
    for cut in range(len(layer)):
        refused(suite, layer[:cut])
        refused(suite, layer[cut + 1 :])
    for more in (b"\0", bytes(16), layer):
        refused(suite, layer + more)


@BOTH
def test_a_replay_at_once_is_refused(suite: Suite) -> None:
    ours = sealer(suite)
    first, second = ours.seal(Kind.DELIVER, b"1"), ours.seal(Kind.DELIVER, b"2")
    refused(suite, first, after=[first])
    refused(suite, first, after=[first, second])


@BOTH
def test_a_replay_after_20_000_layers_is_refused(suite: Suite) -> None:
    ours, theirs = sealer(suite), opener(suite)
    first = ours.seal(Kind.DELIVER, b"first")
    open_layer(theirs, first)
    for _ in range(20_000):
        open_layer(theirs, ours.seal(Kind.DELIVER, b"x"))
    with pytest.raises(AuthenticationFailed):
        open_layer(theirs, first)


@BOTH
def test_a_dropped_layer_is_noticed_at_the_next(suite: Suite) -> None:
    ours = sealer(suite)
    made = [ours.seal(Kind.DELIVER, b"x") for _ in range(4)]
    refused(suite, made[1])
    refused(suite, made[3], after=made[:2])


@BOTH
def test_reordered_layers_are_refused(suite: Suite) -> None:
    ours = sealer(suite)
    made = [ours.seal(Kind.DELIVER, b"x") for _ in range(3)]
    refused(suite, made[2], after=made[:1])


@BOTH
def test_a_run_is_wrapped_and_opened_as_one_after_another(suite: Suite) -> None:
    ours, theirs = sealer(suite), opener(suite)
    inside = [bytes([number]) * 100 * number for number in range(1, 6)]
    made = [ours.seal(Kind.FORWARD, inside[0]), *ours.wrap(inside[1:4]), ours.seal(Kind.FORWARD, inside[4])]
    assert [len(layer) for layer in made] == [len(sealer(suite).seal(Kind.FORWARD, body)) for body in inside]
    (first, begin), (second, rest) = theirs.open(made[:2]), theirs.open(made[2:])
    assert first + second == [Kind.FORWARD] * 5
    assert begin + rest == inside


@BOTH
@pytest.mark.parametrize("at", range(3))
def test_a_changed_dropped_or_reordered_layer_in_a_run_is_refused(suite: Suite, at: int) -> None:
    made = sealer(suite).wrap([b"1", b"2", b"3", b"4"])
    for wrong in (
        [*made[:at], flip(made[at], 5), *made[at + 1 :]],
        [*made[:at], *made[at + 1 :]],
        [*made[:at], made[at + 1], made[at], *made[at + 2 :]],
        [*made[: at + 1], *made[at:]],
    ):
        with pytest.raises(AuthenticationFailed):
            opener(suite).open(wrong)


@BOTH
def test_a_layer_of_the_other_direction_is_refused(suite: Suite) -> None:
    """Directions have keys of their own, so what a hop sealed cannot be sent back to it."""
    refused(suite, sealer(suite, b"f" * 32).seal(Kind.DELIVER, b"x"), key=b"b" * 32)


@BOTH
def test_an_unknown_kind_is_refused(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers._KIND_BYTES, 2, b"\2")  # type: ignore[misc]
    for kind in (2, 255):
        monkeypatch.setitem(layers._KIND_BYTES, kind, bytes([kind]))  # type: ignore[misc]
        refused(suite, sealer(suite).seal(kind, b"x"))  # type: ignore[arg-type]


@BOTH
def test_a_used_up_counter_ends_the_circuit(suite: Suite) -> None:
    ours: Any = sealer(suite)
    theirs: Any = opener(suite)
    ours._counter = theirs.opened = 2**32 - 1
    assert open_layer(theirs, ours.seal(Kind.DELIVER, b"the last")) == (Kind.DELIVER, b"the last")
    with pytest.raises(TooLarge):
        ours.seal(Kind.DELIVER, b"one too many")
    ours._counter = theirs.opened = 2**32 - 2
    assert len(theirs.open(ours.wrap([b"the last", b"two"]))) == 2
    ours._counter = 2**32 - 1
    with pytest.raises(TooLarge):
        ours.wrap([b"the last", b"one too many"])
    ours._counter, theirs.opened = 0, 2**32
    with pytest.raises(AuthenticationFailed):
        open_layer(theirs, ours.seal(Kind.DELIVER, b"from the start"))


def test_a_layer_beyond_the_last_counter_is_refused_though_it_is_sealed_well() -> None:
    theirs: Any = opener(Suite.AES_GCM)
    theirs.opened = 2**32
    layer = AESGCM(KEY[:16]).encrypt((2**32).to_bytes(12, "big"), b"\1body", None)
    with pytest.raises(AuthenticationFailed):
        open_layer(theirs, layer)


@BOTH
def test_eight_hops_of_the_largest_body_fit_a_cell(suite: Suite) -> None:
    layer = sealer(suite).seal(Kind.DELIVER, bytes(SUITES[suite].max_messages))
    for hop in range(1, MAX_HOPS):
        thicker = sealer(suite, bytes([hop]) * 32).seal(Kind.FORWARD, layer)
        assert len(thicker) - len(layer) == (64 if suite is Suite.FERNET else 17)
        layer = thicker
    assert len(layer) == MAX_BODY == 16_377


@BOTH
def test_one_byte_more_would_not_fit(suite: Suite) -> None:
    layer = sealer(suite).seal(Kind.DELIVER, bytes(SUITES[suite].max_messages + 1))
    for _ in range(1, MAX_HOPS):
        layer = sealer(suite).seal(Kind.FORWARD, layer)
    assert len(layer) > MAX_BODY


# ---- Fernet alone

FERNET_KEY = base64.urlsafe_b64encode(KEY)
VECTOR_HEADER = bytes.fromhex("80000000001dc09eb0")  # version and timestamp of generate.json and verify.json


def as_token(layer: bytes) -> bytes:
    return base64.urlsafe_b64encode(layer)


def vectors(name: str) -> list[dict[str, Any]]:
    with open_vector_file(f"fernet/{name}.json", "r") as file:
        loaded: list[dict[str, Any]] = json.load(file)
    assert loaded
    return loaded


def raw(token: str) -> bytes:
    """The token without base64; where it is no base64, its characters: a layer knows no other form."""
    try:
        return base64.urlsafe_b64decode(token)
    except binascii.Error:
        return token.encode()


def chosen_iv(key: bytes, iv: bytes) -> Callable[[int], bytes]:
    """Entropy from which a sealer makes this IV for its first layer: it encrypts the block it is given."""
    decryptor = Cipher(AES(key[16:]), ECB()).decryptor()
    block = decryptor.update(iv)
    return lambda count: block[:count]


@pytest.fixture
def plain_fernet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away what a layer adds to Fernet: the plaintext's head, and the timestamp of 0 for the vectors'."""
    headless = SimpleNamespace(
        size=0, pack=lambda _counter, _kind, _zero: b"", unpack_from=lambda _plain, _at: (0, Kind.FORWARD, 0)
    )
    monkeypatch.setattr(layers, "_PLAIN_HEAD", headless)
    monkeypatch.setattr(layers, "_FERNET_HEAD", VECTOR_HEADER)


@given(st.binary(max_size=300), st.sampled_from(Kind))
@PATIENT
def test_with_base64_a_layer_is_a_fernet_token(body: bytes, kind: Kind) -> None:
    ours = FernetSealer(KEY)
    for counter in range(3):
        plain = Fernet(FERNET_KEY).decrypt(as_token(ours.seal(kind, body)))
        assert plain == counter.to_bytes(4, "big") + bytes([kind, 0]) + body


def test_the_timestamp_of_a_layer_is_0() -> None:
    """A real one would show each relay the client's clock."""
    ours = FernetSealer(KEY)
    for _ in range(3):
        layer = ours.seal(Kind.DELIVER, b"x")
        assert layer[:9] == b"\x80" + bytes(8)
        assert Fernet(FERNET_KEY).extract_timestamp(as_token(layer)) == 0


def test_what_fernet_seals_with_our_head_our_opener_opens() -> None:
    token = Fernet(FERNET_KEY).encrypt_at_time(bytes([0, 0, 0, 0, 1, 0]) + b"body", 0)
    assert open_layer(FernetOpener(KEY), base64.urlsafe_b64decode(token)) == (Kind.DELIVER, b"body")


@pytest.mark.parametrize("timestamp", [1, 499_162_800, 2**32, 2**63])
def test_a_timestamp_other_than_0_is_refused(timestamp: int) -> None:
    token = Fernet(FERNET_KEY).encrypt_at_time(bytes([0, 0, 0, 0, 1, 0]) + b"body", timestamp)
    refused(Suite.FERNET, base64.urlsafe_b64decode(token))


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes([0, 0, 0, 0, 1]), id="short head"),
        pytest.param(bytes([0, 0, 0, 0, 1, 1]) + b"x", id="zero is not zero"),
        pytest.param(bytes([0, 0, 0, 0, 2, 0]) + b"x", id="unknown kind"),
        pytest.param(bytes([0, 0, 0, 1, 1, 0]) + b"x", id="counter ahead"),
        pytest.param(bytes([255, 255, 255, 255, 1, 0]) + b"x", id="counter behind"),
    ],
)
def test_a_valid_token_that_is_no_layer_is_refused(plain: bytes) -> None:
    refused(Suite.FERNET, base64.urlsafe_b64decode(Fernet(FERNET_KEY).encrypt_at_time(plain, 0)))


def signed(data: bytes) -> bytes:
    """What a hostile client can make, who holds the key: anything at all, with a right signature."""
    return data + hmac.digest(KEY[:16], data, "sha256")


def encrypted(blocks: bytes) -> bytes:
    """Version, zero timestamp, zero IV and the blocks in CBC, with whatever padding they bring."""
    encryptor = Cipher(AES(KEY[16:]), CBC(bytes(16))).encryptor()
    return signed(b"\x80" + bytes(8) + bytes(16) + encryptor.update(blocks))


HEAD = bytes([0, 0, 0, 0, 1, 0])


def test_the_bench_for_signed_nonsense_makes_layers() -> None:
    assert open_layer(FernetOpener(KEY), encrypted(HEAD + b"x" * 8 + b"\2\2")) == (Kind.DELIVER, b"x" * 8)


@pytest.mark.parametrize("padding", [b"\0", b"\x11", b"\xff", b"\1\2", b"\0\0\3", b"\2\3\3", b"\3\2\3"])
def test_padding_that_is_not_pkcs7_is_refused_though_signed(padding: bytes) -> None:
    refused(Suite.FERNET, encrypted((HEAD + b"x" * 26)[: 32 - len(padding)] + padding))


@pytest.mark.parametrize("size", range(42))
def test_a_layer_without_ciphertext_is_refused_though_signed(size: int) -> None:
    refused(Suite.FERNET, signed((b"\x80" + bytes(41))[:size]))


@pytest.mark.parametrize("head", [b"\x81" + bytes(8), b"\x00" + bytes(8), b"\x80" + bytes(7) + b"\1"])
def test_a_wrong_version_or_time_is_refused_though_signed(head: bytes) -> None:
    layer = FernetSealer(KEY).seal(Kind.DELIVER, b"x")
    assert signed(layer[:-32]) == layer
    refused(Suite.FERNET, signed(head + layer[9:-32]))


def test_every_iv_is_new_although_one_context_makes_them_all() -> None:
    ours = FernetSealer(KEY)
    assert len({ours.seal(Kind.DELIVER, b"x")[9:25] for _ in range(2_000)}) == 2_000


def test_repeated_entropy_still_gives_new_ivs() -> None:
    """The chain runs on through all layers, so even a stuck source does not repeat an IV at once."""
    ours = FernetSealer(KEY, entropy=bytes)
    assert len({ours.seal(Kind.DELIVER, bytes(100))[9:25] for _ in range(100)}) == 100


@pytest.mark.parametrize("vector", vectors("generate"), ids=lambda vector: str(vector["src"]))
@pytest.mark.usefixtures("plain_fernet")
def test_official_vector_generate(vector: dict[str, Any]) -> None:
    key = base64.urlsafe_b64decode(vector["secret"])
    ours = FernetSealer(key, chosen_iv(key, bytes(vector["iv"])))
    assert as_token(ours.seal(Kind.FORWARD, vector["src"].encode())).decode() == vector["token"]


@pytest.mark.parametrize("vector", vectors("verify"), ids=lambda vector: str(vector["src"]))
@pytest.mark.usefixtures("plain_fernet")
def test_official_vector_verify(vector: dict[str, Any]) -> None:
    key, token = base64.urlsafe_b64decode(vector["secret"]), base64.urlsafe_b64decode(vector["token"])
    assert open_layer(FernetOpener(key), token) == (Kind.FORWARD, vector["src"].encode())


@pytest.mark.parametrize("vector", vectors("verify") + vectors("generate"), ids=lambda vector: str(vector["now"]))
def test_official_vectors_as_they_are_have_a_time_and_are_no_layers(vector: dict[str, Any]) -> None:
    refused(
        Suite.FERNET, base64.urlsafe_b64decode(vector["token"]), key=base64.urlsafe_b64decode(vector["secret"])
    )


@pytest.mark.parametrize("vector", vectors("invalid"), ids=lambda vector: str(vector["desc"]))
def test_official_vector_invalid(vector: dict[str, Any]) -> None:
    refused(Suite.FERNET, raw(vector["token"]), key=base64.urlsafe_b64decode(vector["secret"]))


TIMELESS = [vector for vector in vectors("invalid") if "TS" not in vector["desc"] and "TTL" not in vector["desc"]]


@pytest.mark.parametrize("vector", TIMELESS, ids=lambda vector: str(vector["desc"]))
def test_official_vector_invalid_for_its_own_reason(
    vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the timestamp allowed, what is wrong with the token is still found."""
    token = raw(vector["token"])
    monkeypatch.setattr(layers, "_FERNET_HEAD", token[:9])
    refused(Suite.FERNET, token, key=base64.urlsafe_b64decode(vector["secret"]))
