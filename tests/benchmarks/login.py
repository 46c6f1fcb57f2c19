"""Users at a login server: a thousand sign up, log in and talk, two hundred at once; and what its timing tells.

    python -m tests.benchmarks.login [--users N] [--at-once N] [--iterations N] [--hops N]

None may be lost and none mixed up: each user is told the own name, and finds exactly the own text in the mailbox.
The passwords are real (600,000 iterations unless said otherwise), so most of the time is the clients' arithmetic.

The second part asks for known and unknown names in turn, each try well formed and wrong, and compares how long the
server takes. `load` and `compare` take `connect`, which says how a client reaches the server: straight, or through
a network of real processes, where each of those who are there at once has circuits of its own.
"""

import argparse
import base64
import itertools
import os
import socket
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.crypto.scram import GS2_HEADER, MIN_ITERATIONS
from common.directory.addresses import Address
from common.login.throttle import FREE_TRIES
from common.wire import login
from tests.net.auth_process import AuthProcess, auth_process
from tests.net.login_peer import Connect, LoginPeer, Refused, dial, new_verifier, parts
from tests.system.network import Network

PATIENCE = 300.0  # seconds: two hundred clients share two cores for their hashing


class Turns:
    """So many at a time, in the order of their coming; a `Semaphore` may let the last one in first."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()  # guards both
        self._free = count
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        turn = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            self._waiting.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


HASHING = Turns(os.cpu_count() or 1)  # each finishes sooner so, and all as soon


@dataclass
class Load:
    """What the users saw: seconds of each step, and every failure in words."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"sign up": [], "log in": [], "talk": []})
    failures: list[str] = field(default_factory=list)
    whole: float = 0.0
    most_at_once: int = 0


class _AtOnce:
    """How many users are connected, and the most there have been."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both
        self._now = 0
        self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


def load(address: Address, users: int, at_once: int, iterations: int, connect: Connect = dial) -> Load:
    """So many users, each with an own password, name and connections."""
    found, connected = Load(), _AtOnce()

    def one(number: int) -> None:
        name, password = f"user{number}", f"password of {number} {os.urandom(8).hex()}"
        try:
            with connected:
                _live(address, name, password, iterations, connect, found)
        except Exception as error:
            found.failures.append(f"{name}: {type(error).__name__}: {error}")

    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(users)))
    found.whole, found.most_at_once = time.perf_counter() - began, connected.most
    return found


def _live(address: Address, name: str, password: str, iterations: int, connect: Connect, found: Load) -> None:
    """A user's first minutes."""
    with HASHING:
        verifier = parts(new_verifier(password, iterations))
    moments = [time.perf_counter()]
    with _connected(address, iterations, connect) as peer:
        peer.ask(login.SignUp(name, *verifier), login.Ok)
    moments.append(time.perf_counter())
    with _connected(address, iterations, connect) as peer:
        client = peer.scram(name, password)
        with HASHING:  # a challenge lives for 60 s, and two hundred share these cores
            challenge = peer.ask(login.Scram(client.first()), login.Challenge)
            final = client.final(challenge.data)
        client.verify(peer.ask(login.Proof(final), login.Done).data)
        moments.append(time.perf_counter())
        text = f"only for {name}"
        peer.ask(login.Send(name, text), login.Sent)
        seen, texts = peer.ask(login.WhoAmI(), login.You).name, peer.inbox()
        if (seen, texts) != (name, [text]):
            raise AssertionError(f"mixed up: {seen}, {texts}")
        peer.ask(login.LogOut(), login.Ok)
    moments.append(time.perf_counter())
    for step, (start, end) in zip(found.seconds, itertools.pairwise(moments), strict=True):
        found.seconds[step].append(end - start)


def _connected(address: Address, iterations: int, connect: Connect) -> LoginPeer:
    peer = LoginPeer(address, connect, iterations)
    peer.sock.settimeout(PATIENCE)
    peer.hello()
    return peer


