"""An end's sending below its congestion window: whose turn it is, who need not wait, and when it marks a cell."""

from ipaddress import IPv4Address

import pytest

from common.circuit.congestion import INITIAL
from common.circuit.endpoint import MAX_ADVANCE, OVERDRAFT, QUIET, Endpoint
from common.circuit.stream import Side
from common.circuit.window import CIRCUIT_WINDOW, STREAM_WINDOW
from common.errors import EndReason, WindowViolated
from common.wire.messages import Begin, Connected, Data, Direction, End, Mark, Message, Sendme, decode_messages

PROOF = b"p" * 16
CELL = 15_855


def client(streams: int = 1) -> Endpoint:
    """A client's end with open streams 1, 2, ..."""
    end = Endpoint(Side.CLIENT, lambda *messages: (b"".join(messages), PROOF), 15_865)
    for _ in range(streams):
        stream_id = end.begin("target", 1, 0.0)
        end.take_cells(0.0)
        end.receive([Connected(stream_id, IPv4Address("192.0.2.1"), 60)], PROOF, 0.0)
    return end


def fill(end: Endpoint, stream_id: int) -> int:
    """Sends all that a stream may; how much that was."""
    sent = 0
    while room := end.sendable(stream_id, 0.0):
        end.send(stream_id, bytes(room))
        sent += room
    return sent


def marks(end: Endpoint, now: float = 0.0) -> int:
    """How many of the cells that are due are marked."""
    cells = [decode_messages(cell) for cell in end.take_cells(now)]
    assert all(cell.count(Mark()) <= 1 for cell in cells)
    return sum(Mark() in cell for cell in cells)


def answer(end: Endpoint, now: float) -> None:
    """The SENDME that is owed first."""
    arrived = end._send_window._owed[0][0]
    end.receive([Sendme(0, arrived + CIRCUIT_WINDOW, PROOF)], PROOF, now)


def test_a_stream_fills_the_congestion_window_and_then_waits_for_a_receipt() -> None:
    end = client()
    sent = fill(end, 1)
    assert INITIAL <= sent <= INITIAL + CELL
    assert marks(end) >= 3
    assert end.sendable(1, 0.0) == 0
    answer(end, 0.1)
    assert end.sendable(1, 0.0) >= CELL, "no slivers"


def test_a_window_that_opens_by_parts_of_cells_is_used_by_whole_ones() -> None:
    """On a slow path a receipt makes room for less than a cell: each that is not full would carry padding."""
    end = client()
    fill(end, 1)
    end.take_cells(0.0)
    for step in range(1, 30):  # within the window of the stream
        answer(end, step / 10)
        while size := end.sendable(1, step):  # whatever the pace says
            assert size % CELL == 0
            end.send(1, bytes(size))
            assert end._send_window.flying + end.packing.unsealed < end._congestion.window + CELL
        for cell in end.take_cells(step / 10):
            sizes = [len(message.data) for message in decode_messages(cell) if isinstance(message, Data)]
            assert sizes in ([CELL], [])  # a mark may need a cell of its own


def test_what_is_begun_is_filled_up() -> None:
    end = client(2)
    end.send(1, bytes(10_000))
    assert end.sendable(2, 0.0) % CELL == CELL - 10_000
    end._congestion.window = 12_000
    assert end.sendable(2, 0.0) == CELL - 10_000


def test_nothing_to_send_is_no_message() -> None:
    """An empty DATA would end the circuit."""
    end = client()
    end.send(1, b"")
    assert end.take_cells(0.0) == []


