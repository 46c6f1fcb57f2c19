"""A transfer's cells wait a moment to be full, and a client's last END for company; nothing else does."""

from ipaddress import IPv4Address

import pytest

from common.circuit.endpoint import TRANSFER, Endpoint
from common.circuit.packing import COMPANY_TIME, FULL, MOST_FILL_TIME
from common.circuit.stream import Side
from common.circuit.window import CIRCUIT_WINDOW
from common.errors import EndReason
from common.wire.messages import HEADER, Begin, Connected, Data, Direction, End, Mark, Sendme, decode_messages
from tests.helpers import MS

PROOF = b"p" * 16
MESSAGES = 15_865
SEGMENTS = 2_896  # bytes: what two TCP segments bring


def transfer(round_trip: float = 200 * MS, sent: int = TRANSFER + 1) -> tuple[Endpoint, float]:
    """A client's end whose stream 1 has sent so much, all of it answered, on a path of that length; and the time."""
    end = Endpoint(Side.CLIENT, lambda *messages: (b"".join(messages), PROOF), MESSAGES)
    end.begin("target", 1, 0.0)
    end.begin("another", 1, 0.0)
    end.take_cells(0.0)
    end.receive([Connected(1, IPv4Address("192.0.2.1"), 60), Connected(2, IPv4Address("192.0.2.2"), 60)], PROOF, 0.0)
    end.send(1, bytes(sent))
    end.take_cells(0.0)
    while end._send_window._owed:
        end.receive([Sendme(0, end._send_window._owed[0][0] + CIRCUIT_WINDOW, PROOF)], PROOF, round_trip)
    end.send(1, bytes(end.max_data))
    assert end.take_cells(round_trip, full=True), "a full cell goes at once"
    return end, round_trip


def test_what_would_be_mostly_padding_waits_for_more() -> None:
    end, now = transfer()
    for number in range(5):
        end.send(1, bytes(SEGMENTS))
        assert end.take_cells(now + number * MS, full=True) == []
        assert end.packing.filling == now
    end.send(1, bytes(SEGMENTS))
    (cell,) = end.take_cells(now + 5 * MS, full=True)
    assert len(cell) > FULL * MESSAGES
    assert end.packing.filling == now + 5 * MS


def test_what_is_left_of_full_cells_waits_from_then_on() -> None:
    end, now = transfer()
    end.send(1, bytes(SEGMENTS))
    assert end.take_cells(now, full=True) == []
    end.send(1, bytes(end.max_data + SEGMENTS))
    (cell,) = end.take_cells(now + MS, full=True)
    assert len(cell) > FULL * MESSAGES
    assert end.packing.filling == now + MS
    assert end.packing.unsealed == 2 * SEGMENTS + HEADER.size, "the cell has one header more"


