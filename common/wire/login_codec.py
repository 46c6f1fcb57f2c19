"""The login server's messages to frames and back: a table of how each field is read, with its limit."""

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from typing import Any

from common.errors import Malformed
from common.wire.frames import encode_frame
from common.wire.login import (
    KEY_SIZE,
    MAX_DEVICE,
    MAX_FRAME,
    MAX_IDS,
    MAX_ITERATIONS,
    MAX_PAGE,
    MAX_RAW_NAME,
    MAX_SCRAM,
    MAX_SESSION,
    MAX_SESSIONS,
    MAX_TEXT,
    SALT_SIZE,
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
from common.wire.strict_json import Fields, decode_json, encode_base64, encode_json

_MAX_ID = 2**53 - 1  # what every reader of JSON holds exactly
_MAX_TIME = 2**40  # seconds since 1970

_Read = Callable[[Fields, str], Any]


def _text(limit: int) -> _Read:
    return lambda given, name: given.text(name, limit)


def _unicode(limit: int) -> _Read:
    return lambda given, name: given.unicode(name, limit)


def _binary(lowest: int, highest: int) -> _Read:
    def read(given: Fields, name: str) -> bytes:
        value = given.binary(name, highest)
        if not lowest <= len(value) <= highest:  # base64 is read by the three bytes
            raise Malformed(f"{name} has another size")
        return value

    return read


def _integer(highest: int) -> _Read:
    return lambda given, name: given.integer(name, 0, highest)


def _code(kind: type[StrEnum]) -> _Read:
    def read(given: Fields, name: str) -> StrEnum:
        try:
            return kind(given.text(name, 32))
        except ValueError:
            raise Malformed(f"{name} is no known code") from None

    return read


def _ids(given: Fields, name: str) -> tuple[int, ...]:
    items = given.items(name, MAX_IDS)
    return tuple(Fields({"id": item}, name, ("id",)).integer("id", 0, _MAX_ID) for item in items)


def _records(kind: type[Mail] | type[Session], limit: int) -> _Read:
    spec = _RECORDS[kind]

    def read(given: Fields, name: str) -> tuple[Any, ...]:
        return tuple(_build(kind, spec, item, name) for item in given.items(name, limit))

    return read


_boolean: _Read = Fields.boolean
_name = _unicode(MAX_RAW_NAME)
_verifier: dict[str, _Read] = {
    "salt": _binary(SALT_SIZE, SALT_SIZE),
    "iterations": _integer(MAX_ITERATIONS),
    "stored_key": _binary(KEY_SIZE, KEY_SIZE),
    "server_key": _binary(KEY_SIZE, KEY_SIZE),
}
_RECORDS: dict[type[Mail] | type[Session], dict[str, _Read]] = {
    Mail: {"id": _integer(_MAX_ID), "sender": _name, "at": _integer(_MAX_TIME), "text": _unicode(MAX_TEXT)},
    Session: {
        "id": _text(MAX_SESSION),
        "since": _integer(_MAX_TIME),
        "seen": _integer(_MAX_TIME),
        "here": _boolean,
    },
}

# How each field of each message is read, with its limit.
_SPECS: dict[type[Message], dict[str, _Read]] = {
    Hello: {"version": _integer(2**16 - 1)},
    SignUp: {"name": _name, **_verifier},
    Scram: {"data": _binary(1, MAX_SCRAM), "device": _binary(0, MAX_DEVICE)},
    Proof: {"data": _binary(1, MAX_SCRAM)},
    WhoAmI: {},
    Send: {"to": _name, "text": _unicode(MAX_FRAME)},  # a text beyond MAX_TEXT has an answer of its own
    Inbox: {"after": _integer(_MAX_ID)},
    Read: {"ids": _ids},
    Rekey: {**_verifier, "keep": _boolean},
    Delete: {},
    Sessions: {},
    LogOut: {"session": _text(MAX_SESSION)},
    Ping: {},
    Welcome: {
        "version": _integer(2**16 - 1),
        "iterations": _integer(MAX_ITERATIONS),
        "max_text": _integer(MAX_FRAME),
        "max_stored": _integer(2**31 - 1),
    },
    Ok: {},
    Challenge: {"data": _binary(1, MAX_SCRAM)},
    Done: {
        "data": _binary(1, MAX_SCRAM),
        "session": _text(MAX_SESSION),
        "device": _binary(0, MAX_DEVICE),
        "unread": _integer(2**31 - 1),
        "iterations": _integer(MAX_ITERATIONS),
    },
    You: {"name": _name, "since": _integer(_MAX_TIME), "session": _text(MAX_SESSION)},
    Sent: {"id": _integer(_MAX_ID)},
    MailList: {"mail": _records(Mail, MAX_PAGE), "more": _boolean},
    SessionList: {"sessions": _records(Session, MAX_SESSIONS)},
    Pong: {},
    Error: {"code": _code(ErrorCode), "wait": _integer(2**31 - 1)},
    NewMail: {"unread": _integer(2**31 - 1), "newest": _name},
    Ended: {"reason": _code(EndedReason)},
}
_TYPES: dict[str, type[Message]] = {kind.type: kind for kind in _SPECS}


def encode(message: Message) -> bytes:
    """The frame of a message."""
    return encode_frame(encode_json({"type": message.type, **_members(message)}))


def decode(body: bytes) -> Message:
    """The message in a frame's body; raises `Malformed`."""
    value = decode_json(body)
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or name not in _TYPES:
        raise Malformed("no known message type")
    members = {key: member for key, member in value.items() if key != "type"}
    kind = _TYPES[name]
    message: Message = _build(kind, _SPECS[kind], members, name)
    return message


def encoded_size(mail: Mail) -> int:
    """The bytes that one text takes in a `MailList`, its comma included."""
    return len(encode_json(_members(mail))) + 1


def _members(record: Message | Mail | Session) -> dict[str, object]:
    return {each.name: _plain(getattr(record, each.name)) for each in fields(record)}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return encode_base64(value)
    if isinstance(value, tuple):
        return [_members(item) if isinstance(item, Mail | Session) else item for item in value]
    return value


def _build(kind: Callable[..., Any], spec: dict[str, _Read], value: object, what: str) -> Any:
    given = Fields(value, what, spec)
    return kind(**{name: read(given, name) for name, read in spec.items()})
