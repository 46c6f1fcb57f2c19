"""The login server's messages: each survives the wire, and nothing else is let through."""

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Malformed
from common.wire import login
from common.wire.frames import FrameReader
from common.wire.login import (
    MAX_FRAME,
    MAX_IDS,
    MAX_PAGE,
    MAX_SCRAM,
    MAX_TEXT,
    Challenge,
    Delete,
    Done,
    Ended,
    EndedReason,
    Error,
    ErrorCode,
    Hello,
    Inbox,
    LogOut,
    Mail,
    MailList,
    Message,
    NewMail,
    Ok,
    Ping,
    Pong,
    Proof,
    Read,
    Rekey,
    Scram,
    Send,
    Sent,
    Session,
    SessionList,
    Sessions,
    SignUp,
    Welcome,
    WhoAmI,
    You,
)
from common.wire.login_codec import decode, encode, encoded_size

SALT, KEY = b"s" * 16, b"k" * 32
MAIL = Mail(7, "åsa", 1_700_000_000, "hello\n\N{SNOWMAN}")
EXAMPLES: list[Message] = [
    Hello(1),
    SignUp("åsa", SALT, 600_000, KEY, KEY),
    Scram(b"p=tls-server-end-point,,n=u,r=n", b"token"),
    Proof(b"c=...,r=n,p=..."),
    WhoAmI(),
    Send("bob", "hi"),
    Inbox(3),
    Read((1, 2)),
    Rekey(SALT, 600_000, KEY, KEY, True),
    Delete(),
    Sessions(),
    LogOut("0a0b"),
    Ping(),
    Welcome(1, 600_000, 4_096, 1_000),
    Ok(),
    Challenge(b"r=n,s=c2FsdA==,i=600000"),
    Done(b"v=...", "0a0b", b"token", 3, 600_000),
    You("åsa", 1_700_000_000, "0a0b"),
    Sent(7),
    MailList((MAIL,), False),
    SessionList((Session("0a0b", 1, 2, True),)),
    Pong(),
    Error(ErrorCode.SLOW_DOWN, 8),
    NewMail(3, "bob"),
    Ended(EndedReason.IDLE),
]


def body_of(message: Message) -> bytes:
    (body,) = FrameReader(MAX_FRAME).feed(encode(message))
    return body


def name_of(message: Message) -> str:
    return message.type


@pytest.mark.parametrize("message", EXAMPLES, ids=name_of)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert decode(body_of(message)) == message


def test_every_message_has_an_example() -> None:
    kinds = {kind for union in (login.Request, login.Answer, login.Push) for kind in union.__args__}
    assert {type(message) for message in EXAMPLES} == kinds


@pytest.mark.parametrize("message", EXAMPLES, ids=name_of)
def test_a_field_more_or_less_or_of_another_type_is_malformed(message: Message) -> None:
    members = json.loads(body_of(message))
    wrong: list[dict[str, object]] = [{**members, "extra": 1}]
    odd: tuple[object, ...] = (None, 1.5, {}, [None], -1)
    for name in members:
        wrong.append({key: value for key, value in members.items() if key != name})
        wrong += [{**members, name: value} for value in odd]
    for each in wrong:
        with pytest.raises(Malformed):
            decode(json.dumps(each).encode())


@pytest.mark.parametrize(
    "message",
    [
        Scram(b""),
        Scram(b"x" * (MAX_SCRAM + 1)),
        Scram(b"x", b"t" * 65),
        Proof(b""),
        SignUp("n", b"s" * 15, 600_000, KEY, KEY),
        SignUp("n", b"s" * 17, 600_000, KEY, KEY),
        SignUp("n", SALT, 600_000, KEY[1:], KEY),
        SignUp("n", SALT, 600_000, KEY, KEY + b"k"),
        SignUp("n", SALT, 2**31, KEY, KEY),
        SignUp("n" * 10_000, SALT, 600_000, KEY, KEY),
        SignUp("\ud800", SALT, 600_000, KEY, KEY),
        Send("bob", "half a pair \udc00"),
        Read(tuple(range(MAX_IDS + 1))),
        LogOut("x" * 33),
        LogOut("\x00"),
        MailList((MAIL,) * (MAX_PAGE + 1), False),
    ],
    ids=name_of,
)
def test_what_is_beyond_a_limit_is_malformed(message: Message) -> None:
    with pytest.raises(Malformed):
        decode(body_of(message))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"1", b'{"type":1}', b'{"type":"HELLO"}', b'{"type":"\xff"}'])
def test_what_is_no_message_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(body)


@given(st.binary(max_size=200))
def test_only_malformed_comes_out_of_noise(data: bytes) -> None:
    try:
        decode(data)
    except Malformed:
        pass


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(EXAMPLES), st.data())
def test_only_malformed_comes_out_of_a_message_with_odd_members(message: Message, data: st.DataObject) -> None:
    members = json.loads(body_of(message))
    name = data.draw(st.sampled_from(sorted(members)))
    members[name] = data.draw(json_values)
    try:
        decoded = decode(json.dumps(members).encode())
    except Malformed:
        return
    assert decode(body_of(decoded)) == decoded


def test_the_largest_text_fits_its_frame_however_json_writes_it() -> None:
    for char in ("\x01", "é", "\N{SNOWMAN}", "\N{SLEUTH OR SPY}", '"'):
        text = char * (MAX_TEXT // len(char.encode()))
        assert len(encode(Send("\N{SLEUTH OR SPY}" * 64, text))) <= MAX_FRAME
        assert encoded_size(Mail(2**53 - 1, "\N{SLEUTH OR SPY}" * 64, 2**40, text)) <= MAX_FRAME - 100


def test_a_size_counts_what_a_text_takes_in_a_page() -> None:
    one, two = (len(encode(MailList((MAIL,) * number, True))) for number in (1, 2))
    assert two - one == encoded_size(MAIL)


@pytest.mark.parametrize("message", EXAMPLES, ids=name_of)
def test_no_name_no_text_and_no_secret_is_in_a_repr(message: Message) -> None:
    harmless = {
        "version",
        "iterations",
        "after",
        "ids",
        "keep",
        "session",
        "max_text",
        "max_stored",
        "unread",
        "since",
    }
    harmless |= {"id", "more", "sessions", "code", "wait", "reason", "mail"}
    shown = {each.name for each in fields(message) if each.repr}
    assert shown <= harmless
    assert "hello" not in repr(message) and "åsa" not in repr(message)
