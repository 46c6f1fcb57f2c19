"""Growth as curves: what is measured at each size, where a curve breaks, and the chart. Nothing here waits.

Values stand in `Results` as measures called "KIND/SIZE/MEASURE", one sample per round.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from tests.benchmarks.chart import COLOURS
from tests.benchmarks.goals import Measure
from tests.benchmarks.report import cell, measured, number
from tests.benchmarks.results import Results, Spread

SIZES = {"circuits": (1, 10, 100, 1_000), "streams": (1, 10, 100, 1_000, 2_000)}
MEASURES = (
    Measure("rate", "download over all, together", "MB/s", "more"),
    Measure("echo_median", "echo on one more, the others open and quiet, median", "ms", "less"),
    Measure("echo_p95", "the same, 95 %", "ms", "less"),
    Measure("opened", "opened", "/s", "more"),
    Measure("relay_mb", "memory of the largest relay", "MB", "less"),
    Measure("client_mb", "memory of the client", "MB", "less"),
    Measure("relay_threads", "threads of the relay that has most", "", "less"),
    Measure("client_threads", "threads of the client", "", "less"),
    Measure("failures", "failures", "", "less"),
)
NAMES = {measure.name: measure for measure in MEASURES}
CHARTED = ("rate", "echo_median", "opened", "relay_mb", "client_mb", "relay_threads")
# A cliff: from one size to the next a value gets this many times worse. Sizes are up to ten times apart, and one machine
# does all the work, so it is what a curve does between neighbours that tells a rule of growth from a limit.
CLIFFS = {"rate": 2.0, "echo_median": 3.0, "opened": 2.0}
PER_ITEM = {"relay_mb": 0.25, "client_mb": 0.25, "relay_threads": 0.02}  # at most for each circuit or stream more
_COLUMN, _PLOT, _HIGH, _HEAD, _GAP, _MARGIN = 430, 330, 120, 26, 40, 10
_LEFT = 60  # of the plot: room for numbers
_LABEL = 40  # width of a size


def key(kind: str, size: int, measure: str) -> str:
    """What the measure is called in the results."""
    return f"{kind}/{size}/{measure}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A measure of a contender over the sizes at which it was measured."""

    points: tuple[tuple[int, Spread], ...]

    @property
    def highest(self) -> float:
        """Of all points and rounds."""
        return max((found.highest for _, found in self.points), default=0.0)


def curve(results: Results, contender: str, kind: str, measure: str) -> Curve:
    """Sizes without a sample are left out."""
    points = [(size, results.spread(contender, key(kind, size, measure))) for size in SIZES[kind]]
    return Curve(tuple((size, found) for size, found in points if found is not None))


def cliffs(results: Results, contender: str) -> list[str]:
    """A sentence for each place where a curve breaks; failures are one too."""
    found = []
    for kind in SIZES:
        for name in (*CLIFFS, *PER_ITEM, "failures"):
            points = curve(results, contender, kind, name).points
            title = f"{contender}, {NAMES[name].title}"
            if name == "failures":
                found += [
                    f"{title} at {size:,} {kind}: {number(each.median)}" for size, each in points if each.median
                ]
                continue
            if name == "opened":
                points = tuple(each for each in points if each[0] > 1)  # one is served by a circuit built ahead
            for (small, before), (large, after) in pairwise(points):
                if _breaks(name, before.median, after.median, large - small):
                    change = f"{number(before.median)} to {number(after.median)} {NAMES[name].unit}".rstrip()
                    found.append(f"{title}: {change} from {small:,} to {large:,} {kind}")
    return found


def _breaks(name: str, before: float, after: float, more: int) -> bool:
    if name in PER_ITEM:
        return (after - before) / more > PER_ITEM[name] and after > 2 * before
    worse = before / after if NAMES[name].better == "more" else after / before
    return worse > CLIFFS[name]


def table(results: Results, kind: str) -> list[list[str]]:
    """Rows of cells: a block of measures for each contender, a column for each size."""
    rows = [[kind, *(f"{size:,}" for size in SIZES[kind])]]
    for contender in measured(results):
        for measure in MEASURES:
            cells = [cell(results.spread(contender, key(kind, size, measure.name))) for size in SIZES[kind]]
            if any(text != cell(None) for text in cells):
                unit = f", {measure.unit}" if measure.unit else ""
                rows.append([f"{contender}: {measure.title}{unit}", *cells])
    return rows


def draw(results: Results) -> str:
    """The picture: a row of panels per measure, circuits left and streams right; a line per contender."""
    contenders = [name for name in measured(results) if name in COLOURS]
    parts: list[str] = []
    for row, name in enumerate(CHARTED):
        for column, kind in enumerate(SIZES):
            left, top = _MARGIN + column * _COLUMN, _MARGIN + row * (_HEAD + _HIGH + _GAP)
            parts += _panel(results, contenders, kind, name, left, top)
    width, height = 2 * _COLUMN + _MARGIN, len(CHARTED) * (_HEAD + _HIGH + _GAP) + _MARGIN + 20
    for number_, who in enumerate(contenders):
        parts.append(
            f'<text x="{_MARGIN + 110 * number_}" y="{height - 10}" fill="{COLOURS[who]}" font-weight="bold">'
            f"{escape(who)}</text>"
        )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *parts, "</svg>", ""])


def _panel(results: Results, contenders: list[str], kind: str, name: str, left: int, top: int) -> list[str]:
    """Both axes begin at their left and lower end; sizes are drawn by their logarithm."""
    measure, sizes = NAMES[name], SIZES[kind]
    curves = {who: curve(results, who, kind, name) for who in contenders}
    highest = max((each.highest for each in curves.values()), default=0.0) or 1.0
    floor, start = top + _HEAD + _HIGH, left + _LEFT
    unit = f", {measure.unit}" if measure.unit else ""
    parts = [
        f'<text x="{left}" y="{top + 14}" font-weight="bold" fill="#222222">{escape(measure.title + unit)}</text>',
        f'<path d="M{start} {floor - _HIGH}V{floor}H{start + _PLOT}" stroke="#999999" fill="none"/>',
        f'<text x="{start - 6}" y="{floor - _HIGH + 10}" text-anchor="end" fill="#222222">{number(highest)}</text>',
        f'<text x="{start - 6}" y="{floor + 4}" text-anchor="end" fill="#222222">0</text>',
    ]

    def across(size: int) -> float:
        return start + _PLOT * math.log(size) / math.log(sizes[-1])

    def up(value: float) -> float:
        return floor - _HIGH * value / highest

    for size in sizes:
        if size != sizes[-1] and across(sizes[-1]) - across(size) < _LABEL:
            continue  # it would be written over the last one
        label = f"{size:,} {kind}" if size == 1 else f"{size:,}"
        parts.append(
            f'<text x="{across(size):.1f}" y="{floor + 16}" text-anchor="middle" fill="#222222">{label}</text>'
        )
    for who, each in curves.items():
        line = " ".join(f"{across(size):.1f},{up(found.median):.1f}" for size, found in each.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[who]}" stroke-width="2"/>')
        for size, found in each.points:
            x = across(size)
            parts += [
                f'<circle cx="{x:.1f}" cy="{up(found.median):.1f}" r="3" fill="{COLOURS[who]}"/>',
                f'<path d="M{x:.1f} {up(found.lowest):.1f}V{up(found.highest):.1f}" stroke="{COLOURS[who]}"/>',
            ]
    return parts
