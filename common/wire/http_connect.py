"""The listening side of HTTP CONNECT (RFC 9110, section 9.3.6), as bytes in and steps out; as `socks`, same steps.

A head of up to 16 KiB is read, however it is cut; what follows it is the first bytes of the stream. Only CONNECT
is served. Whoever opens the port as a web site gets one constant page that says what it is. User and password
of `Proxy-Authorization: Basic` (RFC 7617) say which requests may share a circuit; they are checked only when they
are required. No bytes raise.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from common.errors import EndReason
from common.wire.socks import (
    UNBOUND,
    Bound,
    Credentials,
    Fail,
    Protocol,
    ProxyCommand,
    Request,
    Step,
    credential,
    is_address,
    is_name,
    same_credentials,
)

MAX_HEAD = 16_384  # what common web servers take: cookies do not come here, so it is ample
_END = b"\r\n\r\n"

# Answers are for who opened this port, and nothing that a page from elsewhere may frame, read or run.
_GUARDS = (
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy: same-origin",
    "X-Content-Type-Options: nosniff",
)

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.[0-9]")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):([0-9]{1,5})")
_KNOWN_METHODS = frozenset({b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH"})


@dataclass(frozen=True, slots=True)
class _Refusal:
    """How a reason is told: a status of its own, the error type of RFC 9209, and a sentence."""

    status: str
    error: str
    text: str


_REFUSALS = {
    EndReason.REFUSED: _Refusal("502 Bad Gateway", "connection_refused", "The target refuses the connection."),
    EndReason.UNREACHABLE: _Refusal(
        "503 Service Unavailable", "destination_ip_unroutable", "The target cannot be reached."
    ),
    EndReason.TIMEOUT: _Refusal("504 Gateway Timeout", "connection_timeout", "The target did not answer in time."),
    EndReason.NOT_FOUND: _Refusal("404 Not Found", "dns_error", "No address is known for this name."),
    EndReason.POLICY: _Refusal(
        "403 Forbidden", "destination_ip_prohibited", "No exit of this network may connect there."
    ),
    EndReason.LIMIT: _Refusal(
        "429 Too Many Requests", "connection_limit_reached", "Too much at once: try again in a moment."
    ),
}
_OTHER = _Refusal(
    "500 Internal Server Error", "proxy_internal_error", "The network could not carry this request: try again."
)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A proxy, not a web site</title>
<h1>This is a proxy port of a private onion-routing network</h1>
<p>There is nothing to browse here. Programs that use this address and port as their proxy reach the web through
the relays of the network.</p>
<ul>
<li><b>Browser</b>: in its proxy settings enter this address and port as SOCKS5 host, and let it look names up.
<li><b>curl</b>: <code>curl --proxy socks5h://ADDRESS:PORT https://example.org/</code>
<li><b>git</b>: <code>git -c http.proxy=socks5h://ADDRESS:PORT clone https://...</code>
<li><b>ssh</b>: <code>ssh -o ProxyCommand='nc -X 5 -x ADDRESS:PORT %h %p' HOST</code>
</ul>
<p>It speaks SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT. Different users or passwords never share a circuit.</p>
</html>
"""


def detect(first: int) -> Protocol | None:
    """What the first byte of a conversation announces; None when it is nothing that a proxy port speaks."""
    if first == 5:
        return Protocol.SOCKS5
    if first == 4:
        return Protocol.SOCKS4
    return Protocol.HTTP if chr(first).isascii() and chr(first).isalpha() else None


