"""Fairness: how shares are compared, and the prompt beside bulk streams, directly and through plain forwarders."""

import pytest

from tests.benchmarks import beside
from tests.benchmarks.beside import prompt_beside, slowest
from tests.benchmarks.networks import Chain
from tests.benchmarks.processes import Processes, free_ports
from tests.benchmarks.socks import Failed, Route


@pytest.mark.parametrize(
    ("shares", "percent"), [([5, 5], 100.0), ([8, 10, 9], 80.0), ([0, 10], 0.0), ([0, 0], 0.0), ([], 0.0)]
)
def test_the_slowest_is_told_in_percent_of_the_fastest(shares: list[int], percent: float) -> None:
    assert slowest(shares) == percent


@pytest.mark.parametrize("forwarded", [False, True], ids=["direct", "forwarders"])
def test_a_prompt_is_answered_while_all_bulk_streams_move(
    forwarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "SETTLE", 0.1)
    with Processes() as processes:
        _, port = processes.helper("target")
        route = Route(port)
        if forwarded:
            chain = Chain("forwarders", port, processes)
            chain.start()
            route = chain.route
        found = prompt_beside(route, 4, 0.5, processes)
    assert len(found.echoes) >= 1
    assert all(seconds > 0 for seconds in found.echoes)
    assert len(found.shares) == 4
    assert min(found.shares) > 0
    assert found.problems == []


def test_bulk_streams_that_do_not_open_are_a_failure_and_leave_no_process() -> None:
    with Processes() as processes:
        with pytest.raises(Failed, match="only 0 of 2"):
            prompt_beside(Route(free_ports(1)[0]), 2, 0.1, processes)
