"""The SOCKS handshake as a script: bytes received, steps expected, whatever the cut."""

import pytest

from common.errors import EndReason, Malformed
from common.wire.socks import (
    Credentials,
    Fail,
    Handshake,
    ProxyCommand,
    Reply4,
    Reply5,
    Request,
    Send,
    Step,
    reply4,
    reply5,
    same_credentials,
)

HELLO = b"\x05\x01\x00"
NO_AUTH = Send(b"\x05\x00")
CONNECT = ProxyCommand.CONNECT
LONGEST = "n" * 255


def named(host: bytes, port: int = 443, command: int = 1) -> bytes:
    return bytes([5, command, 0, 3, len(host)]) + host + port.to_bytes(2, "big")


def request5(host: str, port: int, command: ProxyCommand = CONNECT, literal: bool = False, rest: bytes = b"") -> Request:
    return Request(command, host, port, None, literal, rest)


def three_ways(data: bytes, expected: list[Step], required: Credentials | None = None) -> None:
    """Whole, byte by byte, and (after a request) with trailing bytes: the same steps."""
    assert Handshake(required).receive(data) == expected
    handshake = Handshake(required)
    steps = []
    for byte in data:
        steps += handshake.receive(bytes([byte]))
        if steps and not isinstance(steps[-1], Send):
            break
    assert steps == expected
    last = expected[-1] if expected else None
    if isinstance(last, Request):
        trailing = Handshake(required).receive(data + b"\x16\x03\x00 early")
        assert trailing[:-1] == expected[:-1]
        assert isinstance(trailing[-1], Request)
        assert trailing[-1].rest == b"\x16\x03\x00 early"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (named(b"example.org"), request5("example.org", 443)),
        (named(b"xn--bcher-kva.example", 80), request5("xn--bcher-kva.example", 80)),
        (named(LONGEST.encode(), 65_535), request5(LONGEST, 65_535)),
        (named(b"192.0.2.7"), request5("192.0.2.7", 443, literal=True)),
        (b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x16", request5("192.0.2.7", 22, literal=True)),
        (b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x16", request5("::1", 22, literal=True)),
        (named(b"example.org", 0, 0xF0), request5("example.org", 0, ProxyCommand.RESOLVE)),
        (b"\x05\xf1\x00\x01\xc0\x00\x02\x07\0\0", request5("192.0.2.7", 0, ProxyCommand.RESOLVE_PTR, literal=True)),
        (named(b"example.org", 0, 3), request5("example.org", 0, ProxyCommand.UDP_ASSOCIATE)),
        (named(b"example.org", 0, 2), request5("example.org", 0, ProxyCommand.BIND)),
    ],
)
def test_socks5_requests(message: bytes, expected: Request) -> None:
    three_ways(HELLO + message, [NO_AUTH, expected])


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (named(b"example.org", 0), Reply5.FAILURE),
        (named(b""), Reply5.FAILURE),
        (named(b"a\x00b"), Reply5.FAILURE),
        (named("bücher".encode()), Reply5.FAILURE),
        (named(b"two words"), Reply5.FAILURE),
        (named(b"example.org", 80, 9), Reply5.COMMAND_NOT_SUPPORTED),
        (named(b"example.org", 0, 0xF1), Reply5.ADDRESS_NOT_SUPPORTED),
        (b"\x05\x01\x00\x02abcd", Reply5.ADDRESS_NOT_SUPPORTED),
        (b"\x04\x01\x00\x01abcd", Reply5.FAILURE),
    ],
)
def test_socks5_requests_that_cannot_be(message: bytes, code: Reply5) -> None:
    steps = Handshake().receive(HELLO + message)
    assert isinstance(steps[-1], Fail)
    assert steps[-1].data == reply5(code)
    three_ways(HELLO + message, steps)


