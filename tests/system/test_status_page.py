"""The status page of gateway.py and of a network that the launcher started."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from common.ops.config import load
from common.ops.launcher_commands import Launcher
from common.ops.launcher_state import Folder, Settings
from tests.system.network import ROOT, Process, run_script, wait_until
from tests.system.test_scripts import _one_sentence

pytestmark = pytest.mark.system


def fetch(url: str) -> bytes:
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20", url]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def test_the_launcher_shows_the_page_of_its_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Launcher(tmp_path / "network")
    try:
        launcher.start(1, Settings(None, "local"))
        started = capsys.readouterr().out
        found = re.search(r"http://127\.0\.0\.1:\d+/", started)
        assert found, started
        page = found[0]
        wait_until(lambda: b">relay1<" in fetch(page))  # it is a second behind at most
        assert json.loads(fetch(page + "status.json"))["relays"][0]["nickname"] == "relay1"
        assert b"onion_gateway_relays 1.0" in fetch(page + "metrics")
        launcher.restart("gateway")
        assert launcher.status() == 0
        assert page in capsys.readouterr().out, "a restart keeps the address"
    finally:
        folder = Folder(tmp_path / "network", ROOT)
        folder.end(folder.recorded())


def test_a_gateway_has_no_page_unless_told(tmp_path: Path) -> None:
    assert load("gateway", [], {}).http is None
    gateway = Process("gateway", tmp_path, "gateway.py", "--listen", "127.0.0.1:0")
    try:
        gateway.wait_ready()
        assert json.loads((gateway.state / "ready").read_text())["http"] == ""
        assert "status page" not in gateway.said()
        port = gateway.address
        done = run_script("gateway.py", "--listen", "127.0.0.1:0", "--http", port, "--state", tmp_path / "other")
        assert done.returncode == 2
        assert _one_sentence(done.stderr) == f"http: cannot listen on {port}: address already in use; choose another port"
    finally:
        assert gateway.stop() == 0
