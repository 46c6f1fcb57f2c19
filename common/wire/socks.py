"""The listening side of SOCKS5 (RFC 1928, RFC 1929), SOCKS4 and SOCKS4a, as bytes in and steps out.

`Handshake.receive` takes what arrived, however it is cut, and returns what is to be done: `Send` some bytes,
serve a `Request`, or `Fail`. A Request or a Fail is the last step; what the application sent after its request
comes along in `Request.rest`. Never more is held than one unfinished message: 513 bytes. No bytes raise.

Names are handed on as sent (1 to 255 bytes of printable ASCII, so IDNA names in their xn-- form): nobody on
this side resolves them. User and password are never checked unless they are required; they say which requests
may share a circuit. A user and password in `Request.isolation` are UTF-8 with surrogate escapes: no two differ
on the wire and agree here.

Beside the RFCs stand two commands that Tor added: RESOLVE (0xF0) asks for a name's address, RESOLVE_PTR (0xF1)
for an address's name. Their answer is `granted((answer, 0))`.
"""

import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from common.errors import EndReason
from common.wire.codec import U16, is_printable, pack_short_string

Bound = tuple[str, int]  # host and port in a reply
Credentials = tuple[str, str]  # user and password

UNBOUND: Bound = ("0.0.0.0", 0)  # a reply that tells nothing about the exit
MAX_FIELD = 255  # user ids and names of SOCKS4 are bounded as those of SOCKS5 are by their length byte
_NO_AUTH, _USER_PASSWORD, _NO_METHOD = 0, 2, 0xFF  # RFC 1928, section 3
_IPV4, _NAME, _IPV6 = 1, 3, 4  # RFC 1928, section 5
_UNBOUND5 = bytes([0, _IPV4, 0, 0, 0, 0, 0, 0])
_ADDRESS_SIZES = {_IPV4: 4, _IPV6: 16}
_PASSWORD_ACCEPTED, _PASSWORD_FAILED = b"\x01\x00", b"\x01\x01"  # RFC 1929, section 2


class Protocol(Enum):
    """What an application speaks to the proxy port."""

    SOCKS4 = "SOCKS4"
    SOCKS5 = "SOCKS5"
    HTTP = "HTTP"


class Isolate(Enum):
    """What, when it differs, keeps two requests off one circuit."""

    CREDENTIALS = "credentials"
    TARGET = "target"  # its host, in any case of letters
    PORT = "port"  # the target's
    LISTENER = "listener"  # the address of the proxy port


class ProxyCommand(IntEnum):
    """What an application wants."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1


_COMMANDS = {int(command): command for command in ProxyCommand}
_COMMANDS4 = {ProxyCommand.CONNECT, ProxyCommand.BIND, ProxyCommand.RESOLVE}  # its replies hold no name


class Reply5(IntEnum):
    """SOCKS5 reply codes (RFC 1928, section 6)."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class Reply4(IntEnum):
    """SOCKS4 reply codes. There is one for all refusals: the port field, unused there, holds the SOCKS5 code."""

    GRANTED = 90
    REJECTED = 91
    USER_MISMATCH = 93


REPLY5_OF_REASON = {
    EndReason.REFUSED: Reply5.REFUSED,
    EndReason.UNREACHABLE: Reply5.NETWORK_UNREACHABLE,
    EndReason.TIMEOUT: Reply5.TTL_EXPIRED,
    EndReason.NOT_FOUND: Reply5.HOST_UNREACHABLE,
    EndReason.POLICY: Reply5.NOT_ALLOWED,
}  # every other reason is FAILURE; each of these has a code of its own


@dataclass(frozen=True, slots=True)
class Send:
    """Send `data` and go on reading."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What the application wants; answer with the handshake's `granted`, `refused` or `unsupported`."""

    command: ProxyCommand
    host: str  # a name as sent, or an address in its usual form, IPv6 without brackets
    port: int  # 1 to 65,535 for CONNECT
    isolation: Credentials | None = field(repr=False)
    literal_ip: bool  # the host is an address: the application may have looked its name up by itself
    rest: bytes = field(repr=False)  # what followed the request: the first bytes of the stream


@dataclass(frozen=True, slots=True)
class Fail:
    """Send `data`, which may be empty, and close. `why` names no target."""

    data: bytes
    why: str


