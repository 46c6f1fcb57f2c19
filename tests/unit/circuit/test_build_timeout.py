"""The learned build timeout: short on a fast network, long on a slow one, and never stuck on a wrong value."""

import pytest

from common.circuit.build_timeout import CEILING, FEWEST, FLOOR, FORGET_AFTER, KEPT, SLACK, BuildTimes


def learned(per_hop: float, count: int = FEWEST) -> BuildTimes:
    times = BuildTimes()
    for _ in range(count):
        times.built(4 * per_hop, 4)
    return times


def test_until_enough_was_seen_the_limit_is_the_ceiling() -> None:
    times = learned(0.01, FEWEST - 1)
    assert times.limit(3) == CEILING
    times.built(0.03, 3)
    assert times.limit(3) == FLOOR


@pytest.mark.parametrize("hops", [3, 5])
def test_the_limit_follows_the_network_and_the_length_of_the_path(hops: int) -> None:
    assert learned(0.45).limit(hops) == pytest.approx(min(SLACK * 0.45 * hops, CEILING))


@pytest.mark.parametrize("per_hop", [0.0, 0.001, 0.3, 1.0, 1e9])
@pytest.mark.parametrize("hops", range(1, 9))
def test_the_limit_stays_between_floor_and_ceiling(per_hop: float, hops: int) -> None:
    assert FLOOR <= learned(per_hop).limit(hops) <= CEILING


def test_a_few_slow_circuits_change_nothing_and_many_do() -> None:
    times = learned(0.01, 90)
    for _ in range(9):
        times.built(6.0, 3)
    assert times.limit(3) == FLOOR
    for _ in range(30):
        times.built(6.0, 3)
    assert times.limit(3) == CEILING


def test_old_times_are_forgotten() -> None:
    times = learned(1.0, KEPT)
    for _ in range(KEPT):
        times.built(0.03, 3)
    assert times.limit(3) == FLOOR


def test_a_network_that_became_slow_is_learned_anew() -> None:
    """Circuits that are given up leave no time, so without this the limit would stay too short for ever."""
    times = learned(0.01, KEPT)
    for _ in range(FORGET_AFTER - 1):
        times.given_up()
    assert times.limit(3) == FLOOR
    times.given_up()
    assert times.limit(3) == CEILING


def test_one_that_is_built_between_keeps_what_was_learned() -> None:
    times = learned(0.01, KEPT)
    for _ in range(20):
        times.given_up()
        times.built(0.03, 3)
    assert times.limit(3) == FLOOR
