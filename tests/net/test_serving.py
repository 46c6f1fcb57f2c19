"""Streams that wait for room on their circuit: who is asked when there is room again, and that nobody is forgotten."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.circuit.window import CIRCUIT_WINDOW
from common.crypto.layers import PROOF
from common.errors import EndReason
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.net.turn import TURN
from common.roles.circuit_end import Attachment, CircuitEnd
from common.wire.messages import Sendme
from tests.net.bare import Machine
from tests.net.links import PATIENCE, Recorder, two_links

STREAMS = 1_000


class Hungry(Attachment):
    """A stream that always has more to send, unless it is `idle` when its turn comes."""

    def __init__(self, circuit: CircuitEnd, stream_id: int, turns: list[int]) -> None:
        super().__init__(circuit, stream_id)
        self.idle = False
        self._turns = turns

    def send_on(self) -> None:
        self._turns.append(self.stream_id)
        self.ask()

    def ask(self) -> bool:
        """Whether it has sent something."""
        room = 0 if self.idle else self.circuit.sendable(self.stream_id)
        if room:
            self.circuit.send(self.stream_id, bytes(room))
        return room > 0


class Greedy(Hungry):
    """One that uses its turn until it is refused, as a socket that always has more to be read."""

    def send_on(self) -> None:
        super().send_on()
        while self.ask():
            pass


class Crowd:
    """A circuit with so many streams, all of which have been refused; its pump does not run but when asked."""

    def __init__(self, circuit: CircuitEnd) -> None:
        self.circuit = circuit
        self.turns: list[int] = []
        with circuit.lock:
            for _ in range(STREAMS):
                stream_id = circuit.endpoint.begin("target", 80, 0.0)
                circuit.attachments[stream_id] = Hungry(circuit, stream_id, self.turns)
        self._poll(list(circuit.attachments.values()))

    def receipt(self) -> None:
        """The circuit SENDME that is owed first arrives, and the pump does what it is asked to."""
        assert self.circuit.link.drain(Deadline(PATIENCE))  # else the circuit is congested, and nobody's turn comes
        window = self.circuit.endpoint._send_window
        total, proof, _ = window._owed[0]
        with self.circuit.lock:
            actions = self.circuit.endpoint.receive([Sendme(0, total + CIRCUIT_WINDOW, proof)], bytes(PROOF), 0.0)
        for action in actions:
            self.circuit.perform(action, None)
        begun, calls = len(self.turns), self.circuit.pump._calls
        while calls:
            calls.popleft()()
        self._poll([self.circuit.attachments[stream_id] for stream_id in self.turns[begun:]])

    def _poll(self, streams: list[Attachment]) -> None:
        """As the poller does: who has more to send is asked again until it is refused, one after the other."""
        while streams:
            streams = [stream for stream in streams if isinstance(stream, Hungry) and stream.ask()]
        self.circuit.settle()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    pump = Pump("serving")
    with two_links(Recorder(), Recorder()) as (link, _):
        yield Crowd(CircuitEnd(Machine(), link, 7, pump))
    pump.stop(Deadline(PATIENCE))


def test_a_receipt_wakes_no_more_streams_than_it_makes_room_for(crowd: Crowd) -> None:
    for _ in range(10):
        answered = crowd.circuit.endpoint._send_window.answered
        crowd.turns.clear()
        crowd.receipt()
        room = crowd.circuit.endpoint._send_window.answered - answered
        assert 0 < len(crowd.turns) <= 2 * room // crowd.circuit.endpoint.max_data + 2


def test_turns_go_round(crowd: Crowd) -> None:
    while len(crowd.turns) < 2 * STREAMS:
        crowd.receipt()
    assert sorted(crowd.turns[:STREAMS]) == sorted(set(crowd.turns[:STREAMS]))


def test_a_turn_that_is_not_used_is_the_next_streams(crowd: Crowd) -> None:
    for attachment in list(crowd.circuit.attachments.values())[:-1]:
        assert isinstance(attachment, Hungry)
        attachment.idle = True
    crowd.receipt()
    assert crowd.turns[-1] == STREAMS  # the only one that has something to say
    assert crowd.circuit.endpoint.packing.unsealed == 0
    assert crowd.circuit.endpoint._send_window.flying > 0


def test_streams_that_ended_while_they_waited_are_passed_over(crowd: Crowd) -> None:
    TURN.begin()
    for stream_id in range(1, STREAMS):
        crowd.circuit.reset(stream_id, EndReason.RESET)
    TURN.end()
    crowd.receipt()
    assert set(crowd.turns) == {STREAMS}


PACE = 1e-6  # seconds for each byte: 16 ms for a cell


@contextmanager
def paced(far: Recorder, streams: int) -> Iterator[tuple[CircuitEnd, list[int]]]:
    """A circuit with a pace, all of whose streams have asked and then been refused; and the turns. Its pump runs."""
    pump = Pump("pacing")
    turns: list[int] = []
    with two_links(Recorder(), far) as (link, _):
        circuit = CircuitEnd(Machine(), link, 7, pump)
        with circuit.lock:
            for _ in range(streams):
                stream_id = circuit.endpoint.begin("target", 80, 0.0)
                circuit.attachments[stream_id] = Greedy(circuit, stream_id, turns)
            circuit.endpoint._congestion.pace = PACE
        for attachment in list(circuit.attachments.values()):
            attachment.send_on()
        turns.clear()
        assert link.drain(Deadline(PATIENCE))
        pump.start()
        yield circuit, turns
    pump.stop(Deadline(PATIENCE))


@pytest.mark.parametrize("streams", [1, 3])
def test_who_waits_for_the_pace_is_served_by_the_timer_alone(streams: int) -> None:
    """No receipt comes, and it goes on until the window is full: with several, each has its turn."""
    far = Recorder()
    with paced(far, streams) as (circuit, turns):
        window = circuit.endpoint._congestion.window
        far.wait_for(lambda: sum(len(cell.body) for cell in list(far.cells)) >= window)
        assert set(turns) == set(range(1, streams + 1))
        with circuit.lock:
            assert circuit.endpoint._send_window.flying >= window


def test_the_pace_has_one_timer_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Recorder()
    with paced(far, 3) as (circuit, _):
        timers: list[float] = []
        monkeypatch.setattr(circuit.pump, "call_later", lambda seconds, _function: timers.append(seconds))
        with circuit.lock:
            circuit._paced = False
            circuit.endpoint._congestion._next = float("inf")
        for _ in range(5):
            assert circuit.sendable(1) == 0
        assert len(timers) == 1


def test_a_closed_circuit_has_no_timer() -> None:
    """A stream was refused, and what was read and not sealed never will be."""
    far = Recorder()
    with paced(far, 1) as (circuit, turns):
        TURN.begin()
        with circuit.lock:
            circuit.endpoint.send(1, bytes(2 * circuit.endpoint.max_data))
            circuit._refused[1] = None
        circuit.close_streams(EndReason.CIRCUIT_CLOSED)
        TURN.end()
        begun, asked = len(turns), threading.Event()
        circuit.drained()
        circuit._go_on()
        circuit.pump.call_later(10 * PACE * circuit.endpoint.max_data, asked.set)
        assert asked.wait(PATIENCE)
        assert not circuit._paced and not circuit._refused and len(turns) == begun
