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

from common.directory.addresses import Address, IpAddress, is_private, unmap
from common.directory.document import MAX_RELAYS
from common.directory.exit_policy import is_special
from common.directory.heartbeats import Heartbeats
from common.directory.registry import Registry
from common.directory.registry_actions import (
    Action,
    BindNickname,
    CheckAddress,
    EndSession,
    Gone,
    Listed,
    StoreHistory,
    StoreRelay,
    StoreSuccession,
)
from common.errors import ConfigError
from common.net.tls import server_context
from common.ops.files import private_folder
from common.roles import gateway_link as link
from common.roles.gateway.connections import Connections
from common.roles.gateway.dial_back import Dialler
from common.roles.gateway.document_builder import DocumentBuilder
from common.roles.gateway.hand_out import HandOut
from common.roles.gateway.peer import Peer
from common.roles.gateway.requests import Requests
from common.roles.gateway.restore import restore
from common.roles.gateway.snapshot import GatewaySnapshot
from common.roles.gateway.store import GatewayStore

log = logging.getLogger(__name__)

PING_INTERVAL = 5.0  # seconds
GRACE_BEATS = 2  # heartbeats for the relays of before a restart to come back
SILENT_LIMIT = 12  # unanswered pings after which a silent relay's connection is closed: it must dial anew
MAX_CONNECTIONS = MAX_RELAYS + 2_000  # every relay and some clients
AFTER_BUG = 0.1  # seconds, so that a bug that comes again at once does not fill the disk with its traceback
TICK = 1.0  # seconds between two looks at deadlines


class Gateway:
    """Inert until `start`; `stop` ends it. `key` is the private key of the PEM files and signs the documents.

    A relay must advertise a public address that the gateway can dial; a gateway that listens on loopback only
    takes loopback addresses too, and one with `allow_private` private ones. `addresses` are those really listened
    on.
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
        self._listen = tuple(listen)
        self._key = key
        self._network = network
        self._state_dir = state_dir
        self._ping_interval = ping_interval
        self._allow_private = allow_private
        self._loopback_only = False
        context = server_context(certificate, key_file)
        self._connections = Connections(context, max_connections, self._answer, self._release)
        self._dialler = Dialler(self._checked, self._may_advertise, self._is_wanted)
        self._heartbeats = Heartbeats(ping_interval)
        self._registry = Registry(network, 0)
        self._store: GatewayStore | None = None
        self._builder: DocumentBuilder | None = None
        self._hand_out: HandOut | None = None
        self._requests: Requests | None = None
        self._next_tick = 0.0
        self._grace_ends = float("inf")
        self._started = time.time()
        self._snapshot: GatewaySnapshot | None = None
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)

    @property
    def address(self) -> Address:
        """The first address listened on."""
        return self.addresses[0]

    @property
    def relays_listed(self) -> int:
        """How many relays are in the newest document."""
        document = self._hand_out.current if self._hand_out is not None else None
        return document.relays if document is not None else 0

    @property
    def clients_greeted(self) -> int:
        """How many clients have said HELLO since the start."""
        return self._requests.clients_greeted if self._requests is not None else 0

    # ---- any thread ----

    def start(self) -> None:
        """Listens and serves; raises `ConfigError` when an address or the state folder cannot be used."""
        self._store = store = GatewayStore(private_folder(self._state_dir) / "gateway.sqlite")
        try:
            self._registry = restore(store.load(), self._network, time.time())
            self.addresses = self._connections.listen(self._listen)
        except ConfigError:
            self._connections.close()
            self._dialler.stop(0.0)
            store.close()
            raise
        self._loopback_only = all(_is_loopback(address.ip) for address in self.addresses)
        self._builder = DocumentBuilder(self._key, store, lambda: self._later(hand_out.published))
        self._hand_out = hand_out = HandOut(self._builder, self._registry, self._connections.send)
        self._requests = Requests(
            self._registry,
            self._connections,
            self._heartbeats,
            hand_out,
            self._perform,
            gateway=self.identity,
            ping_interval=self._ping_interval,
        )
        self._grace_ends = time.monotonic() + GRACE_BEATS * self._ping_interval
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

    def _is_wanted(self, check: CheckAddress) -> bool:
        return check.session in self._connections.peers

    def _may_advertise(self, ip: IpAddress) -> bool:
        if not is_special(ip):
            return True
        return (self._allow_private and is_private(ip)) or (self._loopback_only and _is_loopback(ip))

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
        assert self._hand_out is not None
        self._hand_out.keep_fresh(time.time())

    def _time_to_wait(self) -> float:
        assert self._hand_out is not None
        moments = self._next_tick, self._heartbeats.next_due(), self._hand_out.next_build()
        return max(0.0, min(moment for moment in moments if moment is not None) - time.monotonic())

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
        assert self._hand_out is not None
        assert self._store is not None
        self._snapshot = GatewaySnapshot.of(
            self._registry,
            self._hand_out.current,
            self._heartbeats,
            identity=self.identity,
            addresses=self.addresses,
            started=self._started,
            connections=len(self._connections.peers),
            clients_greeted=self.clients_greeted,
            storing=self._store.working,
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

    # ---- peers ----

    def _answer(self, peer: Peer, body: bytes) -> None:
        assert self._requests is not None
        self._requests.answer(peer, body)

    def _release(self, peer: Peer) -> None:
        self._heartbeats.remove(peer.session)
        self._perform(self._registry.closed(peer.session, time.time()))

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


def _is_loopback(ip: IpAddress | None) -> bool:
    return ip is not None and unmap(ip).is_loopback
