"""The benchmark's works against its own target, directly and through the plain forwarders: real processes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import work
from tests.benchmarks.networks import Chain
from tests.benchmarks.processes import Processes, cpu_seconds, free_ports, resident_mb
from tests.benchmarks.socks import Failed, Route
from tests.benchmarks.target import MB

LIMIT = 20.0


@pytest.fixture(scope="module")
def routes() -> Iterator[dict[str, Route]]:
    with Processes() as processes:
        _, port = processes.helper("target")
        chain = Chain("forwarders", port, processes)
        chain.start()
        yield {"direct": Route(port), "forwarders": chain.route}


@pytest.fixture(params=["direct", "forwarders"])
def route(request: pytest.FixtureRequest, routes: dict[str, Route]) -> Route:
    return routes[request.param]


@pytest.mark.parametrize("streams", [1, 16])
def test_a_download_brings_every_byte(route: Route, streams: int) -> None:
    transfer = work.download(route, streams, 4 * MB, LIMIT, lambda: 1.0)
    assert (transfer.count, transfer.problems, transfer.cpu) == (4 * MB, [], 0.0)
    assert transfer.rate > 0


def test_an_upload_is_acknowledged_to_the_last_byte(route: Route) -> None:
    assert work.upload(route, 3 * MB, LIMIT).count == 3 * MB


def test_a_transfer_stops_at_its_limit(route: Route) -> None:
    transfer = work.download(route, 2, 100_000 * MB, 0.1)
    assert 0 < transfer.count < 100_000 * MB
    assert transfer.problems == []


def test_echo_and_first_byte_count_what_was_asked(route: Route) -> None:
    assert len(work.echo(route, 20, LIMIT)) == 20
    assert len(work.first_bytes(route, 10, LIMIT)) == 10


def test_new_streams_a_second(route: Route) -> None:
    problems: list[str] = []
    assert work.stream_rate(route, 4, 0.2, problems) > 0
    assert problems == []


def test_many_streams_are_open_at_once_while_looked_at(route: Route) -> None:
    problems: list[str] = []
    looked: list[bool] = []
    many = work.open_many(route, 50, LIMIT, problems, lambda: looked.append(True))
    assert (many.failures, problems, looked) == (0, [], [True])


def test_what_cannot_be_reached_is_a_failure_not_a_hang() -> None:
    nobody = Route(free_ports(1)[0])
    problems: list[str] = []
    assert work.open_many(nobody, 3, LIMIT, problems, lambda: None).failures == 3
    assert len(problems) == 3
    with pytest.raises(Failed):
        work.until_first_byte(nobody, lambda: True, 0.05)
    with pytest.raises(Failed):
        work.until_first_byte(nobody, lambda: False, LIMIT)


def test_leaving_ends_what_was_started_and_a_signal_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Processes() as processes:
        child, _ = processes.helper("target")
        assert cpu_seconds([child.pid]) >= 0
        assert resident_mb(child.pid) > 1
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 0.0)  # a place where the interpreter looks
    assert child.returncode is not None
    assert not Path(f"/proc/{child.pid}").exists()
    assert signal.getsignal(signal.SIGTERM) is before
