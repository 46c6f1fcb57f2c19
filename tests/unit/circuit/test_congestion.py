"""Congestion control on simulated paths. Bounds are about twice what these very paths show, and no clock runs."""

from bisect import bisect
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.circuit.congestion import FLOOR, INITIAL, MIN_STEP, MOST_QUEUE_TIME, PACE_SLACK, CongestionWindow
from common.circuit.window import CIRCUIT_WINDOW
from tests.helpers import MS, PATIENT
from tests.unit.circuit.simulated_path import CELL, MBIT, Path


def constant(mbit: float) -> Path:
    """A path whose rate does not change."""
    return Path(lambda _now: mbit * MBIT)


def after_start(round_trip: float, window: int = INITIAL) -> CongestionWindow:
    """A window after slow start, which has seen one round trip."""
    congestion = CongestionWindow(CIRCUIT_WINDOW)
    congestion._starting = False
    congestion._set(window)
    congestion.measured(0.0, round_trip, CELL, CELL, CELL)
    return congestion


@pytest.mark.parametrize(
    ("mbit", "delay"), [(1, 50 * MS), (10, 10 * MS), (10, 150 * MS), (200, 20 * MS), (200, 150 * MS), (1_000, MS)]
)
def test_one_circuit_fills_its_path_and_keeps_the_queue_short(mbit: float, delay: float) -> None:
    path = constant(mbit)
    circuit = path.circuit(delay)
    path.run(20)
    assert circuit.got(8, 20) / 12 > 0.9 * mbit * MBIT
    cells = 2 * CELL / (mbit * MBIT)  # what two cells take: less than that no queue of cells can be
    assert path.queue(8, 20) < 2 * max(MOST_QUEUE_TIME, delay / 10) + cells


def test_a_transfer_starts_quickly() -> None:
    """200 Mbit/s, 150 ms: doubling from 128 KiB would take five rounds and a half, 0.8 s."""
    path = constant(200)
    circuit = path.circuit(150 * MS)
    path.run(2)
    assert circuit.got(0, 0.6) > 0.2 * 200 * MBIT
    assert circuit.got(0.6, 2) / 1.4 > 0.9 * 200 * MBIT


def test_a_jump_at_the_start_makes_no_long_queue() -> None:
    """What comes back tells the slow link's rate too."""
    path = constant(10)
    path.circuit(150 * MS)
    path.run(1.5)
    assert path.queue(0, 1.5, 1.0) < 0.3


def test_circuits_that_begin_together_on_a_short_path_share_it() -> None:
    path = constant(320)
    circuits = [path.circuit(2 * MS) for _ in range(16)]
    path.run(10)
    shares = [circuit.got(5, 10) for circuit in circuits]
    assert sum(shares) / 5 > 0.9 * 320 * MBIT
    assert max(shares) < 3 * min(shares)  # 1.5 here


def test_links_that_start_slowly_themselves_cost_a_moment_only() -> None:
    """What waits for their TCP is taken for a queue, and ends slow start. Growing from there would take four seconds."""
    path = Path(lambda now: (4 if now < 0.6 else 200) * MBIT)
    circuit = path.circuit(150 * MS)
    path.run(3)
    assert circuit.got(2, 3) > 0.9 * 200 * MBIT


def test_the_queue_of_slow_start_is_gone_soon() -> None:
    path = constant(10)
    path.circuit(150 * MS)
    path.run(6)
    assert path.queue(0, 6, 1.0) < 0.6  # a round's worth at most, and then some
    assert path.queue(3, 6, 0.95) < 0.15


@pytest.mark.parametrize(("mbit", "count"), [(10, 2), (10, 4), (200, 4)])
def test_circuits_share_a_link(mbit: float, count: int) -> None:
    """They join two seconds after each other: each meets the queue of those before, and takes it for its path."""
    path = constant(mbit)
    circuits = [path.circuit(150 * MS, start=2.0 * number) for number in range(count)]
    path.run(60)
    shares = [circuit.got(30, 60) for circuit in circuits]
    assert sum(shares) / 30 > 0.9 * mbit * MBIT
    assert max(shares) < (1 + count) * min(shares)  # at worst 1.6 of two and 4.3 of four
    assert path.queue(30, 60) < 0.2 * count


