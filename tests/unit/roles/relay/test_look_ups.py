"""Look-ups are shared fairly: a circuit whose names nobody answers for holds up itself."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from common.errors import EndReason
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.relay import look_ups as look_ups_module
from common.roles.relay.look_ups import LookUps

PATIENCE = 20.0


class Names:
    """Submits look-ups, of which those of names in `silent` take until the end; notes what becomes of them."""

    def __init__(self) -> None:
        self.pump = Pump()
        self.look_ups = LookUps(self.pump)
        self.silent = threading.Event()  # set: all are answered
        self.changed = threading.Condition()
        self.begun: list[str] = []
        self.done: list[str] = []
        self.refused: list[tuple[str, EndReason]] = []

    def ask(self, circuit: str, *names: str, silent: bool = False, wanted: bool = True) -> None:
        for name in names:
            self.look_ups.submit(
                circuit,
                lambda: wanted,
                lambda name=name: self._work(name, silent),  # type: ignore[misc]
                lambda reason, name=name: self._note(self.refused, (name, reason)),  # type: ignore[misc]
            )

    def _work(self, name: str, silent: bool) -> None:
        self._note(self.begun, name)
        if silent:
            assert self.silent.wait(PATIENCE)
        self._note(self.done, name)

    def _note(self, where: list[Any], what: object) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def wait(self, which: list[str], *names: str) -> None:
        """Until all of these are among `which`."""
        with self.changed:
            assert self.changed.wait_for(lambda: set(names) <= set(which), PATIENCE), (which, names)

    def wait_refused(self, *names: str) -> None:
        """Until just these are refused, with LIMIT."""
        expected = [(name, EndReason.LIMIT) for name in names]
        with self.changed:
            assert self.changed.wait_for(lambda: self.refused == expected, PATIENCE), self.refused


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    names.pump.start()
    yield names
    names.silent.set()
    names.look_ups.close()
    names.pump.stop(Deadline(PATIENCE))


def many(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_names_that_are_looked_up_for_ever_hold_up_no_other_circuit(names: Names) -> None:
    slow = many("slow", look_ups_module.RESOLVERS + 2)
    names.ask("one", *slow, silent=True)
    names.ask("two", "quick")
    names.wait(names.done, "quick")
    names.wait(names.begun, *slow[: look_ups_module.RUNNING])
    assert names.begun.count("quick") == len(names.begun) - look_ups_module.RUNNING == 1
    names.silent.set()
    names.wait(names.done, *slow)
    assert not names.refused


def test_circuits_are_served_in_turns(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ups_module, "RESOLVERS", 1)
    names.ask("first", "first", silent=True)
    names.wait(names.begun, "first")
    names.ask("one", "a1", "a2", "a3")
    names.ask("two", "b1", "b2")
    names.silent.set()
    names.wait(names.done, "a3", "b2")
    assert names.begun == ["first", "a1", "b1", "a2", "b2", "a3"]


def test_what_nobody_waits_for_any_more_is_not_begun(names: Names) -> None:
    names.ask("one", *many("slow", look_ups_module.RUNNING), silent=True)
    names.ask("one", "left", wanted=False)
    names.ask("one", "next")
    names.silent.set()
    names.wait(names.done, "next")
    assert "left" not in names.begun
    assert not names.refused


def test_what_waits_too_long_is_answered_with_limit(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ups_module, "_LOOK", 0.01)
    slow = many("slow", look_ups_module.RUNNING)
    names.ask("one", *slow, silent=True)
    monkeypatch.setattr(look_ups_module, "MAX_WAIT", 0.0)
    names.ask("one", "late", "later")
    monkeypatch.setattr(look_ups_module, "MAX_WAIT", PATIENCE)
    names.ask("one", "next")
    names.wait_refused("late", "later")
    names.silent.set()
    names.wait(names.done, "next", *slow)
    assert len(names.begun) == len(slow) + 1, "what was refused is not begun"
    assert not names.look_ups._waiting


def test_more_than_may_wait_are_answered_with_limit_at_once(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ups_module, "MAX_LOOKUPS", 3)
    for circuit in ("one", "two"):
        for slow in many(circuit, look_ups_module.RUNNING):
            names.ask(circuit, slow, silent=True)
            names.wait(names.begun, slow)
    names.ask("one", "a1", "a2")
    names.ask("two", "b1", "b2")
    names.wait_refused("b2")
    names.silent.set()
    names.wait(names.done, "a1", "a2", "b1")
    names.ask("two", "b3")
    names.wait(names.done, "b3")


def test_who_takes_all_places_gives_one_to_a_circuit_that_has_none(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Security: else 16 circuits, filled up again and again, keep all others from looking up any name."""
    monkeypatch.setattr(look_ups_module, "MAX_LOOKUPS", 4)
    slow = many("slow", look_ups_module.RUNNING)
    names.ask("one", *slow, silent=True)
    names.wait(names.begun, *slow)
    names.ask("one", "a1", "a2", "a3", "a4")
    names.ask("two", "b1")
    names.wait(names.done, "b1")
    names.wait_refused("a4")
    names.ask("one", "a5", "a6")
    names.wait_refused("a4", "a6")
    names.silent.set()
    names.wait(names.done, "a1", "a2", "a3", "a5")


