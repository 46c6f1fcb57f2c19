"""Measures over a wide area on one machine and writes docs/performance-wan.md: `python -m tests.benchmarks.wan`.

Needs Linux and root; with C tor installed it is measured in the same namespaces. MB are 1e6 bytes. A transfer is timed
from its request to its last byte, so its start counts; the connection's opening does not.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

from tests.benchmarks import tor
from tests.benchmarks.machine import describe
from tests.benchmarks.processes import ROOT, Processes, cpu_seconds
from tests.wide_area.hosts import WideArea, missing
from tests.wide_area.load import Bulk, echoes
from tests.wide_area.programs import Failed, WidePrograms
from tests.wide_area.target import Target
from tests.wide_area.tor import WideTor

MB = 1_000_000
SIZE, WARM_UP = 20 * MB, 10 * MB
LIMIT = 20.0  # seconds for one transfer
SETTLE = 4.0  # seconds a transfer runs before a prompt beside it is measured
DRAIN = 2.0  # seconds between two works: what the last left on its way is gone
HOSTS = 5
FAT = {"delay": 25.0, "rate": 200.0, "loss": 0.0}
SLOW = 10.0  # Mbit/s
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
PAGE = ROOT / "docs" / "performance-wan.md"

Open = Callable[[tuple[str, int], str], Any]
Row = dict[str, list[float]]


class Wide:
    """All measurements of a run, by net, contender and what was measured."""

    def __init__(self, area: WideArea, target: Target) -> None:
        self.area = area
        self.target = target
        self.rows: dict[str, dict[str, Row]] = {}
        self.problems: list[str] = []

    def note(self, net: str, who: str, what: str, value: float) -> None:
        """Keeps a value and says it."""
        self.rows.setdefault(net, {}).setdefault(who, {}).setdefault(what, []).append(value)
        print(f"{net}, {who}, {what}: {value:.4g}", flush=True)

    # ---- works

    def transfers(self, net: str, who: str, open_: Open, runs: int) -> None:
        """Down and up, after a warm-up each."""
        for what, work in (("down", self._down), ("up", self._up)):
            for run in range(-1, runs):
                size = SIZE if run >= 0 else WARM_UP
                before = cpu_seconds([self.area.forwarder_pid])
                try:
                    seconds = work(open_, size)
                except (Failed, OSError) as error:
                    self.problems.append(f"{net}, {who}, {what}: {error}")
                    continue
                if run >= 0:
                    self.note(net, who, what, size / seconds / MB)
                    used = cpu_seconds([self.area.forwarder_pid]) - before
                    self.note(net, who, "emulator", used / seconds)

    def _down(self, open_: Open, size: int) -> float:
        with open_(self.target.address, "bulk") as stream:
            stream.settimeout(LIMIT)
            begin, space = monotonic(), bytearray(1 << 18)
            # A file of that size: of bytes without end some megabytes would be left on the way, to be met by the next.
            stream.sendall(b"F" + size.to_bytes(8, "big"))
            while size > 0:
                count = stream.recv_into(space)
                if not count:
                    raise Failed("the stream ended early")
                size -= count
            return monotonic() - begin

    def _up(self, open_: Open, size: int) -> float:
        with open_(self.target.address, "bulk") as stream:
            stream.settimeout(LIMIT)
            begin, wanted = monotonic(), self.target.taken + size
            stream.sendall(b"U" + bytes(size))
            while self.target.taken < wanted:
                if monotonic() - begin > LIMIT:
                    raise Failed("not within the limit")
                sleep(0.002)
            return monotonic() - begin

    def prompts(self, net: str, who: str, open_: Open, count: int) -> None:
        """A prompt alone, beside a transfer on another circuit, and on the same one."""
        with open_(self.target.address, "alone") as stream:
            idle = echoes(stream, count)
        self.note(net, who, "idle", 1_000 * median(idle))
        for up in (False, True):
            for where in ("other", "same"):
                sleep(DRAIN)
                name = f"{where} {'up' if up else 'down'}"
                try:
                    self._beside(net, who, open_, count, name, up=up)
                except (Failed, OSError) as error:
                    self.problems.append(f"{net}, {who}, {name}: {error}")

    def _beside(self, net: str, who: str, open_: Open, count: int, name: str, *, up: bool) -> None:
        user = name if name.startswith("same") else f"{name} circuit"
        prompt, stream = open_(self.target.address, user), open_(self.target.address, name)
        prompt.settimeout(LIMIT)
        with prompt, Bulk(stream, up=up) as bulk:
            sleep(SETTLE)
            begin, moved = monotonic(), self.target.taken if up else bulk.moved
            times = echoes(prompt, count)
            moved = (self.target.taken if up else bulk.moved) - moved
            self.note(net, who, f"{name}, median", 1_000 * times[len(times) // 2])
            self.note(net, who, f"{name}, p95", 1_000 * times[int(0.95 * len(times))])
            self.note(net, who, f"{name}, transfer", moved / (monotonic() - begin) / MB)


@contextmanager
def _contender(name: str, area: WideArea, folder: Path, processes: Processes, keys: Any) -> Iterator[Open]:
    """Starts one; gives how its streams are opened."""
    if name == "direct":
        yield lambda target, _user: area.hosts[4].make(lambda: _connect(target))
    elif name.startswith("C tor"):
        with WideTor(area, folder, processes, keys, fast="fast" in name) as network:
            yield network.open
    else:
        folder.mkdir()
        with WidePrograms(area, folder, name) as ours:
            yield ours.open


def _connect(target: tuple[str, int]) -> Any:
    return socket.create_connection(target, LIMIT)


def main(arguments: Sequence[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.wan")
    parser.add_argument("--runs", type=int, default=3, help="transfers of each kind [3]")
    parser.add_argument("--echoes", type=int, default=100, help="of a prompt, 10 a second [100]")
    parser.add_argument("--nets", default="fat,lossy,relay,client", help="which nets [fat,lossy,relay,client]")
    parser.add_argument("--who", default="direct,fernet,aes-gcm,C tor fast,C tor default", help="which contenders")
    parser.add_argument("--mtu", type=int, default=1_500, help="bytes of a packet: larger ones cost less [1500]")
    parser.add_argument("--tcp", default="", help="the hosts' TCP: cubic, bbr, reno, ... [this machine's]")
    parser.add_argument("--json", type=Path, default=PAGE.with_suffix(".json"), metavar="FILE")
    options = parser.parse_args(arguments)
    if lack := missing():
        print(f"a wide area cannot be made here: {lack}", file=sys.stderr)
        return 1
    allowed = ALLOWED.read_text().split()
    if options.tcp and options.tcp not in allowed:
        print(f"hosts may have {', '.join(allowed)}: change net.ipv4.tcp_allowed_congestion_control", file=sys.stderr)
        return 1
    who = [name for name in options.who.split(",") if tor.installed() or not name.startswith("C tor")]
    with (
        tempfile.TemporaryDirectory() as folder,
        Processes() as processes,
        WideArea(HOSTS, options.mtu, options.tcp, **FAT) as area,
    ):
        with_tor = any("tor" in name for name in who)
        # A relay for each of the first three hosts, and no more: the client has the fourth.
        keys = tor.make_keys(Path(folder) / "keys", processes, tor.AUTHORITIES) if with_tor else []
        with Target(area.hosts[5]) as target:
            wide = Wide(area, target)
            for name in who:
                for net in options.nets.split(","):
                    _shape(area, net)
                    if net in ("relay", "client") and name == "direct":
                        continue
                    place = Path(folder) / f"{name} {net}"
                    try:
                        with _contender(name, area, place, processes, keys) as open_:
                            if net in ("fat", "lossy"):
                                wide.transfers(net, name, open_, options.runs)
                            else:
                                wide.prompts(net, name, open_, options.echoes)
                    except (Failed, OSError) as error:
                        wide.problems.append(f"{net}, {name}: {error}")
        numbers = {
            "command": sys.argv[1:],
            "machine": describe(processes, with_tor=bool(keys)),
            "load": os.getloadavg(),
            "rows": wide.rows,
            "problems": wide.problems,
        }
        options.json.write_text(json.dumps(numbers, indent=1, default=str) + "\n")
        print(table(wide.rows))
        print("\n".join(wide.problems))
    return 0


def _shape(area: WideArea, net: str) -> None:
    area.set(**FAT)
    if net == "lossy":
        area.set(loss=0.1)
    elif net == "relay":
        area.set(2, rate=SLOW)
    elif net == "client":
        area.set(4, rate=SLOW)


def table(rows: dict[str, dict[str, Row]]) -> str:
    """One Markdown table for each net: the median, and least and most."""
    text = ""
    for net, contenders in rows.items():
        whats = list(dict.fromkeys(what for row in contenders.values() for what in row))
        text += f"\n| {net} | {' | '.join(contenders)} |\n|---|{'---|' * len(contenders)}\n"
        for what in whats:
            cells = [_cell(row.get(what, [])) for row in contenders.values()]
            text += f"| {what} | {' | '.join(cells)} |\n"
    return text


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
    return f"{median(values):.3g}{spread}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