def test_a_rate_that_rises_and_falls_is_followed() -> None:
    rates = [10.0, 100.0, 5.0]
    path = Path(lambda now: rates[min(int(now / 10), 2)] * MBIT)
    circuit = path.circuit(100 * MS)
    path.run(30)
    for number, rate in enumerate(rates):
        begin = 10 * number + 6
        assert circuit.got(begin, begin + 4) / 4 > 0.85 * rate * MBIT
        assert path.queue(begin, begin + 4) < 0.25


def test_a_path_that_becomes_longer_is_learnt() -> None:
    """At first the delay looks like a queue; what does not go away with the window is none."""
    path = constant(20)
    circuit = path.circuit(100 * MS, stalled=lambda now: 50 * MS if now > 10 else 0.0)
    path.run(130)
    assert circuit.got(110, 130) / 20 > 0.8 * 20 * MBIT
    assert path.queue(110, 130) < 0.15


def test_receipts_that_come_unevenly_cost_little() -> None:
    random = Random(1)
    path = constant(200)
    circuit = path.circuit(150 * MS, stalled=lambda _now: random.random() * 30 * MS)
    path.run(10)
    assert circuit.got(4, 10) / 6 > 0.8 * 200 * MBIT


def test_a_link_that_stands_still_for_a_moment_now_and_then_costs_little() -> None:
    """As when a segment is lost: all behind it waits for a round trip of that link, 50 ms, twice a second."""
    random = Random(1)
    stops = [0.0]
    while stops[-1] < 12:
        stops.append(stops[-1] + random.expovariate(2))
    path = Path(lambda _now: 200 * MBIT, lambda now: max(0.0, stops[bisect(stops, now) - 1] + 50 * MS - now))
    circuit = path.circuit(150 * MS)
    path.run(12)
    assert circuit.got(4, 12) / 8 > 0.7 * 200 * MBIT


def test_round_trips_that_waver_keep_more_on_its_way() -> None:
    """The same shortest round trip, 40 ms above the base: all alike it is a queue, else a link may have stood still."""
    windows = []
    for longest in (190 * MS, 290 * MS, 390 * MS, 5.0):
        congestion = after_start(150 * MS, 2**22)
        for number in range(1, 201):  # each answers a whole round of four
            time = 190 * MS if number % 4 else longest
            sent = (number + 4 - number % 4) * CELL
            congestion.measured(number / 10, time, CELL, number * CELL, sent)
        windows.append(congestion.window)
    steady, some, more, most = windows
    assert steady < some < more <= most
    assert more > 1.5 * steady
    assert most <= 2 * more, "what is allowed for it has an end"


def test_a_link_that_stood_still_once_is_not_one_that_wavers() -> None:
    """One round in ten has a trip of a second: TCP measures its own base so, and the window stays what it was."""
    windows = []
    for longest in (190 * MS, 1.0):
        congestion = after_start(150 * MS, 2**22)
        for number in range(1, 201):
            time = longest if number % 40 == 0 else 190 * MS
            sent = (number + 4 - number % 4) * CELL
            congestion.measured(number / 100, time, CELL, number * CELL, sent)
        windows.append(congestion.window)
    assert windows[0] == windows[1]


def test_a_round_trip_with_a_smaller_window_does_not_excuse_a_larger_one() -> None:
    """After a stop the queue is gone, and the window grows; if a queue stands then, it shrinks within a round."""
    congestion = CongestionWindow(CIRCUIT_WINDOW)
    congestion._starting = congestion._cold = False
    congestion._set(2**18)
    windows = []
    for number, round_trip in enumerate([150, 230, 230], start=1):
        congestion.refused()
        congestion.measured(number / 5, round_trip * MS, CELL, number * CELL, number * CELL)
        windows.append(congestion.window)
    grown, shrinking, shrunk = windows
    assert 2**18 < shrunk < shrinking < grown


