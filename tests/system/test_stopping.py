"""A relay that is told to end and has time: what is open goes on, and nothing begins there any more."""

import signal
from collections.abc import Iterator

import pytest

from common.roles.client import watch as watch_module
from common.roles.client.client import Client
from tests.net.in_process import circuit_of, echoes
from tests.system.network import Network, Process, wait_until
from tests.system.targets import Target, echo, silent

pytestmark = pytest.mark.system
WAITS = "circuits that are up may go on"


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "workers"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    waiting = ["--workers", request.param, "--stop-wait", 600]
    with Network(tmp_path_factory.mktemp("network"), relays=4, of_relays=waiting) as network:
        yield network


@pytest.fixture
def client(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """One that soon hears who left the list."""
    yield from asking_each(0.5, network, monkeypatch)


@pytest.fixture
def behind(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """One that does not hear it for a while."""
    yield from asking_each(1_000.0, network, monkeypatch)


def asking_each(seconds: float, network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client that asks for the list so often, or half as often."""
    monkeypatch.setattr(watch_module, "POLL_SHORTEST", seconds)
    monkeypatch.setattr(watch_module, "POLL_LONGEST", 2 * seconds)
    with network.client(3) as client:
        yield client


def told_to_end(relay: Process) -> int:
    """Until it waits; returns where its last words begin, as its log has those of lives before."""
    before = len(relay.said())
    relay.signal(signal.SIGTERM)
    wait_until(lambda: WAITS in relay.said()[before:])
    return before


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_stream_goes_on_over_a_relay_that_is_to_end_which_then_ends(
    network: Network, client: Client, hop: int
) -> None:
    with Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            echoes(sock, 100_000)
            relay = network.path(circuit_of(client))[hop]
            before = told_to_end(relay)
            assert relay.identity not in network.listed()
            echoes(sock, 3_000_000)
            wait_until(lambda: all(entry.descriptor.identity != relay.identity for entry in client.relays()))
            with client.connect(target.host, target.port, ("another",)) as other:
                echoes(other, 1_000)
                assert relay not in network.path(circuit_of(client, ("another",)))
            echoes(sock, 1_000)
            assert relay.alive

        def ended() -> bool:
            client.pool.sweep()  # it looks each 30 s for what it needs no more
            return not relay.alive

        wait_until(ended)
        assert relay.wait() == 0
        assert "no circuit is left" in relay.said()[before:]
    network.restart(relay)


def test_a_client_that_has_not_heard_of_it_has_its_new_streams_elsewhere(network: Network, behind: Client) -> None:
    with Target(echo) as target, behind.connect(target.host, target.port) as sock:
        exit_ = network.path(circuit_of(behind))[-1]
        told_to_end(exit_)
        with behind.connect(target.host, target.port) as other:
            echoes(other, 1_000)
            carrying = [circuit for circuit in behind.pool.circuits if circuit.attachments]
            assert sorted(network.path(circuit)[-1] is exit_ for circuit in carrying) == [False, True]
        echoes(sock, 1_000)
        exit_.signal(signal.SIGTERM)
        assert exit_.wait() == 128 + signal.SIGTERM
    network.restart(exit_)


def test_a_relay_that_waits_ends_when_it_is_told_again(network: Network, client: Client) -> None:
    with Target(silent) as target, client.connect(target.host, target.port):
        relay = network.path(circuit_of(client))[1]
        told_to_end(relay)
        assert relay.alive
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 128 + signal.SIGTERM
    network.restart(relay)
