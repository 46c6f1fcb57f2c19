"""How one gateway carries 10,000 relays and 1,000 clients: `make bench-directory`.

A real `gateway.py` process, with dial-back and all. The relays are simulated by processes of one thread each,
which speak the real protocol with real keys (see `simulated_relays`). All share this machine's cores, so what is
said about the gateway's share is from its own CPU time, and what is said about lateness is worse here than on a
machine of its own. RELAYS, CLIENTS and SECONDS in the environment make it smaller.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common.net.deadline import Deadline
from common.ops.lifecycle import raise_file_limit
from tests.benchmarks.helper import Helper
from tests.benchmarks.processes import Processes, cpu_seconds, resident_mb

RELAYS = int(os.environ.get("RELAYS", "10000"))
CLIENTS = int(os.environ.get("CLIENTS", "1000"))
SECONDS = float(os.environ.get("SECONDS", "60"))
SIMULATORS = 4
NETWORK = "bench"
PING = 5.0
PATIENCE = 600.0


class Bench:
    """The gateway's process, its relays and its clients, and what was found."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.results: list[tuple[str, str, str]] = []
        self._processes = processes
        self._folder = folder
        self._gateway = ""
        self._key = ""
        self._pid = 0
        self._start_gateway()
        self._relays = [self._simulator(number) for number in range(SIMULATORS)]
        self._clients: Helper | None = None

    def _start_gateway(self) -> None:
        state = self._folder / "gateway"
        command: list[str | Path] = [
            sys.executable,
            "gateway.py",
            "--listen",
            "127.0.0.1:0",
            "--state",
            state,
            "--network",
            NETWORK,
        ]
        child = self._processes.start([*command, "--log-level", "warning"], self._folder / "gateway.log")
        deadline = Deadline(30)
        while not (state / "ready").exists():
            assert child.poll() is None, (self._folder / "gateway.log").read_text()
            assert not deadline.expired
            time.sleep(0.05)
        ready = json.loads((state / "ready").read_text())
        self._gateway, self._key, self._pid = ready["address"], ready["identity"], child.pid

    def _simulator(self, number: int) -> Helper:
        count = RELAYS // SIMULATORS
        keys = self._folder / f"keys{number}"
        keys.mkdir()
        arguments = (self._gateway, self._key, NETWORK, keys, number * count, count)
        return Helper(self._processes, "simulated_relays", *arguments)

    def note(self, what: str, found: str, goal: str = "") -> None:
        """One line of the table, also shown at once."""
        print(f"{what}: {found}", file=sys.stderr)
        self.results.append((what, found, goal))

    def register(self) -> None:
        """All relays, at once."""
        for helper in self._relays:
            assert helper.answer()["made"]
        start, cpu = time.monotonic(), cpu_seconds([self._pid])
        for helper in self._relays:
            helper.say("begin")
        deadline = Deadline(PATIENCE)
        while (listed := sum(helper.ask("report")["listed"] for helper in self._relays)) < RELAYS:
            assert not deadline.expired, listed
            time.sleep(0.5)
        took = time.monotonic() - start
        self.note("registering all, dialled back", f"{took:.0f} s, {RELAYS / took:.0f} a second")
        self.note("CPU of a registration", f"{(cpu_seconds([self._pid]) - cpu) / RELAYS * 1e3:.2f} ms")

    def connect(self) -> Helper:
        """The clients; waits until the newest document lists all relays."""
        self._clients = clients = Helper(
            self._processes, "simulated_clients", self._gateway, self._key, NETWORK, CLIENTS
        )
        clients.answer()
        deadline = Deadline(60)
        while (report := clients.ask("count"))["relays"] < RELAYS:
            assert not deadline.expired, report
            time.sleep(0.5)
        self.note("document", f"{report['size'] / 1e6:.1f} MB signed")
        return clients

    def steady(self, what: str, work: str | None, goal: str) -> None:
        """The gateway's share of a core for a while, and how late pings were."""
        for helper in self._relays:
            helper.ask("report")
        start, cpu = time.monotonic(), cpu_seconds([self._pid])
        if work is not None and self._clients is not None:
            report = self._clients.ask(f"{work} {SECONDS}")
            self.note(f"{what}: answers", f"{report['a second']:.0f} a second, longest {report['longest']:.2f} s")
        else:
            time.sleep(SECONDS)
        share = (cpu_seconds([self._pid]) - cpu) / (time.monotonic() - start)
        reports = [helper.ask("report") for helper in self._relays]
        lost = sum(report["lost"] for report in reports)
        late = max(report["longest"] for report in reports) - PING
        self.note(f"{what}: CPU", f"{share:.0%} of a core", goal)
        self.note(f"{what}: relays lost, latest ping", f"{lost:.0f}, {late:.2f} s late", "0")

    def measure(self) -> None:
        """Everything."""
        self.register()
        time.sleep(2 * PING)
        self.steady("at rest", None, "< 30 %")
        self.note("memory", f"{resident_mb(self._pid):.0f} MB", "< 500 MB")
        clients = self.connect()  # now, since the gateway ends clients that ask nothing for a minute
        self.steady(f"{CLIENTS} clients polling", "poll", "")
        self._asking(clients, "unchanged", 10)
        self._asking(clients, "full", 20)
        self.note("memory after that", f"{resident_mb(self._pid):.0f} MB")
        self._relays[0].ask("mute")
        report = clients.ask(f"below {RELAYS}")
        self.note("a dead relay leaves", f"{report['seconds']:.1f} s", "< 12 s")
        missed = sum(helper.ask("report")["lost"] for helper in self._relays)
        self.note("relays lost in all", f"{missed:.0f}", "0")

    def _asking(self, clients: Helper, what: str, seconds: float) -> None:
        for helper in self._relays:
            helper.ask("report")
        cpu = cpu_seconds([self._pid])
        report = clients.ask(f"{what} {seconds}")
        cost = (cpu_seconds([self._pid]) - cpu) / report["answers"] * 1e3
        longest = max(helper.ask("report")["longest"] for helper in self._relays)
        found = f"{report['a second']:.0f} a second, {report['MB'] / report['answers'] * 1e3:.1f} kB each"
        self.note(f"CPU of a list ({what})", f"{cost:.2f} ms")
        self.note(f"lists served ({what})", f"{found}; latest ping {longest - PING:.2f} s late")

    def close(self) -> None:
        """Ends the helpers."""
        for helper in [*self._relays, self._clients]:
            if helper is not None:
                helper.close()


def main() -> None:
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="bench-directory-") as name, Processes() as processes:
        bench = Bench(processes, Path(name))
        try:
            bench.measure()
        finally:
            bench.close()
            print((Path(name) / "gateway.log").read_text(), file=sys.stderr)
    table = Table("", f"{RELAYS:,} relays, {CLIENTS:,} clients", "goal")
    for row in bench.results:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
