"""Looking instead of sleeping: where answers come quickly, and for a small part of the time only."""

from collections.abc import Iterator

import pytest

from common.net.busy_poll import (
    ENOUGH,
    HEAVY_WORK,
    LATE,
    LIGHT,
    MOST,
    OTHERS,
    RESTED,
    SAVED,
    SHARE,
    SHORT,
    BusyPoll,
    Events,
)

LOOK = 1e-6  # seconds that one takes
EVENTS: Events = [(lambda _ready: None, 1)]


class Host:
    """A poller, its clock, and what is looked for: the next event comes `gap` seconds after a wait began."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due = self.now
        self.looks = self.sleeps = self.gave_way = 0
        self.asked: list[float | None] = []
        self.others_work = 0.0  # seconds, when they are given the core
        self.forbidden = False
        self.poll = BusyPoll(self._wait, lambda: self.now, self._give_way)

    def _give_way(self) -> None:
        if self.forbidden:
            raise PermissionError
        self.gave_way += 1
        self.now += self.others_work

    def _wait(self, seconds: float | None) -> Events:
        if seconds == 0:
            self.looks += 1
            self.now += LOOK
        else:
            self.sleeps += 1
            self.asked.append(seconds)
            until = self.due if seconds is None else min(self.due, self.now + seconds)
            self.now = max(self.now, until)
        return EVENTS if self.now >= self.due else []

    def talk(self) -> None:
        """So much that it looks."""
        self.sleeps_for(SHORT / 2, HEAVY_WORK + MOST)

    def wait(self, gap: float, *, work: float = LIGHT / 4, seconds: float | None = None) -> Events:
        """Works, and waits for what comes `gap` seconds later."""
        self.now += work
        self.due = self.now + gap
        return self.poll.wait(seconds)

    def sleeps_for(self, gap: float, times: int = 1, work: float = LIGHT / 4) -> int:
        """How many of so many waits were slept through, in part at least."""
        before = self.sleeps
        for _ in range(times):
            assert self.wait(gap, work=work) == EVENTS
        return self.sleeps - before


@pytest.fixture
def host() -> Iterator[Host]:
    yield Host()


def test_its_cost_is_bounded_as_documented() -> None:
    assert (SHARE, SAVED) == (0.05, 0.5)


def test_after_some_short_waits_it_looks_instead_of_sleeping(host: Host) -> None:
    assert host.sleeps_for(SHORT / 2, ENOUGH) == ENOUGH
    assert host.sleeps_for(SHORT / 2, 50) == 0
    assert 50 < host.gave_way == host.looks - 50, "after each look that found nothing"


def test_who_waits_long_sleeps_at_once(host: Host) -> None:
    assert host.sleeps_for(SHORT * 1.01, 50) == 50
    assert host.looks == 0
    assert host.sleeps_for(SHORT * 0.99, ENOUGH) == ENOUGH
    assert host.sleeps_for(SHORT * 0.99, 50) == 0, "however long it had been idle"


def test_what_does_not_come_soon_is_slept_for_and_looking_ends(host: Host) -> None:
    host.talk()
    looks = host.looks
    assert host.sleeps_for(1.0) == 1, "it looked, then slept"
    assert host.looks - looks == pytest.approx(SHORT / LOOK, rel=0.01)
    host.sleeps_for(1.0, MOST)
    looks = host.looks
    assert host.sleeps_for(1.0, 50) == 50
    assert host.looks == looks


def test_who_has_much_to_do_sleeps_at_once(host: Host) -> None:
    host.talk()
    assert host.sleeps_for(SHORT / 2, 50, work=LIGHT * 0.99) == 0
    assert host.sleeps_for(SHORT / 2, work=LIGHT * 1.01) == 1
    assert host.sleeps_for(SHORT * 2) == 1, "which does not make up for it"
    assert host.sleeps_for(SHORT / 2, HEAVY_WORK + ENOUGH - 1) == HEAVY_WORK + ENOUGH - 1
    assert host.sleeps_for(SHORT / 2, 10) == 0


def test_where_others_want_the_core_it_sleeps(host: Host) -> None:
    host.talk()
    host.others_work = LATE * 0.95
    assert host.sleeps_for(SHORT * 0.9, 50) == 0
    host.others_work = LATE * 1.05
    looks = host.looks
    assert host.sleeps_for(SHORT * 0.9) == 1
    assert host.looks == looks + 2
    host.others_work = 0.0
    assert host.sleeps_for(SHORT / 2, OTHERS) == 0, "once is forgiven"
    host.others_work = LATE * 2
    host.sleeps_for(SHORT * 0.9, 3)
    looks = host.looks
    assert host.sleeps_for(SHORT * 0.9) == 1
    assert host.looks == looks


def test_a_look_that_comes_late_and_finds_something_returns_it(host: Host) -> None:
    host.talk()
    host.others_work = SHORT * 0.9
    assert host.sleeps_for(SHORT / 2) == 0


def test_where_giving_way_is_forbidden_it_never_looks_again(host: Host) -> None:
    host.forbidden = True
    assert host.sleeps_for(SHORT / 2, 50) == 50
    host.forbidden = False
    assert host.sleeps_for(SHORT / 2, 50) == 50


def test_time_that_others_had_is_not_counted(host: Host) -> None:
    """Or a process that was stopped for an hour would not look for twenty."""
    host.talk()
    host.others_work = 3600.0
    assert host.sleeps_for(SHORT / 2) == 0, "it came meanwhile"
    host.others_work = 0.0
    host.talk()
    assert host.sleeps_for(SHORT / 2, 50) == 0


def test_what_is_not_waited_for_costs_one_look_and_tells_nothing(host: Host) -> None:
    for _ in range(MOST):
        assert host.wait(1.0, seconds=0) == []
    assert (host.looks, host.gave_way) == (MOST, 0)
    assert host.sleeps_for(SHORT / 2, ENOUGH) == ENOUGH


def test_looking_takes_a_small_part_of_the_time(host: Host) -> None:
    begin, looked = host.now, 0.0
    while host.now < begin + 60.0:
        looks = host.looks
        host.wait(SHORT / 2)
        looked += (host.looks - looks) * LOOK
    assert 60 * SHARE + 0.9 * (SAVED - RESTED) < looked <= 60 * SHARE + SAVED + SHORT
    host.wait(3600.0)  # a rest, in which it may save up
    host.sleeps_for(SHORT / 2, ENOUGH)
    assert host.sleeps_for(SHORT / 2, int(SAVED / SHORT)) == 0
    assert host.sleeps_for(SHORT / 2, int(2 * SAVED / SHORT)) > 0, "but no more than so much"


def test_who_has_used_its_share_up_rests_for_some_time(host: Host) -> None:
    used = int(2 * SAVED / SHORT)
    assert host.sleeps_for(SHORT / 2, 2 * used) > 0
    begin = host.now
    while host.sleeps_for(SHORT / 2):
        pass
    assert host.now - begin > 0.9 * RESTED / SHARE - 2 * used * SHORT
    assert host.sleeps_for(SHORT / 2, used // 4) == 0


def test_no_timer_is_late_by_looking(host: Host) -> None:
    host.talk()
    before, host.asked = host.now, []
    assert host.wait(1.0, work=0.0, seconds=SHORT / 10) == []
    assert host.now - before == pytest.approx(SHORT / 10, abs=2 * LOOK)
    host.talk()
    before, host.asked = host.now, []
    assert host.wait(1.0, work=0.0, seconds=SHORT * 10) == []
    assert host.now - before == pytest.approx(SHORT * 10, abs=2 * LOOK)
    assert host.asked == [pytest.approx(SHORT * 9, abs=2 * LOOK)]
    host.talk()
    host.asked, host.others_work = [], SHORT
    assert host.wait(1.0, seconds=SHORT / 10) == []
    assert host.asked == [] or min(filter(None, host.asked)) >= 0, "a negative time would be for ever"
