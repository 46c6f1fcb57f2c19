"""What a gateway concludes from what it saw: uptime, flags, believed bandwidths; and what it remembers."""

import dataclasses
from typing import Any

import pytest

from common.directory.histories import KEEP, Histories
from common.directory.observation import (
    DAY,
    FAST,
    HALF_LIFE,
    History,
    believed_bandwidth,
    flags,
    smooth,
    typical_claim,
)
from common.directory.registry import OBSERVE_CALLS, Registry
from common.directory.registry_actions import CheckAddress, StoreHistory
from tests.unit.directory.relays import NETWORK, NOW, FakeRelay

RELAY = FakeRelay(1)
VETERAN = History(NOW - 30 * DAY, NOW - 20 * DAY, NOW, NOW, up=9 * DAY, watched=9 * DAY)


def test_uptime_is_seconds_up_through_seconds_watched() -> None:
    history = History.begin(NOW)
    assert history.uptime == 1.0
    history = history.advance(NOW + 300, up=True).advance(NOW + 400, up=False)
    assert history.uptime == pytest.approx(0.75, abs=0.001)
    assert history.last_seen == NOW + 300


def test_the_past_weighs_half_after_seven_days_however_often_it_was_looked_at() -> None:
    down = History.begin(NOW).advance(NOW + HALF_LIFE, up=False)
    once = down.advance(NOW + 2 * HALF_LIFE, up=True)
    often = down
    for day in range(1, 8):
        often = often.advance(NOW + HALF_LIFE + day * DAY, up=True)
    assert once.uptime == pytest.approx(2 / 3)
    assert often.uptime == pytest.approx(once.uptime)


def test_a_clock_that_is_set_back_counts_nothing() -> None:
    history = History.begin(NOW).advance(NOW + 100, up=True)
    assert history.advance(NOW - 1_000, up=False).uptime == history.uptime


def test_a_newcomer_runs_and_nothing_more() -> None:
    assert flags(RELAY.describe(exit_policy="none"), History.begin(NOW), 0, NOW) == ("running",)


def test_a_veteran_has_all_flags() -> None:
    assert set(flags(RELAY.plain, VETERAN, FAST, NOW)) == {"running", "stable", "exit", "guard", "fast"}


@pytest.mark.parametrize(
    ("missing", "changes"),
    [
        ({"stable", "guard"}, {"up": 8 * DAY}),
        ({"stable", "guard"}, {"up": DAY / 2, "watched": DAY / 2}),
        ({"stable", "guard"}, {"running_since": NOW - 60}),
        ({"guard"}, {"first_seen": NOW - 6 * DAY}),
        ({"guard"}, {"up": 0.97 * 9 * DAY}),
    ],
)
def test_each_flag_has_its_rule(missing: set[str], changes: dict[str, Any]) -> None:
    history = dataclasses.replace(VETERAN, **changes)
    every = {"running", "stable", "exit", "guard", "fast"}
    assert set(flags(RELAY.plain, history, FAST, NOW)) == every - missing


def test_an_exit_opens_the_ports_of_the_web_and_a_slow_relay_is_no_guard() -> None:
    assert "exit" not in flags(RELAY.describe(exit_policy="accept *:443"), VETERAN, FAST, NOW)
    assert set(flags(RELAY.plain, VETERAN, FAST - 1, NOW)) == {"running", "stable", "exit"}


def test_a_liar_s_bandwidth_is_believed_to_a_stated_factor_only() -> None:
    typical = typical_claim([0, 100, 200, 300, 10**15])
    assert typical == 250
    assert believed_bandwidth(10**15, typical, stable=False) == 500
    assert believed_bandwidth(10**15, typical, stable=True) == 2_500
    assert believed_bandwidth(90, typical, stable=False) == 90
    assert believed_bandwidth(0, typical, stable=True) == 0
    assert typical_claim([0, 0]) == 0


