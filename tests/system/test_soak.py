"""The soak test in short: requests as fast as they go leave nothing behind in any process. `make soak` is the hour."""

from pathlib import Path

import pytest

from tests.soak.__main__ import WARM, request
from tests.soak.watch import compare, look
from tests.system.network import Network, wait_until
from tests.system.targets import WebTarget

pytestmark = pytest.mark.system
REQUESTS, NEW_NAME = 300, 60


def test_hundreds_of_requests_leave_threads_descriptors_and_memory_as_they_were(tmp_path: Path) -> None:
    with WebTarget() as web, Network(tmp_path, relays=5) as network:
        proxy = network.proxy()
        processes = [proxy, network.gateway, *network.relays]
        for number in range(WARM):
            assert not request(proxy, web, number, f"warm{number}")
        before = look(processes)
        for number in range(REQUESTS):
            assert not request(proxy, web, number, f"user{number // NEW_NAME}")
        try:
            wait_until(lambda: not compare([before], [look(processes)]))
        except AssertionError:
            pytest.fail("; ".join(compare([before], [look(processes)])))
