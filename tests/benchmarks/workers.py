"""A relay with one process and with several, side by side: `make bench-workers`.

    python -m tests.benchmarks.workers [--workers N] [--rounds N] [--links N] [--seconds S] [--megabytes MB] [--only WORK...]

Two real relays of one network, one without workers and one with N. Both get the same work in turns (A B, B A, ...):

* handshakes and cells from `relay_load`, which itself does little: the relay is what limits, so this shows whether
  its work spreads over cores. Each worker has its share of the links: luck is left out, and `docs` do that sum.
* downloads by four real clients over this relay alone: there clients and target are on the same cores too.

Other programs may use the machine meanwhile. What holds then is CPU time for a piece of work. "Per CPU s of the busiest
process" is the rate that the relay would have if each of its processes had a core to itself and used no more than
that one. Rates by the clock are what they were in that run. Medians, and all values in parentheses.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from common.directory.addresses import Address, parse_address
from common.errors import DirectoryError
from common.net.deadline import Deadline
from common.ops.lifecycle import READY_FILE
from common.roles.client.bootstrap import DirectoryClient
from tests.benchmarks import work
from tests.benchmarks.machine import describe
from tests.benchmarks.processes import ROOT, Child, Processes, cpu_seconds, free_ports, resident_mb
from tests.benchmarks.socks import Route
from tests.net.processes import children

NETWORK = "bench"
START_LIMIT = 60.0
CLIENTS, STREAMS = 4, 2  # streams of each client
WORKS = ["handshakes", "cells", "downloads"]
SUITES = ["fernet", "aes-gcm"]
_LOOK = 0.05


class Site:
    """The gateway, and what is started beside it."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        _, ready = self.daemon("gateway", "gateway.py")
        self._pin = parse_address(ready["address"]), bytes.fromhex(ready["identity"])
        self.words = ["--gateway", str(self._pin[0]), "--gateway-key", self._pin[1].hex(), "--network", NETWORK]

    def daemon(self, name: str, script: str, *words: str) -> tuple[Child, dict[str, str]]:
        """Starts one, and waits until it is ready: what it says of itself."""
        state = self._folder / name
        options = ["--listen", "127.0.0.1:0", "--log-level", "warning", "--state", str(state)]
        if not words:
            words = ("--network", NETWORK)
        child = self._processes.start([sys.executable, ROOT / script, *options, *words], self._log(name))
        deadline = Deadline(START_LIMIT)
        while not (state / READY_FILE).exists():
            assert child.poll() is None and not deadline.expired, self._log(name).read_text()
            sleep(_LOOK)
        ready: dict[str, str] = json.loads((state / READY_FILE).read_text())
        return child, ready

    def client(self, name: str, suite: str, relay: str) -> tuple[Child, int]:
        """A client whose circuits are that relay and nothing else, and its proxy port."""
        port = free_ports(1)[0]
        options = ["--hops", "1", "--exit", relay, "--suite", suite, "--state", str(self._folder / name)]
        words = ["socks", "--config", os.devnull, *self.words, "--listen", f"127.0.0.1:{port}", *options]
        return self._processes.start([sys.executable, ROOT / "client_tor.py", *words], self._log(name)), port

    def onion_key(self, nickname: str) -> bytes:
        """From the directory, once it lists the relay."""
        deadline = Deadline(START_LIMIT)
        while not deadline.expired:
            try:
                for entry in DirectoryClient([self._pin], NETWORK, None).fetch(Deadline(2.0)).relays:
                    if entry.descriptor.nickname == nickname:
                        return entry.descriptor.onion_keys[0]
            except DirectoryError:
                pass  # the list is empty yet
            sleep(_LOOK)
        raise AssertionError(f"{nickname} is not listed")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


