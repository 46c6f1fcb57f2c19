"""The connections of a gateway: accepts, reads, writes, and ends those that break a rule or stay silent.

One thread owns it and never waits for one peer; only `wake` may be called by others. What a connection says is
handed to the owner, frame by frame; what breaks the protocol ends its own connection, with an ERROR that tells
only the kind.

Of many connections those that have not greeted yet go first: 5,000 peers that say nothing keep nobody out. One
address has `MAX_PER_SOURCE` connections at most; loopback, whose peers are all one address, is exempt. The count
is all that is kept of addresses, in memory, while the connections last.
"""

import logging
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Sequence

from common.directory.addresses import Address
from common.errors import Closed, ConfigError, OnionError, ProtocolError
from common.net.source import source_of
from common.roles import gateway_link as link
from common.roles.gateway.dial_back import MAX_DIALS
from common.roles.gateway.peer import RECV_SIZE, Peer

log = logging.getLogger(__name__)

GREETING_TIME = 10.0  # seconds from accept to HELLO
IDLE_TIME = 60.0  # seconds a greeted connection may say nothing and take nothing; clients poll every 5 to 10
LINGER = 2.0  # seconds for a refused peer to hear why
MAX_PER_SOURCE = 256  # a large household, or the relays of one data centre behind one address
RESERVED_FILES = 96 + MAX_DIALS  # of the process: listeners, store, log, status page, dials
ACCEPTS_A_TURN = 64
MAX_TOLD = 200  # characters of an ERROR about a broken protocol


class Connections:
    """`received(peer, body)` and `released(peer)` are called on the owner's thread: a frame came from a peer, and
    a peer was refused or is gone (once or twice for each).
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        max_connections: int,
        received: Callable[[Peer, bytes], None],
        released: Callable[[Peer], None],
    ) -> None:
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = max(1, min(max_connections, soft_limit - RESERVED_FILES))
        self.peers: dict[int, Peer] = {}  # by session
        self._context = context
        self._received = received
        self._released = released
        self._last_session = 0
        self._strangers: dict[int, Peer] = {}  # have not greeted, the oldest first
        self._per_source: dict[str, int] = {}
        self._listeners: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for sock in (self._wake_in, self._wake_out):
            sock.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)

    def listen(self, addresses: Sequence[Address]) -> tuple[Address, ...]:
        """Listens; returns the addresses really listened on. Raises `ConfigError`."""
        for address in addresses:
            self._listeners.append(_listen(address))
        self._accept_again()
        bound = [sock.getsockname() for sock in self._listeners]
        return tuple(Address(name[0], name[1]) for name in bound)

    def wake(self) -> None:
        """Any thread: lets `turn` return."""
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # full: a wake-up is pending already; or closed: nobody is left to wake

    def turn(self, seconds: float) -> None:
        """Waits for at most `seconds`, and serves whoever is ready."""
        for key, events in self._selector.select(seconds):
            if isinstance(key.data, Peer):
                self._serve(key.data, events)
            elif key.fileobj is self._wake_in:
                self._wake_in.recv(RECV_SIZE)
            elif isinstance(key.fileobj, socket.socket):
                self._accept(key.fileobj)

    def greeted(self, peer: Peer) -> None:
        """The peer has said HELLO."""
        self._strangers.pop(peer.session, None)

    def send(self, peer: Peer, frame: bytes) -> None:
        """Queues and sends at once what the kernel takes; a peer that is gone is dropped."""
        peer.queue(frame)
        try:
            self._flush(peer)
        except Closed:
            self.drop(peer)

    def refuse(self, peer: Peer, code: str, text: str) -> None:
        """The last thing that a peer is told."""
        peer.closing = True
        peer.deadline, peer.registered = time.monotonic() + LINGER, False
        self._released(peer)
        if peer.session in self.peers:
            self.send(peer, link.encode(link.Error(code, text)))

    def drop(self, peer: Peer) -> None:
        """Closes at once; nothing happens to one that is closed."""
        if self.peers.pop(peer.session, None) is None:
            return
        self._strangers.pop(peer.session, None)
        if peer.source is not None:
            self._per_source[peer.source] -= 1
            if not self._per_source[peer.source]:
                del self._per_source[peer.source]
        self._selector.unregister(peer.sock)
        peer.sock.close()
        peer.closing = True
        self._released(peer)

    def sweep(self, now: float) -> None:
        """Once a second: ends those whose time is over, and accepts again after a failure."""
        for peer in [peer for peer in self.peers.values() if peer.deadline <= now]:
            self.drop(peer)
        self._accept_again()

    def close(self) -> None:
        """Everything, without a word to anybody."""
        peers = [peer.sock for peer in self.peers.values()]
        for sock in [*self._listeners, *peers, self._wake_in, self._wake_out]:
            sock.close()
        self.peers.clear()
        self._selector.close()

    # ---- steps ----

    def _accept_again(self) -> None:
        for listener in self._listeners:
            if listener not in self._selector.get_map():
                self._selector.register(listener, selectors.EVENT_READ)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("cannot accept connections: %s", error.strerror)
                self._selector.unregister(listener)  # until the next sweep: it would be ready again at once
                return
            source = source_of(str(address[0]))
            if self._has_room(source):
                self._add(sock, source)
            else:
                sock.close()

    def _has_room(self, source: str | None) -> bool:
        if source is not None and self._per_source.get(source, 0) >= MAX_PER_SOURCE:
            return False
        if len(self.peers) >= self.limit and self._strangers:
            self.drop(next(iter(self._strangers.values())))
        return len(self.peers) < self.limit

    def _add(self, sock: socket.socket, source: str | None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._last_session += 1
        peer = Peer(sock, self._context, self._last_session, source, time.monotonic() + GREETING_TIME)
        self.peers[peer.session] = self._strangers[peer.session] = peer
        if source is not None:
            self._per_source[source] = self._per_source.get(source, 0) + 1
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _serve(self, peer: Peer, events: int) -> None:
        if peer.session not in self.peers:
            return  # dropped earlier in this turn
        try:
            if peer.closing:
                peer.discard()
            elif events & selectors.EVENT_READ:
                for body in peer.receive():
                    self._handle(peer, body)
            self._flush(peer)
        except ProtocolError as error:
            self.refuse(peer, "protocol", ascii(str(error))[1:-1][:MAX_TOLD])
        except Closed:
            self.drop(peer)
        except Exception:
            log.exception("unexpected error, connection closed")
            self.drop(peer)

    def _handle(self, peer: Peer, body: bytes) -> None:
        if peer.closing:
            return  # said before it heard the refusal
        if not peer.registered:
            peer.deadline = time.monotonic() + IDLE_TIME
        self._received(peer, body)

    def _flush(self, peer: Peer) -> None:
        """Sends what can be sent, and watches for what must be waited for."""
        if peer.session not in self.peers:
            return
        if peer.sending and peer.flush() and peer.role is not None and not peer.registered and not peer.closing:
            peer.deadline = time.monotonic() + IDLE_TIME
        sending = peer.sending
        if peer.closing and not sending:
            peer.finish()
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if sending else 0)
        if interest != peer.interest:
            peer.interest = interest
            self._selector.modify(peer.sock, interest, peer)


def _listen(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        sock = socket.create_server((str(target[0]), address.port), family=family, backlog=1_024)
    except (OSError, OnionError) as error:
        raise ConfigError(f"cannot listen on {address}: {error}") from None
    sock.setblocking(False)
    return sock
