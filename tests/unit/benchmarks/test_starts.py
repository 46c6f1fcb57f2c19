"""What importing costs: Python's own record of it, read and added up; and real interpreters."""

from tests.benchmarks import starts

RECORD = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   _io
import time:      2000 |       2500 | common.wire
import time:      1500 |       1500 |   common.wire.cells
warning: something else
"""


def test_the_record_is_read_line_by_line() -> None:
    assert starts.imported(RECORD) == [("_io", 0.1), ("common.wire", 2.0), ("common.wire.cells", 1.5)]


def test_packages_add_up_and_the_heaviest_is_first() -> None:
    found = starts.packages(starts.imported(RECORD))
    assert list(found.items()) == [("common", 3.5), ("_io", 0.1)]


def test_every_program_takes_longer_than_nothing() -> None:
    found = starts.measure(1)
    rows = starts.table(found)
    assert [row[0] for row in rows[1:]] == list(starts.PROGRAMS)
    nothing = found.pop(starts.NOTHING)
    for program in found.values():
        assert program["modules"] > nothing["modules"]
        assert program["packages"]["common"] > 0


def test_a_daemon_loads_nothing_that_is_for_terminals_or_web_pages_alone() -> None:
    found = starts.measure(1)
    for program in ("relay", "gateway", "client, proxy port"):
        assert not {"rich", "requests", "prometheus_client"} & set(found[program]["packages"]), program