class Counted(dict[object, Any]):
    """Counts how often all that is in it is looked at."""

    looks = 0

    def values(self) -> Any:
        self.looks += 1
        return super().values()


def test_a_flood_that_is_refused_looks_at_no_circuit_for_each(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Security: with a thousand circuits that wait a look takes 50 us, in which the relay does nothing else."""
    monkeypatch.setattr(look_ups_module, "MAX_LOOKUPS", 4)
    monkeypatch.setattr(look_ups_module, "RESOLVERS", 1)
    names.look_ups._queues = circuits = Counted()
    names.ask("first", "first", silent=True)
    names.wait(names.begun, "first")
    names.ask("one", "a1", "a2", "a3")
    names.ask("two", "b1")
    names.ask("three", "c1")
    names.wait_refused("a3")
    flood = many("flood", 100)
    for number, name in enumerate(flood):
        names.ask(f"more{number}", name)
    names.wait_refused("a3", "a2", *flood[1:])
    assert circuits.looks < 10
    names.silent.set()
    names.wait(names.done, "a1", "b1", "c1", "flood0")


def test_more_than_may_wait_of_one_circuit_are_answered_with_limit(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_ups_module, "WAITING", 2)
    for slow in many("slow", look_ups_module.RUNNING):
        names.ask("one", slow, silent=True)
        names.wait(names.begun, slow)
    names.ask("one", "a1", "a2", "a3")
    names.ask("two", "b1")
    names.wait_refused("a3")
    names.wait(names.done, "b1")


def test_threads_are_started_when_they_are_needed_and_never_more_than_so_many(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_ups_module, "RESOLVERS", 6)
    for name in many("quick", 5):
        names.ask("one", name)
        names.wait(names.done, name)
        wait_idle(names.look_ups, 1)
    names.ask("one", *many("slow", look_ups_module.RUNNING), silent=True)
    names.wait(names.begun, *many("slow", look_ups_module.RUNNING))
    assert names.look_ups._threads == look_ups_module.RUNNING
    names.ask("two", *many("more", look_ups_module.RUNNING), silent=True)
    names.wait(names.begun, *many("more", 2))
    assert names.look_ups._threads == 6
    assert len(names.begun) == 5 + 6
    names.silent.set()
    wait_idle(names.look_ups, 6)
    assert not names.look_ups._queues, "circuits that ask no more are forgotten"
    assert len(names.done) == 5 + 2 * look_ups_module.RUNNING


def wait_idle(look_ups: LookUps, count: int) -> None:
    """Until so many threads wait for work."""
    deadline = Deadline(PATIENCE)
    while look_ups._idle != count:
        assert not deadline.expired


def test_without_a_thread_a_look_up_is_answered_with_limit(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(look_ups_module, "_LOOK", 0.01)
    monkeypatch.setattr(look_ups_module, "RESOLVERS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        patch.setattr(look_ups_module, "MAX_WAIT", 0.0)
        names.ask("one", "never")
    names.wait_refused("never")
    names.ask("one", "next")
    names.wait(names.done, "next")
    assert names.begun == ["next"]


def test_a_bug_in_one_look_up_ends_none_of_the_others(
    names: Names, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(look_ups_module, "RESOLVERS", 1)

    def bug() -> None:
        raise KeyError

    names.look_ups.submit("one", lambda: True, bug, lambda reason: None)
    names.ask("one", "next")
    names.wait(names.done, "next")
    assert "unexpected error in a look-up" in caplog.text


def test_after_close_nothing_is_begun_and_threads_end(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    names.ask("one", *many("slow", look_ups_module.RUNNING), silent=True)
    names.wait(names.begun, *many("slow", look_ups_module.RUNNING))
    names.ask("one", "waits")
    names.ask("two", "quick")
    names.wait(names.done, "quick")
    names.look_ups.close()
    names.ask("two", "refused")
    names.wait_refused("refused")
    names.silent.set()
    for thread in started:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert "waits" not in names.begun
