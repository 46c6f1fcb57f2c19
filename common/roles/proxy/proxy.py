"""The proxy port: SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT on one port, each request a stream of the network.

The program's socket is handed to the stream as it is. Names go to the exit: this process resolves none. What keeps
requests apart is said by `ProxyRules`: requests that differ in it never share a circuit.
"""

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol as TypingProtocol

from common.directory.addresses import Address
from common.errors import ConfigError, EndReason
from common.net.plug import Plug
from common.net.pump import Pump
from common.net.timers import Timer
from common.roles.client.wish import Isolation, Opening, Question
from common.roles.proxy.programs import AddressNotices, Ends
from common.wire.http_connect import HttpHandshake, detect
from common.wire.messages import BeginFlags, IPAddress, Sought
from common.wire.socks import (
    UNBOUND,
    Credentials,
    Fail,
    Handshake,
    Isolate,
    Protocol,
    ProxyCommand,
    Request,
    Send,
)

HANDSHAKE_TIME = 30.0  # seconds a program may take to say what it wants: some wait for a person's password
_BACKLOG = 1_024  # connections the kernel keeps while the pump is busy: a browser opens dozens at once
_READ = 4_096  # bytes of handshake read at once
_ISOLATE = (Isolate.CREDENTIALS, Isolate.TARGET, Isolate.PORT, Isolate.LISTENER)
_MAX_ANSWERS = 4_096  # addresses remembered as answers of RESOLVE: a program uses one soon after it got it

_logger = logging.getLogger(__name__)


class Streams(TypingProtocol):
    """What the proxy needs of a client."""

    pump: Pump

    def open(self, opening: Opening) -> None:
        """Opens a stream; never waits."""

    def ask(self, question: Question) -> None:
        """Looks a name up at an exit; never waits."""


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """`required`: user and password every program must give; `safe`: targets by address are refused."""

    required: Credentials | None = field(default=None, repr=False)
    isolate: frozenset[Isolate] = frozenset({Isolate.CREDENTIALS})
    safe: bool = False


class Proxy:
    """Listens from its construction on; serves from `start` to `stop`."""

    def __init__(
        self,
        streams: Streams,
        listen: Address,
        rules: ProxyRules = ProxyRules(),
        notices: AddressNotices | None = None,
    ) -> None:
        """Several ports of one client share `notices`. Raises `ConfigError` when it cannot listen."""
        self.streams = streams
        self.rules = rules
        self._notices = notices or AddressNotices(streams.pump)
        self._answers_lock = threading.Lock()  # guards `_answers`
        self._answers: dict[str, None] = {}  # what RESOLVE told, oldest first
        self._sock = _listen(listen)
        self.address = Address(*self._sock.getsockname()[:2])
        self._name = str(self.address)
        # Looked up once: an `Enum` hashes its name, in Python.
        self._isolates = tuple(kind in rules.isolate for kind in _ISOLATE)
        self._stop: Callable[[], None] = self._sock.close

    def start(self) -> None:
        """Serves on the client's pump."""
        self._stop = self.streams.pump.listen(self._sock, self._accepted)

    def stop(self) -> None:
        """Accepts no more; streams go on."""
        self._stop()
        self._notices.close()

    def isolation(self, request: Request) -> Isolation:
        """The key of a request. Its length tells whether there are credentials in it, so no two kinds agree."""
        credentials, target, port, listener = self._isolates
        key: list[str] = ["proxy"]
        if credentials:
            key += request.isolation or ()
        if target:
            key.append(request.host.lower().rstrip("."))
        if port:
            key.append(str(request.port))
        if listener:
            key.append(self._name)
        return tuple(key)

    def told(self, address: str) -> None:
        """RESOLVE gave this address to a program, which may now ask for it."""
        with self._answers_lock:
            self._answers.pop(address, None)
            self._answers[address] = None
            if len(self._answers) > _MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]

    def may_leak(self, request: Request) -> bool:
        """Whether the program may have looked a name up by itself: it asks for an address not learned here."""
        return request.command is ProxyCommand.CONNECT and request.literal_ip and request.host not in self._answers

    def warn(self, request: Request, ends: Callable[[], Ends], then: Callable[[], None]) -> None:
        """Says once that a program asks for addresses; `then` goes on with the request."""
        self._notices.note(ends, (self._name, *(request.isolation or ())), then)

    def _accepted(self, sock: socket.socket) -> None:
        _Conversation(self, sock).begin()


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot listen on {address}: {why}; choose another port with --listen") from None
    return sock