def test_credentials_are_preferred_because_they_isolate() -> None:
    data = b"\x05\x02\x00\x02" + b"\x01\x05alice\x03tab" + named(b"example.org")
    accepted: list[Step] = [Send(b"\x05\x02"), Send(b"\x01\x00")]
    three_ways(data, [*accepted, Request(CONNECT, "example.org", 443, ("alice", "tab"), False, b"")])


def test_empty_and_binary_credentials_stay_distinct() -> None:
    def isolation(user: bytes) -> Credentials | None:
        data = b"\x05\x01\x02\x01" + bytes([len(user)]) + user + b"\x00" + named(b"example.org")
        last = Handshake().receive(data)[-1]
        assert isinstance(last, Request)
        return last.isolation

    assert isolation(b"") == ("", "")
    assert len({isolation(user) for user in (b"\xff", b"\xfe", b"\xc3\xbf", b"?")}) == 4


def test_required_credentials() -> None:
    required = ("alice", "sécret")
    secret = "sécret".encode()
    good = b"\x05\x02\x00\x02" + b"\x01\x05alice" + bytes([len(secret)]) + secret
    assert Handshake(required).receive(good) == [Send(b"\x05\x02"), Send(b"\x01\x00")]
    three_ways(b"\x05\x01\x02\x01\x05alice\x01x", [Send(b"\x05\x02"), Fail(b"\x01\x01", "wrong user or password")], required)
    three_ways(HELLO, [Fail(b"\x05\xff", "no authentication method in common")], required)
    [step] = Handshake(required).receive(b"\x04\x01\x01\xbb\xc0\x00\x02\x07alice\x00")
    assert isinstance(step, Fail)
    assert step.data == reply4(Reply4.USER_MISMATCH)


def test_comparing_credentials() -> None:
    assert same_credentials(("a", "b"), ("a", "b"))
    assert not same_credentials(("a", "x"), ("a", "b"))
    assert not same_credentials(("x", "b"), ("a", "b"))
    assert not same_credentials(None, ("", ""))


def test_no_method_in_common() -> None:
    three_ways(b"\x05\x01\x01", [Fail(b"\x05\xff", "no authentication method in common")])
    three_ways(b"\x05\x00", [Fail(b"\x05\xff", "no authentication method in common")])


def test_a_bad_password_message() -> None:
    three_ways(b"\x05\x01\x02\x05", [Send(b"\x05\x02"), Fail(b"\x01\x01", "not an RFC 1929 message")])


def test_neither_version() -> None:
    three_ways(b"\x16\x03\x01", [Fail(b"", "neither SOCKS4 nor SOCKS5")])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x04\x01\x01\xbb\xc0\x00\x02\x07\x00", Request(CONNECT, "192.0.2.7", 443, None, True, b"")),
        (b"\x04\x01\x01\xbb\xc0\x00\x02\x07bob\x00", Request(CONNECT, "192.0.2.7", 443, ("bob", ""), True, b"")),
        (
            b"\x04\x01\x00\x50\x00\x00\x00\x01bob\x00example.org\x00",
            Request(CONNECT, "example.org", 80, ("bob", ""), False, b""),
        ),
        (
            b"\x04\xf0\x00\x00\x00\x00\x00\x01\x00" + LONGEST.encode() + b"\x00",
            Request(ProxyCommand.RESOLVE, LONGEST, 0, None, False, b""),
        ),
    ],
)
def test_socks4_requests(data: bytes, expected: Request) -> None:
    three_ways(data, [expected])


@pytest.mark.parametrize(
    "data",
    [
        b"\x04\x01\x00\x00\xc0\x00\x02\x07\x00",  # port 0
        b"\x04\x03\x00\x50\xc0\x00\x02\x07\x00",  # UDP is not in SOCKS4
        b"\x04\x07\x00\x50\xc0\x00\x02\x07\x00",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",  # an empty name
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\xff\x00",
        b"\x04\x01\x00\x50\xc0\x00\x02\x07" + b"u" * 256,  # no end in sight
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + b"n" * 256,
    ],
)
def test_socks4_requests_that_cannot_be(data: bytes) -> None:
    [step] = Handshake().receive(data)
    assert isinstance(step, Fail)
    assert step.data[:2] == bytes([0, Reply4.REJECTED])
    three_ways(data, [step])


