"""Tries of a password: what strangers can do at most, and what they cannot do to an owner."""

from dataclasses import astuple

from hypothesis import given
from hypothesis import strategies as st

from common.login.throttle import (
    DEVICE_TRIES,
    FORGOTTEN_AFTER,
    FREE_TRIES,
    KEPT,
    LONGEST_WAIT,
    TRIES_PER_MINUTE,
    Tries,
    admit,
    succeeded,
)
from tests.helpers import PATIENT

START = 1_700_000_000.0
GAPS = st.sampled_from([0.0, 0.0, 0.001, 0.5, 1.0, 2.0, 4.0, 8.0, 15.9, 16.0, 29.9, 30.0, 59.9, 60.0, 61.0, 300.0])
SCHEDULES = st.lists(GAPS | st.floats(0, 700), max_size=120)
STATES = st.builds(Tries, st.integers(0, 20), st.floats(START - 10_000, START + 10_000))


def admitted(gaps: list[float]) -> list[float]:
    """When tries of strangers are let through, that come after `gaps`, and again when they were told to."""
    now, times, tries = START, [], Tries()
    for gap in gaps:
        now += gap
        verdict = admit(tries, None, now)
        if verdict.wait:
            now += verdict.wait
            verdict = admit(verdict.account, None, now)
        tries = verdict.account
        if not verdict.wait:
            times.append(now)
    return times


def most_in(times: list[float], seconds: float) -> int:
    return max((sum(start <= time < start + seconds for time in times) for start in times), default=0)


