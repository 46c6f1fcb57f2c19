"""Measures the network against C tor and writes docs/performance.md: `python -m tests.benchmarks --help`.

All contenders are up at once and do the same work in turns. Everything started is ended, whatever happens.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from common.errors import OnionError
from common.net.deadline import Deadline
from tests.benchmarks import starts, tor, where_chart, where_report
from tests.benchmarks.chart import draw
from tests.benchmarks.goals import DIRECT, FORWARDERS, SUITES, TOR_DEFAULT, YARDSTICK
from tests.benchmarks.machine import describe
from tests.benchmarks.networks import Chain, Contender, Direct, Ours
from tests.benchmarks.processes import ROOT, Processes
from tests.benchmarks.report import document, summary
from tests.benchmarks.results import Results
from tests.benchmarks.rounds import FULL, QUICK, WORKS, Rounds, run_program, say, some_of, warm_up
from tests.benchmarks.socks import Failed
from tests.benchmarks.where import look_into

TEMPLATE = Path(__file__).with_name("performance.template.md")
PAGE = ROOT / "docs" / "performance.md"
FULL_TIME, QUICK_TIME = 960.0, 140.0  # seconds for the rounds to end in; starts and ends come on top
FULL_ROUNDS, QUICK_ROUNDS = 5, 2
WHERE, STARTS = "where", "starts"


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark, or writes the page again from a run's numbers; returns the exit code."""
    options = _parse(arguments)
    if options.again:
        results = Results.from_json(json.loads(options.again.read_text(encoding="utf-8")))
    else:
        results = _measure(options)
    page = options.out or (PAGE if not (options.quick or options.only or options.again) else None)
    numbers = options.json or (page.with_suffix(".json") if page else None)
    if numbers and not options.again:
        numbers.write_text(json.dumps(results.to_json(), indent=1) + "\n", encoding="utf-8")
    if page:
        picture = page.with_suffix(".svg")
        picture.write_text(draw(results), encoding="utf-8")
        _beside(page, "-where.svg").write_text(where_chart.draw(results.details.get(WHERE, {})), encoding="utf-8")
        words = TEMPLATE.read_text(encoding="utf-8")
        page.write_text(document(results, words, picture.name, _sections(results, page)), encoding="utf-8")
    print(summary(results))
    for name, text in _sections(results, PAGE).items() if results.details else ():
        print(f"\n{name}\n{text}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=main.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="an impression in two minutes; writes no page by itself"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"at most [{FULL_ROUNDS}; quick {QUICK_ROUNDS}]")
    parser.add_argument(
        "--only",
        type=some_of((*WORKS, *ONCE)),
        default=[],
        metavar="WORK,...",
        help="some works, no page: " + ", ".join((*WORKS, *ONCE)),
    )
    parser.add_argument("--without-tor", action="store_true", help="leave C tor out")
    parser.add_argument("--tor-default", action="store_true", help="also C tor as shipped")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go [beside the page]")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page, its chart beside it [docs/performance.md]"
    )
    parser.add_argument(
        "--again", type=Path, metavar="JSON", help="measure nothing: show, or write with --out, a run"
    )
    return parser.parse_args(arguments)


def _sections(results: Results, page: Path) -> dict[str, str]:
    """The texts of the page's template that do not come from the rounds."""
    return where_report.sections(results.details.get(WHERE, {})) | {
        "where_chart": _beside(page, "-where.svg").name,
        STARTS: starts.section(results.details.get(STARTS, {})),
    }


def _beside(page: Path, end: str) -> Path:
    return page.with_name(page.stem + end)


def _command(options: argparse.Namespace) -> str:
    """The command of this run without the names of its files."""
    words = ["python -m tests.benchmarks"]
    words += [
        f"--{name.replace('_', '-')}" for name in ("quick", "without_tor", "tor_default") if vars(options)[name]
    ]
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    words += [f"--only {','.join(options.only)}"] if options.only else []
    return " ".join(words)


def _measure(options: argparse.Namespace) -> Results:
    deadline = Deadline(QUICK_TIME if options.quick else FULL_TIME)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else FULL_ROUNDS)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Processes() as processes:
        folder = Path(name)
        _, target = processes.helper("target")
        results.about = describe(processes, with_tor=not options.without_tor)
        contenders = _contenders(options, target, processes, folder)
        for contender in contenders:
            contender.start()
            warm_up(contender)
            say(f"{contender.name} is up")
        sizes = QUICK if options.quick else FULL
        works = [name for name in WORKS if name in options.only or not options.only]
        done = Rounds(contenders, processes, results, sizes, folder).run(rounds, works, deadline) if works else 0
        once = [name for name in ONCE if name in options.only or not (options.only or options.quick)]
        for name in once:
            ONCE[name](results, contenders, processes, folder)
    results.about |= {
        "command": f"`{_command(options)}`",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": f"{done}"
        if done == rounds or not works
        else f"{done} whole, and what was done of the next until time was up",
    }
    return results


def _look_where(results: Results, contenders: Sequence[Contender], processes: Processes, folder: Path) -> None:
    """Where the time goes, in our own networks."""
    for contender in contenders:
        if isinstance(contender, Ours):
            say(f"{contender.name}: where the time goes")
            try:
                found = look_into(contender, contender.name, processes, folder / f"where-{contender.name}")
            except (Failed, OSError, OnionError) as error:
                results.problems.append(f"{contender.name}, where the time goes: {error}")
            else:
                results.details.setdefault(WHERE, {})[contender.name] = found


def _time_starts(results: Results, _contenders: Sequence[Contender], _processes: Processes, _folder: Path) -> None:
    """What importing the programs costs."""
    say("imports")
    results.details[STARTS] = starts.measure()


# What is measured once, after the rounds.
ONCE: dict[str, Callable[[Results, Sequence[Contender], Processes, Path], None]] = {
    WHERE: _look_where,
    STARTS: _time_starts,
}


def _contenders(options: argparse.Namespace, target: int, processes: Processes, folder: Path) -> list[Contender]:
    contenders: list[Contender] = [Ours(suite, target, processes, folder / suite) for suite in SUITES]
    if options.without_tor:
        pass
    elif tor.installed():
        keys = tor.make_keys(folder / "keys", processes)
        contenders.append(tor.CTor(YARDSTICK, target, processes, folder / "tor-fast", keys, fast=True))
        if options.tor_default:
            contenders.append(tor.CTor(TOR_DEFAULT, target, processes, folder / "tor-default", keys, fast=False))
    else:
        say("tor and tor-gencert are not installed: no ratios")
    return [*contenders, Chain(FORWARDERS, target, processes), Direct(DIRECT, target)]


if __name__ == "__main__":
    run_program(main)
