"""What tests of whole networks share. Those marked `soak` run only when asked for: `pytest -m soak`."""

from collections.abc import Iterator

import pytest

from tests.system.network import Network, ProxyProcess
from tests.system.targets import WebTarget


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: takes minutes; runs only with -m soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in str(config.getoption("markexpr")):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="runs with -m soak"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Five relays, which a module's tests share and leave as they were."""
    with Network(tmp_path_factory.mktemp("network"), relays=5) as network:
        yield network


@pytest.fixture(scope="module")
def proxy(network: Network) -> ProxyProcess:
    """A client with paths of five relays."""
    return network.proxy("--hops", "5")


@pytest.fixture(scope="module")
def web() -> Iterator[WebTarget]:
    with WebTarget() as web:
        yield web
