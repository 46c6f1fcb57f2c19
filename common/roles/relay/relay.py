"""The relay: accepts links, answers CREATE, extends circuits by links of its own, and is an exit.

A relay knows of a circuit the link before it and the link after it, and nothing else.
"""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from queue import Empty, SimpleQueue

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.circuit.actions import ExtendTo
from common.circuit.hop import Hop
from common.crypto.handshake import answer
from common.directory.addresses import Address, IpAddress, is_private, unmap
from common.directory.exit_policy import ExitPolicy, is_special
from common.errors import AuthenticationFailed, Closed, DestroyReason, Stopping, TooLarge
from common.net.deadline import Deadline
from common.net.handshake import text_of
from common.net.link import Link
from common.net.listener import Listener
from common.net.pump import Pump
from common.net.tls import server_context
from common.net.turn import TURN
from common.roles.limits import TokenBucket
from common.roles.links import Links, Place
from common.roles.memory_budget import BUDGET, MemoryBudget
from common.roles.relay.counts import COUNT_TIME, Counts
from common.roles.relay.exit import Exit
from common.roles.relay.relay_circuit import RelayCircuit
from common.wire.cells import Command

DIAL_TIMEOUT = 10.0  # seconds to reach the next relay; a client gives a circuit about as long
MAX_DIALS = 128  # links being dialled at a time: each is a short-lived thread
DIALS_SHARE = 16  # of them for what came from one address: dead ones last 10 s, honest ones well below one
MAX_WAITING = 1_024  # circuits for one of them: what clients behind one guard begin in its 10 s, and more
CREATE_RATE, CREATE_BURST = 1_000, 2_000  # per link: a handshake costs 0.3 ms of this relay's time
BEGIN_RATE, BEGIN_BURST = 5_000, 10_000  # per link, which many clients' circuits may share
IDLE_CHECK = 30.0  # seconds between looks for links that nobody uses

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RelayIdentity:
    """What a relay proves itself by: its public identity (32 bytes) and the PEM files of its certificate."""

    public: bytes
    certificate: Path
    key: Path


@dataclass(slots=True, eq=False)
class _Dial:
    holder: str | Link  # of whose share it is
    waiting: list[tuple[RelayCircuit, bytes]]  # circuits that go on by the link, and their CREATE

    def add(self, circuit: RelayCircuit, create: bytes) -> None:
        """Raises `TooLarge`. Those that have ended meanwhile make room."""
        if len(self.waiting) >= MAX_WAITING:
            self.waiting = [each for each in self.waiting if not each[0].closed]
        if len(self.waiting) >= MAX_WAITING:
            raise TooLarge("too many circuits wait for one link")
        self.waiting.append((circuit, create))


