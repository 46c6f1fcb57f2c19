"""The gateway: keeps the list of live relays and hands it out, signed.

* One selector thread owns everything: connections, the registry, the store. It never waits for one peer.
* Short-lived work that must wait (dialling a relay's advertised address) runs on a few worker threads, whose
  results come back through a queue and a wake-up socket.
* A document is built when it is asked for after a change, once; its frame is shared by all who are sent it, and is
  encrypted piece by piece as a peer takes it, so a slow peer holds up nobody and costs no copy.
* What breaks the protocol ends its own connection, with an ERROR that tells only the kind.
* Nothing is kept about clients but how many have greeted; no address is logged.
"""

import logging
import queue
import secrets
import selectors
import socket
import sqlite3
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.addresses import Address, IpAddress, unmap
from common.directory.descriptor import registration_proof, removal_proof, verify_descriptor, verify_proof
from common.directory.document import MAX_RELAYS, VALID_FOR, digest, sign_document
from common.directory.exit_policy import is_special
from common.directory.registry import (
    MISSED_LIMIT,
    Action,
    BindNickname,
    CheckAddress,
    EndSession,
    Gone,
    Heartbeats,
    Listed,
    Refusal,
    RegistrationRefused,
    Registry,
)
from common.errors import (
    AuthenticationFailed,
    Closed,
    ConfigError,
    NotEnoughSignatures,
    OnionError,
    ProtocolError,
    Unexpected,
)
from common.net.deadline import Deadline
from common.net.tls import TlsSession, client_context, server_context
from common.net.tls_stream import TlsStream
from common.ops.files import private_folder
from common.roles import gateway_link as link
from common.roles.gateway_link import FrameReader, Message

log = logging.getLogger(__name__)

PING_INTERVAL = 5.0  # seconds
GREETING_TIME = 10.0  # seconds from accept to HELLO
IDLE_TIME = 60.0  # seconds a greeted connection may say nothing and take nothing; clients poll every 5 to 10
SILENT_LIMIT = 12  # unanswered pings after which a silent relay's connection is closed: it must dial anew
LINGER = 2.0  # seconds for a refused peer to hear why
DIAL_TIME = 3.0  # seconds to reach a relay's advertised address
MAX_LOOKED_UP = 4  # IP addresses of one name that are tried
DIAL_THREADS = 16  # addresses looked at at once
MAX_CONNECTIONS = MAX_RELAYS + 2_000  # every relay and some clients
RECV_SIZE = 65_536
PIECE = 65_536  # plaintext encrypted at a time: four TLS records
PIECES_A_TURN = 16  # sent to one peer before others get their turn
ACCEPTS_A_TURN = 64
BUILD_SHARE = 5  # a document that took t seconds to build is at least 5 t old before the next one is built
MAX_TOLD = 200  # characters of an ERROR about a broken protocol
AFTER_BUG = 0.1  # seconds, so that a bug that comes again at once does not fill the disk with its traceback
TICK = 1.0  # seconds between two looks at deadlines


