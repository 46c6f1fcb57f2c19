"""Two versions side by side, as a command."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.processes import ROOT


def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.versions", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "is no checkout" in done.stderr


def test_a_work_that_does_not_compare_two_running_networks_is_refused() -> None:
    done = run(".", "--only", "circuits")
    assert done.returncode == 2
    assert "'circuits' is not one of" in done.stderr


def test_a_python_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = run(".", "--python", tmp_path / "python")
    assert done.returncode == 2
    assert "is no program" in done.stderr


@pytest.mark.system
def test_the_others_programs_are_run_by_the_python_that_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\necho "$1" >>{runs}\nexec {sys.executable} "$@"\n')
    other.chmod(0o700)
    done = run(".", "--python", other, "--rounds", 1, "--only", "echo")
    assert done.returncode == 0, done.stderr
    scripts = [Path(line).name for line in runs.read_text().splitlines()]
    assert sorted(scripts) == ["client_tor.py", "gateway.py", *["relay.py"] * 5]


@pytest.mark.system
def test_both_networks_do_the_work_and_are_compared() -> None:
    done = run(".", "--rounds", 1, "--only", "echo")
    assert done.returncode == 0, done.stderr
    heading, *rows = [line.split() for line in done.stdout.splitlines()]
    assert heading == ["here", "other", "here", "against", "other"]
    (median,) = [row for row in rows if "median," in row]
    mine, theirs, ratio = float(median[-4]), float(median[-3]), float(median[-2])
    assert ratio == pytest.approx(theirs / mine, rel=0.02)
