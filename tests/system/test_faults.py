"""Relays, clients and gateways that die, freeze and come back while data flows."""

import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from common.errors import Refused
from common.roles.client import client_circuit as client_circuit_module
from common.roles.client import watch as watch_module
from common.roles.client.client import Client
from common.roles.client.pool import ANSWER_TIME, SPARE
from tests.net.in_process import circuit_of, receive_all, receive_exactly
from tests.system.network import PATIENCE, Network, Process, environment, wait_until
from tests.system.targets import Target, WebTarget, echo, flood, silent

pytestmark = pytest.mark.system
AT_ONCE = 2.0  # seconds in which a stream must hear that its circuit is gone
RECOVERY = 3.0  # seconds in which the next request must work
FREEZE = 17.0  # two pings of 5 s missed, the first of which may go out 5 s after the freeze, and a bit


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("network"), relays=4) as network:
        yield network


@pytest.fixture(scope="module")
def client(network: Network) -> Iterator[Client]:
    with network.client(3) as client:
        yield client


def _echoes(client: Client, target: Target, isolation: tuple[str, ...] = ()) -> bool:
    with client.connect(target.host, target.port, isolation) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(b"x")
        return sock.recv(1) == b"x"


@pytest.mark.parametrize("hop", [0, 1, 2])
@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
def test_a_killed_relay_breaks_its_streams_at_once_and_the_next_request_works(
    network: Network, client: Client, hop: int, upload: bool
) -> None:
    with Target(flood) as source, Target(echo) as other:
        sock = client.connect(source.host, source.port)
        sock.settimeout(PATIENCE)
        receive_exactly(sock, 1_000_000)
        relay = network.path(circuit_of(client))[hop]
        relay.kill()
        start = monotonic()
        with sock, pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                if upload:
                    sock.sendall(bytes(100_000))
                assert sock.recv(262_144)
        assert monotonic() - start < AT_ONCE
        assert _echoes(client, other)
        assert monotonic() - start < RECOVERY
    network.restart(relay)


def test_curl_fails_quickly_when_a_relay_of_its_circuit_is_killed(tmp_path: Path, web: WebTarget) -> None:
    with Network(tmp_path, relays=3) as network:
        proxy = network.proxy("--hops", "3")
        command = ["curl", "-sS", "--socks5-hostname", proxy.address, f"{web.url}/bytes/100000000000"]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            assert len(curl.stdout.read(1_000_000)) == 1_000_000
            network.relays[0].kill()  # all three are on every path
            start = monotonic()
            while curl.stdout.read(262_144):
                pass
            assert curl.wait(PATIENCE) != 0
            assert monotonic() - start < AT_ONCE
        assert proxy.curl(f"{web.url}/bytes/1").returncode == 0
        assert monotonic() - start < RECOVERY
        assert "2 relays instead of 3" in proxy.said()


def test_a_frozen_relay_leaves_the_list_within_two_heartbeats_and_returns(network: Network) -> None:
    relay = network.relays[0]
    relay.signal(signal.SIGSTOP)
    gone = wait_until(lambda: relay.identity not in network.listed(), FREEZE)
    relay.signal(signal.SIGCONT)
    back = wait_until(lambda: relay.identity in network.listed(), FREEZE)
    assert gone > 1.0, "one late answer is not a death"
    assert back < 8.0


