"""The gateway: keeps the list of live relays and hands it out, signed.

* One selector thread owns connections, registry and heartbeats; it never waits for a peer, a disk or a signature.
* What must wait has threads of its own, which only call `Gateway._later`: dialling relays back
  (`gateway_dial`), writing to the disk (`gateway_store`), building the document (`gateway_document`).
* A relay hears OK when its listing is on the disk, or the disk refuses. A document is handed out when its serial
  is.
* After a restart the relays of before are listed for two heartbeats more, while they come back.
* Nothing is kept about clients but how many have greeted; no address is logged.
"""

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.addresses import Address, IpAddress, unmap
from common.directory.descriptor import (
    Descriptor,
    registration_proof,
    removal_proof,
    verify_member,
    verify_proof,
)
from common.directory.document import MAX_RELAYS, VALID_FOR
from common.directory.exit_policy import is_special
from common.directory.heartbeats import Heartbeats
from common.directory.histories import Histories
from common.directory.owners import Owners
from common.directory.registry import Registry
from common.directory.registry_actions import (
    Action,
    BindNickname,
    CheckAddress,
    EndSession,
    Gone,
    Listed,
    Refusal,
    RegistrationRefused,
    StoreHistory,
    StoreRelay,
    StoreSuccession,
)
from common.directory.succession import verify_succession
from common.errors import ConfigError, DirectoryError, NotEnoughSignatures, ProtocolError, Unexpected
from common.net.tls import server_context
from common.ops.files import private_folder
from common.roles import gateway_link as link
from common.roles.gateway_connections import Connections
from common.roles.gateway_dial import Dialler
from common.roles.gateway_document import DocumentBuilder
from common.roles.gateway_link import Message
from common.roles.gateway_peer import Peer
from common.roles.gateway_snapshot import GatewaySnapshot
from common.roles.gateway_store import GatewayStore, Stored

log = logging.getLogger(__name__)