def test_the_first_tries_come_at_once_and_then_the_waits_double() -> None:
    tries, waits = Tries(), []
    now = START
    for _ in range(FREE_TRIES + 8):
        verdict = admit(tries, None, now)
        waits.append(verdict.wait)
        if verdict.wait:
            now += verdict.wait
            verdict = admit(verdict.account, None, now)
        tries = verdict.account
    assert waits == [0.0] * FREE_TRIES + [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_stated_tries_per_minute_are_reached() -> None:
    assert most_in(admitted([0.0] * 100), 60.0) == TRIES_PER_MINUTE


@given(SCHEDULES)
@PATIENT
def test_strangers_have_at_most_the_stated_tries_per_minute(gaps: list[float]) -> None:
    times = admitted(gaps)
    assert most_in(times, 60.0) <= TRIES_PER_MINUTE
    for seconds in (90.0, 300.0, 3_600.0, 86_400.0):
        assert most_in(times, seconds) <= TRIES_PER_MINUTE + (seconds - 60.0) / LONGEST_WAIT + 1


@given(SCHEDULES, STATES)
@PATIENT
def test_the_longest_wait_is_the_cap(gaps: list[float], tries: Tries) -> None:
    """From any state: what was stored by another version, or under another clock."""
    now = START
    for gap in gaps:
        now += gap
        verdict = admit(tries, None, now)
        assert 0.0 <= verdict.wait <= LONGEST_WAIT
        tries = verdict.account


@given(STATES, st.floats(START - 20_000, START + 20_000))
@PATIENT
def test_whoever_waits_as_long_as_told_gets_the_try(tries: Tries, now: float) -> None:
    verdict = admit(tries, None, now)
    if verdict.wait:
        verdict = admit(verdict.account, None, now + verdict.wait + 0.001)
    assert verdict.wait == 0.0


@given(SCHEDULES, st.lists(st.booleans(), min_size=120, max_size=120))
@PATIENT
def test_strangers_never_delay_an_owner_with_a_device_token(gaps: list[float], owner_comes: list[bool]) -> None:
    """Whatever strangers do, each of the owner's logins goes on at once, and theirs are counted as without it."""
    now, account, alone, device = START, Tries(), Tries(), Tries()
    for gap, owner in zip(gaps, owner_comes, strict=False):
        now += gap
        account, alone = admit(account, None, now).account, admit(alone, None, now).account
        if owner:
            verdict = admit(account, device, now)
            assert verdict.wait == 0.0
            assert verdict.by_device
            account, kept = succeeded(verdict.account, verdict.device, verdict.by_device)
            assert kept is not None
            device = kept
        assert account == alone


def test_failures_with_a_device_token_spend_it() -> None:
    device: Tries | None = Tries()
    account = Tries()
    for _ in range(DEVICE_TRIES):
        verdict = admit(account, device, START)
        assert verdict.by_device
        account, device = verdict.account, verdict.device
    assert account == Tries()
    verdict = admit(account, device, START + 1_000_000.0)
    assert not verdict.by_device
    assert verdict.account.count == 1
    assert verdict.device == device


@given(SCHEDULES)
@PATIENT
def test_a_stolen_token_wins_a_few_tries_once(gaps: list[float]) -> None:
    """With a token, and without the password: the strangers' tries, and DEVICE_TRIES more."""
    now, account, times = START, Tries(), []
    device: Tries | None = Tries()
    for gap in gaps:
        now += gap
        verdict = admit(account, device, now)
        account, device = verdict.account, verdict.device
        if not verdict.wait:
            times.append(now)
    assert most_in(times, 60.0) <= TRIES_PER_MINUTE + DEVICE_TRIES


def test_the_right_password_makes_a_spent_token_good_again() -> None:
    spent = Tries(DEVICE_TRIES, START)
    verdict = admit(Tries(), spent, START)
    assert not verdict.by_device
    account, device = succeeded(verdict.account, verdict.device, verdict.by_device)
    assert (account.count, device) == (0, Tries())
    assert admit(account, device, START).by_device


def test_an_owner_without_a_token_gets_the_right_tries_back() -> None:
    """Who logs in correctly as often as he likes, from new devices, is never told to wait."""
    tries = Tries()
    for _ in range(1_000):
        verdict = admit(tries, None, START)
        assert verdict.wait == 0.0
        tries, device = succeeded(verdict.account, verdict.device, verdict.by_device)
        assert device is None


def test_a_right_password_does_not_forget_the_strangers_tries() -> None:
    tries = Tries()
    for _ in range(FREE_TRIES - 1):
        tries = admit(tries, None, START).account
    verdict = admit(tries, None, START)
    assert succeeded(verdict.account, None, verdict.by_device)[0].count == FREE_TRIES - 1


def test_many_tries_at_the_same_time_win_nothing() -> None:
    """They count when they begin, not when they have failed."""
    tries, let_through = Tries(), 0
    for _ in range(1_000):
        verdict = admit(tries, None, START)
        tries, let_through = verdict.account, let_through + (not verdict.wait)
    assert let_through == FREE_TRIES


def test_tries_that_come_too_early_change_nothing() -> None:
    tries = Tries(FREE_TRIES + 3, START)
    for _ in range(100):
        verdict = admit(tries, None, START + 1.0)
        assert (verdict.wait, verdict.account) == (7.0, tries)


def test_after_a_long_attack_everything_is_forgotten_in_the_stated_time() -> None:
    tries, now = Tries(), START
    for _ in range(1_000):
        verdict = admit(tries, None, now)
        now += verdict.wait
        tries = verdict.account
    assert admit(tries, None, tries.at + KEPT).account.count == 1


def test_waiting_for_longer_than_told_wins_nothing() -> None:
    """Whoever comes once in `pause` seconds, for a day, has no more tries than whoever comes as early as possible."""
    for pause in (30.0, 45.0, 59.0, 60.0, 61.0, 90.0, 120.0):
        tries, now, let_through = Tries(FREE_TRIES + 5, START), START, 0
        while now < START + 86_400.0:
            now += pause
            verdict = admit(tries, None, now)
            tries, let_through = verdict.account, let_through + (not verdict.wait)
            for _ in range(FREE_TRIES):  # and what else there may be at that moment
                verdict = admit(tries, None, now)
                tries, let_through = verdict.account, let_through + (not verdict.wait)
        assert let_through <= 86_400.0 / LONGEST_WAIT + TRIES_PER_MINUTE, pause


def test_tries_are_forgotten_one_by_one() -> None:
    tries = Tries(FREE_TRIES + 5, START)
    assert admit(tries, None, START + FORGOTTEN_AFTER * 6).account.count == FREE_TRIES
    assert admit(tries, None, START + KEPT) == admit(Tries(), None, START + KEPT)


@given(STATES, st.lists(st.floats(-5_000, 5_000), max_size=60))
@PATIENT
def test_a_clock_that_goes_backwards_does_no_harm(tries: Tries, jumps: list[float]) -> None:
    """No wait is longer than the cap, it passes by the new clock, and no try comes earlier than without the jump."""
    now = START
    for jump in jumps:
        before = tries
        now += jump
        verdict = admit(tries, None, now)
        tries = verdict.account
        assert 0.0 <= verdict.wait <= LONGEST_WAIT
        assert tries.at <= now
        if now < before.at and before.count >= FREE_TRIES:
            assert verdict.wait > 0.0
            assert admit(tries, None, now + LONGEST_WAIT).wait == 0.0


def test_a_state_is_two_columns_of_a_table() -> None:
    tries = Tries(3, START)
    assert astuple(tries) == (3, START)
    assert Tries(*astuple(tries)) == tries
