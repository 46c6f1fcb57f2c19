"""The directory's parsers under arbitrary bytes: a message comes out, or one of our errors, and nothing else."""

import json
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.crypto.signing import Envelope
from common.directory.addresses import parse_address
from common.directory.descriptor import Descriptor, removal_proof, verify_descriptor, verify_proof
from common.directory.document import DirectoryDocument
from common.directory.exit_policy import ExitPolicy
from common.directory.registry import Registry
from common.directory.registry_actions import Action, CheckAddress, RegistrationRefused
from common.errors import Malformed, NotEnoughSignatures, ProtocolError, TooLarge
from common.roles.gateway_link import (
    Document,
    Error,
    Hello,
    List,
    Message,
    Ok,
    Ping,
    Pong,
    Register,
    Unchanged,
    Unregister,
    Welcome,
    compress,
    decode,
    decompress,
    encode,
)
from common.wire.frames import FrameReader
from tests.helpers import feed_three_ways
from tests.unit.directory.relays import NETWORK, NOW, FakeRelay, make_document

RELAYS = [FakeRelay(number) for number in range(3)]
SEEDS = [
    RELAYS[0].envelope(),
    RELAYS[0].plain.encode(),
    make_document(*RELAYS).encode(),
    encode(Register(RELAYS[0].envelope(), b"proof"))[4:],
    encode(Welcome(1, NETWORK, bytes(32), 5_000))[4:],
]
MESSAGES: list[Message] = [
    Hello(1, NETWORK, "client"),
    Welcome(1, NETWORK, bytes(range(32)), 5_000),
    Register(RELAYS[0].envelope(), b"proof"),
    Unregister(b"proof"),
    List(b""),
    List(bytes(32)),
    Ping(0),
    Pong(2**63 - 1),
    Ok(),
    Error("code", "A sentence."),
    Document(b"x" * 1_000),
    Unchanged(),
]

# A busy machine is slow, and Hypothesis builds its tables of characters inside the first test.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def almost_right(draw: st.DrawFn) -> bytes:
    """A real document with one member replaced, or with bytes overwritten, or arbitrary bytes."""
    seed = draw(st.sampled_from(SEEDS))
    how = draw(st.integers(0, 2))
    if how == 0:
        return draw(st.binary(max_size=300))
    if how == 1:
        at = draw(st.integers(0, len(seed)))
        return seed[:at] + draw(st.binary(max_size=8)) + seed[at + draw(st.integers(0, 8)) :]
    members = json.loads(seed)
    members[draw(st.sampled_from(sorted(members)))] = draw(json_values)
    return json.dumps(members).encode()


@PATIENT
@given(almost_right())
def test_only_our_errors_come_out_of_the_parsers(data: bytes) -> None:
    expected = removal_proof(NETWORK, bytes(32), bytes(32))
    for parse in (
        lambda: Envelope.decode(data, 5_000),
        lambda: verify_descriptor(data),
        lambda: verify_proof(data, expected),
        lambda: Descriptor.decode(data),
        lambda: DirectoryDocument.decode(data),
        lambda: decode(data),
        lambda: decompress(data, 1_000),
        lambda: parse_address(data.decode("latin-1")),
        lambda: ExitPolicy.parse(data.decode("latin-1")),
        lambda: FrameReader(1_000).feed(data),
    ):
        try:
            parse()
        except (ProtocolError, NotEnoughSignatures):
            pass


@PATIENT
@given(
    st.text(max_size=60) | st.from_regex(r"(accept|reject) [*0-9a-f:./\[\]]{1,20}:[-0-9*]{1,8}", fullmatch=True)
)
def test_a_policy_that_is_taken_can_be_written_and_read(text: str) -> None:
    try:
        policy = ExitPolicy.parse(text)
    except Malformed:
        return
    assert ExitPolicy.parse(str(policy)) == policy


@PATIENT
@given(st.from_regex(r"[\[\]0-9a-zA-Z.:_-]{1,40}:[0-9]{1,6}", fullmatch=True))
def test_an_address_that_is_taken_can_be_written_and_read(text: str) -> None:
    try:
        address = parse_address(text)
    except Malformed:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire_however_it_is_cut(message: Message) -> None:
    frame = encode(message)
    assert decode(frame[4:]) == message
    feed_three_ways(lambda: FrameReader(65_536).feed, frame * 2, [frame[4:]] * 2, trailing=frame[:5])


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    reader = FrameReader(1_000)
    assert reader.feed((1_000).to_bytes(4, "big")) == []
    with pytest.raises(TooLarge):
        FrameReader(1_000).feed((1_001).to_bytes(4, "big"))


def test_a_document_that_unpacks_to_too_much_is_refused() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    assert len(bomb) < 50_000
    with pytest.raises(TooLarge):
        decompress(bomb, 1_000_000)
    assert decompress(compress(b"x" * 1_000), 1_000) == b"x" * 1_000
    for wrong in (b"", bomb[:-1], compress(b"x") + b"y"):
        with pytest.raises(ProtocolError):
            decompress(wrong, 60_000_000)


operations = st.tuples(
    st.sampled_from(["register", "checked", "failed", "closed", "silent", "answered", "unregister", "due"]),
    st.integers(0, 2),  # relay
    st.integers(1, 4),  # session
    st.integers(0, 3),  # published and time
)


@PATIENT
@given(st.lists(operations, max_size=40))
def test_a_registry_keeps_its_promises_whatever_happens(steps: list[tuple[str, int, int, int]]) -> None:
    registry, serial = Registry(NETWORK, 1), 1
    checks: list[CheckAddress] = []
    for name, number, session, later in steps:
        relay, now = RELAYS[number], NOW + later
        before = registry.document(NOW).relays
        actions: list[Action] = []
        try:
            match name:
                case "register":
                    changes: dict[str, object] = {"published": now, "nickname": f"same{number % 2}"}
                    actions += registry.register(
                        session, relay.describe(**changes), relay.envelope(**changes), now
                    )
                case "checked" | "failed" if checks:
                    actions += registry.checked(checks.pop(), None if name == "checked" else "no answer", now)
                case "closed":
                    actions += registry.closed(session, now)
                case "silent":
                    actions += registry.silent(session, now)
                case "answered":
                    actions += registry.answered(session, 0.01, now)
                case "unregister":
                    actions += registry.unregister(relay.identity, now)
                case "due":
                    actions += registry.due_checks(now + 1_000)
        except RegistrationRefused:
            assert registry.document(NOW).relays == before
        checks += [action for action in actions if isinstance(action, CheckAddress)]
        after = registry.document(NOW)
        DirectoryDocument.decode(after.encode())  # no identity or nickname twice, every descriptor verifies
        changed = [entry.envelope for entry in after.relays] != [entry.envelope for entry in before]
        assert after.serial > serial if changed else after.serial >= serial
        serial = after.serial
