"""The rounds: in each, every work is done by all contenders in turn, and each round begins with another one.

A work that fails leaves no sample and a sentence; the others go on. Before a work the machine is let come to rest,
so that nobody pays for what the one before left behind.
"""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import NoReturn

from common.errors import OnionError
from common.net.deadline import Deadline
from common.ops.lifecycle import raise_file_limit
from tests.benchmarks import work
from tests.benchmarks.beside import prompt_beside
from tests.benchmarks.networks import Contender, Ours, time_client_start, time_prompt
from tests.benchmarks.processes import Processes, cpu_seconds, resident_mb
from tests.benchmarks.results import Results, percentile
from tests.benchmarks.socks import Failed
from tests.benchmarks.target import MB

INTERRUPTED = 130  # the exit code of ctrl-c
STREAMS = 2_000
WORKERS = 32
BULK = 16
LIMIT = 8.0  # seconds one work of one contender may take: what came until then counts
_REST = 2.0  # seconds to wait for rest, at most
_REST_LOOK = 0.1
_REST_CPU = 0.03  # seconds of CPU in one look that still count as rest: pings and votes go on
_MOST_PROBLEMS = 3  # sentences kept of one work


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each."""

    single: int  # bytes over one stream
    many: int  # bytes over 16 streams
    echoes: int
    first_bytes: int
    rate_seconds: float
    prompt_seconds: float
    circuits: int
    circuits_at_once: int


FULL = Sizes(64 * MB, 128 * MB, 1_000, 100, 3.0, 6.0, 40, 150)
QUICK = Sizes(16 * MB, 32 * MB, 100, 40, 1.0, 3.0, 15, 48)


class Rounds:
    """Does the work and notes what came of it in `results`."""

    def __init__(
        self, contenders: Sequence[Contender], processes: Processes, results: Results, sizes: Sizes, folder: Path
    ) -> None:
        self._contenders = contenders
        self._processes = processes
        self._results = results
        self._sizes = sizes
        self._folder = folder
        self._turn = 0
        self._moved: dict[str, tuple[int, float]] = {}  # contender: bytes and CPU seconds of this round

    def run(self, rounds: int, works: Sequence[str], deadline: Deadline, first: int = 0) -> int:
        """Up to `rounds` rounds, as many as will fit before the deadline; returns how many were done whole.

        `first` is the number of the first one.
        """
        longest = 0.0
        for done in range(rounds):
            self._turn = first + done
            if deadline.left() < longest:
                return done
            begun = monotonic()
            self._moved = {}
            begins = self._turn % len(self._contenders)
            order = [*self._contenders[begins:], *self._contenders[:begins]]
            for name in works:
                for contender in order:
                    if deadline.expired:
                        return done
                    self._one(name, contender)
            for who, (count, seconds) in self._moved.items():
                self._note(who, "cpu", seconds / (count / 1e9))
            longest = max(longest, monotonic() - begun)
            say(f"round {self._turn + 1}: {monotonic() - begun:.0f} s")
        return rounds

    def _one(self, name: str, contender: Contender) -> None:
        self._rest()
        problems: list[str] = []
        try:
            WORKS[name](self, contender, problems)
        except (Failed, OSError, OnionError) as error:
            problems.append(str(error))
        for problem in problems[:_MOST_PROBLEMS]:
            text = f"{contender.name}, {name}, round {self._turn + 1}: {problem}"
            self._results.problems.append(text)
            say(text)

    def _rest(self) -> None:
        """Returns when no process of any contender is busy, or after a while."""
        pids = [
            child.pid for contender in self._contenders for child in contender.children() if child.poll() is None
        ]
        deadline = Deadline(_REST)
        before = cpu_seconds(pids)
        while not deadline.expired:
            sleep(_REST_LOOK)
            now = cpu_seconds(pids)
            if now - before <= _REST_CPU:
                return
            before = now

    def _note(self, contender: str, measure: str, value: float) -> None:
        self._results.add(contender, measure, self._turn, value)

    # ---- the works

    def _transfer(
        self, measure: str, contender: Contender, problems: list[str], move: Callable[[work.Meter], work.Transfer]
    ) -> None:
        carriers = contender.carriers
        transfer = move(lambda: cpu_seconds(carriers))
        problems += transfer.problems
        if not transfer.count:
            raise Failed("nothing came")
        self._note(contender.name, measure, transfer.rate)
        if carriers:
            count, seconds = self._moved.get(contender.name, (0, 0.0))
            self._moved[contender.name] = count + transfer.count, seconds + transfer.cpu

    def download_1(self, contender: Contender, problems: list[str]) -> None:
        """One stream."""
        total, route = self._sizes.single, contender.route
        self._transfer(
            "download_1", contender, problems, lambda meter: work.download(route, 1, total, LIMIT, meter)
        )

    def download_16(self, contender: Contender, problems: list[str]) -> None:
        """16 streams with the same user, which share a circuit."""
        total, route = self._sizes.many, contender.route
        self._transfer(
            "download_16", contender, problems, lambda meter: work.download(route, 16, total, LIMIT, meter)
        )

    def download_16_isolated(self, contender: Contender, problems: list[str]) -> None:
        """16 streams, each with a user name and so a circuit of its own."""
        total, route = self._sizes.many, contender.route

        def move(meter: work.Meter) -> work.Transfer:
            return work.download(route, 16, total, LIMIT, meter, isolated=True)

        if contender.has_circuits:
            self._transfer("download_16_isolated", contender, problems, move)

    def upload_1(self, contender: Contender, problems: list[str]) -> None:
        """One stream."""
        total, route = self._sizes.single, contender.route
        self._transfer("upload_1", contender, problems, lambda meter: work.upload(route, total, LIMIT, meter))

    def echo(self, contender: Contender, _problems: list[str]) -> None:
        """On one stream, alone."""
        used = cpu_seconds(contender.carriers)
        times = work.echo(contender.route, self._sizes.echoes, LIMIT)
        self._times("echo", contender, times)
        self._cpu_each("echo_cpu", contender, used, len(times))

    def first_byte(self, contender: Contender, _problems: list[str]) -> None:
        """One new stream after another."""
        self._times("first_byte", contender, work.first_bytes(contender.route, self._sizes.first_bytes, LIMIT))

    def _times(self, name: str, contender: Contender, seconds: Sequence[float]) -> None:
        if not seconds:
            raise Failed("nothing came in time")
        self._note(contender.name, f"{name}_median", 1e3 * percentile(seconds, 50))
        self._note(contender.name, f"{name}_p95", 1e3 * percentile(seconds, 95))

    def _cpu_each(self, measure: str, contender: Contender, used: float, count: float) -> None:
        """What each of `count` took of the CPU since `used`."""
        if contender.carriers and count:
            self._note(contender.name, measure, 1e6 * (cpu_seconds(contender.carriers) - used) / count)

    def prompt_shared(self, contender: Contender, problems: list[str]) -> None:
        """A prompt and 16 bulk streams, all with the same user, which share a circuit."""
        self._prompt("shared", contender, problems, isolated=False)

    def prompt_apart(self, contender: Contender, problems: list[str]) -> None:
        """A prompt and 16 bulk streams, each with a user name and so a circuit of its own."""
        if contender.has_circuits:
            self._prompt("apart", contender, problems, isolated=True)

    def _prompt(self, name: str, contender: Contender, problems: list[str], *, isolated: bool) -> None:
        seconds = self._sizes.prompt_seconds
        found = prompt_beside(contender.route, BULK, seconds, self._processes, isolated=isolated)
        problems += found.problems
        self._note(contender.name, f"prompt_{name}_p95", 1e3 * percentile(found.echoes, 95))
        self._note(contender.name, f"shares_{name}", found.slowest)

    def stream_rate(self, contender: Contender, problems: list[str]) -> None:
        """32 workers at once."""
        used = cpu_seconds(contender.carriers)
        rate = work.stream_rate(contender.route, WORKERS, self._sizes.rate_seconds, problems)
        self._note(contender.name, "stream_rate", rate)
        self._cpu_each("stream_cpu", contender, used, rate * self._sizes.rate_seconds)

    def open(self, contender: Contender, problems: list[str]) -> None:
        """2,000 streams, and the memory of the largest relay while they are open."""
        memory: list[float] = []

        def look() -> None:
            memory.extend(resident_mb(relay.pid) for relay in contender.relays)

        many = work.open_many(contender.route, STREAMS, 2 * LIMIT, problems, look)
        self._note(contender.name, "open_seconds", many.seconds)
        self._note(contender.name, "open_failures", many.failures)
        if memory and contender.has_circuits:
            self._note(contender.name, "memory_2000", max(memory))

    def circuits(self, contender: Contender, problems: list[str]) -> None:
        """One after another, then 16 at a time."""
        if not contender.has_circuits:
            return
        alone = contender.build(self._sizes.circuits, 1)
        together = contender.build(self._sizes.circuits_at_once, 16)
        failures = alone.failures + together.failures
        if failures:
            problems.append(f"{failures} circuits were not built")
        if not alone.times:
            raise Failed("no circuit was built")
        self._note(contender.name, "circuit_median", 1e3 * percentile(alone.times, 50))
        self._note(contender.name, "circuit_rate", len(together.times) / together.seconds)

    def client_start(self, contender: Contender, _problems: list[str]) -> None:
        """A client that has no state, the network being up."""
        if contender.has_circuits:
            folder = self._folder / f"client {self._turn} {contender.name}".replace(" ", "-")
            self._note(contender.name, "client_start", time_client_start(contender, self._processes, folder))
        if isinstance(contender, Ours):
            folder = self._folder / f"prompt {self._turn} {contender.name}".replace(" ", "-")
            self._note(contender.name, "prompt_start", time_prompt(contender, self._processes, folder))

    def network_start(self, contender: Contender, _problems: list[str]) -> None:
        """In the first round the start of what is measured, later another network beside it."""
        if not contender.has_circuits:
            return
        started = contender
        if self._turn > 0:
            started = contender.another(self._folder / f"network {self._turn} {contender.name}".replace(" ", "-"))
            try:
                started.start()
            finally:
                self._processes.end(started.children())
        self._note(started.name, "network_start", started.start_seconds)
        self._note(started.name, "memory_idle", started.idle_mb)


WORKS: dict[str, Callable[[Rounds, Contender, list[str]], None]] = {
    "network_start": Rounds.network_start,
    "client_start": Rounds.client_start,
    "download_1": Rounds.download_1,
    "download_16": Rounds.download_16,
    "download_16_isolated": Rounds.download_16_isolated,
    "upload_1": Rounds.upload_1,
    "echo": Rounds.echo,
    "first_byte": Rounds.first_byte,
    "prompt_shared": Rounds.prompt_shared,
    "prompt_apart": Rounds.prompt_apart,
    "stream_rate": Rounds.stream_rate,
    "open": Rounds.open,
    "circuits": Rounds.circuits,
}


def some_of(choice: Sequence[str]) -> Callable[[str], list[str]]:
    """For an option: names with commas between them, of those there are."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in choice:
                raise ArgumentTypeError(f"{name!r} is not one of {', '.join(choice)}")
        return found

    return names


def warm_up(contender: Contender) -> None:
    """Opens the links between relays and lets everything be used once."""
    with suppress(Failed, OSError):
        work.download(contender.route, 16, 16 * MB, LIMIT, isolated=contender.has_circuits)
        work.download(contender.route, 1, 8 * MB, LIMIT)


def say(text: str) -> None:
    """To whoever waits for the result."""
    print(text, file=sys.stderr, flush=True)


def run_program(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """A benchmark as a program: with as many files as the system allows, and a sentence when it cannot go on."""
    raise_file_limit()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted; everything that was started has ended")
        sys.exit(INTERRUPTED)
    except Failed as error:
        sys.exit(f"benchmark: {error}")
