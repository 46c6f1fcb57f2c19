"""HTTP CONNECT as a script: bytes received, the step expected, whatever the cut."""

import base64

import pytest

from common.errors import EndReason
from common.wire.http_connect import MAX_HEAD, PAGE, HttpHandshake, detect
from common.wire.socks import Credentials, Fail, Protocol, ProxyCommand, Request, Step


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([line, *fields]).encode("latin-1") + b"\r\n\r\n"


def basic(credentials: str) -> str:
    return "Proxy-Authorization: Basic " + base64.b64encode(credentials.encode()).decode()


def three_ways(data: bytes, expected: Step, required: Credentials | None = None) -> None:
    """Whole, byte by byte, and (after a request) with trailing bytes: the same step."""
    assert HttpHandshake(required).receive(data) == [expected]
    handshake = HttpHandshake(required)
    steps: list[Step] = []
    for byte in data:
        assert not steps, "a step came before the end"
        steps = handshake.receive(bytes([byte]))
    assert steps == [expected]
    [trailing] = HttpHandshake(required).receive(data + b"\x16\x03 early")
    if isinstance(expected, Request):
        assert isinstance(trailing, Request)
        assert trailing.rest == b"\x16\x03 early"
    else:
        assert trailing == expected


def connect(host: str, port: int, isolation: Credentials | None = None, literal: bool = False) -> Request:
    return Request(ProxyCommand.CONNECT, host, port, isolation, literal, b"")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head("CONNECT example.org:443 HTTP/1.1"), connect("example.org", 443)),
        (head("CONNECT example.org:80 HTTP/1.0", "Host: example.org", "Empty:"), connect("example.org", 80)),
        (head("CONNECT 192.0.2.7:22 HTTP/1.1"), connect("192.0.2.7", 22, literal=True)),
        (head("CONNECT [2001:db8::1]:22 HTTP/1.1"), connect("2001:db8::1", 22, literal=True)),
        (head("CONNECT a:1 HTTP/1.1", basic("alice:tab:7")), connect("a", 1, ("alice", "tab:7"))),
        (head("CONNECT a:1 HTTP/1.1", basic("alice:").replace("P", "p").replace("Basic", "bASIC")), connect("a", 1, ("alice", ""))),
        (head("CONNECT a:1 HTTP/1.1", "X: caf\xe9"), connect("a", 1)),
    ],
)
def test_connect(data: bytes, expected: Request) -> None:
    three_ways(data, expected)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("CONNECT example.org HTTP/1.1"), 400),
        (head("CONNECT example.org: HTTP/1.1"), 400),
        (head("CONNECT example.org:0 HTTP/1.1"), 400),
        (head("CONNECT example.org:65536 HTTP/1.1"), 400),
        (head("CONNECT :443 HTTP/1.1"), 400),
        (head("CONNECT a:b:443 HTTP/1.1"), 400),
        (head("CONNECT [::g]:443 HTTP/1.1"), 400),
        (head("CONNECT [::::]:443 HTTP/1.1"), 400),
        (head("CONNECT " + "n" * 256 + ":443 HTTP/1.1"), 400),
        (head("CONNECT  a:1 HTTP/1.1"), 400),
        (head("CONNECT a:1"), 400),
        (head("CONNECT b\xfccher:1 HTTP/1.1"), 400),
        (head("CONNECT a:1 HTTP/2.0"), 505),
        (head("PRI * HTTP/2.0"), 505),
        (head("CONNECT a:1 HTTP/1.1", "no colon"), 400),
        (head("CONNECT a:1 HTTP/1.1", "Host: a", " folded"), 400),
        (head("CONNECT a:1 HTTP/1.1", "Host : a"), 400),
        (head("CONNECT a:1 HTTP/1.1", "Host: a\nX: y"), 400),
        (head("CONNECT a:1 HTTP/1.1", "Proxy-Authorization: Basic ***"), 400),
        (head("CONNECT a:1 HTTP/1.1", "Proxy-Authorization: Bearer abc"), 400),
        (head("CONNECT a:1 HTTP/1.1", "Proxy-Authorization: Basic YWJj"), 400),
        (head("CONNECT a:1 HTTP/1.1", basic("a:b"), basic("a:c")), 400),
        (head("GET /favicon.ico HTTP/1.1"), 404),
        (head("GET http://example.org/ HTTP/1.1"), 501),
        (head("HEAD http://example.org/ HTTP/1.1"), 501),
        (head("POST / HTTP/1.1"), 405),
        (head("OPTIONS * HTTP/1.1"), 405),
        (head("BREW / HTTP/1.1"), 501),
        (b"hello\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
    ],
)
def test_what_is_refused(data: bytes, status: int) -> None:
    [step] = HttpHandshake().receive(data)
    assert isinstance(step, Fail)
    assert step.data.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in step.data
    three_ways(data, step)