class _Conversation:
    """One program's connection until its stream is open: a `PlugOwner`. The pump's thread, but for answers."""

    def __init__(self, proxy: Proxy, sock: socket.socket) -> None:
        self._proxy = proxy
        self._streams = proxy.streams
        self._sock = sock
        self._handshake: Handshake | HttpHandshake | None = None
        self._asked = False
        self._timer: Timer | None = None
        self._plug: Plug | None = None

    def begin(self) -> None:
        """Takes the socket the pump accepted."""
        self._timer = self._streams.pump.call_later(HANDSHAKE_TIME, self._too_slow)
        self._plug = self._streams.pump.attach(self._sock, self)

    # ---- PlugOwner

    def plug_connected(self, plug: Plug) -> None:
        """Accepted sockets are connected."""

    def plug_wants(self, plug: Plug) -> int:
        """Nothing after the request: that is for the stream."""
        return 0 if self._asked else _READ

    def plug_received(self, plug: Plug, data: bytes) -> None:
        """A piece of the handshake."""
        if self._handshake is None:
            protocol = detect(data[0])
            if protocol is None:
                self._end(plug)
                return
            make = HttpHandshake if protocol is Protocol.HTTP else Handshake
            self._handshake = make(self._proxy.rules.required)
        for step in self._handshake.receive(data):
            match step:
                case Send(answer):
                    plug.write(answer)
                case Fail(answer, why):
                    _logger.debug("a program's request was refused: %s", why)
                    plug.write(answer)
                    self._end(plug)
                case Request():
                    self._asked = True
                    self._cancel_timer()
                    self._serve(plug, self._handshake, step)

    def plug_ended(self, plug: Plug) -> None:
        """The program left in the middle of its handshake."""
        self._end(plug)

    def plug_drained(self, plug: Plug, count: int) -> None:
        """Answers are short."""

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        """The program is gone."""
        self._cancel_timer()

    # ---- helpers

    def _ends(self) -> Ends:
        return self._sock.getpeername()[:2], self._sock.getsockname()[:2]

    def _serve(self, plug: Plug, handshake: Handshake | HttpHandshake, request: Request) -> None:
        if not self._proxy.may_leak(request):
            self._carry(plug, handshake, request)
            return

        def go_on() -> None:
            if self._proxy.rules.safe:
                plug.write(handshake.refused(EndReason.POLICY))
                plug.close()
            else:
                self._carry(plug, handshake, request)

        self._proxy.warn(request, self._ends, go_on)

    def _carry(self, plug: Plug, handshake: Handshake | HttpHandshake, request: Request) -> None:
        """Gives the request to the network."""
        isolation = self._proxy.isolation(request)

        def refused(reason: EndReason) -> None:
            plug.write(handshake.refused(reason))
            plug.close()

        def resolved(reason: EndReason, addresses: tuple[IPAddress, ...], name: str) -> None:
            answer = name or _pick(addresses, ipv4_only=handshake.protocol is Protocol.SOCKS4)
            if not answer:
                refused(EndReason.NOT_FOUND if addresses else reason)
                return
            if not name:
                self._proxy.told(answer)
            plug.write(handshake.granted((answer, 0)))
            plug.close()

        match request.command:
            case ProxyCommand.CONNECT:
                self._streams.open(
                    Opening(
                        request.host,
                        request.port,
                        plug,
                        answered=lambda _address: handshake.granted(UNBOUND),
                        refused=refused,
                        broken=lambda _reason: None,
                        isolation=isolation,
                        flags=_flags(request),
                        first=request.rest,
                    )
                )
            case ProxyCommand.RESOLVE:
                self._streams.ask(Question(request.host, resolved, isolation))
            case ProxyCommand.RESOLVE_PTR:
                self._streams.ask(Question(str(ip_address(request.host)), resolved, isolation, Sought.NAME))
            case _:
                plug.write(handshake.unsupported())
                plug.close()

    def _too_slow(self) -> None:
        if self._plug is not None:
            self._plug.abort()

    def _end(self, plug: Plug) -> None:
        self._asked = True
        self._cancel_timer()
        plug.close()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _flags(request: Request) -> BeginFlags:
    """A literal address says by itself which family is meant."""
    if not request.literal_ip:
        return BeginFlags.ANY
    return BeginFlags.IPV6_ONLY if ":" in request.host else BeginFlags.IPV4_ONLY


def _pick(addresses: tuple[IPAddress, ...], ipv4_only: bool) -> str:
    """The one address that fits into a reply: IPv4 first, which every program takes; "" when there is none."""
    fours = [address for address in addresses if address.version == 4]
    return str(next(iter(fours if ipv4_only else [*fours, *addresses]), ""))
