"""A relay's circuit, in moments that threads rarely meet, and what it tells a client."""

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

from common.directory.exit_policy import ExitPolicy
from common.errors import DestroyReason, EndReason
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.relay.exit import TTL, Exit
from common.roles.relay.relay_circuit import RelayCircuit


class Links:
    """On which a circuit ends just as it gets its id on the next link."""

    def __init__(self) -> None:
        self.circuit: RelayCircuit
        self.destroyed: list[tuple[object, ...]] = []

    def register(self, _link: object, _side: object) -> int:
        self.circuit.close_streams(EndReason.CIRCUIT_CLOSED)
        return 7

    def destroy(self, *what: object) -> None:
        self.destroyed.append(what)


def test_a_circuit_that_ends_as_its_next_link_is_up_leaves_no_id_there() -> None:
    """Else that link carries it for ever, and 8,192 such fill it."""
    links, following = Links(), cast("Any", SimpleNamespace())
    hop = SimpleNamespace(endpoint=SimpleNamespace(packing=None))
    link, exit_ = SimpleNamespace(), SimpleNamespace(pump=None)
    links.circuit = RelayCircuit(*cast("Any", (hop, link, 1, links, exit_)))
    links.circuit.extend_by(following, b"create")
    assert links.destroyed == [(following, 7, DestroyReason.FINISHED)]


def test_a_name_is_answered_only_with_addresses_that_clients_can_reach() -> None:
    """Security: the exit's own resolver knows names of its own network."""
    told: list[tuple[object, ...]] = []
    pump = Pump()
    exit_ = Exit(pump, ExitPolicy.parse("default"), [])
    endpoint = SimpleNamespace(packing=SimpleNamespace(outgoing=[]), resolved=lambda *answer: told.append(answer))
    circuit = RelayCircuit(*cast("Any", (SimpleNamespace(endpoint=endpoint), None, 1, None, exit_)))
    inside, outside = ip_address("10.0.0.7"), ip_address("8.8.8.8")
    circuit._resolved(5, [inside, outside], EndReason.DONE)
    circuit._resolved(6, [inside], EndReason.DONE)
    assert told == [(5, EndReason.DONE, (outside,), TTL, ""), (6, EndReason.NOT_FOUND, (), TTL, "")]
    exit_.close()
    pump.stop(Deadline(0))
