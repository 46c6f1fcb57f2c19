"""Flow control: limits, proofs of receipt, and how a stream's window grows."""

import heapq
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.circuit.congestion import MIN_STEP
from common.circuit.window import (
    CIRCUIT_WINDOW,
    GROWTH,
    MAX_STREAM_WINDOW,
    STREAM_WINDOW,
    CircuitReceiveWindow,
    CircuitSendWindow,
    Receipt,
    StreamReceiveWindow,
    StreamSendWindow,
)
from common.errors import WindowViolated
from tests.helpers import MS, PATIENT

CELL = 15_855  # bytes of DATA in the largest cell


def proof(number: int) -> bytes:
    return number.to_bytes(16, "big")


STEP = 2**20  # bytes between marks here


def send(window: CircuitSendWindow, count: int, mark: bytes | None = None, now: float = 0.0) -> None:
    """A cell is sent, marked or not whether that is due or not."""
    window.cell_sent(count, STEP)
    if mark is not None:
        window.marked(mark, now)


def filled() -> CircuitSendWindow:
    """A sender that has used its whole window, in cells of 1 KiB numbered from 1, each 1,024th marked."""
    window = CircuitSendWindow()
    for number in range(1, CIRCUIT_WINDOW // 1_024 + 1):
        send(window, 1_024, proof(number) if number % 1_024 == 0 else None)
    return window


# ---- circuit


@given(st.integers(0, 2**32), st.sampled_from([1, 100, CELL]))
@settings(PATIENT, max_examples=30)
def test_both_ends_of_a_circuit_count_the_same(seed: int, least: int) -> None:
    """Whatever step the sender likes from one cell to the next."""
    sender, receiver, random = CircuitSendWindow(), CircuitReceiveWindow(), Random(seed)
    for number in range(1_500):
        size, step = random.randint(least, CELL), random.randint(MIN_STEP, STEP)
        mark = sender.cell_sent(size, step)
        receiver.data_arrived(size)
        if mark:
            sender.marked(proof(number), 0.0)
            sender.credit(receiver.marked(), proof(number))
            assert (sender.flying, sender.left) == (0, CIRCUIT_WINDOW)
        assert sender.limit == receiver.limit
        assert sender.left >= CIRCUIT_WINDOW - STEP - CELL


def test_a_circuits_limit_runs_8_mib_ahead_of_each_mark() -> None:
    receiver = CircuitReceiveWindow()
    receiver.data_arrived(STEP)
    assert receiver.limit == CIRCUIT_WINDOW
    assert receiver.marked() == receiver.limit == STEP + CIRCUIT_WINDOW
    receiver.data_arrived(MIN_STEP)
    assert receiver.marked() == STEP + MIN_STEP + CIRCUIT_WINDOW


def test_the_first_nearly_full_cell_is_marked_then_one_in_each_step() -> None:
    sender = CircuitSendWindow()
    assert not sender.cell_sent(500, MIN_STEP)
    assert sender.cell_sent(CELL, MIN_STEP)
    sender.marked(proof(1), 0.0)
    assert not sender.cell_sent(MIN_STEP - 1, MIN_STEP)
    assert sender.cell_sent(1, MIN_STEP)
    sender.marked(proof(2), 0.0)
    assert sender.cell_sent(MIN_STEP, MIN_STEP)


def test_a_step_that_shrinks_leaves_nobody_waiting() -> None:
    """Less than the step at that time is unmarked; now it is the whole window, and no receipt is on its way."""
    sender = CircuitSendWindow()
    send(sender, CELL, proof(1))
    send(sender, STEP - 1)
    assert not sender.stuck(MIN_STEP)  # one is
    sender.credit(CELL + CIRCUIT_WINDOW, proof(1))
    assert sender.stuck(MIN_STEP)
    assert not sender.stuck(STEP)
    assert sender.cell_sent(0, MIN_STEP)  # so a cell with nothing but the mark goes


def test_a_receipt_tells_when_its_cell_was_sent_and_what_is_new() -> None:
    sender = CircuitSendWindow()
    send(sender, 100)
    send(sender, CELL, proof(1), 2.0)
    send(sender, STEP, proof(2), 3.0)
    assert sender.credit(100 + CELL + CIRCUIT_WINDOW, proof(1)) == Receipt(2.0, 100 + CELL)
    assert sender.flying == STEP
    assert sender.credit(100 + CELL + STEP + CIRCUIT_WINDOW, proof(2)) == Receipt(3.0, STEP)


def test_nothing_is_sent_or_taken_beyond_the_circuits_limit() -> None:
    sender = filled()
    assert sender.left == 0
    with pytest.raises(WindowViolated):
        sender.cell_sent(1, STEP)
    with pytest.raises(WindowViolated):
        CircuitReceiveWindow().data_arrived(CIRCUIT_WINDOW + 1)


def test_marks_that_come_too_often_are_refused() -> None:
    """Each makes the receiver send a cell, so a cell of one byte must not."""
    with pytest.raises(WindowViolated, match="marks"):
        CircuitReceiveWindow().marked()
    receiver = CircuitReceiveWindow()
    receiver.data_arrived(1)
    receiver.marked()  # the first may come early
    receiver.data_arrived(MIN_STEP - 1)
    with pytest.raises(WindowViolated, match="marks"):
        receiver.marked()
    receiver.data_arrived(1)
    receiver.marked()
    with pytest.raises(WindowViolated, match="marks"):
        receiver.marked()


def test_a_sendme_with_the_right_proof_opens_the_window() -> None:
    sender = filled()
    for step in range(1, 9):
        sender.credit(step * STEP + CIRCUIT_WINDOW, proof(step * 1_024))
        assert sender.left == step * STEP


def test_a_sendme_without_having_received_is_caught() -> None:
    for wrong in (bytes(16), proof(1_023), proof(1_025), proof(2_048), b"", proof(1_024)[:15]):
        with pytest.raises(WindowViolated, match="wrong"):
            filled().credit(STEP + CIRCUIT_WINDOW, wrong)


@pytest.mark.parametrize("total", [0, STEP, CIRCUIT_WINDOW, CIRCUIT_WINDOW + 2 * STEP, 2**64 - 1])
def test_a_sendme_with_a_wrong_total_is_refused(total: int) -> None:
    with pytest.raises(WindowViolated, match="wrong"):
        filled().credit(total, proof(1_024))


def test_an_early_sendme_is_refused() -> None:
    sender = CircuitSendWindow()
    send(sender, STEP - 1)
    with pytest.raises(WindowViolated, match="nobody owes"):
        sender.credit(STEP + CIRCUIT_WINDOW, proof(1))


def test_a_duplicate_sendme_is_refused() -> None:
    sender = CircuitSendWindow()
    send(sender, STEP, proof(1))
    sender.credit(STEP + CIRCUIT_WINDOW, proof(1))
    with pytest.raises(WindowViolated, match="nobody owes"):
        sender.credit(STEP + CIRCUIT_WINDOW, proof(1))


def test_sendmes_out_of_order_are_refused() -> None:
    with pytest.raises(WindowViolated, match="wrong"):
        filled().credit(2 * STEP + CIRCUIT_WINDOW, proof(2_048))


# ---- stream


def test_a_stream_starts_with_512_kib() -> None:
    sender, receiver = StreamSendWindow(), StreamReceiveWindow(0)
    assert sender.left == receiver.limit == 512 * 1_024
    sender.take(STREAM_WINDOW)
    with pytest.raises(WindowViolated):
        sender.take(1)
    receiver.data_arrived(STREAM_WINDOW, 0)
    with pytest.raises(WindowViolated):
        receiver.data_arrived(1, 0)


def test_the_limit_follows_what_was_taken_not_what_arrived() -> None:
    receiver = StreamReceiveWindow(0)
    receiver.data_arrived(STREAM_WINDOW, 0)
    assert receiver.limit == STREAM_WINDOW
    assert receiver.data_taken(STREAM_WINDOW * 3 // 8 - 1, 0) is None
    assert receiver.data_taken(1, 0) == STREAM_WINDOW + STREAM_WINDOW * 3 // 8
    assert receiver.data_taken(1, 0) is None


def test_a_limit_is_told_earlier_where_a_cell_goes_anyway() -> None:
    receiver = StreamReceiveWindow(0)
    receiver.data_arrived(STREAM_WINDOW, 0)
    assert receiver.data_taken(STREAM_WINDOW // 8, 0) is None
    assert receiver.data_taken(1, 0, free=True) == STREAM_WINDOW + STREAM_WINDOW // 8 + 1
    assert receiver.data_taken(1, 0, free=True) is None


def test_a_window_that_is_known_to_be_needed_is_granted_before_anything_is_taken() -> None:
    receiver = StreamReceiveWindow(0, 4 * STREAM_WINDOW)
    assert receiver.limit == STREAM_WINDOW  # the sender has not heard of it
    assert receiver.advance() == receiver.limit == 4 * STREAM_WINDOW
    assert receiver.advance() is None
    assert StreamReceiveWindow(0).advance() is None
    late = StreamReceiveWindow(0, 4 * STREAM_WINDOW)
    late.data_arrived(1, 0)
    assert late.data_taken(1, 0) == 4 * STREAM_WINDOW + 1  # with the first byte at the latest
    assert late.advance() is None


@pytest.mark.parametrize("total", [0, 1, STREAM_WINDOW - 1, STREAM_WINDOW])
def test_a_stream_sendme_must_raise_the_limit(total: int) -> None:
    with pytest.raises(WindowViolated):
        StreamSendWindow().credit(total)


def test_a_stream_sendme_beyond_what_anybody_grants_is_refused() -> None:
    sender = StreamSendWindow()
    sender.take(1_000)
    with pytest.raises(WindowViolated):
        sender.credit(1_000 + MAX_STREAM_WINDOW + 1)
    sender.credit(1_000 + MAX_STREAM_WINDOW)
    assert sender.left == MAX_STREAM_WINDOW
    with pytest.raises(WindowViolated):
        sender.credit(1_000 + MAX_STREAM_WINDOW)


def transfer(
    total: int, delay: float, reader: Callable[[float, int], int] | None = None
) -> tuple[StreamReceiveWindow, float]:
    """A sender with endless data and a receiver, `delay` seconds apart each way; `reader(now, held)` says how much
    the application takes at a look (every ms), all if it is None. Returns the receiver and when `total` was taken."""
    sender, receiver = StreamSendWindow(), StreamReceiveWindow(0)
    events: list[tuple[float, int, str, int]] = []
    held = order = 0

    def later(when: float, what: str, value: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, what, value))

    later(0, "credit", 0)
    if reader is not None:
        later(0, "look", 0)
    now = 0.0
    while receiver.taken < total:
        now, _, what, value = heapq.heappop(events)
        take = 0
        if what == "credit":
            if value:
                sender.credit(value)
            while sender.left:
                size = min(CELL, sender.left)
                sender.take(size)
                later(now + delay, "data", size)
        elif what == "data":
            receiver.data_arrived(value, now)
            held += value
            take = held if reader is None else 0
        elif reader is not None:
            take = min(held, reader(now, held))
            later(now + MS, "look", 0)
        if take:
            held -= take
            limit = receiver.data_taken(take, now)
            if limit is not None:
                later(now + delay, "credit", limit)
    return receiver, now


def test_a_long_path_with_a_quick_reader_gets_the_largest_window() -> None:
    receiver, seconds = transfer(256 * 2**20, 50 * MS)
    assert receiver.window == MAX_STREAM_WINDOW
    assert receiver.round_trip == pytest.approx(100 * MS)
    assert seconds < 256 * 2**20 / MAX_STREAM_WINDOW * 100 * MS * 1.5  # close to a window each round trip


def test_a_slow_reader_keeps_the_first_window() -> None:
    """It takes 100 bytes a ms, so a window needs far longer than two round trips."""
    receiver, _ = transfer(2**20, 5 * MS, reader=lambda _now, _held: 100)
    assert receiver.window == STREAM_WINDOW


def test_a_stalled_reader_holds_at_most_a_window() -> None:
    """It reads greedily, stops for good after a second, and what waits for it is what its window says."""
    held_most = 0

    def reader(now: float, held: int) -> int:
        nonlocal held_most
        held_most = max(held_most, held)
        return held if now < 1 or now > 10 else 0

    receiver, _ = transfer(300 * 2**20, 20 * MS, reader)
    assert held_most <= receiver.window <= MAX_STREAM_WINDOW


@pytest.mark.parametrize(("round_trips", "grown"), [(1.0, True), (1.9, True), (2.1, False), (10.0, False)])
def test_a_window_grows_only_when_taken_within_two_round_trips(round_trips: float, grown: bool) -> None:
    receiver = StreamReceiveWindow(0)
    receiver.data_arrived(STREAM_WINDOW, 0)
    receiver.data_taken(STREAM_WINDOW, 0)  # the round trip is not known yet: no growing
    assert receiver.window == STREAM_WINDOW
    receiver.data_arrived(STREAM_WINDOW, 100 * MS)  # the first byte beyond the old limit
    assert receiver.round_trip == pytest.approx(100 * MS)
    receiver.data_taken(STREAM_WINDOW, round_trips * 100 * MS)
    assert receiver.window == STREAM_WINDOW * (GROWTH if grown else 1)


def test_a_sender_cannot_shorten_the_round_trip() -> None:
    """Only a byte beyond the old limit ends a measurement, and who sends it has read the SENDME."""
    receiver = StreamReceiveWindow(0)
    receiver.data_arrived(STREAM_WINDOW // 2, 0)
    old = receiver.limit
    assert receiver.data_taken(STREAM_WINDOW // 2, 0)
    receiver.data_arrived(old - receiver.arrived, MS)
    assert receiver.round_trip is None
    receiver.data_arrived(1, 7 * MS)
    assert receiver.round_trip == pytest.approx(7 * MS)


@given(st.lists(st.tuples(st.integers(0, CELL), st.integers(0, CELL), st.floats(0, 1)), max_size=300))
@PATIENT
def test_no_honest_stream_sendme_is_refused(steps: list[tuple[int, int, float]]) -> None:
    sender, receiver, now, held = StreamSendWindow(), StreamReceiveWindow(0), 0.0, 0
    for sent, taken, passed in steps:
        now += passed
        sent = min(sent, sender.left)
        if sent:
            sender.take(sent)
            receiver.data_arrived(sent, now)
        held += sent
        taken = min(taken, held)
        held -= taken
        limit = receiver.data_taken(taken, now) if taken else None
        if limit is not None:
            sender.credit(limit)
        assert sender.limit == receiver.limit
        assert receiver.arrived - receiver.taken <= receiver.window <= MAX_STREAM_WINDOW
