"""How much of a link may be on its way, on simulated uplinks, beside what a link without a limit would do there."""

from collections.abc import Callable
from itertools import pairwise
from math import pi, sin
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.circuit.congestion import PACED_RATE
from common.net.path_queue import BUSY, FASTEST, FIRST_REST, JUDGED, LONGER, LONGEST_REST, LOSS, PathQueue
from common.wire.cells import LONG_CELL as CELL
from tests.helpers import MS
from tests.unit.circuit.simulated_path import MBIT
from tests.unit.net.simulated_uplink import Link, Uplink

MUCH = 200_000  # bytes that circuits have on their way: 0.16 s of 10 Mbit/s
DELAY = 50 * MS

Time = Callable[[float], float]


def always(value: float) -> Time:
    """The same at any time."""
    return lambda _now: value


def after(since: float, wanted: int) -> Callable[[float], int]:
    """A cell at a time until then, and so much afterwards."""
    return lambda now: wanted if now > since else CELL


NONE = always(0.0)


def one_link(
    mbit: Time,
    seconds: float,
    wanted: int = MUCH,
    *,
    delay: float = DELAY,
    others: Time = NONE,
    late: Time = NONE,
) -> tuple[tuple[Uplink, Link], tuple[Uplink, Link]]:
    """A link after so many seconds, and one without a limit in its place."""
    made = []
    for limited in (True, False):
        uplink = Uplink(lambda now: mbit(now) * MBIT, delay, others)
        link = uplink.link(lambda _now: wanted, late, limited=limited)
        uplink.run(seconds)
        made.append((uplink, link))
    return made[0], made[1]


@pytest.mark.parametrize(("mbit", "delay"), [(2, DELAY), (10, 15 * MS), (10, DELAY), (10, 150 * MS), (20, DELAY)])
def test_a_slow_path_is_kept_busy_with_a_short_queue(mbit: float, delay: float) -> None:
    wanted = int((delay + 0.3) * mbit * MBIT)
    (uplink, link), (unlimited, _) = one_link(always(mbit), 9, wanted, delay=delay)
    assert link.rate(6, 9) > 0.95 * mbit * MBIT
    bound = 0.012 + 2 * CELL / (mbit * MBIT)
    assert uplink.queue(6, 9) < bound < unlimited.queue(6, 9)


def test_a_fast_path_is_left_alone() -> None:
    (_, link), _ = one_link(always(200), 4, 2_000_000)
    assert not any(limit for when, limit in link.limits if when > 1)
    assert link.rate(2, 4) > 0.95 * 200 * MBIT


def test_paths_are_slow_to_links_and_circuits_alike() -> None:
    """One number in two folders, neither of which may import the other: cells are paced where links hold back."""
    assert FASTEST == PACED_RATE


def test_a_path_without_a_queue_is_left_alone() -> None:
    (_, link), _ = one_link(always(10), 4, 3 * CELL)
    assert not any(limit for _, limit in link.limits)


def test_a_connection_that_still_starts_is_left_alone() -> None:
    """TCP itself doubles what it has on its way, and sends it in bunches, which look like a queue."""
    uplink = Uplink(always(40 * MBIT), DELAY)
    link = uplink.link(lambda now: int(min(2 * CELL * 2 ** (now / DELAY), 300_000)))
    uplink.run(0.4)
    assert not any(limit for when, limit in link.limits if when < 0.2)
    assert link.rate(0.3, 0.4) > 0.9 * 40 * MBIT