def test_what_links_that_start_slowly_show_first_is_not_taken_for_the_path_for_long() -> None:
    """A cell is more than their TCP sends at once, so the first comes a round trip of each link later."""
    path = constant(10)
    circuit = path.circuit(150 * MS, stalled=lambda now: 80 * MS if now < 0.6 else 0.0)
    path.run(5)
    assert circuit.congestion.base < 150 * MS + 3 * CELL / (10 * MBIT)


def test_on_a_slow_path_cells_are_spread() -> None:
    """Each receipt is late by what the path is behind with, so they come in bunches; what is sent does not."""
    path = constant(10)
    circuit = path.circuit(150 * MS, stalled=lambda now: -now % 0.1)  # ten bunches of receipts a second
    path.run(12)
    cell = CELL / (10 * MBIT)
    assert circuit.got(6, 12) / 6 > 0.9 * 10 * MBIT
    assert path.queue(6, 12, 1.0) - path.queue(6, 12, 0.0) < 14 * cell  # 8 cells, and 22 unless they are spread


def test_the_pace_is_the_windows_in_a_base_round_trip() -> None:
    congestion = after_start(150 * MS)
    assert congestion.pace == pytest.approx(150 * MS / congestion.window)
    assert congestion.wait(10.0) <= 0
    congestion.sent(10.0, CELL)
    assert congestion.wait(10.0) == pytest.approx(CELL * congestion.pace - PACE_SLACK)
    assert congestion.wait(10.0, CELL) == pytest.approx(2 * CELL * congestion.pace - PACE_SLACK)
    assert congestion.wait(10.0 + CELL * congestion.pace) < 0


def test_a_pause_saves_up_no_bunch() -> None:
    congestion = after_start(150 * MS)
    for now in (10.0, 60.0):
        count = 0
        while congestion.wait(now) <= 0:
            congestion.sent(now, CELL)
            count += 1
        assert count == 1


@pytest.mark.parametrize(("round_trip", "window"), [(150 * MS, 2**22), (15 * MS, FLOOR), (5.0, CIRCUIT_WINDOW)])
def test_where_a_cell_takes_less_than_a_timer_or_the_path_is_short_nothing_is_paced(
    round_trip: float, window: int
) -> None:
    congestion = after_start(round_trip, window)
    paced = round_trip == 5.0  # 8 MiB in five seconds
    assert (congestion.pace > 0) == (congestion.wait(-1.0) > 0) == paced


def test_slow_start_is_not_paced() -> None:
    congestion = CongestionWindow(CIRCUIT_WINDOW)
    congestion.measured(0.0, 150 * MS, CELL, CELL, CELL)
    assert not congestion.pace


def test_a_pause_changes_nothing() -> None:
    path = constant(50)
    circuit = path.circuit(100 * MS, hungry=lambda now: now < 5 or now > 25)
    path.run(24)
    window = circuit.congestion.window
    path.run(28)
    assert circuit.got(25.5, 28) / 2.5 > 0.85 * 50 * MBIT
    assert circuit.windows[-1][1] < 2 * window


def test_a_window_that_nobody_needs_does_not_grow() -> None:
    """A source of 1 Mbit/s on a path of 100."""
    path = constant(100)
    sent = 0

    def hungry(now: float) -> bool:
        nonlocal sent
        if now * MBIT < sent:
            return False
        sent += CELL
        return True

    circuit = path.circuit(100 * MS, hungry=hungry)
    path.run(20)
    assert circuit.congestion.window == INITIAL
    assert path.queue(0, 20, 1.0) < 10 * MS


