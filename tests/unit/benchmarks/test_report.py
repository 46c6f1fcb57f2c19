"""The benchmark's page and its chart: every number that was measured is there, and nothing of the machine's paths."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

import tests.benchmarks
from tests.benchmarks import starts, where_report
from tests.benchmarks.chart import PANELS, draw
from tests.benchmarks.goals import GOALS, MEASURES, SUITES, YARDSTICK
from tests.benchmarks.report import (
    advantage,
    as_markdown,
    as_text,
    cell,
    count_goals,
    document,
    goal_rows,
    number,
    summary,
    table,
)
from tests.benchmarks.results import Results, Spread

TEMPLATE = (Path(tests.benchmarks.__file__).parent / "performance.template.md").read_text(encoding="utf-8")


SECTIONS = where_report.sections({}) | {"starts": starts.section({}), "where_chart": "performance-where.svg"}


def full_results() -> Results:
    results = Results(about={"system": "Linux", "rounds": "2"}, problems=["fernet, echo, round 1: it broke"])
    for place, contender in enumerate((*SUITES, YARDSTICK), 1):
        for measure in MEASURES:
            for turn in range(2):
                results.add(contender, measure, turn, 10.0 * place + turn)
    return results


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.0314, "0.031"), (0.5, "0.50"), (9.99, "9.99"), (9.999, "10.0"), (12.34, "12.3"),
        (99.97, "100"), (1_234.5, "1,234"), (3.0, "3"),
    ],
)  # fmt: skip
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_cell_shows_the_ends_only_where_they_differ() -> None:
    assert cell(Spread(2.0, 1.0, 3.0)) == "2 (1 to 3)"
    assert cell(Spread(2.0, 2.0, 2.0), " ms") == "2 ms"
    assert cell(None) == "-"


def test_better_is_above_one_whichever_way_the_measure_runs() -> None:
    results = Results()
    for name in ("download_1", "cpu"):
        results.add("fernet", name, 0, 30.0)
        results.add(YARDSTICK, name, 0, 15.0)
    assert advantage(results, "fernet", YARDSTICK, MEASURES["download_1"]) == "2 x"
    assert advantage(results, "fernet", YARDSTICK, MEASURES["cpu"]) == "0.50 x"


def test_the_table_has_a_row_per_measure_and_no_ratios_without_c_tor() -> None:
    results = full_results()
    rows = table(results)
    assert len(rows) == 1 + len(MEASURES)
    assert rows[0] == ["", *SUITES, YARDSTICK, *(f"{suite} against C tor" for suite in SUITES)]
    del results.samples[YARDSTICK]
    assert table(results)[0] == ["", *SUITES]
    assert len(table(Results())) == 1


def test_a_goal_that_can_be_scaled_is_shown_and_counted_both_ways() -> None:
    """Twice as slow a machine: not met as it was set, met beside a C tor that is as slow."""
    results = Results()
    results.add("aes-gcm", "cpu", 0, 12.0)
    results.add(YARDSTICK, "cpu", 0, 34.0)
    rows = {(row[0], row[1]): row for row in goal_rows(results)}
    title = MEASURES["cpu"].title
    assert rows[title, "aes-gcm"][2:] == [
        "≤ 8 s/GB", "12 s/GB", "**not met**", "≤ 0.47 x C tor fast: 0.35, met",
    ]  # fmt: skip
    assert rows[title, "fernet"][5].endswith("x C tor fast: **not measured**")
    assert rows[MEASURES["memory_idle"].title, "fernet"][5] == "-"
    unknown = f"{len(GOALS) - 1} not measured"
    assert count_goals(results) == (
        f"{len(GOALS)} goals: 0 met, 1 not met, {unknown}. "
        f"Scaled to this machine where they can be: 1 met, 0 not met, {unknown}."
    )


def test_tables_for_terminal_and_page() -> None:
    rows = [["", "a"], ["speed", "**12**"]]
    assert as_text(rows) == "       a\nspeed  12"
    assert as_markdown(rows) == "|  | a |\n|---|---:|\n| speed | **12** |"


def test_the_page_holds_the_words_the_numbers_the_goals_and_the_problems() -> None:
    page = document(full_results(), TEMPLATE, "performance.svg", SECTIONS)
    assert page.startswith("# Performance\n")
    for text in ("(performance.svg)", "- system: Linux", "it broke", f"{len(GOALS)} goals: "):
        assert text in page
    assert all(measure.title in page for measure in MEASURES.values())
    assert "$" not in page


def test_a_run_without_samples_still_makes_a_page_and_a_chart() -> None:
    assert "not measured" in document(Results(), TEMPLATE, "x.svg", SECTIONS)
    assert f"{len(GOALS)} not measured" in summary(Results())
    ElementTree.fromstring(draw(Results()))


def test_the_chart_is_an_svg_with_a_bar_for_each_contender_inside_its_picture() -> None:
    root = ElementTree.fromstring(draw(full_results()))
    space = "{http://www.w3.org/2000/svg}"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    rectangles = root.findall(f"{space}rect")
    assert len(rectangles) == 1 + len(PANELS) * 3
    for each in rectangles[1:]:
        assert float(each.attrib["x"]) + float(each.attrib["width"]) <= width
        assert float(each.attrib["y"]) + float(each.attrib["height"]) <= height
