"""The benchmark as a command: options, and a short run of real networks that leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.goals import DIRECT, FORWARDERS, SUITES
from tests.benchmarks.processes import ROOT


def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def test_an_unknown_work_is_refused_with_those_there_are() -> None:
    done = run("--only", "echo,nothing")
    assert done.returncode == 2
    assert "'nothing' is not one of" in done.stderr


def test_a_run_can_be_shown_and_written_again(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    numbers.write_text(
        json.dumps({"about": {"system": "x"}, "samples": {"fernet": {"cpu": [3.0]}}, "problems": []})
    )
    done = run("--again", numbers, "--out", tmp_path / "page.md")
    assert done.returncode == 0, done.stderr
    assert "CPU of client and relays" in done.stdout
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# Performance")
    assert (tmp_path / "page.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.system
def test_a_short_run_measures_both_suites_and_names_no_path(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = run("--quick", "--rounds", 1, "--without-tor", "--only", "echo,circuits,network_start", "--out", page)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert data["problems"] == []
    assert set(data["samples"]) == {*SUITES, FORWARDERS, DIRECT}
    for suite in SUITES:
        assert {"echo_median", "circuit_rate", "network_start"} <= set(data["samples"][suite])
    assert str(tmp_path) not in page.read_text(encoding="utf-8")
    assert str(ROOT) not in page.read_text(encoding="utf-8")