def test_the_base_is_not_measured_while_slow_start_runs() -> None:
    """A source slow for a second: a window halved then would be doubled again in the very rounds that measure."""
    congestion = CongestionWindow(CIRCUIT_WINDOW)
    for number in range(1, 60):
        round_trip = 50 * MS if number == 1 else 55 * MS
        congestion.measured(number * 55 * MS, round_trip, CELL, number * CELL, (number + 1) * CELL)
        assert congestion.window == INITIAL


def test_what_a_window_aims_at_does_not_depend_on_the_present_one() -> None:
    """After a look at the base the window is the halved one, and the question is about the one before."""
    congestion = CongestionWindow(CIRCUIT_WINDOW)
    congestion.measured(25 * MS, 25 * MS, CELL, CELL, 2 * CELL)
    aims = set()
    for present in (FLOOR, 2**19, 2**22):
        congestion._set(present)
        aims.add(congestion._aim(100 * MS, 2**19))
    assert len(aims) == 1


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_many_circuits_that_join_on_a_slow_link_leave_each_other_something(gap: float) -> None:
    """Each takes others' first windows for its path, and the whole link's rate for its own: 10 s of queue and more."""
    path = constant(10)
    circuits = [path.circuit(25 * MS, start=gap * number) for number in range(16)]
    joined = gap * 15
    path.run(joined + 15)
    shares = [circuit.got(joined + 10, joined + 15) for circuit in circuits]
    assert min(shares) > 0
    assert path.queue(joined + 10, joined + 15) < 6  # 0.9 and 3.0


def test_a_receiver_that_stalls_is_waited_for() -> None:
    """Its answers are held for five seconds: nothing breaks, and it goes on after that."""
    path = constant(10)
    circuit = path.circuit(50 * MS, stalled=lambda now: max(0.0, 10 - now) if 5 < now < 10 else 0.0)
    path.run(30)
    assert circuit.got(15, 30) / 15 > 0.8 * 10 * MBIT


@given(st.integers(0, 2**32))
@settings(PATIENT, max_examples=15)
def test_whatever_the_path_does_nothing_deadlocks_and_the_ceiling_holds(seed: int) -> None:
    random = Random(seed)
    rates = [10 ** random.uniform(-0.5, 2.5) for _ in range(12)]
    holds = [random.choice([0.0, 0.0, random.uniform(0, 0.5)]) for _ in range(12)]
    path = Path(
        lambda now: rates[min(int(now), 11)] * MBIT,
        lambda now: random.choice([0.0] * 50 + [random.uniform(0, 0.3)]),
    )
    circuits = [
        path.circuit(random.uniform(MS, 300 * MS), random.uniform(0, 3), stalled=lambda now: holds[min(int(now), 11)])
        for _ in range(random.randint(1, 3))
    ]
    path.run(12)
    for circuit in circuits:
        assert circuit.sending.flying <= CIRCUIT_WINDOW
        assert all(FLOOR <= window <= CIRCUIT_WINDOW for _, window in circuit.windows)
    rates[:] = [2.0] * 12
    holds[:] = [0.0] * 12
    before = [circuit.receiving.arrived for circuit in circuits]
    path.run(200)  # what was queued at a low rate takes its time
    assert all(circuit.receiving.arrived > arrived for circuit, arrived in zip(circuits, before, strict=True))


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 2**40), st.booleans()), max_size=200), st.integers(2**15, 2**23)
)
@PATIENT
def test_any_round_trips_leave_the_window_between_floor_and_ceiling(
    steps: list[tuple[float, int, bool]], ceiling: int
) -> None:
    """A peer decides when it answers, so round trips may be anything."""
    congestion, answered = CongestionWindow(ceiling), 0
    for number, (round_trip, newly, limited) in enumerate(steps):
        if limited:
            congestion.refused()
        answered += newly
        congestion.measured(number * 1e-3, round_trip, newly, answered, answered + newly)
        assert congestion.window <= max(ceiling, INITIAL)
        assert congestion.window >= FLOOR
        assert MIN_STEP <= congestion.step <= congestion.window