def test_optimistic_clients_send_everything_at_once() -> None:
    steps = Handshake().receive(HELLO + named(b"example.org") + b"GET / HTTP/1.1\r\n")
    assert steps == [NO_AUTH, request5("example.org", 443, rest=b"GET / HTTP/1.1\r\n")]


def test_replies() -> None:
    assert reply5(Reply5.SUCCEEDED) == b"\x05\x00\x00\x01" + bytes(6)
    assert reply5(Reply5.SUCCEEDED, ("192.0.2.7", 80)) == b"\x05\x00\x00\x01\xc0\x00\x02\x07\x00\x50"
    assert reply5(Reply5.SUCCEEDED, ("::1", 80)) == b"\x05\x00\x00\x04" + bytes(15) + b"\x01\x00\x50"
    assert reply5(Reply5.SUCCEEDED, ("example.org", 0)) == b"\x05\x00\x00\x03\x0bexample.org\x00\x00"
    assert reply4(Reply4.GRANTED, ("192.0.2.7", 80)) == b"\x00\x5a\x00\x50\xc0\x00\x02\x07"
    assert reply4(Reply4.GRANTED, ("::1", 80)) == b"\x00\x5a\x00\x50" + bytes(4)
    with pytest.raises(Malformed):
        reply5(Reply5.SUCCEEDED, ("", 0))


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (EndReason.REFUSED, 5),
        (EndReason.UNREACHABLE, 3),
        (EndReason.TIMEOUT, 6),
        (EndReason.NOT_FOUND, 4),
        (EndReason.POLICY, 2),
        (EndReason.RESET, 1),
        (EndReason.LIMIT, 1),
        (EndReason.INTERNAL, 1),
        (EndReason.CIRCUIT_CLOSED, 1),
        (EndReason.DONE, 1),
    ],
)
def test_refusals_in_each_version(reason: EndReason, code: int) -> None:
    five, four = Handshake(), Handshake()
    five.receive(HELLO + named(b"example.org"))
    four.receive(b"\x04\x01\x01\xbb\xc0\x00\x02\x07\x00")
    assert five.refused(reason) == bytes([5, code, 0, 1]) + bytes(6)
    assert four.refused(reason) == bytes([0, 0x5B, 0, code]) + bytes(4), "the port says what SOCKS5 would"
    assert five.unsupported()[1] == Reply5.COMMAND_NOT_SUPPORTED
    assert four.unsupported()[1] == Reply4.REJECTED
    assert five.granted(("::1", 7)) == reply5(Reply5.SUCCEEDED, ("::1", 7))
    assert four.granted() == reply4(Reply4.GRANTED)


@pytest.mark.parametrize("command", [2, 3])
def test_bind_and_udp_are_for_the_proxy_to_refuse(command: int) -> None:
    data = HELLO + bytes([5, command, 0, 1]) + bytes(6)
    handshake = Handshake()
    *_, step = handshake.receive(data)
    assert isinstance(step, Request)
    assert step.command is ProxyCommand(command)
    assert handshake.unsupported()[:2] == b"\x05\x07"


def test_a_name_is_no_answer_in_socks4() -> None:
    """So RESOLVE_PTR is refused there."""
    [step] = Handshake().receive(b"\x04\xf1\x00\x00\xc0\x00\x02\x07\x00")
    assert isinstance(step, Fail)
    assert step.data == bytes([0, Reply4.REJECTED, 0, Reply5.COMMAND_NOT_SUPPORTED]) + bytes(4)


def test_a_request_shows_no_credentials_and_no_bytes() -> None:
    text = repr(Request(CONNECT, "example.org", 80, ("alice", "sesame"), False, b"hidden"))
    assert "sesame" not in text
    assert "hidden" not in text