PING_INTERVAL = 5.0  # seconds
GRACE_BEATS = 2  # heartbeats for the relays of before a restart to come back
SILENT_LIMIT = 12  # unanswered pings after which a silent relay's connection is closed: it must dial anew
MAX_CONNECTIONS = MAX_RELAYS + 2_000  # every relay and some clients
WAIT_FOR_BUILD = 0.1  # seconds: who asks while a document is built that takes no longer than this gets that one
AFTER_BUG = 0.1  # seconds, so that a bug that comes again at once does not fill the disk with its traceback
TICK = 1.0  # seconds between two looks at deadlines


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
        self._network = network
        self._state_dir = state_dir
        self._ping_interval = ping_interval
        self._allow_private = allow_private
        self._loopback_only = False
        context = server_context(certificate, key_file)
        self._connections = Connections(context, max_connections, self._answer, self._release)
        self._dialler = Dialler(self._checked, self._may_advertise)
        self._heartbeats = Heartbeats(ping_interval)
        self._registry = Registry(network, 0)
        self._store: GatewayStore | None = None
        self._builder: DocumentBuilder | None = None
        self._asked_for = 0  # the serial of the document that is built or being built
        self._waiting: list[tuple[Peer, int]] = []  # for a document of at least this serial
        self._next_tick = 0.0
        self._grace_ends = float("inf")
        self._started = time.time()
        self._snapshot: GatewaySnapshot | None = None
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._handlers: dict[type[Message], Callable[[Peer, Message], None]] = {
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
        """How many relays are in the newest document."""
        document = self._builder.current if self._builder is not None else None
        return document.relays if document is not None else 0

    # ---- any thread ----

    def start(self) -> None:
        """Listens and serves; raises `ConfigError` when an address or the state folder cannot be used."""
        self._store = store = GatewayStore(private_folder(self._state_dir) / "gateway.sqlite")
        try:
            self._restore(store.load())
            self.addresses = self._connections.listen(self._listen)
        except ConfigError:
            self._connections.close()
            self._dialler.stop(0.0)
            store.close()
            raise
        self._loopback_only = all(_is_loopback(address.ip) for address in self.addresses)
        self._builder = DocumentBuilder(self._key, store, partial(self._later, self._publish))
        self._look_around()
        for part in (store, self._builder, self._dialler, self._thread):
            part.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Closes everything and waits for the threads; idempotent."""
        self._stopping.set()
        self._connections.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        elif self._store is None:
            self._connections.close()  # never started
        self._dialler.stop(timeout)
        if self._builder is not None:
            self._builder.stop(timeout)
        if self._store is not None:
            self._store.close(timeout)

    def snapshot(self) -> GatewaySnapshot:
        """What the gateway knows, at most a second old; immutable, and costs the gateway nothing."""
        assert self._snapshot is not None, "not started"
        return self._snapshot

    def _later(self, task: Callable[[], None]) -> None:
        """Runs `task` on the gateway's thread."""
        self._tasks.put(task)
        self._connections.wake()

    def _checked(self, check: CheckAddress, failure: str | None) -> None:
        self._later(lambda: self._perform(self._registry.checked(check, failure, time.time())))

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
        self._connections.close()

    def _turn(self) -> None:
        self._connections.turn(self._time_to_wait())
        while not self._tasks.empty():
            self._tasks.get_nowait()()
        self._beat(time.monotonic())
        self._tick(time.monotonic())
        self._build()

    def _time_to_wait(self) -> float:
        assert self._builder is not None
        moments = [self._next_tick, self._heartbeats.next_due()]
        if self._asked_for != self._registry.serial:
            moments.append(self._builder.rests_until)
        return max(0.0, min(moment for moment in moments if moment is not None) - time.monotonic())

    def _restore(self, stored: Stored) -> None:
        now = time.time()
        # A serial never goes back; the clock keeps that true even when the store was lost.
        serial = max(stored.serial, int(now)) + 1
        owners = Owners(stored.nicknames, stored.successors)
        self._registry = Registry(self._network, serial, owners, Histories(stored.histories, now))
        listed: dict[bytes, Descriptor] = {}
        for envelope in stored.relays:
            try:
                descriptor = verify_member(envelope, self._network)
            except (ProtocolError, DirectoryError):
                log.warning("a stored relay is damaged, and must come back by itself")
                continue
            history = stored.histories.get(descriptor.identity)
            # A document that lists it may still be in force.
            if history is not None and now - history.last_seen < VALID_FOR:
                listed[envelope] = descriptor
        self._registry.restore(listed, now)
        self._grace_ends = time.monotonic() + GRACE_BEATS * self._ping_interval

    def _tick(self, now: float) -> None:
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        self._connections.sweep(now)
        wall = time.time()
        self._perform(self._registry.due_checks(wall))
        self._perform(self._registry.observe(wall))
        if now >= self._grace_ends:
            self._grace_ends = float("inf")
            self._perform(self._registry.end_grace(wall))
        self._look_around()

    def _look_around(self) -> None:
        document = self._builder.current if self._builder is not None else None
        self._snapshot = GatewaySnapshot(
            network=self._network,
            identity=self.identity,
            addresses=self.addresses,
            started=self._started,
            relays=self._registry.entries(),
            serial=document.serial if document is not None else 0,
            valid_after=document.valid_after if document is not None else 0.0,
            valid_until=document.valid_until if document is not None else 0.0,
            document_size=document.size if document is not None else 0,
            transfer_size=len(document.frame) if document is not None else 0,
            build_seconds=document.cost if document is not None else 0.0,
            connections=len(self._connections.peers),
            clients_greeted=self.clients_greeted,
            pings_sent=self._heartbeats.sent,
            pings_missed=self._heartbeats.missed,
            histories=self._registry.histories(),
            storing=self._store is not None and self._store.working,
        )

    def _beat(self, now: float) -> None:
        for beat in self._heartbeats.due(now):
            peer = self._connections.peers.get(beat.session)
            if peer is None:
                continue
            if beat.missed >= SILENT_LIMIT:
                self._connections.drop(peer)
                continue
            self._connections.send(peer, link.encode_ping(beat.number))
        for session in self._heartbeats.silent(now):
            self._perform(self._registry.silent(session, time.time()))

    # ---- requests ----

    def _answer(self, peer: Peer, body: bytes) -> None:
        message = link.decode(body)
        handler = self._handlers.get(type(message))
        if handler is None or (peer.role is None) != isinstance(message, link.Hello):
            raise Unexpected("not now")
        handler(peer, message)

    def _release(self, peer: Peer) -> None:
        self._heartbeats.remove(peer.session)
        self._perform(self._registry.closed(peer.session, time.time()))

    def _on_hello(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Hello)
        if message.network != self._network or message.version != link.VERSION:
            here = f"the network {self._network}, version {link.VERSION}"
            self._connections.refuse(peer, "network", f"this gateway serves {here}")
            return
        if message.role not in ("client", "relay"):
            raise Unexpected("no such role")
        peer.role = message.role
        self._connections.greeted(peer)
        self.clients_greeted += message.role == "client"
        ping_ms = round(self._ping_interval * 1_000)
        welcome = link.Welcome(link.VERSION, self._network, peer.nonce, ping_ms)
        self._connections.send(peer, link.encode(welcome))

    def _on_register(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Register)
        if peer.role != "relay" or peer.registering:
            raise Unexpected("one registration at a time, by relays")
        proof = registration_proof(self._network, self.identity, peer.nonce, message.descriptor)
        now = time.time()
        try:
            descriptor = verify_member(message.descriptor, self._network)
            if verify_proof(message.proof, proof) != descriptor.identity:
                raise NotEnoughSignatures("proved by another key")
            if message.succession:
                succession = verify_succession(message.succession, self._network)
                if succession.new != descriptor.identity:
                    raise NotEnoughSignatures("a succession of another relay")
                self._perform(self._registry.succeed(succession, now))
            actions = self._registry.register(peer.session, descriptor, message.descriptor, now)
        except RegistrationRefused as refused:
            self._connections.refuse(peer, refused.code, str(refused))
            return
        except NotEnoughSignatures:
            text = "the registration is not signed by the relay that it is about, or not by the family it names"
            self._connections.refuse(peer, Refusal.SIGNATURE, text)
            return
        peer.registering = True
        self._perform(actions)

    def _on_unregister(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Unregister)
        try:
            proof = removal_proof(self._network, self.identity, peer.nonce)
            identity = verify_proof(message.proof, proof)
        except NotEnoughSignatures:
            text = "the good-bye is not signed by the relay that it is about"
            self._connections.refuse(peer, Refusal.SIGNATURE, text)
            return
        self._perform(self._registry.unregister(identity, time.time()))
        self._connections.send(peer, link.encode(link.Ok()))

    def _on_list(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.List)
        if peer.sending or peer.asking is not None:
            raise Unexpected("the last answer is not taken yet")
        self._build()
        assert self._builder is not None
        current = self._builder.current
        if current is None or (current.serial != self._registry.serial and current.cost < WAIT_FOR_BUILD):
            peer.asking = message.held
            self._waiting.append((peer, self._registry.serial))
        else:
            self._hand_out(peer, message.held)

    def _on_pong(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Pong)
        if not peer.registered:
            raise Unexpected("nobody pinged")
        round_trip = self._heartbeats.answer(peer.session, message.number, time.monotonic())
        if round_trip is not None:  # a late answer to an earlier ping says nothing new
            self._perform(self._registry.answered(peer.session, round_trip, time.time()))

    # ---- the document ----

    def _build(self) -> None:
        """Has the document of the present serial built, unless it is, or another build is under way."""
        assert self._builder is not None
        now, current = time.time(), self._builder.current
        settled = current is not None and self._asked_for == self._registry.serial == current.serial
        if current is not None and settled and abs(now - current.valid_after) > VALID_FOR / 2:
            self._registry.renew_document()
        if self._asked_for != self._registry.serial and self._builder.idle:
            self._asked_for = self._registry.serial
            self._builder.build(self._registry.document(now))

    def _publish(self) -> None:
        """There is a new document: who waited for it gets it."""
        assert self._builder is not None
        current = self._builder.current
        assert current is not None
        served = [peer for peer, serial in self._waiting if serial <= current.serial]
        self._waiting = [(peer, serial) for peer, serial in self._waiting if serial > current.serial]
        for peer in served:
            held, peer.asking = peer.asking, None
            if held is not None and not peer.closing:
                self._hand_out(peer, held)

    def _hand_out(self, peer: Peer, held: bytes) -> None:
        assert self._builder is not None
        current = self._builder.current
        assert current is not None
        self._connections.send(peer, UNCHANGED if held == current.digest else current.frame)

    # ---- what the registry decides ----

    def _perform(self, actions: Sequence[Action]) -> None:
        assert self._store is not None
        for action in actions:
            match action:
                case StoreRelay() | StoreHistory() | BindNickname() | StoreSuccession():
                    self._store.put(action)
                case CheckAddress():
                    self._dialler.check(action)
                case Gone(nickname, reason):
                    log.info("relay %s is gone: %s", nickname, reason)
                case Listed(session, nickname, newly):
                    if newly:
                        log.info("relay %s is listed", nickname)
                    self._store.flushed(partial(self._later, partial(self._confirm, session)))
                case EndSession(session, code, text):
                    if (peer := self._connections.peers.get(session)) is not None:
                        self._connections.refuse(peer, code, text)

    def _confirm(self, session: int) -> None:
        """The relay of this session is listed, and that is stored."""
        peer = self._connections.peers.get(session)
        if peer is None or peer.closing:
            return
        if not peer.registered:
            peer.registered, peer.deadline = True, float("inf")
            self._heartbeats.add(session, secrets.randbelow(1_000) / 1_000, time.monotonic())
        if peer.registering:
            peer.registering = False
            self._connections.send(peer, link.encode(link.Ok()))


UNCHANGED = link.encode(link.Unchanged())


def _is_loopback(ip: IpAddress | None) -> bool:
    return ip is not None and unmap(ip).is_loopback