Step = Send | Request | Fail


def reply5(code: Reply5, bound: Bound = UNBOUND) -> bytes:
    """A SOCKS5 reply; `bound` is an address or a name. Raises `Malformed` when a name cannot be written."""
    if bound is UNBOUND:
        return bytes([5, code]) + _UNBOUND5
    host, port = bound
    try:
        packed = ipaddress.ip_address(host).packed
        address = bytes([_IPV4 if len(packed) == 4 else _IPV6]) + packed
    except ValueError:
        address = bytes([_NAME]) + pack_short_string(host)
    return bytes([5, code, 0]) + address + U16.pack(port)


def reply4(code: Reply4, bound: Bound = UNBOUND) -> bytes:
    """A SOCKS4 reply; an address that is not IPv4 is written as zeros, since the format knows no other."""
    host, port = bound
    try:
        address = ipaddress.IPv4Address(host).packed
    except ValueError:
        address = bytes(4)
    return bytes([0, code]) + U16.pack(port) + address


def same_credentials(given: Credentials | None, required: Credentials) -> bool:
    """Whether both are equal, in a time that does not depend on where they differ."""
    user, password = given or ("", "")
    same_user = hmac.compare_digest(_raw(user), _raw(required[0]))
    same_password = hmac.compare_digest(_raw(password), _raw(required[1]))
    return same_user and same_password and given is not None


