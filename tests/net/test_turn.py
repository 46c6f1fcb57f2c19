"""What is said in one turn is sent once, and what came is delivered even when the stream is over by then."""

import socket
import threading
from collections.abc import Iterator

import pytest

from common.circuit.stream import Event
from common.crypto.layers import PROOF
from common.errors import EndReason
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.net.turn import TURN
from common.roles.circuit_end import SEAL_AT, Attachment, CircuitEnd
from common.wire.messages import Data, Direction, End, Message, decode_messages
from tests.net.bare import Machine
from tests.net.links import PATIENCE, Recorder, two_links

CIRCUIT = 7
FIRST, SECOND = 1, 2  # streams


class Far(Recorder):
    """The other side of the link: the messages of each cell."""

    def told(self) -> list[list[Message]]:
        return [decode_messages(cell.body) for cell in self.cells]


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def end(far: Far) -> Iterator[CircuitEnd]:
    """A client's end with two open streams, whose BEGINs have been sent; its pump does not run."""
    pump = Pump("turns")
    with two_links(Recorder(), far) as (link, _):
        circuit = CircuitEnd(Machine(), link, CIRCUIT, pump)
        with circuit.lock:
            for _ in (FIRST, SECOND):
                circuit.endpoint.begin("target", 80, 0.0)
        circuit.settle()
        far.wait_for(lambda: len(far.cells) == 1)
        far.cells.clear()
        yield circuit
    pump.stop(Deadline(PATIENCE))


def test_without_a_turn_everything_is_sent_at_once(end: CircuitEnd, far: Far) -> None:
    for number in range(1, 4):
        end.send(FIRST, b"data")
        far.wait_for(lambda number=number: len(far.cells) == number)  # type: ignore[misc]
    assert far.told() == [[Data(FIRST, b"data")]] * 3


def test_what_is_said_in_a_turn_shares_a_cell_and_keeps_its_order(end: CircuitEnd, far: Far) -> None:
    TURN.begin()
    end.send(FIRST, b"one")
    end.send(SECOND, b"two")
    end.finish(FIRST)
    sent_in_the_turn = end.link.cells_out
    TURN.end()
    far.wait_for(lambda: len(far.cells) == 1)
    assert end.link.cells_out == sent_in_the_turn + 1
    ended = End(FIRST, Direction.SENDING, EndReason.DONE)
    assert far.told() == [[Data(FIRST, b"one"), Data(SECOND, b"two"), ended]]


def test_much_data_does_not_wait_for_the_end_of_the_turn(end: CircuitEnd, far: Far) -> None:
    TURN.begin()
    try:
        end.send(FIRST, bytes(SEAL_AT))
        far.wait_for(lambda: sum(map(len, (cell.body for cell in far.cells))) > SEAL_AT)
    finally:
        TURN.end()


def test_a_turn_is_its_threads_own(end: CircuitEnd, far: Far) -> None:
    TURN.begin()
    try:
        other = threading.Thread(target=end.send, args=(FIRST, b"from another thread"))
        other.start()
        other.join(PATIENCE)
        far.wait_for(lambda: len(far.cells) == 1)
    finally:
        TURN.end()


def test_a_turn_sends_the_rest_when_one_circuit_fails(
    end: CircuitEnd, far: Far, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def settle(self) -> None:
            raise RuntimeError("as asked")

    TURN.begin()
    end.link.queue(CIRCUIT, 4, b"queued")
    TURN.flush(end.link)
    TURN.settle(Broken())
    end.send(FIRST, b"and this circuit")
    TURN.end()
    far.wait_for(lambda: len(far.cells) == 2)
    assert "as asked" in caplog.text
    TURN.begin()  # and the next turn is like any other
    end.send(FIRST, b"once more")
    TURN.end()
    far.wait_for(lambda: len(far.cells) == 3)


def test_a_circuit_that_has_ended_seals_nothing(end: CircuitEnd, far: Far) -> None:
    TURN.begin()
    end.send(FIRST, b"too late")
    end.close_streams(EndReason.CIRCUIT_CLOSED)
    TURN.end()
    end.link.send(CIRCUIT, 5, b"\x00")
    far.wait_for(lambda: len(far.cells) == 1)
    assert far.cells[0].command == 5


def test_data_that_came_with_the_end_is_delivered_though_the_program_has_ended_meanwhile(end: CircuitEnd) -> None:
    """DATA and END were taken from a cell; before they are delivered, the pump hears that the program is done."""
    pump = Pump()
    pump.start()
    ours, programs = socket.socketpair()
    programs.settimeout(PATIENCE)
    try:
        attachment = Attachment(end, FIRST)
        with end.lock:
            end.attachments[FIRST] = attachment
            end.endpoint._streams[FIRST].step(Event.GOT_CONNECTED)
        plug = pump.attach(ours, attachment)
        assert attachment.adopt(plug)
        came: list[Message] = [Data(FIRST, b"last words"), End(FIRST, Direction.SENDING, EndReason.DONE)]
        with end.lock:
            claimed = [(action, end.claim(action)) for action in end.endpoint.receive(came, bytes(PROOF), 0.0)]
        programs.shutdown(socket.SHUT_WR)
        finished = threading.Event()
        _until_forgotten(end, pump, finished)
        for action, whose in claimed:
            end.perform(action, whose)
        received = b""
        while data := programs.recv(100):
            received += data
        assert received == b"last words"
    finally:
        programs.close()
        pump.stop(Deadline(PATIENCE))


def _until_forgotten(end: CircuitEnd, pump: Pump, done: threading.Event) -> None:
    """Waits until the pump has told the circuit that the program is done."""

    def look() -> None:
        if end.endpoint.open_streams == 1:
            done.set()
        else:
            pump.call_later(0.001, look)

    pump.call(look)
    assert done.wait(PATIENCE)
