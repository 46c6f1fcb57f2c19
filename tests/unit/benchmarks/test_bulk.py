"""The load as a program: both kinds, told to count while they run, directly at the target."""

import pytest

from tests.benchmarks.helper import Helper
from tests.benchmarks.processes import Processes


@pytest.mark.parametrize(("streams", "word"), [(3, ""), (4, "small")])
def test_each_stream_or_worker_is_counted_from_begin_on(streams: int, word: str) -> None:
    with Processes() as processes:
        _, target = processes.helper("target")
        with Helper(processes, "bulk", target, 0, streams, *word.split()) as bulk:
            assert bulk.answer() == {"open": streams}
            assert bulk.ask("begin") == {}
            report = bulk.ask("count")
            while min(report["counts"]) == 0:
                report = bulk.ask("count")
            assert len(report["counts"]) == streams
            assert report["problems"] == []
        assert bulk.process.wait(10) == 0, "it did not end with its input"
