"""Where the time goes: the processes of one circuit looked into, under bulk and under many new streams.

Three passes over the same load, one after another, since each look disturbs the next: CPU time from /proc with
perf beside it, then who holds the interpreter lock, then who waits for it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from common.ops.values import SUITES as SUITE_NAMES
from common.roles.client.control import ask_all
from tests.benchmarks import layers, sampler
from tests.benchmarks.helper import Helper
from tests.benchmarks.networks import Ours
from tests.benchmarks.processes import Processes, cpu_times
from tests.benchmarks.socks import Failed
from tests.benchmarks.stacks import file_shares, function_shares, library_shares, waiting_share

SECONDS = 4.0  # of each pass
SETTLE = 1.0
WORKERS = 32
MOST_SHARES = 12  # functions and files of each process, kept
# Load: arguments of `bulk`, and how many of what it counts are a unit: bytes in a GB, streams in a stream.
LOADS: dict[str, tuple[Sequence[object], float]] = {"download": ((1,), 1e9), "streams": ((WORKERS, "small"), 1.0)}

Found = dict[str, Any]  # as it stands in the JSON file: see `look_into`


def look_into(ours: Ours, suite: str, processes: Processes, folder: Path, seconds: float = SECONDS) -> Found:
    """The pieces' costs, and for each load what the processes did; `folder` takes files and must be new.

    {"costs": ..., "expected": ..., LOAD: {"rate": units/s, "processes": {NAME: {"user": s/unit, "system": s/unit,
    "libraries": {class: share}, "files": {name: share}, "functions": {name: share}, "waiting": threads,
    "looks": count}}}}; what needs a sampler that is not installed is missing or empty.
    """
    folder.mkdir(parents=True)
    costs = layers.measure(SUITE_NAMES[suite], folder)
    found: Found = {"costs": asdict(costs), "expected": layers.expected(costs)}
    for load in LOADS:
        found[load] = _under(load, ours, processes, folder, seconds)
    return found


def _under(load: str, ours: Ours, processes: Processes, folder: Path, seconds: float) -> Found:
    words, unit = LOADS[load]
    with Helper(processes, "bulk", ours.route.entry, ours.route.target or 0, *words) as bulk:
        try:
            bulk.answer()
            before = _received(ours)
            sleep(SETTLE)
            pids = _carriers(ours, before)
            bulk.ask("begin")
            begun, first = perf_counter(), {name: cpu_times(pid) for name, pid in pids.items()}
            reports = sampler.libraries(pids, seconds, processes, folder)
            sleep(max(0.0, begun + seconds - perf_counter()))
            report, last = bulk.ask("count"), {name: cpu_times(pid) for name, pid in pids.items()}
            units = sum(report["counts"]) / unit
            rate = units / (perf_counter() - begun)
            if not units:
                raise Failed("nothing came: " + "; ".join(report["problems"]))
            running = sampler.stacks(sampler.Look.RUNNING, pids, seconds, processes, folder)
            waiting = sampler.stacks(sampler.Look.WAITING, pids, seconds, processes, folder)
        finally:
            processes.end([bulk.process])
    found: dict[str, Found] = {}
    for name in pids:
        user, system = ((after - earlier) / units for earlier, after in zip(first[name], last[name], strict=True))
        found[name] = {"user": user, "system": system, "libraries": library_shares(reports.get(name, ""))}
        if name in running:
            functions = function_shares(running[name])
            found[name]["files"] = _most(file_shares(functions))
            found[name]["functions"] = _most(functions)
        if name in waiting:
            found[name]["waiting"], found[name]["looks"] = waiting_share(waiting[name])
    return {"rate": rate, "processes": found}


def _most(shares: dict[str, float]) -> dict[str, float]:
    return dict(list(shares.items())[:MOST_SHARES])


def _received(ours: Ours) -> dict[int, int]:
    """Bytes received by each circuit of the client."""
    return {circuit["number"]: circuit["bytes_in"] for circuit in _circuits(ours)}


def _circuits(ours: Ours) -> list[dict[str, Any]]:
    answers = ask_all(ours.client_state, {"command": "status"})
    if not answers:
        raise Failed("the client does not answer")
    circuits: list[dict[str, Any]] = answers[0]["circuits"]
    return circuits


def _carriers(ours: Ours, before: dict[int, int]) -> dict[str, int]:
    """The processes of the circuit that has received the most since: the client, and its relays by their place."""
    assert ours.client is not None
    busiest = max(_circuits(ours), key=lambda circuit: circuit["bytes_in"] - before.get(circuit["number"], 0))
    relays = zip(layers.PROCESSES[1:], busiest["path"], strict=True)
    return {"client": ours.client.pid} | {name: ours.relay_pid(nickname) for name, nickname in relays}
