"""A whole network in this process: a gateway, relays and clients on loopback sockets, with state in a folder."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from common.directory.addresses import Address
from common.net.deadline import Deadline
from common.net.link import Link
from common.ops.keystore import Identity, load_or_create_identity
from common.roles.client.bootstrap import DirectoryClient
from common.roles.client.client import Client
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.pool import PathWishes
from common.roles.gateway.gateway import Gateway
from common.roles.relay.listed_relay import ListedRelay

PATIENCE = 30.0  # seconds after which a test that hangs fails
NETWORK = "test"
LOOPBACK = Address("127.0.0.1", 0)
_LOOK = 0.01  # seconds between two looks where nothing tells of a change


class Member:
    """A relay of the network."""

    def __init__(self, relay: ListedRelay, identity: Identity, folder: Path) -> None:
        self.relay = relay
        self.identity = identity.public
        self.folder = folder
        self.address = relay.address

    @property
    def links(self) -> list[Link]:
        """Its open links, accepted and dialled."""
        return self.relay.relay.links.all

    @property
    def circuits(self) -> int:
        """Circuits on its accepted links."""
        links = self.relay.relay.links
        return sum(links.circuits(link) for link in links.all if not link.dialled)


class InProcess:
    """Use `with`: it starts all and waits until every relay is listed; at the end it stops all."""

    def __init__(
        self, folder: Path, relays: int = 3, exit_policy: str = "local", ping_interval: float = 5.0
    ) -> None:
        self._folder = folder
        self._policies = [exit_policy] * relays
        self._ping_interval = ping_interval
        self._stack = ExitStack()
        self.members: list[Member] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            identity = load_or_create_identity(self._folder / "gateway")
            self.gateway = Gateway(
                [LOOPBACK],
                identity.private_key,
                identity.certificate,
                identity.key,
                network=NETWORK,
                state_dir=self._folder / "gateway",
                ping_interval=self._ping_interval,
            )
            self.gateway.start()
            stack.callback(self.gateway.stop)
            self.pin = (self.gateway.address, identity.public)
            self._stack = stack
            for policy in self._policies:
                self.add(policy)
            self.wait_listed()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, policy: str) -> Member:
        """One more relay, started and not yet listed."""
        folder = self._folder / f"r{len(self.members)}"
        identity = load_or_create_identity(folder)
        relay = ListedRelay(
            identity,
            folder,
            LOOPBACK,
            None,
            [self.pin],
            network=NETWORK,
            nickname=folder.name,
            exit_policy=policy,
        )
        relay.start()
        self._stack.callback(relay.stop, 5.0)
        self.members.append(Member(relay, identity, folder))
        return self.members[-1]

    def wait_listed(self) -> None:
        """Until as many relays are listed as there are."""
        directory = DirectoryClient([self.pin], NETWORK)
        directory.start()
        try:
            directory.wait_for(len(self.members), Deadline(PATIENCE))
        finally:
            directory.stop()

    @contextmanager
    def client(self, hops: int | tuple[int, int] = 3, warn: Callable[[str], None] = print) -> Iterator[Client]:
        """A started client."""
        fewest, most = (hops, hops) if isinstance(hops, int) else hops
        with Client([self.pin], NETWORK, wishes=PathWishes(fewest, most), warn=warn) as client:
            yield client

    def member(self, identity: bytes) -> Member:
        """The relay with that identity."""
        return next(member for member in self.members if member.identity == identity)

    def path(self, circuit: ClientCircuit) -> list[Member]:
        """The relays of a circuit, first hop first."""
        return [self.member(entry.descriptor.identity) for entry in circuit.path]


def circuit_of(client: Client, isolation: tuple[str, ...] = ()) -> ClientCircuit:
    """The circuit on which streams of that isolation run."""
    own = [circuit for circuit in client.pool.circuits if circuit.isolation == isolation]
    return max(own, key=lambda circuit: len(circuit.attachments))


def wait_until(test: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Looks until `test` holds, and returns how long that took; for what has no event to wait for."""
    start = monotonic()
    while not test():
        assert monotonic() - start < seconds, "it did not come about in time"
        sleep(_LOOK)
    return monotonic() - start


def receive_all(sock: socket.socket) -> bytes:
    """Until the end of the stream."""
    received = bytearray()
    while data := sock.recv(262_144):
        received += data
    return bytes(received)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """That many bytes; fails at an earlier end."""
    received = bytearray()
    while len(received) < size:
        data = sock.recv(min(262_144, size - len(received)))
        assert data, f"the stream ended after {len(received)} of {size} bytes"
        received += data
    return bytes(received)


def echoes(sock: socket.socket, size: int = 100_000) -> None:
    """What is sent comes back, also more than buffers on the way hold."""
    data = os.urandom(size)
    sock.settimeout(PATIENCE)

    def send() -> None:
        with suppress(OSError):  # what breaks the stream shows where it is read
            sock.sendall(data)

    sender = threading.Thread(target=send, name="sender")
    sender.start()
    assert receive_exactly(sock, size) == data
    sender.join()


def threads() -> list[str]:
    """The names of the threads that run now; an exit's pool of resolvers fills when it is first used."""
    names = (thread.name for thread in threading.enumerate())
    return sorted(name for name in names if not name.startswith("resolver"))


def stream_sockets(network: InProcess, client: Client) -> int:
    """Sockets of streams that are open at the client and at all relays; links that come and go do not count."""
    pumps = [client.pump, *(member.relay.relay.pump for member in network.members)]
    return sum(not isinstance(member, Link) for pump in pumps for member in list(pump._members))


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))
