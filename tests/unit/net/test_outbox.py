"""The outbox: order within a circuit, quietest circuit first, fair among equals."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.net.outbox import HALF_LIFE, HIGH_WATER, LOW_WATER, QUANTUM, Outbox
from common.wire.cells import HEADER, LONG_CELL, SHORT_CELL, Command, Pieces, cut_cells, join_cells


def cell(circuit_id: int, number: int = 0, size: int = LONG_CELL) -> list[Pieces]:
    """One that can be told apart, full but for a byte."""
    body = number.to_bytes(4, "big").ljust(size - HEADER.size - 1, b"\0")
    return cut_cells(circuit_id, Command.RELAY, [body])


def names(cells: Sequence[Pieces]) -> list[tuple[int, int]]:
    """(circuit id, number) of each."""
    return [(HEADER.unpack(header)[0], int.from_bytes(body[:4], "big")) for _, header, body, _ in cells]


def take_all(outbox: Outbox, room: int = LONG_CELL, now: float = 0.0) -> list[tuple[int, int]]:
    """Everything, in batches of `room`."""
    taken: list[tuple[int, int]] = []
    while cells := outbox.take(room, now):
        taken += names(cells)
    assert outbox.size == 0
    return taken


def test_one_circuit_keeps_its_order() -> None:
    outbox = Outbox()
    for number in range(10):
        outbox.append(7, cell(7, number))
    assert take_all(outbox, 4 * LONG_CELL) == [(7, number) for number in range(10)]


def test_an_empty_outbox_gives_nothing() -> None:
    assert Outbox().take(65_536, 5.0) == []


def test_a_batch_never_exceeds_its_room_but_has_at_least_one_cell() -> None:
    outbox = Outbox()
    outbox.append(1, cell(1, 0, SHORT_CELL))
    outbox.append(1, cell(1, 1))
    outbox.append(1, cell(1, 2, SHORT_CELL))
    assert names(outbox.take(LONG_CELL, 0.0)) == [(1, 0)]
    assert names(outbox.take(SHORT_CELL, 0.0)) == [(1, 1)]
    assert names(outbox.take(LONG_CELL, 0.0)) == [(1, 2)]


def test_a_batch_may_be_empty_if_nothing_that_comes_first_fits() -> None:
    outbox = Outbox()
    outbox.append(1, cell(1, 0, SHORT_CELL))
    outbox.append(1, cell(1, 1))
    outbox.append(1, cell(1, 2, SHORT_CELL))
    assert names(outbox.take(LONG_CELL - 1, 0.0, one=False)) == [(1, 0)]
    assert outbox.take(LONG_CELL - 1, 0.0, one=False) == []
    outbox.append(2, cell(2, 0, SHORT_CELL))
    assert names(outbox.take(LONG_CELL - 1, 0.0, one=False)) == [(2, 0)]
    assert outbox.size == LONG_CELL + SHORT_CELL
    assert take_all(outbox) == [(1, 1), (1, 2)]


def test_the_quietest_circuit_goes_before_a_bulk_circuit() -> None:
    outbox = Outbox()
    for number in range(20):
        outbox.append(1, cell(1, number))
    outbox.take(4 * LONG_CELL, 0.0)
    outbox.append(2, cell(2, 0, SHORT_CELL))
    assert names(outbox.take(LONG_CELL, 0.1))[0] == (2, 0)


def test_a_circuit_that_was_quiet_for_long_goes_before_one_that_was_not() -> None:
    outbox = Outbox()
    outbox.append(1, cell(1))
    outbox.append(1, cell(1))
    take_all(outbox, now=0.0)
    now = 10 * HALF_LIFE
    outbox.append(2, cell(2))
    take_all(outbox, now=now)
    outbox.append(2, cell(2, 1))
    outbox.append(1, cell(1, 1))
    assert take_all(outbox, now=now) == [(1, 1), (2, 1)]


@pytest.mark.parametrize("room", [LONG_CELL, QUANTUM, 3 * QUANTUM])
def test_bulk_circuits_share_evenly(room: int) -> None:
    """Cell by cell where the kernel takes no more at once, else a quantum each."""
    outbox = Outbox()
    for circuit_id in (1, 2, 3):
        for number in range(12):
            outbox.append(circuit_id, cell(circuit_id, number))
    taken = take_all(outbox, room)
    in_a_row = min(room, QUANTUM) // LONG_CELL
    for end in range(3 * in_a_row, 36, 3 * in_a_row):
        sent = [circuit_id for circuit_id, _ in taken[:end]]
        assert {sent.count(1), sent.count(2), sent.count(3)} == {end // 3}


def test_the_links_own_cells_go_first() -> None:
    outbox = Outbox()
    for number in range(5):
        outbox.append(9, cell(9, number, SHORT_CELL))
        outbox.append(0, cell(0, number, SHORT_CELL))
    assert take_all(outbox)[:5] == [(0, number) for number in range(5)]


def test_forget_drops_one_circuit_only() -> None:
    outbox = Outbox()
    for number in range(3):
        outbox.append(1, cell(1, number))
        outbox.append(2, cell(2, number))
    outbox.forget(1)
    outbox.forget(5)
    assert outbox.backlog(1) == 0
    assert outbox.size == outbox.backlog(2) == 3 * LONG_CELL
    outbox.append(1, cell(1, 9))
    assert sorted(take_all(outbox)) == [(1, 9), (2, 0), (2, 1), (2, 2)]


def test_drained_names_a_circuit_once_after_its_backlog_was_high() -> None:
    outbox = Outbox()
    while outbox.backlog(1) <= HIGH_WATER:
        outbox.append(1, cell(1))
        outbox.append(2, cell(2, 0, SHORT_CELL))
    while outbox.backlog(1) >= LOW_WATER:
        assert outbox.drained == []
        outbox.take(LONG_CELL, 0.0)
    assert outbox.drained == [1]
    take_all(outbox)
    assert outbox.drained == [1]


def test_order_survives_renewed_weights() -> None:
    outbox = Outbox()
    outbox.append(1, cell(1))
    outbox.append(1, cell(1, 1))
    outbox.append(2, cell(2))
    outbox.take(LONG_CELL, 0.0)
    outbox.take(LONG_CELL, 1_000_000.0)  # counts are scaled down to nothing
    for circuit_id in range(10, 5_000):
        outbox.append(circuit_id, cell(circuit_id, 0, SHORT_CELL))
        outbox.take(LONG_CELL, 1_000_000.0 + circuit_id)
    assert outbox.backlog(4_999) == 0
    assert take_all(outbox, now=2_000_000.0) in ([], [(1, 1)])


def test_ended_circuits_do_not_stay_in_the_table() -> None:
    outbox = Outbox()
    for circuit_id in range(1, 50_000):
        outbox.append(circuit_id, cell(circuit_id, 0, SHORT_CELL))
        outbox.take(LONG_CELL, circuit_id / 1_000)
    assert len(outbox._circuits) < 10_000


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3), st.floats(0, 1_000)), max_size=60),
    st.integers(1, 5 * LONG_CELL),
)
def test_whatever_happens_nothing_is_lost_or_reordered(
    steps: list[tuple[int, bool, int, float]], room: int
) -> None:
    outbox, queued, taken, now = Outbox(), [], [], 0.0
    for number, (circuit_id, is_long, action, pause) in enumerate(steps):
        now += pause
        size = LONG_CELL if is_long else SHORT_CELL
        outbox.append(circuit_id, cell(circuit_id, number, size))
        queued.append((circuit_id, number))
        if action == 0:
            cells = outbox.take(room, now)
            assert cells and (len(cells) == 1 or len(join_cells(cells)) <= room)
            taken += names(cells)
    taken += take_all(outbox, room, now)
    for circuit_id in range(5):
        assert [n for c, n in taken if c == circuit_id] == [n for c, n in queued if c == circuit_id]


def test_many_circuits_are_served_fairly_in_the_long_run() -> None:
    generator = random.Random(4)  # the same draw each time
    outbox, sent = Outbox(), dict.fromkeys(range(1, 21), 0)
    for step in range(4_000):
        for circuit_id in generator.sample(range(1, 21), 3):
            if outbox.backlog(circuit_id) < 20 * LONG_CELL:
                outbox.append(circuit_id, cell(circuit_id))
        for circuit_id, _ in names(outbox.take(LONG_CELL, step / 100)):
            sent[circuit_id] += 1
    assert max(sent.values()) <= 1.1 * min(sent.values())


def test_what_fits_a_batch_is_taken_quietest_circuit_first() -> None:
    outbox = Outbox()
    for circuit_id, cells in ((1, 3), (2, 1), (3, 2), (4, 4)):
        for number in range(cells):
            outbox.append(circuit_id, cell(circuit_id, number))
            take_all(outbox)
    for circuit_id in (4, 1, 3, 2, 0):
        outbox.append(circuit_id, cell(circuit_id, 9, SHORT_CELL))
    assert take_all(outbox, QUANTUM) == [(circuit_id, 9) for circuit_id in (0, 2, 3, 1, 4)]


def test_what_waits_alone_is_known_and_may_be_forgotten() -> None:
    outbox = Outbox()
    outbox.append(3, cell(3) + cell(3, 1, SHORT_CELL))
    assert outbox.size == outbox.backlog(3) == LONG_CELL + SHORT_CELL
    assert outbox.backlog(4) == 0
    outbox.append(4, cell(4))
    outbox.forget(3)
    assert outbox.size == outbox.backlog(4) == LONG_CELL
    outbox.forget(4)
    assert outbox.size == 0 and outbox.take(QUANTUM, 0.0) == []


def test_what_went_alone_counts_for_its_circuit() -> None:
    """Else one that never met another would be as quiet as a new one when it does."""
    outbox = Outbox()
    outbox.append(1, cell(1))
    outbox.take(QUANTUM, 0.0)
    outbox.append(1, cell(1, 1))
    outbox.append(2, cell(2))
    assert take_all(outbox) == [(2, 0), (1, 1)]


def test_what_waits_alone_is_cleared() -> None:
    outbox = Outbox()
    outbox.append(1, cell(1))
    outbox.clear()
    outbox.append(2, cell(2))
    assert take_all(outbox) == [(2, 0)]
