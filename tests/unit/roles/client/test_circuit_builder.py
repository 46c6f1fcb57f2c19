"""What the builder of circuits learns from those that were not built. The network of these tests never answers."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from common.circuit import build_timeout
from common.directory.document import RelayEntry
from common.errors import Closed
from common.net.deadline import Deadline
from common.roles.client import circuit_builder
from common.roles.client.circuit_builder import STUCK, CircuitBuilder
from common.roles.client.guard_keeper import GuardKeeper
from common.roles.client.path_choice import PathWishes
from tests.unit.directory.relays import unsigned_entry


class Links:
    """None can be had, unless `up`."""

    def __init__(self) -> None:
        self.up = False
        self.asked: list[bytes] = []  # first hops

    def obtain(self, _address: object, identity: bytes, _deadline: Deadline) -> object:
        self.asked.append(identity)
        if not self.up:
            raise Closed("no route")
        return object()


class Stuck:
    """A circuit whose first hop answers, and whose second does not."""

    hops_done = 1

    def __init__(self, path: Sequence[RelayEntry], *_: object) -> None:
        self.path = path

    def build(self, _deadline: Deadline) -> None:
        raise Closed("no answer")


class Built(Stuck):
    """A circuit that is built at once."""

    build_seconds = 0.0

    def build(self, _deadline: Deadline) -> None:
        pass


class Building:
    """A builder, and what it says to those around it."""

    def __init__(self, relays: int, wishes: PathWishes) -> None:
        self.links = Links()
        self.begun: list[Any] = []
        self.silent: list[bytes] = []
        self.guards = GuardKeeper()
        entries = [unsigned_entry(number) for number in range(1, relays + 1)]
        self.builder = CircuitBuilder(
            lambda: entries,
            cast(Any, self.links),
            cast(Any, None),
            wishes,
            self.guards,
            lambda _: None,
            lambda circuit: self._heard(self.begun, circuit),
            lambda identity: self._heard(self.silent, identity),
        )

    def fails(self) -> bytes:
        """The first hop of a circuit that is not built."""
        with pytest.raises(Closed):
            self.builder.build(None)
        return self.links.asked[-1]

    def _heard(self, where: list[Any], what: object) -> None:
        assert not self.builder._lock.locked(), "who hears of it may take locks"
        where.append(what)


def test_a_relay_that_did_not_answer_is_avoided_while_there_is_another() -> None:
    building = Building(12, PathWishes(1, 1))
    tried = {building.fails() for _ in range(12)}
    assert len(tried) == 12
    assert building.fails() in tried, "with none left each may have come back"


def test_a_relay_is_avoided_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_builder, "AVOID", 0.0)
    building = Building(2, PathWishes(1, 1))
    building.fails()
    assert building.builder._avoided() == set()


def test_who_keeps_the_circuits_hears_of_a_first_hop_that_is_silent_and_of_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    building = Building(3, PathWishes(1, 1))
    building.fails()
    assert building.silent == [], "it said at once that it could not be reached"
    monkeypatch.setattr(build_timeout, "CEILING", 0.0)
    assert building.silent == [building.fails()]


def test_only_circuits_that_were_late_tell_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    building = Building(12, PathWishes(3, 3))
    building.links.up = True
    monkeypatch.setattr(circuit_builder, "ClientCircuit", Built)
    for _ in range(build_timeout.FEWEST):
        building.builder.build(None)
    assert building.builder.limit(3) == build_timeout.FLOOR
    monkeypatch.setattr(circuit_builder, "ClientCircuit", Stuck)
    for _ in range(build_timeout.FORGET_AFTER):
        building.fails()
    assert building.builder.limit(3) == build_timeout.FLOOR, "refused at once: that says nothing about time"
    with monkeypatch.context() as patch:
        patch.setattr(build_timeout, "FLOOR", 0.0)
        for _ in range(build_timeout.FORGET_AFTER):
            building.fails()
    assert building.builder.limit(3) == build_timeout.CEILING
    assert building.silent == [], "their first hops did answer"


def test_a_guard_that_extends_no_circuit_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    building = Building(12, PathWishes(3, 3))
    building.links.up = True
    monkeypatch.setattr(circuit_builder, "ClientCircuit", Stuck)
    guard = building.fails()
    assert {building.fails() for _ in range(STUCK - 1)} == {guard}
    assert building.fails() != guard
    assert len(building.begun) == STUCK + 1, "also those that are not built can be ended by who keeps them"


def test_a_guard_that_extends_a_circuit_now_and_then_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    building = Building(12, PathWishes(3, 3))
    building.links.up = True
    first_hops = set()
    for circuits in [*[Stuck] * (STUCK - 1), Built] * 3:
        monkeypatch.setattr(circuit_builder, "ClientCircuit", circuits)
        if circuits is Built:
            building.builder.build(None)
        else:
            first_hops.add(building.fails())
    assert first_hops == {building.guards.guards[0].identity}