class _Store:
    """What outlives a restart, in SQLite: the highest serial given out, and who owns which nickname."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS serial (one INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
            table = "nicknames (nickname TEXT PRIMARY KEY, identity BLOB NOT NULL)"
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"{path}: cannot be used as the gateway's store: {error}") from None

    def serial(self) -> int:
        """The highest serial ever saved, 0 in the beginning."""
        row = self._db.execute("SELECT value FROM serial").fetchone()
        return int(row[0]) if row else 0

    def nicknames(self) -> dict[str, bytes]:
        """All bindings."""
        return dict(self._db.execute("SELECT nickname, identity FROM nicknames"))

    def save_serial(self, serial: int) -> None:
        """Before a document with this serial is given out."""
        self._write("INSERT OR REPLACE INTO serial VALUES (1, ?)", serial)

    def bind(self, nickname: str, identity: bytes) -> None:
        """The first owner stays."""
        self._write("INSERT OR IGNORE INTO nicknames VALUES (?, ?)", nickname, identity)

    def close(self) -> None:
        """After it the store is not used any more."""
        self._db.close()

    def _write(self, statement: str, *values: object) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error:
            log.exception("the gateway's store cannot be written; going on without")


class _Peer:
    """One accepted connection: TLS and frames over a socket that never blocks."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, session: int, now: float) -> None:
        self.sock = sock
        self.session = session
        self.nonce = secrets.token_bytes(32)
        self.role: str | None = None  # None until HELLO
        self.registering = False  # a REGISTER waits for its answer
        self.registered = False  # pinged; the heartbeat is its deadline
        self.closing = False  # refused: what it says is thrown away
        self.finished = False  # refused, and all is sent: its end is awaited, or a reset would overtake the ERROR
        self.deadline = now + GREETING_TIME
        self.interest = selectors.EVENT_READ
        self._tls = TlsSession(context, server_side=True)
        self._shaken = False
        self._frames = FrameReader(link.MAX_REQUEST)
        self._plain: deque[memoryview] = deque()
        self._cipher = memoryview(b"")

    @property
    def sending(self) -> bool:
        """Whether something waits for the peer to take it."""
        return bool(self._plain or self._cipher)

    def receive(self) -> list[bytes]:
        """One read: the frames that it completed; raises `Closed` and `ProtocolError`."""
        try:
            data = self.sock.recv(RECV_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            raise Closed("connection reset") from None
        if not data:
            raise Closed("connection ended")
        self._tls.feed(data)
        if not self._shaken:
            self._shaken = self._tls.handshake()
            self._cipher = memoryview(bytes(self._cipher) + self._tls.outgoing())
            if not self._shaken:
                return []
        return self._frames.feed(b"".join(self._tls.read()))

    def discard(self) -> None:
        """One read, thrown away; raises `Closed` at the end."""
        try:
            if self.sock.recv(RECV_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        raise Closed("connection ended")

    def finish(self) -> None:
        """Nothing more will be sent; raises `Closed`."""
        if self.finished:
            return
        self.finished = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            raise Closed("connection reset") from None

    def queue(self, frame: bytes) -> None:
        """To be sent after what is queued; the bytes are shared, not copied."""
        view = memoryview(frame)
        self._plain.extend(view[at : at + PIECE] for at in range(0, len(view), PIECE))

    def flush(self) -> bool:
        """Sends what the kernel takes in this turn; whether it took anything. Raises `Closed`."""
        took = False
        for _ in range(PIECES_A_TURN):
            if not self._cipher:
                if not self._plain:
                    break
                self._tls.write(self._plain.popleft())
                self._cipher = memoryview(self._tls.outgoing())
            try:
                sent = self.sock.send(self._cipher)
            except BlockingIOError:
                break
            except OSError:
                raise Closed("connection reset") from None
            self._cipher = self._cipher[sent:]
            took = True
        return took


@dataclass(frozen=True, slots=True)
class _Published:
    serial: int
    built: float  # monotonic
    cost: float  # seconds
    digest: bytes
    frame: bytes


class Gateway:
    """Inert until `start`; `stop` ends it. `key` is the private key of the PEM files and signs the documents.

    A relay must advertise a public address that the gateway can dial; a gateway that listens on loopback only
    takes loopback addresses too, and one with `allow_private` any. `addresses` are those really listened on.
    """

    def __init__(
        self,
        listen: Sequence[Address],
        key: Ed25519PrivateKey,
        certificate: Path,
        key_file: Path,
        *,
        network: str,
        state_dir: Path,
        ping_interval: float = PING_INTERVAL,
        allow_private: bool = False,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.addresses: tuple[Address, ...] = ()
        self.identity = key.public_key().public_bytes_raw()
        self.clients_greeted = 0
        self._listen = tuple(listen)
        self._key = key
        self._context = server_context(certificate, key_file)
        self._dial_context = client_context()
        self._network = network
        self._state_dir = state_dir
        self._ping_interval = ping_interval
        self._allow_private = allow_private
        self._max_connections = max_connections
        self._loopback_only = False
        self._peers: dict[int, _Peer] = {}  # by session
        self._last_session = 0
        self._heartbeats = Heartbeats(ping_interval)
        self._published: _Published | None = None
        self._next_tick = 0.0
        self._store: _Store | None = None
        self._registry = Registry(network, 0, {})
        self._results: queue.SimpleQueue[tuple[CheckAddress, str | None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._listeners: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._workers = ThreadPoolExecutor(DIAL_THREADS, thread_name_prefix="gateway-dial")
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._handlers: dict[type[Message], Callable[[_Peer, Message], None]] = {
            link.Hello: self._on_hello,
            link.Register: self._on_register,
            link.Unregister: self._on_unregister,
            link.List: self._on_list,
            link.Pong: self._on_pong,
        }

    @property
    def address(self) -> Address:
        """The first address listened on."""
        return self.addresses[0]

    @property
    def relays_listed(self) -> int:
        """How many relays are in the list."""
        return len(self._registry)

    # ---- any thread ----

    def start(self) -> None:
        """Listens and serves; raises `ConfigError` when an address or the state folder cannot be used."""
        self._store = store = _Store(private_folder(self._state_dir) / "gateway.sqlite")
        # A serial never goes back; the clock keeps that true even when the store was lost.
        serial = max(store.serial(), int(time.time())) + 1
        self._registry = Registry(self._network, serial, store.nicknames())
        try:
            for address in self._listen:
                self._listeners.append(_listen(address))
        except ConfigError:
            self._close_all()
            raise
        bound = [sock.getsockname() for sock in self._listeners]
        self.addresses = tuple(Address(name[0], name[1]) for name in bound)
        self._loopback_only = all(_is_loopback(address.ip) for address in self.addresses)
        for sock in (self._wake_in, self._wake_out):
            sock.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._accept_from(self._listeners)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Closes everything and waits for the threads; idempotent."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        elif self._store is None:
            self._close_all()  # never started
        self._workers.shutdown(cancel_futures=True)

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # full: a wake-up is pending already; or closed: nobody is left to wake

    # ---- worker threads ----

    def _dial(self, check: CheckAddress) -> None:
        try:
            failure = self._look_at(check)
        except Exception:
            log.exception("unexpected error while dialling a relay")
            failure = "the gateway failed to dial the relay's address"
        self._results.put((check, failure))
        self._wake()

    def _look_at(self, check: CheckAddress) -> str | None:
        """Why the relay cannot be listed, or None. The address judged is the address dialled."""
        address = check.descriptor.address
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return f"the gateway cannot look up {address.host}: is it the right address to advertise?"
        failure = f"{address} is not an address that others can dial: advertise a public one"
        deadline = Deadline(DIAL_TIME)
        for host in dict.fromkeys(str(entry[4][0]) for entry in found[:MAX_LOOKED_UP]):
            ip = Address(host, address.port).ip
            if ip is None or not self._may_advertise(ip):
                continue
            try:
                target = (host, address.port)
                TlsStream.dial(target, self._dial_context, check.descriptor.identity, deadline).close()
                return None
            except AuthenticationFailed:
                failure = f"another relay answers at {address}: is it the right address to advertise?"
            except Closed:
                failure = f"nothing answers at {address}: can it be reached from outside?"
        return failure

    def _may_advertise(self, ip: IpAddress) -> bool:
        return self._allow_private or not is_special(ip) or (self._loopback_only and _is_loopback(ip))

    # ---- the gateway's thread ----

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception:
                log.exception("unexpected error in the gateway, going on")
                self._stopping.wait(AFTER_BUG)
        self._close_all()

    def _turn(self) -> None:
        for key, events in self._selector.select(self._time_to_wait()):
            if isinstance(key.data, _Peer):
                self._serve(key.data, events)
            elif key.fileobj is self._wake_in:
                self._wake_in.recv(RECV_SIZE)
            elif isinstance(key.fileobj, socket.socket):
                self._accept(key.fileobj)
        self._take_results()
        self._beat(time.monotonic())
        self._tick(time.monotonic())

    def _time_to_wait(self) -> float:
        due = self._heartbeats.next_due()
        return max(0.0, min(self._next_tick, due if due is not None else self._next_tick) - time.monotonic())

    def _close_all(self) -> None:
        peers = [peer.sock for peer in self._peers.values()]
        for sock in [*self._listeners, *peers, self._wake_in, self._wake_out]:
            sock.close()
        self._peers.clear()
        self._selector.close()
        if self._store is not None:
            self._store.close()

    def _accept_from(self, listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            if listener not in self._selector.get_map():
                self._selector.register(listener, selectors.EVENT_READ)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("cannot accept connections: %s", error.strerror)
                self._selector.unregister(listener)  # until the next tick: it would be ready again at once
                return
            if len(self._peers) >= self._max_connections:
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._last_session += 1
            peer = _Peer(sock, self._context, self._last_session, time.monotonic())
            self._peers[peer.session] = peer
            self._selector.register(sock, selectors.EVENT_READ, peer)

    def _serve(self, peer: _Peer, events: int) -> None:
        if peer.session not in self._peers:
            return  # dropped earlier in this turn
        try:
            if peer.closing:
                peer.discard()
            elif events & selectors.EVENT_READ:
                for body in peer.receive():
                    self._answer(peer, link.decode(body))
            self._flush(peer)
        except ProtocolError as error:
            self._refuse(peer, "protocol", ascii(str(error))[1:-1][:MAX_TOLD])
        except Closed:
            self._drop(peer)
        except Exception:
            log.exception("unexpected error, connection closed")
            self._drop(peer)

    def _flush(self, peer: _Peer) -> None:
        """Sends what can be sent, and watches for what must be waited for."""
        if peer.session not in self._peers:
            return
        if peer.flush() and peer.role is not None and not peer.registered and not peer.closing:
            peer.deadline = time.monotonic() + IDLE_TIME
        if peer.closing and not peer.sending:
            peer.finish()
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.sending else 0)
        if interest != peer.interest:
            peer.interest = interest
            self._selector.modify(peer.sock, interest, peer)

    def _send(self, peer: _Peer, frame: bytes) -> None:
        """Queues and sends at once what the kernel takes; a peer that is gone is dropped."""
        peer.queue(frame)
        try:
            self._flush(peer)
        except Closed:
            self._drop(peer)

    def _refuse(self, peer: _Peer, code: str, text: str) -> None:
        """The last thing that a peer is told."""
        peer.closing = True
        peer.deadline, peer.registered = time.monotonic() + LINGER, False
        self._release(peer)
        if peer.session in self._peers:
            self._send(peer, link.encode(link.Error(code, text)))

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.session, None) is None:
            return
        self._selector.unregister(peer.sock)
        peer.sock.close()
        peer.closing = True
        self._release(peer)

    def _release(self, peer: _Peer) -> None:
        self._heartbeats.remove(peer.session)
        self._perform(self._registry.closed(peer.session))

    # ---- requests ----

    def _answer(self, peer: _Peer, message: Message) -> None:
        handler = self._handlers.get(type(message))
        if peer.closing:
            return  # said before it heard the refusal
        if handler is None or (peer.role is None) != isinstance(message, link.Hello):
            raise Unexpected("not now")
        if not peer.registered:
            peer.deadline = time.monotonic() + IDLE_TIME
        handler(peer, message)

    def _on_hello(self, peer: _Peer, message: Message) -> None:
        assert isinstance(message, link.Hello)
        if message.network != self._network or message.version != link.VERSION:
            here = f"the network {self._network}, version {link.VERSION}"
            self._refuse(peer, "network", f"this gateway serves {here}")
            return
        if message.role not in ("client", "relay"):
            raise Unexpected("no such role")
        peer.role = message.role
        self.clients_greeted += message.role == "client"
        ping_ms = round(self._ping_interval * 1_000)
        self._send(peer, link.encode(link.Welcome(link.VERSION, self._network, peer.nonce, ping_ms)))

    def _on_register(self, peer: _Peer, message: Message) -> None:
        assert isinstance(message, link.Register)
        if peer.role != "relay" or peer.registering:
            raise Unexpected("one registration at a time, by relays")
        proof = registration_proof(self._network, self.identity, peer.nonce, message.descriptor)
        try:
            descriptor = verify_descriptor(message.descriptor)
            if verify_proof(message.proof, proof) != descriptor.identity:
                raise NotEnoughSignatures("proved by another key")
            actions = self._registry.register(peer.session, descriptor, message.descriptor, time.time())
        except RegistrationRefused as refused:
            self._refuse(peer, refused.code, str(refused))
            return
        except NotEnoughSignatures:
            self._refuse(peer, Refusal.SIGNATURE, "the registration is not signed by the relay that it is about")
            return
        peer.registering = True
        self._perform(actions)

    def _on_unregister(self, peer: _Peer, message: Message) -> None:
        assert isinstance(message, link.Unregister)
        try:
            proof = removal_proof(self._network, self.identity, peer.nonce)
            identity = verify_proof(message.proof, proof)
        except NotEnoughSignatures:
            self._refuse(peer, Refusal.SIGNATURE, "the good-bye is not signed by the relay that it is about")
            return
        self._perform(self._registry.unregister(identity))
        self._send(peer, link.encode(link.Ok()))

    def _on_list(self, peer: _Peer, message: Message) -> None:
        assert isinstance(message, link.List)
        if peer.sending:
            raise Unexpected("the last answer is not taken yet")
        published = self._publish()
        self._send(peer, link.encode(link.Unchanged()) if message.held == published.digest else published.frame)

    def _on_pong(self, peer: _Peer, message: Message) -> None:
        assert isinstance(message, link.Pong)
        if not peer.registered:
            raise Unexpected("nobody pinged")
        round_trip = self._heartbeats.answer(peer.session, message.number, time.monotonic())
        if round_trip is not None:  # a late answer to an earlier ping says nothing new
            self._perform(self._registry.answered(peer.session, round_trip, time.time()))

    def _publish(self) -> _Published:
        """The document of the present serial, built if there is none; under a storm of changes, a recent one."""
        last, start = self._published, time.monotonic()
        if last is not None:
            if start - last.built > VALID_FOR / 2 and last.serial == self._registry.serial:
                self._registry.renew_document()
            if last.serial == self._registry.serial or start - last.built < BUILD_SHARE * last.cost:
                return last
        assert self._store is not None
        self._store.save_serial(self._registry.serial)
        envelope = sign_document(self._registry.document(time.time()), self._key)
        frame = link.encode(link.Document(link.compress(envelope)))
        now = time.monotonic()
        self._published = _Published(self._registry.serial, now, now - start, digest(envelope), frame)
        return self._published

    # ---- what the registry decides ----

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case CheckAddress():
                    self._workers.submit(self._dial, action)
                case BindNickname(nickname, identity):
                    assert self._store is not None
                    self._store.bind(nickname, identity)
                case Gone(nickname, reason):
                    log.info("relay %s is gone: %s", nickname, reason)
                case Listed(session, nickname, newly):
                    if newly:
                        log.info("relay %s is listed", nickname)
                    self._confirm(session)
                case EndSession(session, code, text):
                    if (peer := self._peers.get(session)) is not None:
                        self._refuse(peer, code, text)

    def _confirm(self, session: int) -> None:
        peer = self._peers.get(session)
        if peer is None:
            return
        if not peer.registered:
            peer.registered, peer.deadline = True, float("inf")
            self._heartbeats.add(session, secrets.randbelow(1_000) / 1_000, time.monotonic())
        if peer.registering:
            peer.registering = False
            self._send(peer, link.encode(link.Ok()))

    def _take_results(self) -> None:
        while not self._results.empty():
            check, failure = self._results.get_nowait()
            self._perform(self._registry.checked(check, failure, time.time()))

    def _beat(self, now: float) -> None:
        for beat in self._heartbeats.due(now):
            peer = self._peers[beat.session]
            if beat.missed >= SILENT_LIMIT:
                self._drop(peer)
                continue
            if beat.missed >= MISSED_LIMIT:
                self._perform(self._registry.silent(beat.session))
            self._send(peer, link.encode(link.Ping(beat.number)))

    def _tick(self, now: float) -> None:
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        for peer in [peer for peer in self._peers.values() if peer.deadline <= now]:
            self._drop(peer)
        self._perform(self._registry.due_checks(time.time()))
        self._accept_from(self._listeners)


def _is_loopback(ip: IpAddress | None) -> bool:
    return ip is not None and unmap(ip).is_loopback


def _listen(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        sock = socket.create_server((str(target[0]), address.port), family=family, backlog=1_024)
    except (OSError, OnionError) as error:
        raise ConfigError(f"cannot listen on {address}: {error}") from None
    sock.setblocking(False)
    return sock
