"""How much of a link may be on its way, on simulated uplinks. Bounds are about twice what these show."""

from collections.abc import Callable
from math import pi, sin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.net.path_queue import LATEST, MORE, SOONEST, PathQueue
from tests.helpers import MS
from tests.unit.net.simulated_uplink import CELL, MBIT, Uplink

MUCH = 200_000  # bytes that circuits have on their way: 0.16 s of 10 Mbit/s
DELAY = 50 * MS


def always(size: int) -> Callable[[float], int]:
    """So much is wanted at any time."""
    return lambda _now: size


def constant(mbit: float, delay: float = DELAY) -> Uplink:
    """An uplink whose rate does not change."""
    return Uplink(lambda _now: mbit * MBIT, delay)


@pytest.mark.parametrize(("mbit", "delay"), [(2, DELAY), (10, 15 * MS), (10, DELAY), (10, 150 * MS), (40, DELAY)])
def test_a_slow_path_is_kept_busy_with_a_short_queue(mbit: float, delay: float) -> None:
    uplink = constant(mbit, delay)
    link = uplink.link(always(max(MUCH, int(0.08 * mbit * MBIT))))
    uplink.run(9)
    assert link.rate(6, 9) > 0.95 * mbit * MBIT
    assert uplink.queue(6, 9) < 0.025 + 2 * CELL / (mbit * MBIT)


def test_without_a_limit_the_queue_would_be_long() -> None:
    """What the test above is worth."""
    uplink = constant(10)
    uplink.link(always(MUCH), limited=False)
    uplink.run(9)
    assert uplink.queue(6, 9) > 0.09


def test_a_fast_path_is_left_alone() -> None:
    uplink = constant(200)
    link = uplink.link(always(2_000_000))
    uplink.run(4)
    assert not any(limit for when, limit in link.limits if when > 1)
    assert link.rate(2, 4) > 0.95 * 200 * MBIT


def test_a_path_without_a_queue_is_left_alone() -> None:
    uplink = constant(10)
    link = uplink.link(always(3 * CELL))
    uplink.run(4)
    assert not any(limit for _, limit in link.limits)


def test_a_connection_that_still_starts_is_left_alone() -> None:
    """TCP itself doubles what it has on its way, and sends it in bunches, which look like a queue."""
    uplink = constant(40)
    link = uplink.link(lambda now: int(min(2 * CELL * 2 ** (now / DELAY), 300_000)))
    uplink.run(0.4)
    assert not any(limit for when, limit in link.limits if when < 0.2)
    assert link.rate(0.3, 0.4) > 0.9 * 40 * MBIT


def test_two_links_share_their_uplink_whichever_came_first() -> None:
    uplink = constant(10)
    first, second = uplink.link(lambda now: MUCH if now > 1 else CELL), uplink.link(lambda now: MUCH if now > 3 else CELL)
    uplink.run(12)
    shares = first.rate(6, 12), second.rate(6, 12)
    assert sum(shares) > 0.95 * 10 * MBIT
    assert max(shares) < 2 * min(shares)
    assert uplink.queue(6, 12) < 0.060


def test_a_path_that_becomes_faster_is_used() -> None:
    uplink = Uplink(lambda now: (10 if now < 4 else 30) * MBIT, DELAY)
    link = uplink.link(always(MUCH))
    uplink.run(7)
    assert link.rate(5, 7) > 0.9 * 30 * MBIT


def test_a_path_that_becomes_slower_has_a_short_queue_soon() -> None:
    uplink = Uplink(lambda now: (10 if now < 4 else 5) * MBIT, DELAY)
    uplink.link(always(MUCH))
    uplink.run(8)
    assert uplink.queue(5, 8) < 0.060


def test_others_queue_does_not_starve_a_link() -> None:
    """0.2 s that no holding back makes shorter. With all that is wanted on its way it would carry 1.6 MB/s."""
    uplink = Uplink(lambda _now: 20 * MBIT, DELAY, lambda now: 0.2 if now > 3 else 0.0)
    link = uplink.link(always(MUCH))
    uplink.run(14)
    assert link.rate(10, 14) > 0.7 * MUCH / 0.25
    uplink = Uplink(lambda _now: 20 * MBIT, DELAY, lambda now: 0.2 if 3 < now < 14 else 0.0)
    link = uplink.link(always(MUCH))
    uplink.run(18)
    assert uplink.queue(16, 18) < 0.040, "and when they have gone it is the path's own that counts"


@pytest.mark.parametrize("period", [0.05, 0.3, 2.0])
def test_a_path_whose_round_trips_waver_keeps_its_rate(period: float) -> None:
    """Radio: up to 30 ms more for an answer, and no queue in front of the uplink."""
    rates = []
    for limited in (True, False):
        uplink = constant(30)
        link = uplink.link(always(180_000), lambda now: 15 * MS * (1 + sin(now / period * 2 * pi)), limited=limited)
        uplink.run(10)
        rates.append(link.rate(2, 10))
    assert rates[0] > 0.7 * rates[1]


def test_a_little_that_is_acknowledged_late_is_no_queue() -> None:
    """Receivers hold back the acknowledgement of a single segment for 40 ms."""
    path = PathQueue()
    for tick in range(1_000):
        path.seen(0.01 * tick, 0.085, 0.002, 0.050, 400 * tick)
        assert not path.limit


def test_a_link_that_was_idle_begins_anew() -> None:
    uplink = constant(10)
    link = uplink.link(lambda now: 0 if 4 < now < 6 else MUCH)
    uplink.run(6.2)
    assert any(limit for _, limit in link.limits)
    assert not any(limit for when, limit in link.limits if when > 4.6)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 2), st.floats(0, 5), st.floats(0, 1), st.floats(0, 5), st.integers(0, 10**8), st.integers(0, 10**9)
        ),
        max_size=60,
    )
)
def test_whatever_a_kernel_says_a_cell_may_be_sent_and_a_wait_ends(
    looks: list[tuple[float, float, float, float, int, int]],
) -> None:
    path, now, acked = PathQueue(), 0.0, 0
    for passed, round_trip, variation, least, newly, unacknowledged in looks:
        now, acked = now + passed, acked + newly
        path.seen(now, round_trip, variation, least, acked)
        assert not path.limit or path.limit >= MORE
        assert SOONEST <= path.wait(unacknowledged) <= LATEST
