"""Every message: its exact bytes, back again, and nothing but it."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import EndReason, Malformed
from common.wire.messages import (
    CREATE_BODY,
    CREATED_BODY,
    HEADER,
    MAX_ANSWERS,
    Begin,
    BeginFlags,
    Connected,
    Data,
    Direction,
    Drop,
    End,
    Extend,
    Extended,
    Mark,
    Message,
    MessageCommand,
    Resolve,
    Resolved,
    Sendme,
    Sought,
    decode_messages,
    encode_data_header,
    only_data,
)
from tests.helpers import PATIENT

IPV4, IPV6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
EXAMPLES: list[tuple[Message, str]] = [
    (Begin(1, "a.example", 443), "01 0001 000d 00 01bb 09 612e6578616d706c65"),
    (Begin(0xFFFF, "::1", 65_535, BeginFlags.IPV6_ONLY), "01 ffff 0007 02 ffff 03 3a3a31"),
    (Connected(2, IPV4, 60), "02 0002 0009 04 c0000201 0000003c"),
    (Connected(2, IPV6, 2**32 - 1), "02 0002 0015 06 20010db8000000000000000000000001 ffffffff"),
    (Data(3, b"\0\xff"), "03 0003 0002 00ff"),
    (End(4, Direction.SENDING, EndReason.DONE), "04 0004 0002 00 00"),
    (End(4, Direction.BOTH, EndReason.CIRCUIT_CLOSED), "04 0004 0002 01 09"),
    (Sendme(5, 2**64 - 1), "05 0005 0008 ffffffffffffffff"),
    (Sendme(0, 1, b"p" * 16), "05 0000 0018 0000000000000001" + "70" * 16),
    (Extend("h", 9, b"i" * 32, b"c" * CREATE_BODY), "06 0000 0526 0009" + "69" * 32 + "63" * 1_282 + "01 68"),
    (Extended(b"d" * CREATED_BODY), "07 0000 0480" + "64" * 1_152),
    (Resolve(6, "b.example"), "08 0006 000b 00 09 622e6578616d706c65"),
    (Resolve(6, "192.0.2.1", Sought.NAME), "08 0006 000b 01 09 3139322e302e322e31"),
    (Resolved(6, EndReason.DONE, (), 5, "b.example"), "09 0006 0010 00 00000005 00 09 622e6578616d706c65"),
    (
        Resolved(6, EndReason.DONE, (IPV4, IPV6), 5),
        "09 0006 001c 00 00000005 02 04 c0000201 06 20010db8" + "00" * 11 + "01",
    ),
    (Resolved(6, EndReason.NOT_FOUND), "09 0006 0006 05 00000000 00"),
    (Drop(3), "0a 0000 0003 000000"),
    (Drop(0), "0a 0000 0000"),
    (Mark(), "0b 0000 0000"),
]
NAMES = [f"{message.command.name} {number}" for number, (message, _) in enumerate(EXAMPLES)]


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=NAMES)
def test_the_bytes_of_a_message(message: Message, expected: str) -> None:
    assert message.encode() == bytes.fromhex(expected)
    assert decode_messages(bytes.fromhex(expected)) == [message]


@pytest.mark.parametrize(("message", "_bytes"), EXAMPLES, ids=NAMES)
def test_truncated_or_trailing_is_malformed(message: Message, _bytes: str) -> None:
    whole = message.encode()
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            decode_messages(whole[:cut])
    for trailing in (b"\0", b"\x01", whole[:-1]):
        with pytest.raises(Malformed):
            decode_messages(whole + trailing)


@pytest.mark.parametrize(("message", "_bytes"), EXAMPLES, ids=NAMES)
def test_a_message_of_another_length_is_malformed(message: Message, _bytes: str) -> None:
    """The inner length lies, the outer one fits: fixed sizes must still hold. DATA and DROP have any size."""
    if isinstance(message, Data | Drop):
        return
    command, stream_id, _ = HEADER.unpack_from(message.encode())
    data = message.encode()[HEADER.size :]
    for changed in {data[:-1], data + b"\0", b""} - {data}:
        with pytest.raises(Malformed):
            decode_messages(HEADER.pack(command, stream_id, len(changed)) + changed)


def test_several_messages_share_a_body() -> None:
    messages = [message for message, _ in EXAMPLES]
    assert decode_messages(b"".join(message.encode() for message in messages)) == messages


def test_no_message_is_malformed() -> None:
    with pytest.raises(Malformed, match="no message"):
        decode_messages(b"")


@pytest.mark.parametrize("command", [0, 12, 127, 255])
def test_an_unknown_message_is_never_skipped(command: int) -> None:
    with pytest.raises(Malformed, match="unknown message"):
        decode_messages(EXAMPLES[0][0].encode() + HEADER.pack(command, 1, 0))


@pytest.mark.parametrize("command", list(MessageCommand))
def test_the_stream_id_must_fit_the_message(command: MessageCommand) -> None:
    C = MessageCommand
    of_circuit = command in (C.EXTEND, C.EXTENDED, C.DROP, C.MARK)
    wrong = 1 if of_circuit else 0
    example = next(message.encode() for message, _ in EXAMPLES if message.command is command)
    with pytest.raises(Malformed):
        decode_messages(example[:1] + wrong.to_bytes(2, "big") + example[3:])


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("01 0001 0005 00 0000 01 61", id="BEGIN port 0"),
        pytest.param("01 0001 0005 03 0001 01 61", id="BEGIN both flags"),
        pytest.param("01 0001 0005 80 0001 01 61", id="BEGIN unknown flag"),
        pytest.param("01 0001 0004 00 0001 00", id="BEGIN no host"),
        pytest.param("01 0001 0005 00 0001 01 00", id="BEGIN host NUL"),
        pytest.param("01 0001 0005 00 0001 02 61", id="BEGIN lying host length"),
        pytest.param("02 0001 0009 05 c0000201 00000000", id="CONNECTED version 5"),
        pytest.param("02 0001 0009 06 c0000201 00000000", id="CONNECTED lying version"),
        pytest.param("03 0001 0000", id="DATA empty"),
        pytest.param("03 0001 ffff 00", id="DATA lying length"),
        pytest.param("04 0001 0002 02 00", id="END direction"),
        pytest.param("04 0001 0002 00 0a", id="END reason"),
        pytest.param("05 0001 0018 0000000000000001" + "70" * 16, id="stream SENDME with proof"),
        pytest.param("05 0000 0008 0000000000000001", id="circuit SENDME without proof"),
        pytest.param("06 0000 0526 0000" + "69" * 32 + "63" * 1_282 + "01 68", id="EXTEND port 0"),
        pytest.param("08 0001 0001 00", id="RESOLVE no name"),
        pytest.param("08 0001 0003 02 01 61", id="RESOLVE for what"),
        pytest.param("08 0001 0003 01 01 61", id="RESOLVE the name of a name"),
        pytest.param("08 0001 000c 01 0a 3139322e302e322e3031", id="RESOLVE address with a leading zero"),
        pytest.param("08 0001 000b 01 07 666538303a3a31 2565", id="RESOLVE trailing"),
        pytest.param("08 0001 000b 01 09 666538303a3a312565", id="RESOLVE address with a zone"),
        pytest.param("09 0001 0008 00 00000000 00 01 00", id="RESOLVED NUL in the name"),
        pytest.param("09 0001 000d 00 00000000 01 04 c0000201 01 61", id="RESOLVED address and name"),
        pytest.param("09 0001 0006 0a 00000000 00", id="RESOLVED reason"),
        pytest.param("09 0001 0006 00 00000000 01", id="RESOLVED lying count"),
    ],
)
def test_malformed(raw: str) -> None:
    with pytest.raises(Malformed):
        decode_messages(bytes.fromhex(raw))


def test_a_resolved_has_a_bounded_number_of_addresses() -> None:
    most = Resolved(1, EndReason.DONE, (IPV6,) * MAX_ANSWERS, 0)
    assert decode_messages(most.encode()) == [most]
    with pytest.raises(Malformed, match="too many"):
        decode_messages(Resolved(1, EndReason.DONE, (IPV4,) * (MAX_ANSWERS + 1), 0).encode())


def test_the_data_header_is_the_head_of_data() -> None:
    assert encode_data_header(7, 3) + b"abc" == Data(7, b"abc").encode()


@given(st.integers(1, 0xFFFF), st.binary(min_size=1, max_size=3_000))
@PATIENT
def test_data_is_any_bytes(stream_id: int, data: bytes) -> None:
    assert decode_messages(Data(stream_id, data).encode()) == [Data(stream_id, data)]
    assert only_data(Data(stream_id, data).encode()) == (stream_id, data)


@pytest.mark.parametrize(("message", "expected"), EXAMPLES, ids=NAMES)
def test_only_data_is_nothing_but_one_data(message: Message, expected: str) -> None:
    body = bytes.fromhex(expected)
    assert only_data(body) == ((message.stream_id, message.data) if isinstance(message, Data) else None)
    assert only_data(body + Data(1, b"more").encode()) is None


@given(st.integers(2, 4), st.integers(0, 1), st.integers(0, 3), st.binary(max_size=3))
@PATIENT
def test_only_data_takes_nothing_that_is_malformed(command: int, stream_id: int, length: int, data: bytes) -> None:
    body = HEADER.pack(command, stream_id, length) + data
    found = only_data(body)
    if found is not None:
        assert decode_messages(body) == [Data(found[0], bytes(found[1]))]
    for cut in range(HEADER.size + 1):
        assert only_data(body[:cut]) is None


@pytest.mark.parametrize("size", [1, 1_000, 1_017, 1_018, 16_000])
def test_data_that_waits_holds_no_more_memory_than_it_is_counted_for(size: int) -> None:
    """A view keeps all that it is a view of, and is itself larger than what a short cell holds may be."""
    found = only_data(memoryview(Data(1, bytes(size)).encode()))
    assert found is not None
    assert found[1] == bytes(size)
    assert isinstance(found[1], bytes) or (size > 1_017 and found[1].obj.__sizeof__() < size + 100)