class Relay:
    """A relay without its registration; `address` is where others dial it."""

    def __init__(
        self,
        identity: RelayIdentity,
        onion_keys: Callable[[], Mapping[bytes, X25519PrivateKey]],
        listen: Address,
        policy: ExitPolicy,
        network_ports: Iterable[Address] = (),
        advertise: Address | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """`onion_keys`: public to secret, those accepted now; `network_ports`: no exit dials them, nor its own.

        `advertise` is where others dial it, `listen` if None; `shared`: it is one of several workers that listen
        there. Raises `ConfigError` when it cannot listen.
        """
        self._identity = identity
        self._onion_keys = onion_keys
        self.pump = Pump()
        self.links = Links(self.pump, self._new_circuit)
        context = server_context(identity.certificate, identity.key)
        self._listener = Listener((listen.host, listen.port), context, self.links, self._add_link, shared=shared)
        listened = Address(*self._listener.address)
        self.address = advertise or listened
        self._exit = Exit(self.pump, policy, [*network_ports, listened, self.address])
        self._budget = MemoryBudget(self.links, self.pump, self._exit.early)
        self._dials_lock = threading.Lock()  # guards `_dials`
        self._dials: dict[Place, _Dial] = {}
        self._buckets_lock = threading.Lock()  # guards the table's shape
        self._buckets: dict[Link, tuple[TokenBucket, TokenBucket]] = {}
        self._told = Counts()
        self._stopping = False

    def start(self) -> None:
        """Starts listening."""
        self.pump.start()
        self._listener.start()
        self.pump.call_every(IDLE_CHECK, self._check_idle)
        self._budget.start()

    def call_every(self, seconds: float, function: Callable[[], object]) -> None:
        """Calls it again and again, while the relay runs, on a thread where nothing may wait."""
        self.pump.call_every(seconds, function)

    def carried(self) -> int:
        """Bytes carried since the start."""
        return self.links.carried

    def counts(self) -> Counts:
        """What is open, and was counted since the start. Any thread but the pump's; waits `COUNT_TIME` at most."""
        assert not self.pump.on_pump_thread(), "it would wait for itself"
        answers: SimpleQueue[Counts] = SimpleQueue()
        self.pump.call(lambda: answers.put(self.count()))
        try:
            self._told = answers.get(timeout=COUNT_TIME)
        except Empty:
            return Counts.silent(self._told.ever)
        return self._told

    def keys_renewed(self) -> None:
        """Nothing to do: each CREATE asks for the keys."""

    def reconfigure(self, exit_policy: str) -> None:
        """Streams that begin from now on go by this policy; those that are up go on. Any thread."""
        self._exit.policy = ExitPolicy.parse(exit_policy)

    def stop_accepting(self, deadline: Deadline) -> None:
        """Takes no more links, circuits or streams; those that are up live on. May be called again."""
        self._stopping = True
        self._listener.close(deadline)

    def stop(self, deadline: Deadline) -> None:
        """Stops listening, gives what is queued to the kernel, ends everything; nothing is left running."""
        self.stop_accepting(deadline)
        self.links.close(deadline)
        self._exit.close()
        self.pump.stop(deadline)

    def _check_idle(self) -> None:
        self.links.close_idle()
        with self._buckets_lock:
            self._buckets = {link: buckets for link, buckets in self._buckets.items() if not link.closed}

    # ---- links: the listener's threads

    def _add_link(self, link: Link) -> None:
        with self._buckets_lock:
            self._buckets[link] = TokenBucket(CREATE_RATE, CREATE_BURST), TokenBucket(BEGIN_RATE, BEGIN_BURST)
        try:
            self.links.add(link)
        except Closed:
            pass  # the next look for idle links drops its buckets

    # ---- circuits: the pump's thread

    def count(self) -> Counts:
        """As `counts`, without waiting: about 1 ms with 10,000 circuits."""
        links, sides = self.links.all, self.links.sides
        circuits = [side for side in sides if isinstance(side, RelayCircuit)]
        dialled = sum(link.dialled for link in links)
        bytes_in, bytes_out = self.links.traffic
        now = {
            "processes": 1,
            "links_in": len(links) - dialled,
            "links_out": dialled,
            "circuits": len(circuits),
            "streams": sum(len(circuit.attachments) for circuit in circuits),
            "waiting_bytes": self._budget.held(),
            "budget_bytes": BUDGET,
        }
        ever = {
            "link_bytes_in": bytes_in,
            "link_bytes_out": bytes_out,
            "creates_answered": self.links.creates_answered,
            "streams_opened": self._exit.streams_opened,
            "circuits_shed": self._budget.circuits_shed,
        }
        ever |= {f"creates_refused_{why.name.lower()}": n for why, n in self.links.creates_refused.items()}
        ever |= {f"streams_refused_{why.name.lower()}": n for why, n in self._exit.streams_refused.items()}
        return Counts(Counter(now), Counter(ever))

    def _new_circuit(self, link: Link, circuit_id: int, body: bytes) -> RelayCircuit:
        if self._stopping:
            raise Stopping("no more circuits")
        creates, begins = self._buckets[link]
        if not creates.take():
            raise TooLarge("too many CREATE")
        created, keys = answer(body, self._identity.public, self._onion_keys())
        hop = Hop(self._identity.public, keys)
        circuit = RelayCircuit(hop, link, circuit_id, self.links, self._exit)
        circuit.dial = self._extend
        circuit.may_begin = partial(self._may_begin, begins)
        link.queue(circuit_id, Command.CREATED, created)
        TURN.flush(link)
        return circuit

    def _may_begin(self, begins: TokenBucket) -> bool:
        return not self._stopping and begins.take()

    def _extend(self, circuit: RelayCircuit, action: ExtendTo) -> None:
        """By a link that is up at once, else when it is: the pump never waits."""
        place = action.identity, action.host, action.port
        with self._dials_lock:
            link = self.links.find((action.host, action.port), action.identity)
            if link is None:
                dial = self._dials.get(place) or self._begin_dial(place, circuit.link)
                dial.add(circuit, action.create)
                return
        self._extend_by(circuit, link, action.create)

    def _begin_dial(self, place: Place, link: Link) -> _Dial:
        """On a short-lived thread. Requires `_dials_lock`."""
        holder = link.source or link
        held = sum(dial.holder == holder for dial in self._dials.values())
        if len(self._dials) >= MAX_DIALS or held >= DIALS_SHARE:
            raise TooLarge("too many links being dialled")
        try:
            threading.Thread(target=self._dial, args=place, name="dial", daemon=True).start()
        except RuntimeError:
            raise TooLarge("the system gives no thread for a dial") from None
        dial = self._dials[place] = _Dial(holder, [])
        return dial

    def _dial(self, identity: bytes, host: str, port: int) -> None:
        link = None
        deadline = Deadline(DIAL_TIMEOUT)
        try:
            address = self._dialable(host, port)  # cannot be broken off, but is not given time of its own
            link = self.links.obtain(address, identity, deadline)
        except (Closed, AuthenticationFailed, OSError) as error:  # the last: no descriptor is left
            _logger.debug("cannot extend: %s", text_of(error))
        except Exception:
            _logger.exception("unexpected error in a dial")
        with self._dials_lock:
            waiting = self._dials.pop((identity, host, port)).waiting
        for circuit, create in waiting:
            if circuit.closed:
                continue
            if link is None:
                circuit.end(DestroyReason.UNREACHABLE)
            else:
                self._extend_by(circuit, link, create)

    def _dialable(self, host: str, port: int) -> tuple[str, int]:
        """A numeric address to dial; raises `Closed`.

        Clients must not probe its network by EXTEND. So a private address is dialled by a relay that is on one
        itself, or on loopback; loopback by one that is there; what is special otherwise by none.
        """
        found = _ips(host, port)
        if not found:
            raise Closed("the next relay's name is not known", DestroyReason.UNREACHABLE)
        own = _ips(self.address.host, self.address.port)
        on_loopback = any(unmap(ip).is_loopback for ip in own)
        on_private = on_loopback or any(map(is_private, own))
        for ip in found:
            if not is_special(ip) or (on_private and is_private(ip)) or (on_loopback and unmap(ip).is_loopback):
                return str(ip), port
        raise Closed("this relay dials no such address", DestroyReason.UNREACHABLE)

    def _extend_by(self, circuit: RelayCircuit, link: Link, create: bytes) -> None:
        try:
            circuit.extend_by(link, create)
        except Closed:
            circuit.end(DestroyReason.UNREACHABLE)
        except TooLarge:
            circuit.end(DestroyReason.LIMIT)


def _ips(host: str, port: int) -> list[IpAddress]:
    """The addresses of a host; none when its name is not known."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ip_address(str(target[0])) for *_, target in found]
