"""How the network grows: `make bench-growth`, or `python -m tests.benchmarks.growth --help`.

1 to 1,000 circuits, then 1 to 2,000 streams on one circuit, for both suites and for C tor where it is installed. Each
curve begins with a fresh network, and each size has a client of its own, started for it, so that nothing is left of
the size before but what relays keep. All contenders do a size in turns. Writes docs/performance-growth.md, its numbers (JSON) and its chart.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from string import Template
from time import perf_counter

from common.errors import OnionError
from tests.benchmarks import tor, work
from tests.benchmarks.curves import SIZES, cliffs, draw, key, table
from tests.benchmarks.goals import SUITES, YARDSTICK
from tests.benchmarks.machine import describe
from tests.benchmarks.networks import CLIENT_LIMIT, Contender, Ours
from tests.benchmarks.processes import ROOT, Child, Processes, free_ports, resident_mb, thread_count
from tests.benchmarks.report import as_markdown, as_text, measured
from tests.benchmarks.results import Results, percentile
from tests.benchmarks.rounds import run_program, say, warm_up
from tests.benchmarks.socks import Failed, Route
from tests.benchmarks.target import MB

TEMPLATE = Path(__file__).with_name("performance-growth.template.md")
PAGE = ROOT / "docs" / "performance-growth.md"
ROUNDS = 3
OPEN_LIMIT = 60.0  # seconds in which all circuits or streams of a size may open
ECHOES = 100
ECHO_LIMIT = 20.0  # seconds for all of them
TOTAL = 64 * MB  # downloaded over all streams together
LIMIT = 15.0  # seconds for that


class Growth:
    """Measures sizes, and notes what came of it in `results`."""

    def __init__(self, processes: Processes, results: Results, folder: Path) -> None:
        self._processes = processes
        self._results = results
        self._folder = folder
        self._names = count(1)

    def run(self, contenders: Sequence[Contender], rounds: int, sizes: Mapping[str, Sequence[int]]) -> None:
        """Rounds of all kinds and sizes: fresh networks for each kind; each size begins with another contender."""
        turn = 0
        for number in range(rounds):
            for kind, each in sizes.items():
                networks = self._start(contenders, f"{kind}, round {number + 1}")
                for size in each if networks else ():
                    first = turn % len(networks)
                    turn += 1
                    for network in [*networks[first:], *networks[:first]]:
                        self._guarded(network, kind, size, number)
                for network in networks:
                    self._processes.end(network.children())
            say(f"round {number + 1} of {rounds} is done")

    def _start(self, contenders: Sequence[Contender], occasion: str) -> list[Contender]:
        """Fresh networks; one that does not start is left out, with a sentence."""
        networks = []
        for contender in contenders:
            network = contender.another(self._folder / f"network{next(self._names)}")
            try:
                network.start()
            except Failed as error:
                self._processes.end(network.children())
                self._note(f"{contender.name}, {occasion}: {str(error).splitlines()[0]}")
                continue
            warm_up(network)
            networks.append(network)
        return networks

    def _note(self, problem: str) -> None:
        self._results.problems.append(problem)
        say(problem)

    def _guarded(self, contender: Contender, kind: str, size: int, number: int) -> None:
        name = f"{contender.name}, {size:,} {kind}, round {number + 1}"
        try:
            with self._client(contender) as (client, route):
                values, problems = self._size(contender, client, route, kind, size)
        except (Failed, OSError, OnionError) as error:
            values, problems = {}, [str(error)]
        for measure, value in values.items():
            self._results.add(contender.name, key(kind, size, measure), number, value)
        if problems:
            more = f" (and {len(problems) - 1} more)" * (len(problems) > 1)
            self._note(f"{name}: {problems[0]}{more}")
        say(f"{name}: " + ", ".join(f"{measure} {value:.4g}" for measure, value in values.items()))

    @contextmanager
    def _client(self, contender: Contender) -> Iterator[tuple[Child, Route]]:
        """A client of its own, with its circuits: they end with it."""
        folder = self._folder / f"client{next(self._names)}"
        folder.mkdir(mode=0o700)
        port = free_ports(1)[0]
        child = self._processes.start(contender.client_command(folder, port), folder.with_suffix(".log"))
        route = Route(port, contender.target)
        try:
            work.until_first_byte(route, lambda: child.poll() is None, CLIENT_LIMIT)
            yield child, route
        finally:
            self._processes.end([child])

    @staticmethod
    def _size(
        contender: Contender, client: Child, route: Route, kind: str, size: int
    ) -> tuple[dict[str, float], list[str]]:
        """Opens so many and measures, by the names in `curves.MEASURES`; and sentences about what went wrong."""
        problems: list[str] = []
        isolated = kind == "circuits"
        begun = perf_counter()
        socks = work.open_streams(route, size, problems, isolated=isolated, limit=OPEN_LIMIT)
        seconds = perf_counter() - begun
        try:
            values = {"opened": len(socks) / seconds, "failures": float(size - len(socks))}
            values |= {
                "relay_mb": max(resident_mb(relay.pid) for relay in contender.relays),
                "client_mb": resident_mb(client.pid),
                "relay_threads": max(thread_count(relay.pid) for relay in contender.relays),
                "client_threads": thread_count(client.pid),
            }
            echoes = work.echo(route, ECHOES, ECHO_LIMIT)
            if echoes:
                values |= {
                    f"echo_{name}": 1e3 * percentile(echoes, rank) for name, rank in (("median", 50), ("p95", 95))
                }
            transfer = work.download_over(socks, TOTAL, LIMIT)
            values["rate"] = transfer.rate
            problems += transfer.problems
        finally:
            for sock in socks:
                sock.close()
        return values, problems


def main(arguments: Sequence[str]) -> int:
    """Measures and writes; returns the exit code."""
    options = _parse(arguments)
    if options.again:
        results = Results.from_json(json.loads(options.again.read_text(encoding="utf-8")))
    else:
        results = _measure(options)
    page = options.out or (None if options.most or options.again else PAGE)
    if page:
        if not options.again:
            numbers = json.dumps(results.to_json(), indent=1) + "\n"
            page.with_suffix(".json").write_text(numbers, encoding="utf-8")
        picture = page.with_suffix(".svg")
        picture.write_text(draw(results), encoding="utf-8")
        page.write_text(document(results, TEMPLATE.read_text(encoding="utf-8"), picture.name), encoding="utf-8")
    for kind in SIZES:
        print(as_text(table(results, kind)) + "\n")
    print("\n".join(_cliffs(results, SUITES)) or "no cliff")
    return 0


def document(results: Results, template: str, chart: str) -> str:
    """docs/performance-growth.md: the template's words with what was measured."""
    return Template(template).substitute(
        about="\n".join(f"- {name}: {text}" for name, text in results.about.items()),
        chart=chart,
        circuits=as_markdown(table(results, "circuits")),
        streams=as_markdown(table(results, "streams")),
        cliffs=_list(_cliffs(results, SUITES)),
        tor_cliffs=_list(_cliffs(results, (YARDSTICK,))),
        problems=_list(results.problems),
    )