class HttpHandshake:
    """One application's HTTP request. Not thread-safe."""

    protocol = Protocol.HTTP

    def __init__(self, required: Credentials | None = None) -> None:
        self._required = required
        self._held = bytearray()
        self._finished = False

    def receive(self, data: bytes) -> list[Step]:
        """The one step that `data` leads to, or none yet. Not to be called after a step."""
        assert not self._finished, "the handshake is over"
        search_from = max(0, len(self._held) - len(_END) + 1)
        self._held += data
        end = self._held.find(_END, search_from, MAX_HEAD)
        if end < 0 and len(self._held) < MAX_HEAD:
            return []
        self._finished = True
        if end < 0:
            self._held.clear()
            return [_fail("431 Request Header Fields Too Large", "The request's head is too long.")]
        head, rest = bytes(self._held[:end]), bytes(self._held[end + len(_END) :])
        self._held.clear()
        return [self._read(head, rest)]

    def granted(self, _bound: Bound = UNBOUND) -> bytes:
        """The bytes that say yes; the stream's bytes follow them."""
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refused(self, reason: EndReason) -> bytes:
        """The bytes that say why not; close after them."""
        refusal = _REFUSALS.get(reason, _OTHER)
        return _response(refusal.status, refusal.text, f"Proxy-Status: proxy; error={refusal.error}")

    def unsupported(self) -> bytes:
        """The bytes that say that this request is not served here; close after them."""
        return _response("501 Not Implemented", "This port serves CONNECT only.")

    def _read(self, head: bytes, rest: bytes) -> Step:
        first, *lines = head.split(b"\r\n")
        request = _REQUEST_LINE.fullmatch(first)
        fields = [_FIELD_LINE.fullmatch(line) for line in lines]
        if request is None:
            return _fail("400 Bad Request", "The request line is not HTTP.")
        method, target, version = request.groups()
        if version != b"1":
            return _fail("505 HTTP Version Not Supported", "This port speaks HTTP/1.1.")
        if None in fields:
            return _fail("400 Bad Request", "A header field is not HTTP.")
        if method != b"CONNECT":
            return _not_connect(method, target)
        given = [field[2] for field in fields if field and field[1].lower() == b"proxy-authorization"]
        return self._connect(target, given, rest)

    def _connect(self, target: bytes, authorizations: list[bytes], rest: bytes) -> Step:
        credentials = _basic(authorizations[0]) if len(authorizations) == 1 else None
        if self._required is not None and not same_credentials(credentials, self._required):
            return _fail(
                "407 Proxy Authentication Required",
                "Wrong user or password.",
                'Proxy-Authenticate: Basic realm="proxy", charset="UTF-8"',
            )
        if authorizations and credentials is None:  # what should keep circuits apart must not be passed over
            return _fail("400 Bad Request", "Proxy-Authorization is not one Basic user and password.")
        authority = _AUTHORITY.fullmatch(target)
        host = authority[1].strip(b"[]") if authority else b""
        port = int(authority[2]) if authority else 0
        if not is_name(host) or not 0 < port < 65_536:
            return _fail("400 Bad Request", "CONNECT wants host:port, the port from 1 to 65535.")
        name = host.decode("ascii")
        if target.startswith(b"[") and not is_address(name):
            return _fail("400 Bad Request", "What stands in brackets is not an IPv6 address.")
        return Request(ProxyCommand.CONNECT, name, port, credentials, is_address(name), rest)


def _basic(value: bytes) -> Credentials | None:
    scheme, _, token = value.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (credential(user), credential(password)) if colon else None


def _not_connect(method: bytes, target: bytes) -> Fail:
    reading = method == b"GET"
    if reading or method == b"HEAD":
        if target == b"/":
            return Fail(_response("200 OK", PAGE, kind="text/html", body=reading), "opened as a web site")
        if target.startswith(b"/"):
            return Fail(_response("404 Not Found", "Only / is here.", body=reading), "opened as a web site")
        text = "This port forwards CONNECT only: for http:// addresses use it as a SOCKS5 proxy (socks5h://)."
        return Fail(_response("501 Not Implemented", text, body=reading), "plain HTTP forwarding")
    if method in _KNOWN_METHODS:
        return _fail("405 Method Not Allowed", "This port serves CONNECT only.", "Allow: CONNECT, GET, HEAD")
    return _fail("501 Not Implemented", "This port serves CONNECT only.")


def _fail(status: str, text: str, *fields: str) -> Fail:
    return Fail(_response(status, text, *fields), f"HTTP {status}")


def _response(status: str, text: str, *fields: str, kind: str = "text/plain", body: bool = True) -> bytes:
    content = text.encode() if text.endswith("\n") else text.encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}; charset=utf-8",
        f"Content-Length: {len(content)}",
        "Connection: close",
        "Cache-Control: no-store",
        *_GUARDS,
        *fields,
    ]
    return "\r\n".join(lines).encode() + _END + (content if body else b"")
