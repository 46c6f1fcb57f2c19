"""Three gateways, relays and clients as real processes: one gateway dead or lying changes nothing for anybody."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.directory.document import RelayEntry
from common.errors import DirectoryError, NotEnoughSignatures, StaleDocument
from common.net.deadline import Deadline
from common.roles.client.bootstrap import DirectoryClient
from tests.system.programs import NETWORK, PATIENCE, Pin, Programs, echoed, wait_listed
from tests.system.targets import Target, WebTarget, echo

pytestmark = pytest.mark.system
GATEWAYS = ["gateway", "gateway2", "gateway3"]
RELAYS = ["relay1", "relay2", "relay3"]


class Network:
    """Three gateways, three relays, a client that runs, and a target."""

    def __init__(self, programs: Programs, proxy: Address, target: Target) -> None:
        self.programs = programs
        self.proxy = proxy
        self.target = target
        self.honest = wait_listed(self.pins, set(RELAYS))

    @property
    def pins(self) -> list[Pin]:
        return list(self.programs.pins.values())

    def third_lies(self, lie: str) -> Pin:
        """The third gateway ends and comes back with its key and a lie; its pin."""
        self.programs.kill("gateway3")
        return self.programs.gateway("gateway3", lie)

    def check(self) -> None:
        """A new client's list is the honest one; a client that runs reaches its target."""
        found = wait_listed(self.pins, set(RELAYS))
        assert {name: keys(entry) for name, entry in found.items()} == {
            name: keys(entry) for name, entry in self.honest.items()
        }
        echoed(self.proxy, self.target.host, self.target.port)


def keys(entry: RelayEntry) -> tuple[object, ...]:
    descriptor = entry.descriptor
    return descriptor.identity, descriptor.address, descriptor.onion_keys


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Programs(tmp_path_factory.mktemp("network")) as programs, Target(echo) as target:
        pins = [programs.gateway(name) for name in GATEWAYS]
        for name in RELAYS:
            programs.relay(name, pins)
        for pin in pins:
            wait_listed([pin], set(RELAYS))
        with programs.proxy(pins) as proxy:
            yield Network(programs, proxy, target)


@pytest.fixture
def network(started: Network) -> Iterator[Network]:
    """All gateways run and are honest, before and after."""
    yield started
    started.programs.kill("gateway3")
    wait_listed([started.programs.gateway("gateway3")], set(RELAYS))


def fetched(client: DirectoryClient) -> set[str]:
    return {entry.descriptor.nickname for entry in client.fetch(Deadline(PATIENCE)).relays}


def page_is_shown(network: Network) -> None:
    """By a client that starts now."""
    with WebTarget() as web, network.programs.client(network.pins, "web", f"{web.url}/bytes/9") as process:
        out, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "200" in out


def test_one_gateway_killed_changes_nothing_and_its_return_is_noticed(network: Network) -> None:
    network.programs.kill("gateway")
    try:
        network.check()
        page_is_shown(network)
    finally:
        first = network.programs.gateway("gateway")
    wait_listed([first], set(RELAYS))


def test_a_gateway_that_serves_yesterday_s_document_changes_nothing(network: Network) -> None:
    liar = network.third_lies("yesterday")
    with pytest.raises(StaleDocument, match="expired"):
        fetched(DirectoryClient([liar], NETWORK))
    network.check()
    page_is_shown(network)


def test_a_gateway_that_invents_relays_changes_nothing(network: Network) -> None:
    liar = network.third_lies("invent")
    wait_listed([liar], {*RELAYS, *(f"relay{number}" for number in range(50, 60))})
    network.check()


def test_a_gateway_that_hides_relays_changes_nothing(network: Network) -> None:
    liar = network.third_lies("hide")
    assert len(fetched(DirectoryClient([liar], NETWORK))) <= 1
    network.check()


def test_a_gateway_that_puts_its_own_keys_under_the_relays_names_changes_nothing(network: Network) -> None:
    liar = network.third_lies("swap")
    swapped = wait_listed([liar], set(RELAYS))
    assert all(keys(swapped[name]) != keys(network.honest[name]) for name in RELAYS)
    network.check()
    page_is_shown(network)


def test_a_gateway_that_swaps_onion_keys_has_no_document_at_all(network: Network) -> None:
    liar = network.third_lies("forge")
    alone = DirectoryClient([liar], NETWORK)
    with pytest.raises(NotEnoughSignatures, match="identity"):
        while not fetched(alone):
            pass  # until the first relay is back at that gateway
    network.check()
    with pytest.raises(DirectoryError, match="1 of 2 gateways gave a valid directory document"):
        fetched(DirectoryClient([network.pins[0], liar], NETWORK))


def test_a_gateway_that_returns_with_an_older_serial_is_not_believed(network: Network) -> None:
    seen, all_seen = DirectoryClient([network.pins[2]], NETWORK), DirectoryClient(network.pins, NETWORK)
    assert fetched(seen) == fetched(all_seen) == set(RELAYS)
    network.third_lies("rewind")
    with pytest.raises(StaleDocument, match="document 5 is older than"):
        fetched(seen)
    assert fetched(all_seen) == set(RELAYS)
    network.check()


def test_the_majority_decides_whose_a_nickname_is(network: Network) -> None:
    third = network.pins[2]
    try:
        first_there = network.programs.relay("squatter", [third], nickname="twin")
        assert wait_listed([third], {*RELAYS, "twin"})["twin"].descriptor.identity == first_there
        rightful = network.programs.relay("twin", network.pins)
        found = wait_listed(network.pins, {*RELAYS, "twin"})
        assert found["twin"].descriptor.identity == rightful
        assert wait_listed([third], {*RELAYS, "twin"})["twin"].descriptor.identity == first_there
        assert "does not list this relay: the nickname twin belongs to another relay" in network.programs.log(
            "twin"
        )
    finally:
        assert network.programs.stop("squatter") == network.programs.stop("twin") == 0
    wait_listed(network.pins, set(RELAYS))


def test_with_all_gateways_down_clients_go_on_and_a_new_one_is_told(tmp_path: Path) -> None:
    with Programs(tmp_path) as programs, Target(echo) as target:
        pins = [programs.gateway(name) for name in GATEWAYS]
        for name in RELAYS:
            programs.relay(name, pins)
        wait_listed(pins, set(RELAYS))
        with programs.proxy(pins, "warm") as proxy:
            echoed(proxy, target.host, target.port)
        with programs.proxy(pins) as proxy:
            programs.kill(*GATEWAYS)
            cold = programs.client(pins, "web", "http://127.0.0.1:9/")
            for number in range(8):  # more circuits than were ready
                echoed(proxy, target.host, target.port, user=f"user{number}")
        with programs.proxy(pins, "warm") as proxy:
            echoed(proxy, target.host, target.port)
        _, errors = cold.communicate(timeout=PATIENCE)
        assert cold.returncode == 1
        sentence = errors.splitlines()[-1]
        assert sentence.startswith(
            "0 of 3 gateways gave a valid directory document and 2 are needed; the gateway "
        )
        assert all(f"the gateway {address} does not answer: " in sentence for address, _ in pins)