def _cliffs(results: Results, contenders: Sequence[str]) -> list[str]:
    return [text for name in measured(results) if name in contenders for text in cliffs(results, name)]


def _list(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts) or "None."


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"[{ROUNDS}]")
    parser.add_argument("--most", type=int, metavar="N", help="leave larger sizes out; writes no page by itself")
    parser.add_argument("--without-tor", action="store_true", help="leave C tor out")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page [docs/performance-growth.md]")
    parser.add_argument(
        "--again", type=Path, metavar="JSON", help="measure nothing: show, or write with --out, a run"
    )
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace) -> Results:
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as name, Processes() as processes:
        folder = Path(name)
        _, target = processes.helper("target")
        with_tor = not options.without_tor and tor.installed()
        results.about = describe(processes, with_tor=with_tor)
        contenders: list[Contender] = [Ours(suite, target, processes, folder / suite) for suite in SUITES]
        if with_tor:
            keys = tor.make_keys(folder / "keys", processes)
            contenders.append(tor.CTor(YARDSTICK, target, processes, folder / "tor", keys, fast=True))
        sizes = {kind: [size for size in each if size <= (options.most or size)] for kind, each in SIZES.items()}
        Growth(processes, results, folder).run(contenders, options.rounds, sizes)
    results.about |= {
        "command": f"`python -m tests.benchmarks.growth --rounds {options.rounds}`",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return results


if __name__ == "__main__":
    run_program(main)
