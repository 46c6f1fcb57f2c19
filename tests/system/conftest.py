"""What tests of whole networks share."""

import os
from collections.abc import Iterator

import pytest

from tests.system.network import Network, ProxyProcess
from tests.system.targets import WebTarget
from tests.wide_area.hosts import missing


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


@pytest.fixture(scope="module")
def needs_wide_area() -> None:
    """Skips where this machine cannot have hosts within; where all must run it fails."""
    lack = missing()
    if lack and os.environ.get("CI") == "true" and not os.geteuid():
        pytest.fail(lack)
    if lack:
        pytest.skip(lack)