@pytest.mark.parametrize("size", [1, CELL - 1, CELL, CELL + 1, 3 * CELL])
def test_data_goes_in_pieces_that_fill_a_cell(size: int) -> None:
    end = client()
    assert end.max_data == CELL
    end.send(1, bytes(range(256)) * (size // 256) + bytes(size % 256))
    messages = [message for cell in end.take_cells(0.0) for message in decode_messages(cell)]
    pieces = [message.data for message in messages if isinstance(message, Data)]
    assert [len(piece) for piece in pieces] == [CELL] * (size // CELL) + [size % CELL] * (size % CELL > 0)
    assert b"".join(pieces) == bytes(range(256)) * (size // 256) + bytes(size % 256)


def test_with_a_pace_one_cell_is_sent_in_its_time() -> None:
    end = client()
    end._congestion.pace = 1e-6  # seconds: 15.9 ms for a cell
    assert end.sendable(1, 5.0) == CELL
    end.send(1, bytes(CELL))
    assert end.sendable(1, 5.0) == 0 and not end.has_room(5.0), "read, though not sealed yet"
    assert end.take_cells(5.0)
    assert 0 < (wait := end.packing.wait(5.0)) < 0.0159
    assert end.sendable(1, 5.0 + wait / 2) == 0
    assert end.sendable(1, 5.0 + wait) == CELL and end.has_room(5.0 + wait)


def test_what_is_begun_may_be_filled_whatever_the_pace_says() -> None:
    """Else what waits to fill a cell keeps out what would fill it."""
    end = client(2)
    end._congestion.pace = 1e-6
    end.send(1, bytes(10_000))
    assert end.packing.wait(5.0) <= 0
    assert end.sendable(1, 5.0) == CELL - 10_000
    end.send(1, bytes(CELL - 10_000))
    assert end.sendable(1, 5.0) == 0


def test_a_quiet_stream_need_not_wait_for_the_pace() -> None:
    end = client(2)
    end._congestion.pace = 1e-6
    end.send(1, bytes(2 * CELL))
    end.take_cells(5.0)
    assert end.sendable(1, 5.0) == 0
    assert end.sendable(2, 5.0) == QUIET


def test_a_quiet_stream_need_not_wait_for_room() -> None:
    end = client(2)
    fill(end, 1)
    assert end.sendable(1, 0.0) == 0
    assert end.sendable(2, 0.0) == QUIET
    end.send(2, bytes(64))
    assert end.sendable(2, 0.0) == QUIET


def test_a_stream_that_sent_much_is_quiet_again_only_when_another_window_has_gone_by_without_it() -> None:
    end = client(2)
    fill(end, 1)
    end.take_cells(0.0)
    may = set()
    for step in range(1, 30):
        answer(end, step / 1_000)
        fill(end, 2)
        end.take_cells(step / 1_000)
        gone = end._send_window.sent - end._streams[1]._sent_at >= end._congestion.window
        may.add((gone, end.sendable(1, 0.0)))
    assert may >= {(False, 0), (True, QUIET)}
    assert (False, QUIET) not in may


def test_a_stream_that_is_not_quiet_waits_and_all_together_take_no_more_than_the_overdraft() -> None:
    count = 12
    end = client(count)
    sent = fill(end, 1)
    more = [fill(end, stream_id) for stream_id in range(2, count + 1)]
    assert sent + sum(more) <= INITIAL + CELL + OVERDRAFT + QUIET
    assert max(more) <= 2 * QUIET


def test_a_window_that_shrank_below_what_is_unmarked_gets_a_mark_of_its_own() -> None:
    """Else nobody would ever answer, and nothing could be sent."""
    end = client()
    end._congestion._set(CIRCUIT_WINDOW)
    end._congestion._set_step()
    end.send(1, bytes(400_000))
    assert marks(end) == 1  # the first; the next would come after a sixteenth of the window
    end._congestion._set(INITIAL)
    end._congestion._set_step()
    answer(end, 0.1)
    assert end.sendable(1, 0.0) == 0
    (cell,) = end.take_cells(0.2)
    assert decode_messages(cell) == [Mark()]
    answer(end, 0.3)
    assert end.sendable(1, 0.0) > 0


def receives(*cells: list[Message]) -> None:
    """An exit's end gets these cells."""
    end = Endpoint(Side.EXIT, lambda *messages: (b"".join(messages), PROOF), 15_865)
    for cell in cells:
        end.receive(cell, PROOF, 0.0)
        end.take_cells(0.0)


def test_marks_that_ask_for_more_receipts_than_data_is_worth_end_the_circuit() -> None:
    begin, data = Begin(1, "target", 1), Data(1, bytes(8_000))
    receives([begin], [data, Mark()], [data], [data], [data, Mark()])
    early: list[list[list[Message]]] = [[[Mark()]], [[data, Mark()], [data, Mark()]], [[data, Mark()], [Mark()]]]
    for hostile in early:
        with pytest.raises(WindowViolated, match="marks"):
            receives([begin], *hostile)


def test_a_new_stream_gets_the_window_that_another_grew_to() -> None:
    """With the first DATA, so that no cell is spent on it."""
    end = client()
    end._learned = 2**22  # of which the stream that is open has a half
    stream_id = end.begin("target", 1, 0.0)
    end.take_cells(0.0)
    end.receive([Connected(stream_id, IPv4Address("192.0.2.1"), 60)], PROOF, 0.0)
    assert end.take_cells(0.0) == []
    end.send(stream_id, b"x")
    (cell,) = end.take_cells(0.0)
    assert decode_messages(cell) == [Sendme(stream_id, 2**21), Data(stream_id, b"x")]


def test_streams_that_are_open_together_share_the_window_that_another_grew_to() -> None:
    """Sixteen that are read at first and then no more would hold sixteen times as much."""
    end = client()
    end._learned = MAX_ADVANCE
    windows = []
    for _ in range(20):
        stream_id = end.begin("target", 1, 0.0)
        windows.append(end._streams[stream_id].receive_window.window)
    assert windows[:3] == [MAX_ADVANCE // 2, MAX_ADVANCE // 3, MAX_ADVANCE // 4]
    assert windows[-1] == STREAM_WINDOW
    assert MAX_ADVANCE // len(windows) < STREAM_WINDOW
    assert MAX_ADVANCE + sum(window for window in windows if window > STREAM_WINDOW) < 28e6


def test_beside_many_streams_a_new_one_gets_the_first_window_whatever_they_bring() -> None:
    """They are not looked at one by one: each of thousands would cost the next ones time."""
    end = client()
    end._learned = MAX_ADVANCE
    while end.open_streams < MAX_ADVANCE // STREAM_WINDOW:
        end.begin("target", 1, 0.0)
    for stream in list(end._streams):
        end.reset(stream, EndReason.DONE)
    assert end.open_streams == MAX_ADVANCE // STREAM_WINDOW, "the other side has not said that it knows"
    stream_id = end.begin("target", 1, 0.0)
    assert end._streams[stream_id].receive_window.window == STREAM_WINDOW


def test_a_stream_whose_other_side_has_ended_shares_no_window() -> None:
    """It brings nothing more; an upload follows the one before at once, while that waits for its target's end."""
    end = client()
    end._learned = MAX_ADVANCE
    (before,) = end._streams
    end.receive([End(before, Direction.SENDING, EndReason.DONE)], PROOF, 0.0)
    stream_id = end.begin("target", 1, 0.0)
    assert end._streams.keys() == {before, stream_id}
    assert end._streams[stream_id].receive_window.window == MAX_ADVANCE
