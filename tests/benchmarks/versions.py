"""Two versions of the programs beside each other: `python -m tests.benchmarks.versions ../other-checkout`.

The speed of a shared machine wavers by half within minutes, and by a tenth between two networks of the same
programs. So both versions are up at once and do each work in turns, each round has fresh networks, and only the ratio
within a round counts: ten rounds tell a difference of 5 %. This checkout against itself (`.`) shows what is noise,
and with `--python` what another Python brings.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.net.deadline import Deadline
from tests.benchmarks.goals import SUITES
from tests.benchmarks.networks import Ours
from tests.benchmarks.processes import PYTHON, ROOT, Processes
from tests.benchmarks.report import as_text, comparison
from tests.benchmarks.results import Results
from tests.benchmarks.rounds import FULL, WORKS, Rounds, run_program, some_of, warm_up

HERE, OTHER = "here", "other"
ROUNDS = 10
TIME = 600.0  # seconds for a round
# Circuits are built by this checkout's client, whoever's the relays are; the others say little in turns.
_LEFT_OUT = ("circuits", "network_start", "client_start", "open")
CHOICE = [name for name in WORKS if name not in _LEFT_OUT]


def main(arguments: Sequence[str]) -> int:
    """Runs both in turns and prints what each reached, and the ratio: above 1, this checkout is better."""
    options = _parse(arguments)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Processes() as processes:
        _, target = processes.helper("target")
        for turn in range(options.rounds):
            folder = Path(name) / str(turn)
            contenders = [
                Ours(options.suite, target, processes, folder / who, name=who, checkout=checkout, python=python)
                for who, checkout, python in ((HERE, ROOT, PYTHON), (OTHER, options.other, options.python))
            ]
            # Whose network was started first has come out a little slower; who works first changes each round.
            for contender in contenders if turn % 4 < 2 else reversed(contenders):
                contender.start()
                warm_up(contender)
            if not Rounds(contenders, processes, results, FULL, folder).run(1, options.only, Deadline(TIME), turn):
                results.problems.append(f"round {turn + 1} took longer than {TIME:.0f} s")
            processes.end(child for contender in contenders for child in contender.children())
    print(as_text(comparison(results, [HERE, OTHER], {f"{HERE} against {OTHER}": (HERE, OTHER)})))
    for problem in results.problems:
        print(problem)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.versions", description=main.__doc__)
    parser.add_argument("other", type=_checkout, help="the other checkout's folder")
    parser.add_argument(
        "--python", type=_program, default=PYTHON, metavar="PATH", help="what runs the other's programs [this Python]"
    )
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"[{ROUNDS}]")
    parser.add_argument(
        "--only", type=some_of(CHOICE), default=CHOICE, metavar="WORK,...", help="some works: " + ", ".join(CHOICE)
    )
    return parser.parse_args(arguments)


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "client_tor.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout: it has no client_tor.py")
    return path


def _program(text: str) -> Path:
    path = Path(text).absolute()
    if not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is no program: name a Python with the libraries, as .venv/bin/python")
    return path


if __name__ == "__main__":
    run_program(main)