def test_the_allowed_methods_are_named() -> None:
    [step] = HttpHandshake().receive(head("PUT / HTTP/1.1"))
    assert isinstance(step, Fail)
    assert b"\r\nAllow: CONNECT, GET, HEAD\r\n" in step.data


def test_opened_as_a_web_site() -> None:
    [get] = HttpHandshake().receive(head("GET / HTTP/1.1", "Host: 127.0.0.1:9050"))
    [only_head] = HttpHandshake().receive(head("HEAD / HTTP/1.1"))
    assert isinstance(get, Fail)
    assert isinstance(only_head, Fail)
    top, _, body = get.data.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n")
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in top
    assert body == PAGE.encode()
    assert only_head.data == top + b"\r\n\r\n"


def test_required_credentials() -> None:
    required = ("alice", "sésame")
    three_ways(head("CONNECT a:1 HTTP/1.1", basic("alice:sésame")), connect("a", 1, required), required)
    for fields in ([], [basic("alice:wrong")], ["Proxy-Authorization: Bearer x"], [basic("alice:sésame")] * 2):
        [step] = HttpHandshake(required).receive(head("CONNECT a:1 HTTP/1.1", *fields))
        assert isinstance(step, Fail)
        assert step.data.startswith(b"HTTP/1.1 407 ")
        assert b"\r\nProxy-Authenticate: Basic realm=" in step.data


def test_a_head_has_an_end() -> None:
    longest = b"CONNECT a:1 HTTP/1.1\r\nX: "
    longest += b"x" * (MAX_HEAD - len(longest) - 4) + b"\r\n\r\n"
    assert HttpHandshake().receive(longest) == [connect("a", 1)]
    for data in (longest[:-4] + b"x\r\n\r\n", b"A" * MAX_HEAD, b"A" * 1_000_000):
        [step] = HttpHandshake().receive(data)
        assert isinstance(step, Fail)
        assert step.data.startswith(b"HTTP/1.1 431 ")
    assert HttpHandshake().receive(b"A" * (MAX_HEAD - 1)) == []


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (EndReason.REFUSED, 502),
        (EndReason.UNREACHABLE, 503),
        (EndReason.NOT_FOUND, 404),
        (EndReason.TIMEOUT, 504),
        (EndReason.POLICY, 403),
        (EndReason.LIMIT, 429),
        (EndReason.INTERNAL, 500),
        (EndReason.CIRCUIT_CLOSED, 500),
        (EndReason.RESET, 500),
        (EndReason.DONE, 500),
    ],
)
def test_refusals(reason: EndReason, status: int) -> None:
    answer = HttpHandshake().refused(reason)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nProxy-Status: proxy; error=" in answer


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
def test_no_page_from_elsewhere_gets_anything_done_or_read_here(method: str) -> None:
    """A form or a script of a web page can send these methods; never CONNECT. Nothing of the body is looked at."""
    origin = ("Origin: https://attacker.example", "Content-Length: 40")
    body = b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n\x05\x01\x00"
    [step] = HttpHandshake().receive(head(f"{method} / HTTP/1.1", *origin) + body)
    assert isinstance(step, Fail)
    assert b"Access-Control" not in step.data
    assert b"\r\nCross-Origin-Resource-Policy: same-origin\r\n" in step.data
    assert b"frame-ancestors 'none'" in step.data


def test_yes_and_not_here() -> None:
    assert HttpHandshake().granted() == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert HttpHandshake().unsupported().startswith(b"HTTP/1.1 501 ")


def test_the_first_byte_tells_the_protocols_apart() -> None:
    assert detect(5) is Protocol.SOCKS5
    assert detect(4) is Protocol.SOCKS4
    letters = [byte for byte in range(256) if detect(byte) is Protocol.HTTP]
    assert bytes(letters) == b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert detect(0x16) is None
