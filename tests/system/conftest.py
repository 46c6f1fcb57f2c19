"""What tests of whole networks share."""

from collections.abc import Iterator

import pytest

from tests.system.network import Network, ProxyProcess
from tests.system.targets import WebTarget


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
