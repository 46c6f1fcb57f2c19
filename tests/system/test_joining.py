"""The launcher's network with three gateways, and who joins it with nothing but its network.toml."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.ops.config import load
from tests.system.programs import PATIENCE, ROOT, Programs, environment, wait_listed
from tests.system.targets import WebTarget

pytestmark = pytest.mark.system


class Launched:
    """A network of the launcher in a folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.file = state / "network.toml"

    def run(self, *words: str) -> str:
        """One command of launch_network.sh; what it prints."""
        command = [sys.executable, "-m", "common.ops.launcher", "--state", str(self.state), *words]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    network = Launched(tmp_path / "launched")
    try:
        network.run("2", "--gateways", "3")
        yield network
    finally:
        network.run("stop")


def test_a_relay_and_a_client_join_with_the_network_file_alone(launched: Launched, tmp_path: Path) -> None:
    newcomer = load("relay", ["--network", str(launched.file), "--nickname", "newcomer"], {})
    pins = [(pin.address, pin.key) for pin in newcomer.gateways]
    assert len(pins) == 3
    joining = ["--network", str(launched.file)]
    with Programs(tmp_path) as programs, WebTarget() as web:
        programs.relay("newcomer", joining)
        wait_listed(pins, {"relay1", "relay2", "newcomer"})
        launched.run("kill", "gateway")
        assert launched.run("add").count("listed") == 3, "the launcher goes on with two of three gateways"
        launched.run("restart", "gateway")
        wait_listed(pins[:1], {"relay1", "relay2", "relay3", "newcomer"})
        shown, errors = programs.client(joining, "web", f"{web.url}/bytes/9").communicate(timeout=PATIENCE)
        assert "200 OK" in shown, errors