@pytest.mark.parametrize("size", [SEGMENTS, 8_948, 13_000, 15_860])
def test_pieces_of_any_size_come_as_they_went_and_in_full_cells(size: int) -> None:
    """8,948 bytes is what one large packet brings: more than half of a cell, and less than a whole one."""
    end, now = transfer()
    said = b""
    cells: list[bytes] = []
    for number in range(100_000 // size):
        piece = bytes([number]) * size
        said += piece
        end.send(1, piece)
        cells += end.take_cells(now + number * MS / 10, full=True)
        assert end.packing._size == sum(len(head) + length for head, _, length in end.packing.outgoing)
    cells += end.take_cells(now + 1.0)
    messages = [message for cell in cells for message in decode_messages(cell)]
    assert b"".join(message.data for message in messages if isinstance(message, Data)) == said
    assert min(map(len, cells[:-1])) >= FULL * MESSAGES
    assert not end.packing.unsealed and end._send_window.sent == TRANSFER + 1 + end.max_data + len(said)


def test_a_small_rest_waits_until_more_has_come() -> None:
    end, now = transfer()
    end.send(1, bytes(end.max_data + 200))
    assert len(end.take_cells(now, full=True)) == 1
    assert end.packing.filling == now and end.packing.unsealed == 200
    assert end.take_cells(now + MS, full=True) == [], "asked again, with nothing new"
    end.send(1, bytes(100))
    assert end.take_cells(now + 2 * MS, full=True) == []
    assert end.packing.filling == now and end.packing.unsealed == 300
    (cell,) = end.take_cells(now + 10 * MS)
    assert len(cell) < 400


def test_a_message_before_full_pieces_stays_in_a_short_cell() -> None:
    """To split each of the pieces behind it would fill the same number of cells, and cost more."""
    end, now = transfer()
    end.begin("third", 1, now)
    end.send(1, bytes(4 * end.max_data))
    first, *others = end.take_cells(now, full=True)
    assert len(first) < 100
    assert len(others) == 4 and min(map(len, others)) >= MESSAGES - len(Mark().encode())


def test_it_waits_for_a_small_part_of_the_round_trip_only() -> None:
    assert transfer()[0].packing.fill_time == pytest.approx(10 * MS)
    assert transfer(40 * MS)[0].packing.fill_time == pytest.approx(2 * MS)
    assert transfer(10.0)[0].packing.fill_time == MOST_FILL_TIME


def test_it_is_sent_when_its_time_is_over() -> None:
    end, now = transfer()
    end.send(1, bytes(SEGMENTS))
    assert end.take_cells(now, full=True) == []
    assert sum(map(len, end.take_cells(now + 10 * MS))) > SEGMENTS
    assert end.packing.filling is None and not end.packing.unsealed


def test_on_a_short_path_nothing_waits() -> None:
    end, now = transfer(10 * MS)
    end.send(1, bytes(SEGMENTS))
    assert end.take_cells(now, full=True)


def test_the_beginning_of_a_stream_does_not_wait() -> None:
    """A page, or an answer."""
    end, now = transfer(sent=20_000)
    end.send(1, bytes(SEGMENTS))
    assert end.take_cells(now, full=True)


def test_after_a_pause_nothing_waits() -> None:
    end, now = transfer()
    end.send(1, bytes(SEGMENTS))
    assert end.take_cells(now + 20 * MS, full=True)


def test_what_fits_a_short_cell_does_not_wait() -> None:
    end, now = transfer()
    end.send(1, bytes(400))
    assert end.take_cells(now, full=True)


def test_what_no_more_can_follow_does_not_wait() -> None:
    """The congestion window is full."""
    end, now = transfer()
    while room := end.sendable(1, 0.0):
        end.send(1, bytes(min(room, SEGMENTS)))
        end.take_cells(now, full=True)
    assert end.packing.filling is None


@pytest.mark.parametrize("what", ["end", "reset", "another stream's", "a new stream"])
def test_other_messages_take_along_what_waits(what: str) -> None:
    end, now = transfer()
    end.send(1, bytes(SEGMENTS))
    assert end.take_cells(now, full=True) == []
    match what:
        case "end":
            end.finish(1)
        case "reset":
            end.reset(1, EndReason.RESET)
        case "another stream's":
            end.send(2, b"x")
        case _:
            end.begin("third", 1, now)
    assert sum(map(len, end.take_cells(now, full=True))) > SEGMENTS
    assert end.packing.filling is None


def peer_finished(side: Side) -> Endpoint:
    """An end whose stream 1 is open, and the other side has sent its END."""
    end = Endpoint(side, lambda *messages: (b"".join(messages), PROOF), MESSAGES)
    if side is Side.CLIENT:
        end.begin("target", 1, 0.0)
        end.receive([Connected(1, IPv4Address("192.0.2.1"), 60)], PROOF, 0.0)
    else:
        end.receive([Begin(1, "target", 1)], PROOF, 0.0)
        end.connected(1, IPv4Address("192.0.2.1"), 60)
    end.take_cells(0.0)
    end.receive([End(1, Direction.SENDING, EndReason.DONE)], PROOF, 0.0)
    return end


def test_a_clients_last_end_goes_with_the_next_streams_begin() -> None:
    end = peer_finished(Side.CLIENT)
    assert end.finish(1)
    assert end.take_cells(1.0, full=True) == []
    assert end.packing.due == 1.0 + COMPANY_TIME
    assert end.begin("next", 1, 1.0 + MS) == 2
    (cell,) = end.take_cells(1.0 + MS, full=True)
    assert [type(message) for message in decode_messages(cell)] == [End, Begin]
    assert end.packing.due is None


def test_a_clients_last_end_does_not_wait_for_ever() -> None:
    end = peer_finished(Side.CLIENT)
    end.finish(1)
    assert end.take_cells(1.0, full=True) == []
    assert end.take_cells(1.0 + COMPANY_TIME / 2, full=True) == []
    assert end.packing.due == 1.0 + COMPANY_TIME, "asking again does not put it off"
    (cell,) = end.take_cells(1.0 + COMPANY_TIME)
    assert [type(message) for message in decode_messages(cell)] == [End]


def test_the_end_of_an_answer_does_not_wait() -> None:
    """An application has sent its request to the end, and waits for the answer's."""
    end = peer_finished(Side.EXIT)
    end.finish(1)
    assert end.take_cells(1.0, full=True)


def test_the_end_of_a_request_does_not_wait() -> None:
    end = peer_finished(Side.CLIENT)
    assert end.begin("next", 1, 0.0) == 2
    end.take_cells(0.0)
    assert not end.finish(2)
    assert end.take_cells(1.0, full=True)
