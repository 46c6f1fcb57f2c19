"""The statistics of the benchmark: rounds, ratios within a round, goals."""

import json

import pytest

from tests.benchmarks.goals import GOALS, MEASURES, SUITES, YARDSTICK, Goal, Verdict
from tests.benchmarks.results import Results, Spread, percentile, spread


def results_of(*samples: tuple[str, str, int, float]) -> Results:
    results = Results()
    for contender, measure, turn, value in samples:
        results.add(contender, measure, turn, value)
    return results


def test_a_spread_is_the_middle_and_the_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([4.0, 1.0]) == Spread(2.5, 1.0, 4.0)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(100, 95, 95), (100, 50, 50), (20, 95, 19), (10, 95, 10), (1, 50, 1), (3, 50, 2), (5, 0, 1), (5, 100, 5)],
)
def test_a_percentile_is_one_of_the_values(count: int, percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(count, 0, -1)], percent) == expected


def test_a_round_without_a_sample_leaves_a_gap() -> None:
    results = results_of(("a", "m", 2, 7.0), ("a", "m", 0, 5.0))
    assert results.samples == {"a": {"m": [5.0, None, 7.0]}}
    assert results.values("a", "m") == [5.0, 7.0]
    assert results.spread("b", "m") is None


def test_ratios_are_taken_within_each_round() -> None:
    """A slow second round slows both: the ratio does not see it, that of the medians would."""
    ours = [("ours", "m", turn, value) for turn, value in enumerate((100.0, 10.0, 120.0))]
    theirs = [("theirs", "m", turn, value) for turn, value in enumerate((50.0, 5.0, 40.0))]
    assert results_of(*ours, *theirs).ratio("ours", "theirs", "m") == Spread(2.0, 2.0, 3.0)


def test_a_ratio_needs_both_in_the_same_round_and_not_zero() -> None:
    results = results_of(("a", "m", 0, 1.0), ("b", "m", 1, 1.0), ("a", "n", 0, 1.0), ("b", "n", 0, 0.0))
    assert results.ratio("a", "b", "m") is None
    assert results.ratio("a", "b", "n") is None


def test_results_survive_json() -> None:
    results = results_of(("a", "m", 1, 2.5))
    results.about["rounds"] = "2"
    results.problems.append("a failed")
    results.details["starts"] = {"relay": {"cpu": 1.0}}
    assert Results.from_json(json.loads(json.dumps(results.to_json()))) == results


def test_results_of_before_there_were_details_are_read() -> None:
    assert Results.from_json({"about": {}, "samples": {}, "problems": []}).details == {}


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal("stream_rate", "fernet", 2_000, relative=False), 2_000.0, Verdict.MET),
        (Goal("stream_rate", "fernet", 2_000, relative=False), 1_999.0, Verdict.MISSED),
        (Goal("echo_p95", "fernet", 2, relative=False), 2.0, Verdict.MET),
        (Goal("echo_p95", "fernet", 2, relative=False), 2.1, Verdict.MISSED),
        (Goal("open_failures", "fernet", 0, relative=False), 0.0, Verdict.MET),
        (Goal("open_failures", "fernet", 0, relative=False), 1.0, Verdict.MISSED),
        (Goal("download_1", "fernet", 2.5, relative=True), 250.0, Verdict.MET),
        (Goal("download_1", "fernet", 2.5, relative=True), 249.0, Verdict.MISSED),
    ],
)
def test_a_goal_is_judged_by_its_median(goal: Goal, value: float, verdict: Verdict) -> None:
    yardstick = (YARDSTICK, goal.measure, 0, 100.0)
    assert goal.verdict(results_of((goal.suite, goal.measure, 0, value), yardstick)) is verdict


@pytest.mark.parametrize(
    ("measure", "limit", "there", "here", "value", "verdict"),
    [
        ("cpu", 8.0, 16.0, 24.0, 12.0, Verdict.MET),
        ("cpu", 8.0, 16.0, 24.0, 12.1, Verdict.MISSED),
        ("cpu", 8.0, 16.0, 8.0, 4.1, Verdict.MISSED),
        ("stream_rate", 3_000.0, 2_000.0, 1_000.0, 1_500.0, Verdict.MET),
        ("stream_rate", 3_000.0, 2_000.0, 1_000.0, 1_499.0, Verdict.MISSED),
    ],
)
def test_a_scaled_goal_is_the_same_multiple_of_what_c_tor_reaches_here(
    measure: str, limit: float, there: float, here: float, value: float, verdict: Verdict
) -> None:
    results = results_of(("fernet", measure, 0, value), (YARDSTICK, measure, 0, here))
    scaled = Goal(measure, "fernet", limit, False, there).scaled
    assert scaled is not None
    assert scaled.verdict(results) is verdict


def test_only_what_c_tor_tells_of_a_machine_is_scaled() -> None:
    assert Goal("memory_idle", "fernet", 45.0, relative=False).scaled is None
    assert {goal.measure for goal in GOALS if goal.scaled} == {
        "echo_median", "first_byte_median", "stream_rate", "cpu",
    }  # fmt: skip


def test_a_goal_without_samples_or_without_a_yardstick_is_not_measured() -> None:
    results = results_of(("fernet", "download_1", 0, 100.0))
    assert Goal("download_1", "fernet", 1.0, relative=True).verdict(results) is Verdict.UNKNOWN
    assert Goal("cpu", "fernet", 1.0, relative=False).verdict(results) is Verdict.UNKNOWN


def test_every_goal_is_of_a_known_measure_and_both_suites_have_all() -> None:
    assert {goal.measure for goal in GOALS} <= set(MEASURES)
    assert {(goal.measure, suite) for goal in GOALS for suite in SUITES} == {
        (goal.measure, goal.suite) for goal in GOALS
    }
