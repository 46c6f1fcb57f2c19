"""`make fuzz`: a minute of hostile peers at the port of a real relay, which then must carry as ever.

`python -m tests.fuzz.relay_port [SECONDS [SEED]]`. Four threads do, over and over, one of: bytes that are no TLS;
random bytes inside TLS; cells of any command, length and circuit, right ones with some bytes changed among them;
layers that do not open on a circuit that was really built; and messages inside layers that do, any of them in any
order, with streams, limits and targets that make no sense or some, and some bytes changed. All the while a stream
of somebody else's goes through the relay. In the end that must have lost nothing, a new circuit must carry, what the
hostile peers took must be free again, and the log must have no traceback.
"""

import contextlib
import os
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from random import Random

from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite
from common.crypto.layers import Kind
from common.directory.addresses import parse_address
from common.errors import DestroyReason, EndReason, Malformed, OnionError
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
from tests.net.in_process import circuit_of, receive_exactly
from tests.net.raw_client import RawClient
from tests.system.network import PATIENCE, Network, wait_until
from tests.system.targets import Target, echo, unused_port

RELAYS = 3
THREADS = 4
SECONDS = 60.0
SHORT = 0.2  # seconds that a hostile peer waits for an answer
OWN = 8  # threads and descriptors that a relay may keep: links to others, threads that look names up


class Attacker:
    """One thread's worth of hostility, the same for the same seed but for what keys do to it."""

    def __init__(self, victim: PathHop, others: list[PathHop], targets: list[int], seed: int) -> None:
        self.attacks = 0
        self._victim = victim
        self._others = others
        self._targets = targets  # ports on loopback, of which one answers
        self._random = Random(seed)

    def run(self, until: Deadline) -> None:
        """Attacks until the time is over."""
        attacks = [self._raw, self._inside_tls, self._cells, self._layers, self._messages, self._messages, self._many]
        while not until.expired:
            with contextlib.suppress(OSError, OnionError, AssertionError, StopIteration):
                self._random.choice(attacks)()
            self.attacks += 1

    # ---- before there is a circuit

    def _raw(self) -> None:
        with socket.create_connection((self._victim.host, self._victim.port), SHORT) as sock:
            sock.sendall(self._random.choice([b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"]) + self._noise())

    def _inside_tls(self) -> None:
        with self._link() as client:
            client.peer.say(self._noise())
            self._listen(client)

    def _cells(self) -> None:
        """On one link, until the relay has enough of it."""
        with self._link() as client:
            for _ in range(self._random.randrange(1, 30)):
                client.peer.say(self._spoilt(self._any_cell(), 0.3))
            self._listen(client)

    def _many(self) -> None:
        """Circuits that are begun and ended in any order."""
        with self._link() as client:
            ids = [self._random.randrange(1, 40) for _ in range(self._random.randrange(1, 30))]
            for circuit_id in ids:
                body = Origin([self._victim], Suite.FERNET).create
                client.say(circuit_id, Command.CREATE, body)
                if self._random.random() < 0.5:
                    client.say(self._random.choice(ids), Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
            self._listen(client)

    def _any_cell(self) -> bytes:
        random = self._random
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
                if self._random.random() < 0.5:
                    client.say(circuit_id, Command.RELAY, body)
                client.say(circuit_id, Command.RELAY, self._spoilt(body, 1.0)[:16_377])
            self._listen(client)

    def _messages(self) -> None:
        with self._link() as client:
            path = self._random.choice([[self._victim], [self._victim, self._random.choice(self._others)]])
            circuit_id, origin = client.build(*path)
            for _ in range(self._random.randrange(1, 12)):
                said = [self._any_message() for _ in range(self._random.randrange(1, 5))]
                kind = Kind.FORWARD if self._random.random() < 0.1 else Kind.DELIVER
                layer = origin._stack._forward[-1].seal(kind, *(self._spoilt(each, 0.2) for each in said))
                client.say(circuit_id, Command.RELAY, layer[:16_377])
            if self._random.random() < 0.3:
                client.say(circuit_id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
            self._listen(client)

    def _any_message(self) -> bytes:
        random = self._random
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
        random = self._random
        return HEADER.pack(random.randrange(256), stream, random.randrange(65_536)) + self._noise()[:500]

    # ---- helpers

    def _link(self) -> contextlib.closing[RawClient]:
        suite = self._random.choice(list(Suite))
        address = parse_address(f"{self._victim.host}:{self._victim.port}")
        client = RawClient(address, versions=self._random.choice([(1,), (1,), (1,), (), (2,), (9, 1)]), suite=suite)
        client.peer.sock.settimeout(SHORT)
        return contextlib.closing(client)

    def _listen(self, client: RawClient) -> None:
        """Sometimes for what comes; else the link is hung up on."""
        while self._random.random() < 0.8:
            client.cell()

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 1, 5, 100, 3_000, 100_000]))

    def _spoilt(self, data: bytes, chance: float) -> bytes:
        random = self._random
        if not data or random.random() >= chance:
            return data
        at = random.randrange(len(data))
        return random.choice(
            [
                data[:at],
                data[:at] + random.randbytes(random.randrange(1, 9)) + data[at + 1 :],
                data + data[:at],
                data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :],
            ]
        )


def fuzz(folder: Path, seconds: float, seed: int) -> int:
    """The number of attacks that the relay has borne; raises `AssertionError` when it has not."""
    with (
        Network(folder, RELAYS) as network,
        network.client(RELAYS) as client,
        Target(echo) as target,
        client.connect(target.host, target.port) as sock,
    ):
        sock.settimeout(PATIENCE)
        _exchange(sock)
        victim = network.path(circuit_of(client))[1]
        hops = {entry.descriptor.identity: path_hop(entry) for entry in client.relays()}
        at = hops.pop(victim.identity)
        threads_before, descriptors_before = victim.threads(), victim.descriptors()
        until = Deadline(seconds)
        targets = [target.port, unused_port()]
        attackers = [Attacker(at, list(hops.values()), targets, seed + number) for number in range(THREADS)]
        threads = [threading.Thread(target=attacker.run, args=(until,)) for attacker in attackers]
        for thread in threads:
            thread.start()
        while not until.expired:
            _exchange(sock)
        for thread in threads:
            thread.join(PATIENCE)
        _exchange(sock)
        with client.connect(target.host, target.port, ("another",)) as other:
            other.settimeout(PATIENCE)
            _exchange(other)
        wait_until(lambda: victim.threads() <= threads_before + OWN)
        wait_until(lambda: victim.descriptors() <= descriptors_before + OWN)
        for relay in network.relays:
            assert relay.alive
            assert "Traceback" not in relay.said() and "internal error" not in relay.said(), relay.said()
        return sum(attacker.attacks for attacker in attackers)


def _exchange(sock: socket.socket) -> None:
    data = os.urandom(20_000)
    sock.sendall(data)
    assert receive_exactly(sock, len(data)) == data


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(f"{seconds:.0f} seconds, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-relay-") as folder:
        attacks = fuzz(Path(folder), seconds, seed)
    print(f"{attacks} attacks: the relay carries as ever")


if __name__ == "__main__":
    main()
