"""A relay's circuit in moments that threads rarely meet."""

from types import SimpleNamespace
from typing import Any, cast

from common.errors import DestroyReason, EndReason
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
