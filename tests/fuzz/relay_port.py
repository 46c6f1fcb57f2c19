"""`make fuzz`: a minute of hostile peers at the port of a real relay, which then must carry as ever.

`python -m tests.fuzz.relay_port [SECONDS [SEED]]`. Four threads do, over and over, one of: bytes that are no TLS;
random bytes inside TLS; cells of any command, length and circuit, right ones with some bytes changed among them;
layers that do not open on a circuit that was really built; and messages inside layers that do, any of them in any
order, with streams, limits and targets that make no sense or some, and some bytes changed. All the while a stream
of somebody else's goes through the relay. In the end that must have lost nothing, a new circuit must carry, what the
hostile peers took must be free again, all that the relays count must be back at none when the last client has left,
and the log must have no traceback.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from urllib.request import urlopen

from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite
from common.crypto.layers import Kind
from common.directory.addresses import Address
from common.errors import DestroyReason, EndReason, Malformed
from common.net.deadline import Deadline
from common.roles.client.client_circuit import path_hop
from common.wire.cells import Command, encode_cell, encode_destroy
from common.wire.messages import (
    HEADER,
    Begin,
    BeginFlags,
    Connected,
    Data,
    Direction,
    Drop,
    End,
    Extend,
    Extended,
    Mark,
    Message,
    Resolve,
    Resolved,
    Sendme,
    Sought,
)
from tests.fuzz import hostile
from tests.fuzz.hostile import SHORT, THREADS
from tests.net.in_process import circuit_of, echoes
from tests.net.raw_client import RawClient
from tests.system.network import Network, Process, wait_until
from tests.system.targets import Target, echo, unused_port

RELAYS = 3
OWN = 8  # threads and descriptors that a relay may keep: links to others, threads that look names up


class Attacker(hostile.Attacker):
    """A stranger to a relay, who finds its link ended where a test would have none of that."""

    turned_away = (*hostile.Attacker.turned_away, AssertionError)

    def __init__(self, victim: PathHop, others: list[PathHop], targets: list[int], seed: int) -> None:
        """`targets`: ports on loopback, of which one answers."""
        super().__init__((victim.host, victim.port), seed)
        self._victim = victim
        self._others = others
        self._targets = targets

    def choices(self) -> Sequence[Callable[[], None]]:
        """See `hostile.Attacker`."""
        return [self.raw, self._inside_tls, self._cells, self._layers, self._messages, self._messages, self._many]

    # ---- before there is a circuit

    def _inside_tls(self) -> None:
        with self._link() as client:
            client.peer.say(self.noise())
            self._listen(client)

    def _cells(self) -> None:
        """On one link, until the relay has enough of it."""
        with self._link() as client:
            for _ in range(self.random.randrange(1, 30)):
                client.peer.say(self._spoilt(self._any_cell(), 0.3))
            self._listen(client)

    def _many(self) -> None:
        """Circuits that are begun and ended in any order."""
        with self._link() as client:
            ids = [self.random.randrange(1, 40) for _ in range(self.random.randrange(1, 30))]
            for circuit_id in ids:
                body = Origin([self._victim], Suite.FERNET).create
                client.say(circuit_id, Command.CREATE, body)
                if self.random.random() < 0.5:
                    client.say(self.random.choice(ids), Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
            self._listen(client)

    def _any_cell(self) -> bytes:
        random = self.random
        command = random.choice([*Command, random.randrange(128)])
        circuit_id = random.choice([0, 1, 2, random.getrandbits(32)])
        bodies: list[Callable[[], bytes]] = [
            lambda: b"",
            lambda: random.randbytes(random.randrange(1, 1_000)),
            lambda: random.randbytes(16_377),
            lambda: Origin([self._victim], random.choice(list(Suite))).create,
            lambda: encode_destroy(random.choice(list(DestroyReason))),
        ]
        return encode_cell(circuit_id, command, random.choice(bodies)())

    # ---- on a circuit

    def _layers(self) -> None:
        with self._link() as client:
            circuit_id, origin = client.build(self._victim)
            origin.endpoint.resolve("127.0.0.1", 0.0)
            for body in origin.take_cells(0):
                if self.random.random() < 0.5:
                    client.say(circuit_id, Command.RELAY, body)
                client.say(circuit_id, Command.RELAY, self._spoilt(body, 1.0)[:16_377])
            self._listen(client)

    def _messages(self) -> None:
        with self._link() as client:
            path = self.random.choice([[self._victim], [self._victim, self.random.choice(self._others)]])
            circuit_id, origin = client.build(*path)
            for _ in range(self.random.randrange(1, 12)):
                said = [self._any_message() for _ in range(self.random.randrange(1, 5))]
                kind = Kind.FORWARD if self.random.random() < 0.1 else Kind.DELIVER
                layer = origin._stack._forward[-1].seal(kind, *(self._spoilt(each, 0.2) for each in said))
                client.say(circuit_id, Command.RELAY, layer[:16_377])
            if self.random.random() < 0.3:
                client.say(circuit_id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
            self._listen(client)

    def _any_message(self) -> bytes:
        random = self.random
        stream = random.choice([0, 1, 1, 1, 3, 5, 65_535])
        port = random.choice([*self._targets, 0, 1, 80, 65_535])
        host = random.choice(["127.0.0.1", "127.0.0.1", "::1", "localhost", "", "1" * 255, "0.0.0.0", "[::ffff:127.0.0.1]"])
        total = random.choice([0, 1, 2**19, 2**23, 2**63, 2**64 - 1])
        other = random.choice([*self._others, self._victim])
        reason = random.choice(list(EndReason))
        create = random.choice([Origin([other], Suite.FERNET).create, random.randbytes(1_282)])
        messages: list[Message] = [
            Begin(stream, host, port, random.choice(list(BeginFlags))),
            Data(stream, random.randbytes(random.choice([0, 1, 500, 3_000]))),
            End(stream, random.choice(list(Direction)), reason),
            Sendme(stream, total, b"" if stream else random.randbytes(16)),
            Extend(other.host, other.port, other.identity, create),
            Extended(random.randbytes(1_152)),
            Resolve(stream, host, random.choice(list(Sought))),
            Resolved(stream, reason, (ip_address("192.0.2.1"),), 60),
            Connected(stream, ip_address("192.0.2.1"), 60),
            Drop(random.randrange(100)),
            Mark(),
        ]
        try:
            return random.choice(messages).encode() if random.random() < 0.9 else self._no_message(stream)
        except Malformed:
            return self._no_message(stream)  # our own code will not say it

    def _no_message(self, stream: int) -> bytes:
        random = self.random
        return HEADER.pack(random.randrange(256), stream, random.randrange(65_536)) + self.noise()[:500]

    # ---- helpers

    def _link(self) -> contextlib.closing[RawClient]:
        suite = self.random.choice(list(Suite))
        client = RawClient(Address(*self.target), versions=self.random.choice([(1,), (1,), (1,), (), (2,), (9, 1)]), suite=suite)
        client.peer.sock.settimeout(SHORT)
        return contextlib.closing(client)

    def _listen(self, client: RawClient) -> None:
        """Sometimes for what comes; else the link is hung up on."""
        while self.random.random() < 0.8:
            client.cell()

    def _spoilt(self, data: bytes, chance: float) -> bytes:
        return self.spoil(data) if data and self.random.random() < chance else data


def fuzz(folder: Path, seconds: float, seed: int) -> int:
    """The number of attacks that the relay has borne; raises `AssertionError` when it has not."""
    with Network(folder, RELAYS, of_relays=["--http", "127.0.0.1:0"]) as network, Target(echo) as target:
        attacks = _beside_a_client(network, target, seconds, seed)
        for relay in network.relays:
            wait_until(partial(_is_unused, relay))
            assert relay.alive
            assert "Traceback" not in relay.said() and "internal error" not in relay.said(), relay.said()
        return attacks


def _beside_a_client(network: Network, target: Target, seconds: float, seed: int) -> int:
    with network.client(RELAYS) as client, client.connect(target.host, target.port) as sock:
        echoes(sock)
        victim = network.path(circuit_of(client))[1]
        hops = {entry.descriptor.identity: path_hop(entry) for entry in client.relays()}
        at = hops.pop(victim.identity)
        threads_before, descriptors_before = victim.threads(), victim.descriptors()
        targets = [target.port, unused_port()]
        attackers = [Attacker(at, list(hops.values()), targets, seed + number) for number in range(THREADS)]
        attacks = hostile.attack(attackers, Deadline(seconds), lambda: echoes(sock))
        echoes(sock)
        with client.connect(target.host, target.port, ("another",)) as other:
            echoes(other)
        wait_until(lambda: victim.threads() <= threads_before + OWN)
        wait_until(lambda: victim.descriptors() <= descriptors_before + OWN)
        return attacks


def _is_unused(relay: Process) -> bool:
    """Whether it counts no circuit, no stream, nothing that waits, and no link but those among relays."""
    with urlopen(f"http://{relay.http}/status.json") as page:
        now = json.load(page)["now"]
    return not any(now[name] for name in ("circuits", "streams", "waiting_bytes")) and now["links_in"] < RELAYS


if __name__ == "__main__":
    hostile.main(fuzz, "the relay carries as ever")