class Contender:
    """A relay, its processes and the load on it; `noted`: what to the samples."""

    def __init__(self, site: Site, processes: Processes, workers: int, links: int) -> None:
        self.name = f"w{workers}"
        self.noted: dict[str, list[float]] = defaultdict(list)
        self._site = site
        self._processes = processes
        relay, ready = site.daemon(self.name, "relay.py", *site.words, *self._options(workers))
        self.parent = relay.pid
        self.pids = sorted(children(relay.pid)) or [relay.pid]
        self.noted["memory, idle, all processes, MB"] = [sum(map(resident_mb, {self.parent, *self.pids}))]
        self._start_load(parse_address(ready["address"]), ready["identity"], links)

    def _options(self, workers: int) -> list[str]:
        return ["--nickname", self.name, "--exit-policy", "local", "--workers", str(workers)]

    def _start_load(self, address: Address, identity: str, links: int) -> None:
        key = self._site.onion_key(self.name).hex()
        words = map(str, [address.host, address.port, identity, key, links, *self.pids])
        command = [sys.executable, "-m", "tests.benchmarks.relay_load", *words]
        load = self._processes.start(command, pipe=True, commands=True)
        assert load.stdin is not None
        assert load.stdout is not None
        self._commands: IO[bytes] = load.stdin
        self._answers: IO[bytes] = load.stdout
        self._answer()

    def work(self, what: str, unit: str, scale: float, command: str) -> None:
        """One piece of work by the load."""
        self._say(command)
        self._answer()
        before, busy = self._cpu(), busy_seconds()
        self._say("go")
        answer = self._answer()
        busy, seconds = busy_seconds() - busy, answer["seconds"]
        used = self._note(what, unit, scale, answer["done"], seconds, before)
        self.noted[f"{what}: cores used by the load"].append(answer["cpu"] / seconds)
        others = max(0.0, busy / seconds - used - answer["cpu"] / seconds)
        self.noted[f"{what}: cores used by other programs"].append(others)

    def downloads(self, suite: str, target: int, megabytes: int) -> None:
        """By clients that are started for it: their links go where the kernel sends them."""
        clients = [
            self._site.client(f"{self.name}-{suite}-{monotonic()}", suite, self.name) for _ in range(CLIENTS)
        ]
        routes = [Route(port, target) for _, port in clients]
        for (client, _), route in zip(clients, routes, strict=True):
            work.until_first_byte(route, lambda client=client: client.poll() is None, START_LIMIT)  # type: ignore[misc]
        before = self._cpu()
        each = megabytes * 1_000_000 // CLIENTS
        with ThreadPoolExecutor(CLIENTS) as pool:
            begun = monotonic()
            done = list(pool.map(lambda route: work.download(route, STREAMS, each, START_LIMIT), routes))
            seconds = monotonic() - begun
        assert not any(transfer.problems for transfer in done), done
        total = sum(transfer.count for transfer in done)
        self._note(f"{CLIENTS} clients download, {suite}", "MB", 1e6, total, seconds, before)
        self._processes.end([client for client, _ in clients])

    def _cpu(self) -> list[float]:
        return [cpu_seconds([pid]) for pid in self.pids]

    def _note(self, what: str, unit: str, scale: float, done: float, seconds: float, before: list[float]) -> float:
        """The cores that the relay used."""
        used = [now - then for now, then in zip(self._cpu(), before, strict=True)]
        cpu = sum(used)
        big = {"MB": ("GB", 1e9)}.get(unit, (f"1,000 {unit}", 1e3))
        self.noted[f"{what}: {unit}/s"].append(done / scale / seconds)
        self.noted[f"{what}: CPU s per {big[0]}"].append(cpu / (done / big[1]))
        self.noted[f"{what}: {unit} per CPU s of the busiest process"].append(done / scale / max(used))
        self.noted[f"{what}: share of the busiest process"].append(max(used) / cpu)
        self.noted[f"{what}: cores used by the relay"].append(cpu / seconds)
        return cpu / seconds

    def _say(self, line: str) -> None:
        self._commands.write(line.encode() + b"\n")
        self._commands.flush()

    def _answer(self) -> dict[str, float]:
        answer: dict[str, float] = json.loads(self._answers.readline())
        return answer

    def close(self) -> None:
        """The load ends when its input does."""
        self._commands.close()
        self._answers.close()


def busy_seconds() -> float:
    """CPU time that all programs of this machine together have used (proc(5), stat)."""
    user, nice, system, _idle, _waiting, irq, softirq, *_ = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def _table(contenders: Sequence[Contender], headings: Sequence[str]) -> str:
    lines = ["| | " + " | ".join(headings) + " | ratio |", "|---" * 4 + "|"]
    for what in contenders[0].noted:
        medians = [statistics.median(contender.noted[what]) for contender in contenders]
        shown = [
            f"{median:.3g} ({', '.join(f'{value:.3g}' for value in contender.noted[what])})"
            for median, contender in zip(medians, contenders, strict=True)
        ]
        ratio = f"{medians[1] / medians[0]:.2f}" if medians[0] else "-"  # on a quiet machine others use nothing
        lines.append(f"| {what} | " + " | ".join(shown) + f" | {ratio} |")
    return "\n".join(lines)


def _run(processes: Processes, folder: Path, options: argparse.Namespace) -> str:
    site = Site(processes, folder)
    counts = [1, options.workers]
    contenders = [Contender(site, processes, count, options.links) for count in counts]
    _, target = processes.helper("target")
    for turn in range(options.rounds):
        for contender in contenders if turn % 2 == 0 else contenders[::-1]:
            if "handshakes" in options.only:
                contender.work("handshakes", "circuits", 1, f"handshakes {options.seconds}")
            for suite in SUITES:
                if "cells" in options.only:
                    contender.work(f"cells in, {suite}", "MB", 1e6, f"cells {suite} {options.megabytes}")
                if "downloads" in options.only:
                    contender.downloads(suite, target, options.megabytes)
            print(f"round {turn + 1} of {options.rounds}: {contender.name} done", file=sys.stderr)
    for contender in contenders:
        contender.close()
    return _table(contenders, ["1 process", f"{options.workers} workers"])


def main() -> None:
    """Runs it and prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--links", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=WORKS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-workers-") as name, Processes() as processes:
        facts = describe(processes, with_tor=False)
        load = os.getloadavg()[0]
        table = _run(processes, Path(name), options)
    print("; ".join(facts.values()), f"; load average before {load:.1f}, after {os.getloadavg()[0]:.1f}", sep="")
    print(table)


if __name__ == "__main__":
    main()
