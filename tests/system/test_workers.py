"""Relays of two processes each, as they are started by hand: streams, deaths, signals, and ports taken twice."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.roles.client.client import Client
from tests.net.in_process import echoes
from tests.net.processes import children, is_alive, listeners, peer_of
from tests.system.launched import Launched
from tests.system.network import NETWORK, Network, Process, run_script, wait_until
from tests.system.targets import Target, echo

pytestmark = pytest.mark.system
COUNT = 2
MOST_CLIENTS = 100  # that a worker gets no link, one of six in the network: (5/6)^100


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("network"), relays=3, of_relays=["--workers", COUNT]) as network:
        yield network


def port_of(relay: Process) -> int:
    return int(relay.address.rpartition(":")[2])


def workers(relay: Process) -> set[int]:
    """Those of a relay's processes that listen."""
    return listeners(port_of(relay), children(relay.pid))


class Crowd:
    """Clients with paths of one relay, until each worker of `relay` carries a stream; `streams` by worker."""

    def __init__(self, stack: ExitStack, network: Network, relay: Process) -> None:
        self.target = stack.enter_context(Target(echo))
        self.streams: dict[int, socket.socket] = {}
        serving = workers(relay)
        assert len(serving) == COUNT
        for _ in range(MOST_CLIENTS):
            client = stack.enter_context(network.client(1))
            self._open(stack, network, client, relay, serving)
            if self.streams.keys() == serving:
                return
        raise AssertionError("a worker gets no links")

    def _open(self, stack: ExitStack, network: Network, client: Client, relay: Process, serving: set[int]) -> None:
        sock = stack.enter_context(client.connect(self.target.host, self.target.port))
        echoes(sock)
        for circuit in client.pool.circuits:
            if circuit.attachments and network.path(circuit) == [relay]:
                own = circuit.link._sock.getsockname()
                self.streams[peer_of(own, serving)] = sock


# ---- what clients see


def test_circuits_of_three_relays_with_workers_carry_streams(network: Network) -> None:
    with network.client(3) as client, Target(echo) as target:
        for number in range(5):
            with client.connect(target.host, target.port, (str(number),)) as sock:
                echoes(sock, 1_000_000)


def test_every_worker_carries_links_and_streams(network: Network) -> None:
    with ExitStack() as stack:
        crowd = Crowd(stack, network, network.relays[0])
        for sock in crowd.streams.values():
            echoes(sock)


def test_a_relay_registers_once_and_is_listed_once(network: Network) -> None:
    relay = network.relays[0]  # no test restarts this one
    assert len(network.listed()) == len(network.relays)
    assert network.gateway.said().count(f"relay {relay.name} is listed") == 1
    assert relay.said().count("directory: listed by the gateway") == 1


def test_ready_is_said_when_all_workers_listen(network: Network) -> None:
    relay = network.relays[1]
    relay.stop()
    again = network.restart(relay, listed=False)
    assert len(workers(again)) == COUNT
    network.wait_listed(len(network.relays))


def test_a_killed_worker_breaks_its_own_streams_only_and_returns(network: Network) -> None:
    relay = network.relays[0]
    with ExitStack() as stack:
        crowd = Crowd(stack, network, relay)
        dead, living = crowd.streams
        os.kill(dead, signal.SIGKILL)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                echoes(crowd.streams[dead])
        echoes(crowd.streams[living])
        wait_until(lambda: len(workers(relay)) == COUNT)
        echoes(crowd.streams[living])
        assert dead not in workers(relay)
    with ExitStack() as stack:
        assert Crowd(stack, network, relay).streams.keys() == workers(relay)
    assert "ended (signal 9); the next one starts in 1 s" in relay.said()
    assert len(network.listed()) == len(network.relays), "the relay was listed all the time"


# ---- ends


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "ctrl-c"]
)
def test_a_signal_ends_all_workers_and_leaves_the_directory(
    network: Network, number: signal.Signals, code: int
) -> None:
    relay = network.relays[1]
    serving = children(relay.pid)
    assert len(serving) == COUNT
    relay.signal(number)
    assert relay.wait() == code, relay.said()
    assert not any(is_alive(pid) for pid in serving)
    assert relay.identity not in network.listed()
    assert "Traceback" not in relay.said()
    network.restart(relay)


def test_a_second_signal_ends_all_workers_at_once(network: Network) -> None:
    relay = network.relays[1]
    serving = children(relay.pid)
    for pid in serving:
        os.kill(pid, signal.SIGSTOP)  # so that the first signal takes its time
    relay.signal(signal.SIGTERM)
    wait_until(lambda: relay.identity not in network.listed())
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 128 + signal.SIGTERM
    for pid in serving:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not any(is_alive(pid) for pid in serving))
    network.restart(relay)


def test_workers_end_when_their_parent_is_killed(network: Network) -> None:
    relay = network.relays[1]
    serving = children(relay.pid)
    assert len(serving) == COUNT
    relay.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in serving))
    network.restart(relay)


# ---- mistakes


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_relay_on_the_same_port_is_refused(network: Network, tmp_path: Path, workers: int) -> None:
    running = network.relays[0]
    options = ["--listen", running.address, *network.gateway_options, "--nickname", "second", "--state", tmp_path]
    done = run_script("relay.py", *options, "--workers", workers)
    assert done.returncode == 2
    sentence = f"cannot listen on {running.address}: address already in use; choose another port\n"
    assert done.stderr == sentence


def test_a_relay_with_workers_is_refused_the_port_of_one_without(tmp_path: Path) -> None:
    with Network(tmp_path, relays=1) as network:
        options = ["--listen", network.relays[0].address, "--nickname", "second", "--state", tmp_path / "second"]
        done = run_script("relay.py", *options, *network.gateway_options, "--workers", 2)
    assert done.returncode == 2
    assert "address already in use" in done.stderr


def test_a_silly_number_of_workers_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    options = ["--gateway", "127.0.0.1:9", "--gateway-key", "ab" * 32, "--network", NETWORK, "--nickname", "x"]
    done = run_script("relay.py", *options, "--workers", "0", "--state", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "command line: --workers: '0' is not a number of processes from 1 to 64\n"


# ---- the launcher


def test_the_launcher_gives_every_relay_its_workers_and_leaves_none(tmp_path: Path) -> None:
    with Launched(tmp_path / "state", 2, "--workers", str(COUNT)) as launched:
        parents = [int((launched.state / f"relay{number}" / "pid").read_text()) for number in (1, 2)]
        serving = [children(parent) for parent in parents]
        assert [len(each) for each in serving] == [COUNT, COUNT]
        launched.tell("kill", "relay1")
        wait_until(lambda: not any(is_alive(pid) for pid in serving[0]))
    assert not any(is_alive(pid) for pid in serving[1])