@pytest.mark.parametrize(("links", "part", "most"), [(2, 0.6, 1.6), (5, 0.9, 2.0), (12, 1.0, 3.0)])
def test_links_share_their_uplink_whichever_came_first(links: int, part: float, most: float) -> None:
    """Of many each has its own little of the queue, so there is less to win; and one or two cells on their way."""
    queues = []
    for limited in (True, False):
        uplink = Uplink(always(10 * MBIT), 30 * MS)
        for number in range(links):
            uplink.link(after(1 + 0.3 * number, 400_000 // links), limited=limited)
        uplink.run(16)
        shares = [link.rate(10, 16) for link in uplink.links]
        assert sum(shares) > 0.95 * 10 * MBIT
        assert max(shares) < most * min(shares)
        queues.append(uplink.queue(10, 16))
    assert queues[0] < part * queues[1]


def test_a_path_that_becomes_faster_is_used() -> None:
    (_, link), _ = one_link(lambda now: 5 if now < 4 else 20, 7)
    assert link.rate(5, 7) > 0.9 * 20 * MBIT


@pytest.mark.parametrize(("before", "after", "delay", "soon"), [(10, 5, DELAY, 4), (10, 2, DELAY, 8), (20, 1, 100 * MS, 30)])
def test_a_path_that_becomes_slower_has_a_short_queue_again(
    before: float, after: float, delay: float, soon: float
) -> None:
    """At first it looks as if others had made the queue, since less is carried."""
    wanted = int((delay + 0.15) * before * MBIT)
    (uplink, link), (unlimited, _) = one_link(lambda now: before if now < 4 else after, soon + 8, wanted, delay=delay)
    assert link.rate(soon + 4, soon + 8) > 0.95 * after * MBIT
    assert uplink.queue(soon + 4, soon + 8) < unlimited.queue(soon + 4, soon + 8) / 2


@pytest.mark.parametrize(("queue", "delay", "mbit"), [(0.05, 0.02, 20), (0.03, 0.03, 20), (0.035, 0.02, 15), (0.2, 0.05, 20)])
def test_others_queue_does_not_starve_a_link(queue: float, delay: float, mbit: float) -> None:
    """That holding back does not make shorter, and it would hold back ever more."""
    (_, link), (_, free) = one_link(always(mbit), 24, 400_000, delay=delay, others=lambda now: queue if now > 3 else 0)
    assert link.rate(4, 24) > 0.7 * free.rate(4, 24)
    (uplink, link), (unlimited, _) = one_link(
        always(mbit), 100, 700_000, delay=delay, others=lambda now: queue if 3 < now < 14 else 0
    )
    assert uplink.queue(90, 100) < unlimited.queue(90, 100) / 2, "when they have gone it holds back again"


def test_a_moving_queue_of_others_does_not_starve_a_link() -> None:
    """As CUBIC makes it, and as one that comes and goes does."""
    for others in (lambda now: 0.02 + 0.1 * (now % 3) / 3, lambda now: 0.2 if now % 3 < 1.5 else 0.0):
        (_, link), (_, free) = one_link(always(20), 24, 400_000, others=others)
        assert link.rate(4, 24) > 0.6 * free.rate(4, 24)


@pytest.mark.parametrize("period", [0.05, 0.3, 2.0])
def test_a_path_whose_round_trips_waver_keeps_its_rate(period: float) -> None:
    """Radio: up to 30 ms more for an answer, and no queue in front of the uplink."""
    (_, link), (_, free) = one_link(
        always(20), 10, 180_000, late=lambda now: 15 * MS * (1 + sin(now / period * 2 * pi))
    )
    assert link.rate(2, 10) > 0.7 * free.rate(2, 10)


def test_a_path_whose_answers_are_late_at_random_keeps_its_rate() -> None:
    random = Random(1)
    late = [random.expovariate(1 / (12 * MS)) for _ in range(4_000)]
    (_, link), (_, free) = one_link(always(20), 14, 300_000, late=lambda now: late[int(now / 0.005)])
    assert link.rate(4, 14) > LOSS * free.rate(4, 14)


def look(path: PathQueue, now: float, round_trip: float, rate: float) -> int:
    """One look at a path of 50 ms that always carried so much; the limit."""
    path.seen(now, round_trip, 0.001, 0.050, int(rate * now), full=True)
    return path.limit


def holding_back() -> PathQueue:
    """A link that does, after a second of 1 MB/s with a queue."""
    path = PathQueue()
    assert [look(path, 0.01 * tick, 0.085, 1e6) for tick in range(1, 100)][-1]
    return path


def test_a_little_that_is_acknowledged_late_is_no_queue() -> None:
    """Receivers hold back the acknowledgement of a single segment for 40 ms."""
    for rate, limited in ((0.8 * BUSY / 0.085, False), (1.2 * BUSY / 0.085, True)):
        path = PathQueue()
        assert any([look(path, 0.01 * tick, 0.085, rate) for tick in range(1, 100)]) is limited


def test_a_queue_that_stands_for_minutes_is_not_taken_for_the_path() -> None:
    """The kernel's least round trip is that of some minutes, and a little of a queue is meant to stand."""
    path = holding_back()
    for tick in range(100, 300):
        path.seen(0.01 * tick, 0.085, 0.001, 0.085, 10_000 * tick, full=True)
    assert path.limit


def test_holding_back_ends_half_a_second_after_the_queue() -> None:
    path = holding_back()
    after = [look(path, 0.01 * tick, 0.051, 1e6) for tick in range(100, 200)]
    assert LONGER - 0.05 < 0.01 * sum(map(bool, after)) < LONGER + 0.05


def test_a_link_that_has_little_to_send_any_more_holds_back_no_longer() -> None:
    """Or it would, for as long as a prompt's cells are acknowledged late, and the next transfer start held back."""
    path, acked = PathQueue(), 0
    for tick in range(1, 600):
        acked += 10_000 if tick < 300 else 100
        path.seen(0.01 * tick, 0.085, 0.001, 0.050, acked, full=tick < 300)
        assert bool(path.limit) is (tick < 300) or tick < 100 or 300 <= tick < 400


def test_a_link_that_did_not_look_for_a_while_begins_anew() -> None:
    """What was acknowledged meanwhile says nothing about what the path carries."""
    path = holding_back()
    path.seen(2.0, 0.085, 0.001, 0.050, 1_010_000, full=False)
    assert not path.limit
    assert not path.rate


def test_rests_grow_while_holding_back_costs_and_are_short_again_when_it_does_not() -> None:
    path, acked, now = PathQueue(), 0.0, 0.0
    ends: list[float] = []

    def pass_time(seconds: float, held: float, free: float) -> None:
        nonlocal acked, now
        for _ in range(int(seconds / 0.01)):
            was = path.limit
            now += 0.01
            acked += 0.01 * (held if was else free)
            path.seen(now, 0.085, 0.001, 0.050, int(acked), full=True)
            if was and not path.limit:
                ends.append(now)

    pass_time(300, 200_000, 1_000_000)
    gaps = [end - begin for begin, end in pairwise(ends)]
    assert gaps[0] < 2 * FIRST_REST
    assert all(second > 1.4 * first for first, second in pairwise(gaps[:5]))
    assert LONGEST_REST < gaps[-1] < LONGEST_REST + 4 * JUDGED
    pass_time(LONGEST_REST + 20, 1_000_000, 1_000_000)
    assert path.limit
    before = now
    pass_time(4 * FIRST_REST, 200_000, 1_000_000)
    assert sum(end > before for end in ends) >= 2, "it rests for a short time first"


def test_a_tcp_that_stands_still_for_a_moment_is_no_loss() -> None:
    """BBR does so for 0.2 s and a round trip in each 10 s, to measure its path."""
    path, acked = PathQueue(), 0
    held = 0
    for tick in range(1, 20_000):
        still = tick % 1_003 < 28
        acked += 0 if still else 10_000
        path.seen(0.01 * tick, 0.050 if still else 0.085, 0.001, 0.050, acked, full=True)
        held += path.limit > 50_000
    assert held > 19_500


def test_a_link_that_has_less_to_send_is_not_taken_for_one_that_loses() -> None:
    """Half of the time it sends half of what it may: that is no reason to rest."""
    path, acked = PathQueue(), 0
    held = 0
    for tick in range(1, 2_000):
        idle = tick > 200 and tick % 660 < 330
        acked += 4_000 if idle else 10_000
        path.seen(0.01 * tick, 0.085, 0.001, 0.050, acked, full=not idle)
        held += bool(path.limit)
    assert held > 1_900


@given(
    st.lists(
        st.tuples(
            st.floats(0, 2), st.floats(0, 5), st.floats(0, 1), st.floats(0, 5), st.integers(0, 10**8), st.integers(0, 10**9), st.booleans()
        ),
        max_size=60,
    )
)
def test_whatever_a_kernel_says_a_wait_ends(looks: list[tuple[float, float, float, float, int, int, bool]]) -> None:
    path, now, acked = PathQueue(), 0.0, 0
    for passed, round_trip, variation, least, newly, unacknowledged, full in looks:
        now, acked = now + passed, acked + newly
        path.seen(now, round_trip, variation, least, acked, full=full)
        assert path.limit >= 0
        assert 0 < path.wait(unacknowledged) <= max(0.02, round_trip)