def test_round_trips_are_smoothed() -> None:
    assert smooth(0.0, 8.0) == 8.0
    assert smooth(8.0, 16.0) == 9.0


# ---- histories ----


def test_downtime_while_the_gateway_watches_counts_and_while_it_does_not_run_does_not() -> None:
    one = b"1" * 32
    histories = Histories()
    histories.begin(one, NOW)
    histories.end(one, NOW + 100, 5.0, failed=True)
    stored = histories.of(one, NOW)
    assert (stored.failures, stored.uptime) == (1, 1.0)
    later = Histories({one: stored}, NOW + 5_000)  # the gateway was away
    (action,) = later.begin(one, NOW + 5_100)
    assert isinstance(action, StoreHistory)
    assert action.history is not None
    assert action.history.uptime == pytest.approx(0.5, abs=0.001)
    assert action.history.first_seen == NOW
    assert action.history.running_since == NOW + 5_100


def test_a_relay_that_was_listed_when_the_gateway_stopped_goes_on_running() -> None:
    one = b"1" * 32
    stored = History.begin(NOW).advance(NOW + 100, up=True)
    histories = Histories({one: stored}, NOW + 500)
    histories.resume(one, NOW + 500)
    assert histories.of(one, NOW).running_since == NOW
    assert histories.forget_old(NOW + 2 * KEEP) == []


def test_who_left_a_month_ago_is_forgotten() -> None:
    one, other = b"1" * 32, b"2" * 32
    histories = Histories()
    for identity, gone in ((one, NOW + 10), (other, NOW + 1_000)):
        histories.begin(identity, NOW)
        histories.end(identity, gone, 0.0, failed=False)
    assert histories.forget_old(NOW + KEEP) == []
    assert histories.forget_old(NOW + 11 + KEEP) == [StoreHistory(one, None)]
    assert histories.of(other, NOW).first_seen == NOW


# ---- the registry's use of them ----


def listed_registry(*relays: FakeRelay) -> Registry:
    registry = Registry(NETWORK, 100)
    for session, relay in enumerate(relays, 1):
        (check,) = registry.register(session, relay.plain, relay.envelope(), NOW)
        assert isinstance(check, CheckAddress)
        registry.checked(check, None, NOW)
    return registry


def test_each_relay_is_observed_once_a_minute_and_a_new_flag_makes_a_new_document() -> None:
    registry = listed_registry(*(FakeRelay(number, bandwidth=2_000_000) for number in range(3)))
    serial = registry.serial
    for second in range(1, OBSERVE_CALLS + 1):
        registry.observe(NOW + second)
    (entry, *_) = registry.entries()
    assert entry.flags == ("running", "exit", "fast")
    assert entry.bandwidth == 2_000_000
    assert registry.serial > serial
    serial = registry.serial
    for second in range(OBSERVE_CALLS, 3 * OBSERVE_CALLS):
        registry.observe(NOW + second)
    assert registry.serial == serial


def test_relays_of_before_a_restart_are_listed_as_they_were_until_the_grace_ends() -> None:
    one, other = FakeRelay(1), FakeRelay(2)
    histories = {relay.identity: History.begin(NOW - 900) for relay in (one, other)}
    registry = Registry(NETWORK, 100, None, Histories(histories, NOW))
    registry.restore({relay.envelope(): relay.plain for relay in (one, other)}, NOW)
    assert len(registry.entries()) == len(registry) == 2
    assert {entry.running_since for entry in registry.entries()} == {NOW - 900}
    (*_, answer) = registry.register(7, one.describe(published=NOW + 1), one.envelope(published=NOW + 1), NOW)
    assert getattr(answer, "newly", None) is False  # without another look at its address
    gone = registry.end_grace(NOW + 10)
    assert [entry.descriptor.identity for entry in registry.entries()] == [one.identity]
    assert gone
    assert registry.entries()[0].running_since == NOW - 900
    assert registry.end_grace(NOW + 10) == []
