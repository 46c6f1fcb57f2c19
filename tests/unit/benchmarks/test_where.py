"""Where the time goes: what samplers say, what the pieces cost, and the tables made of both."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from common.crypto.handshake import Suite
from tests.benchmarks import layers, where_chart, where_report
from tests.benchmarks.layers import Costs, expected
from tests.benchmarks.stacks import (
    INTERPRETER,
    LAYERS,
    LIBC,
    TLS,
    Stack,
    file_shares,
    function_shares,
    library_shares,
    parse_stacks,
    waiting_share,
)

LINK = "Link._read (/some/where/common/net/link.py)"
RUN = "Thread.run (/usr/lib/python3.11/threading.py)"


def test_a_stack_is_a_thread_its_frames_and_a_count() -> None:
    text = f"thread (7): link 1 reader;{RUN};{LINK};recv (libc.so.6) 12\nno stack\nthread (8): x;{RUN} many\n"
    assert parse_stacks(text) == [Stack("thread (7): link 1 reader", (RUN, LINK, "recv (libc.so.6)"), 12)]


def test_waiting_threads_are_counted_in_looks_at_all_threads() -> None:
    """In half of 10 looks one thread waits for the lock, in one of them another too."""
    stacks = [
        Stack("main", ("x", "sem_wait (libc.so.6)"), 10),
        Stack("a", (LINK, "pthread_cond_timedwait (libc.so.6)", "0x1 (libc.so.6)"), 5),
        Stack("a", (LINK, "recv (libc.so.6)"), 5),
        Stack("b", (LINK, "pthread_cond_timedwait (libc.so.6)"), 1),
    ]
    assert waiting_share(stacks) == (0.6, 10)
    assert waiting_share([]) == (0.0, 0)


def test_a_sample_belongs_to_the_innermost_python_function() -> None:
    stacks = [
        Stack("a", (RUN, LINK, "recv (libc.so.6)"), 3),
        Stack("b", (RUN, "Link._send (/some/where/common/net/link.py)"), 2),
        Stack("b", (RUN,), 5),
        Stack("c", ("start (libc.so.6)",), 90),
    ]
    functions = function_shares(stacks)
    assert functions == {
        "python3.11/threading.py Thread.run": 0.5,
        "net/link.py Link._read": 0.3,
        "net/link.py Link._send": 0.2,
    }
    assert file_shares(functions) == {"python3.11/threading.py": 0.5, "net/link.py": 0.5}
    assert function_shares([]) == {}


def test_libraries_share_the_time_outside_the_kernel() -> None:
    report = """# Overhead,Shared Object
 50.00% ,[kernel.kallsyms]
 20.00% ,libpython3.11.so.1.0
 10.00% ,libcrypto.so.3
  5.00% ,_ssl.cpython-311-x86_64-linux-gnu.so
  5.00% ,_rust.abi3.so
 10.00% ,libc.so.6
"""
    assert library_shares(report) == {
        INTERPRETER: pytest.approx(0.4),
        TLS: pytest.approx(0.3),
        LAYERS: pytest.approx(0.1),
        LIBC: pytest.approx(0.2),
    }
    assert library_shares("") == {}


def test_pieces_are_counted_as_often_as_the_protocol_calls_for_them() -> None:
    """10,000 bytes a cell are 100,000 cells per GB: a microsecond each is 0.1 s."""
    us = 1e-6
    found = expected(
        Costs(10_000, seal=1 * us, open=2 * us, tls_write=3 * us, tls_read=4 * us, encode=5 * us, parse=6 * us)
    )
    assert set(found) == set(layers.PROCESSES)
    assert found["client"] == pytest.approx({"TLS": 0.4, "layers": 0.6, "framing": 0.6})
    assert found["entry"] == found["middle"] == pytest.approx({"TLS": 0.7, "layers": 0.1, "framing": 1.1})
    assert found["exit"] == pytest.approx({"TLS": 0.3, "layers": 0.1, "framing": 0.5})


@pytest.mark.parametrize("suite", list(Suite))
def test_the_real_pieces_are_timed(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "REPEATS", 3)
    monkeypatch.setattr(layers, "CELLS", 64)
    costs = layers.measure(suite, tmp_path)
    assert 15_000 < costs.data < 16_384
    assert min(costs.seal, costs.open, costs.tls_write, costs.tls_read, costs.encode, costs.parse) > 0


def found() -> dict[str, Any]:
    """As `where.look_into` gives it, round numbers: each process 2 s/GB outside and 1 s/GB inside the kernel."""
    processes = {
        name: {
            "user": 2.0,
            "system": 1.0,
            "libraries": {},
            "files": {"net/link.py": 1.0},
            "waiting": 0.25,
            "looks": 80,
        }
        for name in layers.PROCESSES
    }
    pieces = {name: {"TLS": 0.5, "layers": 0.25, "framing": 0.25} for name in layers.PROCESSES}
    load = {"rate": 1.0, "processes": processes}
    return {"fernet": {"costs": {}, "expected": pieces, "download": load, "streams": load}}


def test_what_is_not_a_known_piece_is_rest_and_all_adds_up() -> None:
    rows = where_report.pieces(found())
    assert rows[1] == ["fernet, client", "0.50", "0.25", "0.25", "1", "1", "3", "0.25"]
    assert rows[-1] == ["**fernet, all**", "2", "1", "1", "4", "4", "12", "1"]


def test_what_no_sampler_saw_is_said_to_be_missing() -> None:
    data = found()
    texts = where_report.sections(data)
    assert texts["where_libraries"] == texts["where_functions"] == where_report.NOT_MEASURED
    assert "`net/link.py` 100" in texts["where_files"]
    for process in data["fernet"]["download"]["processes"].values():
        del process["waiting"]
    assert where_report.pieces(data)[-1][-1] == "-"
    assert set(where_report.sections({}).values()) == {where_report.NOT_MEASURED}


def test_a_streams_cost_is_told_in_microseconds() -> None:
    data = found()
    data["fernet"]["streams"]["processes"]["client"] |= {"user": 0.0005, "system": 0.00025}
    assert where_report.streams(data)[1] == ["fernet, client", "500", "250", "750", "0.25"]


def test_libraries_are_told_in_seconds() -> None:
    data = found()
    data["fernet"]["download"]["processes"]["client"]["libraries"] = {INTERPRETER: 0.5, TLS: 0.5}
    assert where_report.libraries(data) == [
        ["CPU s/GB", INTERPRETER, LIBC, TLS, LAYERS, "kernel"],
        ["fernet, client", "1", "0", "1", "0", "1"],
    ]


def test_the_chart_has_a_bar_of_five_parts_for_each_process_inside_its_picture() -> None:
    root = ElementTree.fromstring(where_chart.draw(found()))
    space = "{http://www.w3.org/2000/svg}"
    parts = [each for each in root.findall(f"{space}rect") if each.attrib["height"] == "16"]
    assert len(parts) == 5 * len(layers.PROCESSES)
    ends = [float(each.attrib["x"]) + float(each.attrib["width"]) for each in parts]
    assert max(ends) <= float(root.attrib["width"])
    ElementTree.fromstring(where_chart.draw({}))