def test_a_frozen_middle_relay_and_a_frozen_exit_end_what_reads_over_them_and_delay_nothing_new(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing closes: that relay's kernel goes on acknowledging. One relay freezes that is both."""
    monkeypatch.setattr(watch_module, "POLL_SHORTEST", 0.5)
    monkeypatch.setattr(watch_module, "POLL_LONGEST", 1.0)
    monkeypatch.setattr(client_circuit_module, "ANSWER_LIMIT", 2.0)
    with ExitStack() as stack:
        quiet, other = stack.enter_context(Target(silent)), stack.enter_context(Target(echo))
        client = stack.enter_context(network.client(3))
        by_place: dict[tuple[Process, int], socket.socket] = {}  # relay and hop: a stream over it
        for number in range(100):
            sock = stack.enter_context(client.connect(quiet.host, quiet.port, (str(number),)))
            path = network.path(circuit_of(client, (str(number),)))
            by_place |= {(path[1], 1): sock, (path[2], 2): sock}
            both = [relay for relay in network.relays if {(relay, 1), (relay, 2)} <= by_place.keys()]
            if both:
                break
        relay = both[0]
        relay.signal(signal.SIGSTOP)
        stack.callback(wait_until, lambda: relay.identity in network.listed(), FREEZE)
        stack.callback(relay.signal, signal.SIGCONT)
        for hop in (1, 2):
            reading = by_place[relay, hop]
            reading.settimeout(FREEZE + RECOVERY)
            with pytest.raises(ConnectionResetError):
                reading.recv(1)
        wait_until(lambda: all(relay not in network.path(circuit) for circuit in client.pool.circuits))
        wait_until(lambda: [circuit.isolation for circuit in client.pool.circuits].count(None) == SPARE)
        start = monotonic()
        for number in range(5):
            assert _echoes(client, other, ("new", str(number)))
        assert monotonic() - start < ANSWER_TIME


def test_a_killed_relay_leaves_the_list_at_once(network: Network) -> None:
    relay = network.relays[0]
    relay.kill()
    assert wait_until(lambda: relay.identity not in network.listed()) < 1.0
    network.restart(relay)


def test_a_gateway_may_be_away(network: Network, client: Client) -> None:
    """Streams go on and new ones open; when it is back on its port, the relays list themselves again."""
    with Target(echo) as target, client.connect(target.host, target.port) as sock:
        sock.settimeout(PATIENCE)
        network.gateway.kill()
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        client.new_identity()
        assert _echoes(client, target)
        network.restart_gateway()
        network.wait_listed(len(network.relays))
        assert _echoes(client, target)


def test_thousands_of_short_streams_while_relays_die_all_end(network: Network, client: Client) -> None:
    """Each works or fails with an error in time; none hangs, none is wrong, and the client recovers."""
    stop = threading.Event()
    outcomes = {"right": 0, "broken": 0}
    lock = threading.Lock()

    def run(number: int) -> None:
        token = b"%09d" % number
        while not stop.is_set():
            outcome = "right"
            try:
                with client.connect(target.host, target.port, (str(number % 4),)) as sock:
                    sock.settimeout(PATIENCE)
                    sock.sendall(token)
                    sock.shutdown(socket.SHUT_WR)
                    assert receive_all(sock) == token
            except (Refused, ConnectionResetError, BrokenPipeError):
                outcome = "broken"
            with lock:
                outcomes[outcome] += 1

    with Target(echo) as target, ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(run, number) for number in range(8)]
        try:
            for _ in range(2):
                before = outcomes["right"]
                wait_until(lambda: outcomes["right"] > before + 300)  # noqa: B023
                relay = network.path(next(c for c in client.pool.circuits if c.attachments))[1]
                relay.kill()
                network.restart(relay)
            before = outcomes["right"]
            wait_until(lambda: outcomes["right"] > before + 300)
        finally:
            stop.set()
        for worker in workers:
            worker.result(PATIENCE)
        assert _echoes(client, target)
    assert outcomes["broken"] < outcomes["right"] / 10


def test_an_exit_without_descriptors_is_avoided_and_recovers(tmp_path: Path) -> None:
    """It says "limit" and not "no such name" or "unreachable", so streams go to another exit; and it lives on."""
    with Network(tmp_path, relays=4) as network, network.client(3) as client, Target(echo) as target:
        with client.connect("localhost", target.port, ("a",)) as sock:
            sock.settimeout(PATIENCE)
            circuit = circuit_of(client, ("a",))
            exit_ = network.path(circuit)[-1]
            _, hard = resource.prlimit(exit_.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(exit_.pid, resource.RLIMIT_NOFILE, (exit_.descriptors(), hard))
            client.connect("localhost", target.port, ("a",)).close()
            client.connect("127.0.0.1", target.port, ("a",)).close()
            resource.prlimit(exit_.pid, resource.RLIMIT_NOFILE, (hard, hard))
            sock.sendall(b"x")
            assert sock.recv(1) == b"x", "a stream that was open is not disturbed"
        assert exit_.alive


def test_a_client_goes_on_with_the_list_it_had_when_the_gateway_is_gone(tmp_path: Path, web: WebTarget) -> None:
    with Network(tmp_path, relays=3) as network:
        first = network.proxy("--hops", "3")
        assert first.stop() == 0
        network.gateway.kill()
        second = network.proxy_again(first, "--hops", "3")
        assert second.curl(f"{web.url}/bytes/1000").returncode == 0
