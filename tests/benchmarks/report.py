"""Results as text: for the terminal, and as docs/performance.md around a head that is written by hand.

Nothing here waits or measures. A ratio is shown so that above 1 is better than C tor fast, whichever way
the measure runs.
"""

from collections.abc import Mapping, Sequence
from string import Template

from tests.benchmarks.goals import CONTENDERS, GOALS, MEASURES, SUITES, YARDSTICK, Goal, Measure, Verdict
from tests.benchmarks.results import Results, Spread

_NOTHING = "-"
_MOST_PROBLEMS = 20  # shown


def number(value: float) -> str:
    """With about three digits that mean something."""
    if value >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def cell(found: Spread | None, unit: str = "") -> str:
    """The median with its unit, and lowest and highest where they differ."""
    if found is None:
        return _NOTHING
    ends = [number(found.lowest), number(found.highest)]
    return number(found.median) + unit + (f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else "")


def advantage(results: Results, name: str, other: str, measure: Measure) -> str:
    """How many times better than the other, as the median over the rounds."""
    if measure.better == "more":
        ratio = results.ratio(name, other, measure.name)
    else:
        ratio = results.ratio(other, name, measure.name)
    return cell(ratio, " x")


def measured(results: Results) -> list[str]:
    """The contenders that have samples, in their order."""
    return [name for name in CONTENDERS if results.samples.get(name)]


def table(results: Results) -> list[list[str]]:
    """Rows of cells, the first one the headings."""
    contenders = measured(results)
    suites = [name for name in contenders if name in SUITES] if YARDSTICK in contenders else []
    return comparison(results, contenders, {f"{suite} against C tor": (suite, YARDSTICK) for suite in suites})


def comparison(
    results: Results, contenders: Sequence[str], pairs: Mapping[str, tuple[str, str]]
) -> list[list[str]]:
    """As `table`, with a column for each pair, of the first against the second."""
    rows = [["", *contenders, *pairs]]
    for measure in MEASURES.values():
        if any(results.values(name, measure.name) for name in contenders):
            unit = f", {measure.unit}" if measure.unit else ""
            values = [cell(results.spread(name, measure.name)) for name in contenders]
            ratios = [advantage(results, *pair, measure) for pair in pairs.values()]
            rows.append([measure.title + unit, *values, *ratios])
    return rows


def goal_rows(results: Results) -> list[list[str]]:
    """Each goal with what was reached."""
    rows = [["goal", "suite", "wanted", "reached", "", "scaled to this machine"]]
    for goal in GOALS:
        reached = cell(goal.reached(results), _unit(goal))
        scaled = _scaled(goal.scaled, results)
        title = MEASURES[goal.measure].title
        rows.append([title, goal.suite, _wanted(goal), reached, _shown(goal.verdict(results)), scaled])
    return rows


def _scaled(goal: Goal | None, results: Results) -> str:
    if goal is None:
        return _NOTHING
    reached = goal.reached(results)
    value = "" if reached is None else f"{number(reached.median)}, "
    return f"{_wanted(goal)}: {value}{_shown(goal.verdict(results))}"


def _shown(verdict: Verdict) -> str:
    return verdict.value if verdict is Verdict.MET else f"**{verdict.value}**"


def _wanted(goal: Goal) -> str:
    sign = "≥" if MEASURES[goal.measure].better == "more" else "≤"
    return f"{sign} {number(goal.limit)}{_unit(goal)}"


def _unit(goal: Goal) -> str:
    unit = MEASURES[goal.measure].unit
    return " x C tor fast" if goal.relative else f" {unit}".rstrip()


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal."""
    plain = [[text.replace("*", "") for text in row] for row in rows]
    widths = [max(len(row[column]) for row in plain) for column in range(len(plain[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in plain]
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body])


def summary(results: Results) -> str:
    """For the terminal."""
    goals = goal_rows(results)
    return "\n\n".join([as_text(table(results)), as_text(goals), count_goals(results)])


def count_goals(results: Results) -> str:
    """A sentence for the goals as they were set, and one with those scaled that can be."""
    as_set, scaled = (
        ", ".join(f"{verdicts.count(verdict)} {verdict.value}" for verdict in Verdict)
        for verdicts in (
            [goal.verdict(results) for goal in GOALS],
            [(goal.scaled or goal).verdict(results) for goal in GOALS],
        )
    )
    return f"{len(GOALS)} goals: {as_set}. Scaled to this machine where they can be: {scaled}."


def document(results: Results, template: str, chart: str, sections: Mapping[str, str]) -> str:
    """docs/performance.md: the template's words with what was measured.

    `chart` is the name of the picture; `sections` are texts that others made, by their names in the template.
    """
    problems = [f"- {text}" for text in results.problems[:_MOST_PROBLEMS]]
    more = len(results.problems) - _MOST_PROBLEMS
    if more > 0:
        problems.append(f"- and {more} more")
    return Template(template).substitute(
        sections,
        about="\n".join(f"- {name}: {text}" for name, text in results.about.items()),
        chart=chart,
        table=as_markdown(table(results)),
        goals=as_markdown(goal_rows(results)),
        count=count_goals(results),
        problems="\n".join(problems) or "None.",
    )
