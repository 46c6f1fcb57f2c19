"""Where the time goes, as tables: see `where` for what stands in the numbers. Nothing here waits or measures."""

from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.layers import FRAMING, LAYERS, TLS
from tests.benchmarks.report import as_markdown, number
from tests.benchmarks.stacks import INTERPRETER, LIBC
from tests.benchmarks.stacks import LAYERS as CRYPTOGRAPHY
from tests.benchmarks.stacks import TLS as TLS_LIBRARY

PIECES = (TLS, LAYERS, FRAMING)
LIBRARIES = (INTERPRETER, LIBC, TLS_LIBRARY, CRYPTOGRAPHY)
MOST_NAMES = 6  # functions or files shown of a process
NOT_MEASURED = "Not measured in this run."
_MICRO = 1e6

Found = Mapping[str, Any]
Rows = list[list[str]]


def sections(found: Found) -> dict[str, str]:
    """The template's texts by name; `found` maps suites to what `where.look_into` gave."""
    return {
        "where_pieces": _table(pieces(found)),
        "where_libraries": _table(libraries(found)),
        "where_functions": _table(names(found, "download", "functions")),
        "where_streams": _table(streams(found)),
        "where_files": _table(names(found, "streams", "files")),
    }


def pieces(found: Found) -> Rows:
    """CPU seconds per GB of a download by process: each piece as measured alone, and what is left of the whole."""
    head = ["CPU s/GB", *PIECES, "system calls", "rest", "all", "threads waiting for the lock"]
    rows = [head]
    for suite, each in found.items():
        sums = [0.0] * (len(head) - 1)
        for name, process in each["download"]["processes"].items():
            known = [each["expected"][name].get(piece, 0.0) for piece in PIECES]
            user, system = process["user"], process["system"]
            values = [*known, system, user - sum(known), user + system, process.get("waiting", 0.0)]
            sums = [total + value for total, value in zip(sums, values, strict=True)]
            rows.append([f"{suite}, {name}", *_cells(values, process)])
        rows.append([f"**{suite}, all**", *_cells(sums, next(iter(each["download"]["processes"].values())))])
    return rows


def _cells(values: list[float], process: Found) -> list[str]:
    *seconds, waiting = map(number, values)
    return [*seconds, waiting if "waiting" in process else "-"]


def libraries(found: Found) -> Rows:
    """The same CPU time by the library that the processor was in; empty without perf."""
    rows = [["CPU s/GB", *LIBRARIES, "kernel"]]
    for label, process in _processes(found, "download"):
        shares = process["libraries"]
        if shares:
            values = [shares.get(kind, 0.0) * process["user"] for kind in LIBRARIES]
            rows.append([label, *map(number, [*values, process["system"]])])
    return rows


def streams(found: Found) -> Rows:
    """What one new stream costs each process."""
    rows = [["µs a stream", "user", "system", "both", "threads waiting for the lock"]]
    for label, process in _processes(found, "streams"):
        user, system = process["user"] * _MICRO, process["system"] * _MICRO
        rows.append([label, *_cells([user, system, user + system, process.get("waiting", 0.0)], process)])
    return rows


def names(found: Found, load: str, kind: str) -> Rows:
    """Where the interpreter lock is held, in percent of that time; empty without py-spy."""
    rows = [["", f"{kind}, % of the time the lock is held"]]
    for label, process in _processes(found, load):
        shares = list(process.get(kind, {}).items())[:MOST_NAMES]
        if shares:
            rows.append([label, ", ".join(f"`{name}` {100 * share:.0f}" for name, share in shares)])
    return rows


def _processes(found: Found, load: str) -> Iterator[tuple[str, Found]]:
    for suite, each in found.items():
        for name, process in each[load]["processes"].items():
            yield f"{suite}, {name}", process


def _table(rows: Rows) -> str:
    return as_markdown(rows) if len(rows) > 1 else NOT_MEASURED
