"""Times the building of circuits: ours by a client in this process, C tor's over its control port.

Both build circuits of three different relays drawn at random, time each from the command to "built", and end it.
Some are built before the clock starts, so that the links between relays are open. Ours has keys of the next
handshakes ready, made after each circuit and before its thread builds another, as in a client: that counts for
circuits a second, and not for the time of one.
"""

import random
import socket
import threading
from binascii import a2b_base64
from contextlib import closing, suppress
from dataclasses import dataclass
from time import perf_counter

from common.crypto.handshake import Suite
from common.directory.addresses import Address
from common.directory.path import choose_path
from common.errors import OnionError
from common.net.deadline import Deadline
from common.ops.values import SUITES
from common.roles.client.client import Client
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.pool import PathWishes
from common.roles.client.spare_keys import SpareKeys
from tests.benchmarks.socks import Failed

WARM = 30  # circuits not counted: 20 ordered pairs of 5 relays have links after about these
BUILD_LIMIT = 10.0  # seconds for one circuit
HOPS = 3


@dataclass(frozen=True, slots=True)
class Builds:
    """`times` of the circuits that were built; all took `seconds` together."""

    times: list[float]
    seconds: float
    failures: int


def build_ours(
    pin: tuple[Address, bytes], network: str, suite: str, hops: int, count: int, at_once: int
) -> Builds:
    """`count` circuits, `at_once` threads; the client's own pool is idle meanwhile."""
    chosen = SUITES[suite]
    with Client([pin], network, wishes=PathWishes(hops, hops, chosen)) as client:
        keys = SpareKeys()
        _build_some(client, chosen, hops, WARM, min(at_once, 4), keys)
        return _build_some(client, chosen, hops, count, at_once, keys)


def _build_some(
    client: Client, suite: Suite, hops: int, count: int, at_once: int, keys: SpareKeys
) -> Builds:
    lock = threading.Lock()
    left = count
    times: list[float] = []

    def builder() -> None:
        nonlocal left
        while True:
            with lock:
                if left == 0:
                    return
                left -= 1
            try:
                taken = _build_one(client, suite, hops, keys)
            except OnionError:
                continue  # fewer times than asked for
            keys.refill()
            with lock:
                times.append(taken)

    threads = [threading.Thread(target=builder, name="builder") for _ in range(at_once)]
    begun = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Builds(times, perf_counter() - begun, count - len(times))


def _build_one(client: Client, suite: Suite, hops: int, keys: SpareKeys) -> float:
    deadline = Deadline(BUILD_LIMIT)
    begun = perf_counter()
    path = choose_path(client.relays(), hops)
    first = path.relays[0].descriptor
    link = client.links.obtain((first.address.host, first.address.port), first.identity, deadline)
    circuit = ClientCircuit(path.relays, suite, link, client.links, client.pump, keys.take)
    circuit.build(deadline)
    taken = perf_counter() - begun
    circuit.end()
    return taken


class Control:
    """A C tor control port (its control-spec): commands, and the circuits that have been built or have failed."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), BUILD_LIMIT)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._finished: dict[str, tuple[bool, float]] = {}
        self.command("AUTHENTICATE")
        self.command("SETEVENTS CIRC")

    def command(self, text: str) -> list[str]:
        """The lines of the answer; raises `Failed` when it is not 250."""
        self._sock.sendall(text.encode() + b"\r\n")
        lines: list[str] = []
        data = False  # between "250+" and "." any line may come, also one that looks like the end
        while data or not lines or lines[-1][3:4] != " ":
            line = self._line()
            if line is not None:
                lines.append(line)
                data = line != "." if data else line[3:4] == "+"
        if not lines[-1].startswith("250"):
            raise Failed(f"the control port says {lines[-1]}")
        return lines

    def relays(self) -> list[str]:
        """The fingerprints of all listed relays."""
        lines = [line.removeprefix("250+ns/all=") for line in self.command("GETINFO ns/all")]
        return [a2b_base64(line.split()[2] + "=").hex().upper() for line in lines if line.startswith("r ")]

    def circuits(self) -> list[str]:
        """The ids of all circuits."""
        lines = self.command("GETINFO circuit-status")[:-1]
        entries = [line.removeprefix("250-circuit-status=") for line in lines]  # a single one is not a block of data
        return [entry.split()[0] for entry in entries if entry[:4] != "250+" and entry[:1].isdigit()]

    def extend(self, path: list[str]) -> str:
        """Asks for a circuit and returns its id."""
        return self.command("EXTENDCIRCUIT 0 " + ",".join(path))[-1].split()[2]

    def wait(self, circuits: set[str]) -> tuple[str, bool, float]:
        """The first of these that is finished: its id, whether it was built, when; raises `OSError` after a while."""
        while not (finished := circuits & self._finished.keys()):
            self._line()
        circuit = finished.pop()
        return circuit, *self._finished.pop(circuit)

    def close(self) -> None:
        """Hangs up."""
        self._sock.close()

    def _line(self) -> str | None:
        """One line; None for an event, which is noted."""
        while b"\r\n" not in self._rest:
            data = self._sock.recv(65_536)
            if not data:
                raise Failed("the control port closed")
            self._rest += data
        raw, self._rest = self._rest.split(b"\r\n", 1)
        line = raw.decode("ascii", "replace")
        if not line.startswith("650 "):
            return line
        words = line.split()
        if words[1] == "CIRC" and words[3] in ("BUILT", "FAILED"):
            self._finished[words[2]] = words[3] == "BUILT", perf_counter()
        return None


def build_tors(port: int, count: int, at_once: int) -> Builds:
    """`count` circuits over a control port, `at_once` under way."""
    with closing(Control(port)) as control:
        relays = control.relays()
        _extend_some(control, relays, WARM, 4)
        return _extend_some(control, relays, count, at_once)


def relays_known(port: int) -> int:
    """How many relays the client with this control port has in its list."""
    with closing(Control(port)) as control:
        return len(control.relays())


def close_circuits(port: int) -> None:
    """Ends all circuits of the client with this control port."""
    with closing(Control(port)) as control:
        for circuit in control.circuits():
            with suppress(Failed):  # it has ended by itself
                control.command(f"CLOSECIRCUIT {circuit}")


def _extend_some(control: Control, relays: list[str], count: int, at_once: int) -> Builds:
    times: list[float] = []
    under_way: dict[str, float] = {}
    begun_count = 0
    begun = perf_counter()
    while begun_count < count or under_way:
        while begun_count < count and len(under_way) < at_once:
            moment = perf_counter()
            under_way[control.extend(random.sample(relays, HOPS))] = moment
            begun_count += 1
        circuit, built, moment = control.wait(set(under_way))
        since = under_way.pop(circuit)
        if built:
            times.append(moment - since)
            control.command(f"CLOSECIRCUIT {circuit}")
    return Builds(times, perf_counter() - begun, count - len(times))