def compare(address: Address, names: int, connect: Connect = dial) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of both steps for known and for unknown names, asked in turn: step -> (known, unknown)."""
    known, unknown = ([f"{kind}{number:05}" for number in range(names)] for kind in ("known", "nobdy"))
    verifier = parts(new_verifier(iterations=MIN_ITERATIONS))
    for at in range(0, names, FREE_TRIES):
        with _connected(address, MIN_ITERATIONS, connect) as peer:
            for name in known[at : at + FREE_TRIES]:
                peer.ask(login.SignUp(name, *verifier), login.Ok)
    found: dict[str, tuple[list[float], list[float]]] = {"challenge": ([], []), "refusal": ([], [])}
    kinds = [0, 1]
    for _ in range(FREE_TRIES):
        for pair in zip(known, unknown, strict=True):
            kinds.reverse()  # neither is always the first on its connection
            with _connected(address, MIN_ITERATIONS, connect) as peer:
                for which in kinds:
                    challenge, refusal = _wrong(peer, pair[which])
                    found["challenge"][which].append(challenge)
                    found["refusal"][which].append(refusal)
    return found


def _wrong(peer: LoginPeer, name: str) -> tuple[float, float]:
    """A try that is well formed and wrong: the seconds of its two answers."""
    first = GS2_HEADER + f"n={name},r={base64.b64encode(os.urandom(24)).decode()}".encode()
    start = time.perf_counter()
    challenge = peer.ask(login.Scram(first), login.Challenge).data
    middle = time.perf_counter()
    nonce = challenge.partition(b",")[0]
    binding = base64.b64encode(GS2_HEADER + peer.binding)
    final = b"c=%b,%b,p=%b" % (binding, nonce, base64.b64encode(os.urandom(32)))
    sent = time.perf_counter()
    try:
        peer.ask(login.Proof(final), login.Done)
    except Refused as error:
        assert error.code is login.ErrorCode.WRONG, error
    return middle - start, time.perf_counter() - sent


def report(found: Load) -> None:
    """For people."""
    done = len(found.seconds["talk"])
    print(f"{done} users signed up, logged in and talked, {found.most_at_once} at once: {found.whole:.1f} s")
    print(f"lost or mixed up: {len(found.failures)}")
    for failure in found.failures[:10]:
        print(" ", failure)
    for step, seconds in found.seconds.items():
        print(f"  {step:8} median {_ms(seconds, 50):8.1f} ms   p95 {_ms(seconds, 95):8.1f} ms")


def report_timing(found: dict[str, tuple[list[float], list[float]]]) -> None:
    """The ratio of the medians, and how far apart the quarters of either kind are."""
    for step, (known, unknown) in found.items():
        ratio = statistics.median(unknown) / statistics.median(known)
        print(
            f"  {step:9} known {_ms(known, 50):.3f} ms ({_ms(known, 25):.3f}-{_ms(known, 75):.3f}),"
            f" unknown {_ms(unknown, 50):.3f} ms ({_ms(unknown, 25):.3f}-{_ms(unknown, 75):.3f}):"
            f" ratio {ratio:.3f} of {len(known)} tries each"
        )


def _ms(seconds: Sequence[float], percent: int) -> float:
    if len(seconds) < 2:
        return 1_000 * sum(seconds)
    return 1_000 * statistics.quantiles(seconds, n=100)[percent - 1]


@contextmanager
def way(hops: int) -> Iterator[Connect]:
    """Straight to the server for 0 hops, else through so many relays, at least five of which run."""
    if not hops:
        yield dial
        return
    with tempfile.TemporaryDirectory() as folder, Network(Path(folder), max(hops, 5)) as network:
        with network.client(hops) as client:

            def connect(address: Address) -> socket.socket:
                isolation = (threading.current_thread().name,)
                return client.connect(address.host, address.port, isolation, PATIENCE)

            yield connect


def with_server(use: Callable[[AuthProcess], None]) -> None:
    """A server of its own process, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as folder, auth_process(Path(folder) / "server") as server:
        use(server)


def main() -> int:
    """Both parts straight to a server on loopback; through a network the first, whose delays would hide the rest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=MIN_ITERATIONS)
    parser.add_argument("--names", type=int, default=300, help="of each kind, for the comparison of times")
    parser.add_argument("--hops", type=int, default=0, help="through a network, by so many relays; 0: straight")
    given = parser.parse_args()
    lost = 0

    def run(server: AuthProcess) -> None:
        nonlocal lost
        with way(given.hops) as connect:
            found = load(server.address, given.users, given.at_once, given.iterations, connect)
        report(found)
        lost = len(found.failures)
        if given.names and not given.hops:
            print("known and unknown names:")
            report_timing(compare(server.address, given.names))

    with_server(run)
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