def credential(raw: bytes) -> str:
    """A user or password as text; different bytes give different text."""
    return raw.decode("utf-8", "surrogateescape")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def is_address(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 address rather than a name."""
    if not (":" in host or host[-1:].isdigit()):
        return False  # as most are
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _spell(packed: bytes) -> str:
    """An address in its usual form."""
    return ".".join(map(str, packed)) if len(packed) == 4 else str(ipaddress.IPv6Address(packed))


def is_name(raw: bytes) -> bool:
    """Whether `raw` can stand for a host: 1 to 255 bytes of printable ASCII."""
    return is_printable(raw) is not None


class Handshake:
    """One application's SOCKS conversation up to its request. Not thread-safe."""

    def __init__(self, required: Credentials | None = None) -> None:
        self._required = required
        self._held = bytearray()
        self._state: Callable[[], Step | None] = self._version
        self._credentials: Credentials | None = None
        self.protocol = Protocol.SOCKS5
        self._finished = False

    def receive(self, data: bytes) -> list[Step]:
        """The steps that `data` leads to, in order. Not to be called after a Request or a Fail."""
        assert not self._finished, "the handshake is over"
        self._held += data
        steps: list[Step] = []
        while not self._finished and (step := self._state()) is not None:
            steps.append(step)
            self._finished = not isinstance(step, Send)
        return steps

    def granted(self, bound: Bound = UNBOUND) -> bytes:
        """The bytes that say yes; for RESOLVE and RESOLVE_PTR, `bound` holds the answer and port 0."""
        return self._answer(Reply5.SUCCEEDED, Reply4.GRANTED, bound)

    def refused(self, reason: EndReason) -> bytes:
        """The bytes that say why not; close after them."""
        return self._answer(REPLY5_OF_REASON.get(reason, Reply5.FAILURE), Reply4.REJECTED)

    def unsupported(self) -> bytes:
        """The bytes that say that this command is not served here; close after them."""
        return self._answer(Reply5.COMMAND_NOT_SUPPORTED, Reply4.REJECTED)

    # A state is a method: None while its message is not there as a whole, else it takes it and says what follows.

    def _version(self) -> Step | None:
        if not self._held:
            return None
        if self._held[0] == 5:
            self._state = self._greeting5
        elif self._held[0] == 4:
            self.protocol, self._state = Protocol.SOCKS4, self._request4
        else:
            return Fail(b"", "neither SOCKS4 nor SOCKS5")
        return self._state()

    def _greeting5(self) -> Step | None:
        held = self._held
        if len(held) < 2 or len(held) < 2 + held[1]:
            return None
        methods = self._take(2 + held[1])[2:]
        if _USER_PASSWORD in methods:  # preferred to none: credentials keep circuits apart
            self._state = self._password5
            return Send(bytes([5, _USER_PASSWORD]))
        if _NO_AUTH in methods and self._required is None:
            self._state = self._request5
            return Send(bytes([5, _NO_AUTH]))
        return Fail(bytes([5, _NO_METHOD]), "no authentication method in common")

    def _password5(self) -> Step | None:
        held = self._held
        if held and held[0] != 1:
            return Fail(_PASSWORD_FAILED, "not an RFC 1929 message")
        if len(held) < 2 or len(held) < 3 + held[1] or len(held) < 3 + held[1] + held[2 + held[1]]:
            return None
        user = self._take(2 + held[1])[2:]
        password = self._take(1 + held[0])[1:]
        self._credentials = credential(user), credential(password)
        if self._required is not None and not same_credentials(self._credentials, self._required):
            return Fail(_PASSWORD_FAILED, "wrong user or password")
        self._state = self._request5
        return Send(_PASSWORD_ACCEPTED)

    def _request5(self) -> Step | None:
        held = self._held
        if held and held[0] != 5:
            return Fail(reply5(Reply5.FAILURE), "not a SOCKS5 request")
        if len(held) < 5:
            return None
        if held[1] not in _COMMANDS:
            return Fail(reply5(Reply5.COMMAND_NOT_SUPPORTED), "unknown command")
        kind = held[3]
        if kind != _NAME and kind not in _ADDRESS_SIZES:
            return Fail(reply5(Reply5.ADDRESS_NOT_SUPPORTED), "unknown kind of address")
        start, size = (5, held[4]) if kind == _NAME else (4, _ADDRESS_SIZES[kind])
        if len(held) < start + size + 2:
            return None
        command = _COMMANDS[held[1]]
        raw = self._take(start + size)[start:]
        port = int.from_bytes(self._take(2), "big")
        if kind != _NAME:
            return self._asked(command, _spell(raw), port, literal=True)
        if not is_name(raw):
            return Fail(reply5(Reply5.FAILURE), "a name that is not printable ASCII")
        name = raw.decode("ascii")
        return self._asked(command, name, port, is_address(name))

    def _request4(self) -> Step | None:
        held = self._held
        if len(held) < 8:
            return None
        if held[1] not in _COMMANDS4:
            return Fail(self.unsupported(), "unknown command")
        named = held[4:7] == b"\0\0\0" and held[7] != 0  # SOCKS4a: 0.0.0.x says that a name follows the user id
        ends = [7]
        for _ in range(1 + named):
            start = ends[-1] + 1
            end = held.find(0, start, start + MAX_FIELD + 1)
            if end < 0 and len(held) - start > MAX_FIELD:
                return Fail(reply4(Reply4.REJECTED), "a field of more than 255 bytes")
            if end < 0:
                return None
            ends.append(end)
        fixed, fields = self._take(8), self._take(ends[-1] - 7)
        user, *names = fields[:-1].split(b"\0")
        return self._asked4(fixed, user, names[0] if named else None)

    def _asked4(self, fixed: bytes, user: bytes, name: bytes | None) -> Step:
        if self._required is not None:
            return Fail(reply4(Reply4.USER_MISMATCH), "a password is required and SOCKS4 has none")
        if name is not None and not is_name(name):
            return Fail(reply4(Reply4.REJECTED), "a name that is not printable ASCII")
        self._credentials = (credential(user), "") if user else None
        host = _spell(fixed[4:8]) if name is None else name.decode("ascii")
        literal = name is None or is_address(host)
        return self._asked(_COMMANDS[fixed[1]], host, int.from_bytes(fixed[2:4], "big"), literal)

    def _asked(self, command: ProxyCommand, host: str, port: int, literal: bool) -> Step:
        if command is ProxyCommand.CONNECT and port == 0:
            return Fail(self.refused(EndReason.INTERNAL), "port 0")
        if command is ProxyCommand.RESOLVE_PTR and not literal:
            data = self._answer(Reply5.ADDRESS_NOT_SUPPORTED, Reply4.REJECTED)
            return Fail(data, "the name of what is not an address")
        return Request(command, host, port, self._credentials, literal, self._take(len(self._held)))

    def _answer(self, code5: Reply5, code4: Reply4, bound: Bound = UNBOUND) -> bytes:
        if self.protocol is Protocol.SOCKS5:
            return reply5(code5, bound)
        return reply4(code4, bound if code4 is Reply4.GRANTED else (UNBOUND[0], code5))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken
