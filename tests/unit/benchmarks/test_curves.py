"""Growth: what a cliff is, the tables, the page, and a chart that stays inside its picture."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

import tests.benchmarks
from tests.benchmarks.curves import CHARTED, MEASURES, SIZES, cliffs, curve, draw, key, table
from tests.benchmarks.goals import SUITES, YARDSTICK
from tests.benchmarks.growth import document
from tests.benchmarks.results import Results

TEMPLATE = (Path(tests.benchmarks.__file__).parent / "performance-growth.template.md").read_text(encoding="utf-8")
SPACE = "{http://www.w3.org/2000/svg}"


def of(measure: str, values: dict[int, float], kind: str = "circuits", who: str = "fernet") -> Results:
    results = Results()
    for size, value in values.items():
        results.add(who, key(kind, size, measure), 0, value)
    return results


def full_results() -> Results:
    results = Results(about={"system": "Linux"}, problems=["fernet, 10 circuits, round 1: it broke"])
    for place, who in enumerate((*SUITES, YARDSTICK), 1):
        for kind, sizes in SIZES.items():
            for size in sizes:
                for measure in MEASURES:
                    for turn in range(2):
                        value = 0.0 if measure.name == "failures" else 10.0 * place + turn
                        results.add(who, key(kind, size, measure.name), turn, value)
    return results


def test_a_curve_leaves_out_sizes_without_samples() -> None:
    found = curve(of("rate", {1: 50.0, 100: 40.0}), "fernet", "circuits", "rate")
    assert [size for size, _ in found.points] == [1, 100]
    assert found.highest == 50.0


@pytest.mark.parametrize(
    ("measure", "values", "broken"),
    [
        ("rate", {1: 80.0, 10: 41.0, 100: 21.0}, False),
        ("rate", {1: 80.0, 10: 39.0}, True),
        ("rate", {1: 80.0, 10: 200.0}, False),
        ("echo_median", {1: 1.0, 10: 2.9}, False),
        ("echo_median", {1: 1.0, 10: 3.1}, True),
        ("opened", {10: 300.0, 100: 140.0}, True),
        ("opened", {1: 300.0, 10: 140.0}, False),
        ("relay_mb", {100: 50.0, 1_000: 200.0}, False),
        ("relay_mb", {100: 50.0, 1_000: 300.0}, True),
        ("relay_threads", {100: 20.0, 1_000: 36.0}, False),
        ("relay_threads", {100: 20.0, 1_000: 1_020.0}, True),
        ("failures", {1_000: 0.0}, False),
        ("failures", {1_000: 1.0}, True),
    ],
)
def test_a_cliff_is_what_breaks_between_neighbours(measure: str, values: dict[int, float], broken: bool) -> None:
    assert bool(cliffs(of(measure, values), "fernet")) is broken


def test_a_cliff_is_told_with_its_numbers_and_sizes() -> None:
    results = of("rate", {100: 80.0, 1_000: 8.0}, "streams")
    assert cliffs(results, "fernet") == [
        "fernet, download over all, together: 80 to 8 MB/s from 100 to 1,000 streams",
    ]
    assert cliffs(results, "aes-gcm") == []


def test_the_table_has_a_column_for_each_size() -> None:
    rows = table(full_results(), "streams")
    assert rows[0] == ["streams", "1", "10", "100", "1,000", "2,000"]
    assert len(rows) == 1 + 3 * len(MEASURES)
    assert len(table(Results(), "streams")) == 1


def test_the_page_holds_words_numbers_and_problems() -> None:
    page = document(full_results(), TEMPLATE, "performance-growth.svg")
    assert page.startswith("# Growth\n")
    for text in ("(performance-growth.svg)", "- system: Linux", "it broke", "aes-gcm: memory of the client"):
        assert text in page
    assert "$" not in page


def test_the_chart_has_a_line_for_each_contender_in_each_panel_inside_its_picture() -> None:
    root = ElementTree.fromstring(draw(full_results()))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    lines = root.findall(f"{SPACE}polyline")
    assert len(lines) == 3 * len(CHARTED) * len(SIZES)
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    ElementTree.fromstring(draw(Results()))
