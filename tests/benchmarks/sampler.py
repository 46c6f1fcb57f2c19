"""Looks into running programs with perf and py-spy, as far as they are installed: without one its part is left out.

perf interrupts a process some hundred times a second and costs it little. py-spy reads a process's memory from
outside; where it also follows native frames it stops the process for each look.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from tests.benchmarks.processes import Child, Processes
from tests.benchmarks.stacks import Stack, parse_stacks

_LATE = 30.0  # seconds a sampler may take longer than asked for: py-spy reads symbols first
_PERF_RATE = 499  # samples a second, not in step with anything


class Look(Enum):
    """Ways to use py-spy: its options."""

    RUNNING = ("--gil", "--nonblocking", "--rate", "200")  # who holds the interpreter lock
    WAITING = ("--idle", "--native", "--rate", "20")  # all threads, with what they wait in


def libraries(pids: Mapping[str, int], seconds: float, processes: Processes, folder: Path) -> dict[str, str]:
    """For each process perf's report of the libraries that it ran in meanwhile, or nothing without perf."""
    perf = shutil.which("perf")
    if perf is None:
        return {}
    children = {}
    for name, pid in pids.items():
        words = ["record", "-q", "-e", "cpu-clock", "-F", _PERF_RATE, "-o", folder / f"{name}.perf", "-p", pid]
        command = [perf, *map(str, words), "--", "sleep", str(seconds)]
        children[name] = processes.start(command, folder / f"{name}.perf.log")
    _wait(children, seconds, processes)
    return {name: _report(perf, folder / f"{name}.perf", processes) for name in children}


def _report(perf: str, data: Path, processes: Processes) -> str:
    if not data.exists():
        return ""  # not allowed to
    words = ["report", "--stdio", "-F", "overhead,dso", "--sort", "dso", "--field-separator", ","]
    child = processes.start([perf, *words, "-i", data], pipe=True)
    output, _ = child.communicate(timeout=_LATE)
    return output.decode(errors="replace")


def stacks(
    look: Look, pids: Mapping[str, int], seconds: float, processes: Processes, folder: Path
) -> dict[str, list[Stack]]:
    """For each process its stacks meanwhile, or nothing without py-spy."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        return {}
    children = {}
    for name, pid in pids.items():
        words = ["--nolineno", "--full-filenames", "--threads", "--format", "raw", "--duration", round(seconds)]
        where = ["--output", folder / f"{name}.{look.name}", "--pid", pid]
        command = [spy, "record", *look.value, *map(str, [*words, *where])]
        children[name] = processes.start(command, folder / f"{name}.{look.name}.log")
    _wait(children, seconds, processes)
    return {name: _parsed(folder / f"{name}.{look.name}") for name in children}


def _parsed(path: Path) -> list[Stack]:
    return parse_stacks(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else []


def _wait(children: Mapping[str, Child], seconds: float, processes: Processes) -> None:
    try:
        for child in children.values():
            child.wait(seconds + _LATE)
    except subprocess.TimeoutExpired:
        pass  # what it has found so far is lost: the others' is not
    finally:
        processes.end(children.values())
