"""What it costs until a program has been imported: `python -m tests.benchmarks.starts`.

Each program's modules are imported, not run, by a fresh interpreter, in turns with an interpreter that imports nothing;
and once with `-X importtime`, which tells where the time goes. Modules are compiled already, as after a first start. What
counts is CPU time: other programs on the machine change it least.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter
from typing import Any

from tests.benchmarks.processes import ROOT
from tests.benchmarks.report import as_markdown, as_text, number

NOTHING = "nothing"
PROGRAMS = {
    NOTHING: (),
    "relay": ("relay",),
    "gateway": ("gateway",),
    "gateway with a status page": ("gateway", "common.roles.gateway.status_pages"),
    "client, proxy port": ("client_tor",),
    "client, prompt": ("client_tor", "common.roles.prompt.answers", "common.roles.prompt.prompt"),
    "client, a page as text": ("client_tor", "common.roles.prompt.answers", "common.roles.prompt.web"),
}  # the modules that each has loaded when it is ready
TIMES = 20
MOST_PACKAGES = 8  # shown
_LIMIT = 60.0  # seconds for one interpreter

Found = dict[str, Any]  # {PROGRAM: {"cpu": ms, "wall": ms, "modules": count, "packages": {name: ms}}}
Imported = list[tuple[str, float]]  # modules and the milliseconds of each alone


def measure(times: int = TIMES) -> Found:
    """Medians in milliseconds, and the packages' own times."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="bench-compiled-") as compiled:
        for name in PROGRAMS:
            _start(name, [], compiled)  # compiles what is not
        for _ in range(times):
            for name in PROGRAMS:
                taken[name].append(_start(name, [], compiled)[:2])
        for name in PROGRAMS:
            modules = imported(_start(name, ["-X", "importtime"], compiled)[2])
            wall, cpu = (1e3 * statistics.median(values) for values in zip(*taken[name], strict=True))
            found[name] = {"cpu": cpu, "wall": wall, "modules": len(modules), "packages": packages(modules)}
    return found


def _start(name: str, options: Sequence[str], compiled: str) -> tuple[float, float, str]:
    """An interpreter imports what a program does: wall and CPU seconds, and what it says on standard error."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *options, "-c", "\n".join(f"import {module}" for module in PROGRAMS[name])]
    begun, before = perf_counter(), getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"PYTHONPYCACHEPREFIX": compiled},
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=True,
    )
    after = getrusage(RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return perf_counter() - begun, cpu, done.stderr


def imported(text: str) -> Imported:
    """Reads "import time: SELF | CUMULATIVE | MODULE" (microseconds), in the order of the ends of the imports."""
    modules = []
    for line in text.splitlines():
        head, *fields = line.removeprefix("import time:").split("|")
        if len(fields) == 2 and head.strip().isdigit():
            modules.append((fields[1].strip(), int(head) / 1e3))
    return modules


def packages(modules: Imported) -> dict[str, float]:
    """Milliseconds by the first part of the modules' names, the largest first."""
    found: dict[str, float] = {}
    for name, milliseconds in modules:
        package = name.partition(".")[0]
        found[package] = found.get(package, 0.0) + milliseconds
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def table(found: Found) -> list[list[str]]:
    """Rows of cells, the first one the headings."""
    rows = [["", "CPU ms", "ms", "modules", "own time of packages while it is being recorded, ms"]]
    for name, each in found.items():
        heaviest = list(each["packages"].items())[:MOST_PACKAGES]
        shown = ", ".join(f"{package} {number(milliseconds)}" for package, milliseconds in heaviest)
        rows.append([name, number(each["cpu"]), number(each["wall"]), str(each["modules"]), shown])
    return rows


def section(found: Found) -> str:
    """For the page."""
    return as_markdown(table(found)) if found else "Not measured in this run."


if __name__ == "__main__":
    print(as_text(table(measure())))
