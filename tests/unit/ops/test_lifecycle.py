"""Signals and exit codes, on real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import ConfigError, OnionError
from common.ops.config import PROJECT
from common.ops.lifecycle import main, raise_file_limit, ready, tell_started

DAEMON = """
import sys
from common.ops.lifecycle import Signals, hold_hang_ups, main
def reload():
    print("reload", flush=True)
    if "failing" in sys.argv:
        raise ValueError
    if "hanging" in sys.argv:
        sys.stdin.read()
def run():
    if "starting" in sys.argv:
        hold_hang_ups()
        print("starting", flush=True); sys.stdin.readline()
    with Signals(reload) as signals:
        if "starting" not in sys.argv:
            print("up", flush=True)
        signals.stop.wait()
        print("stopping", flush=True)
        if "stubborn" in sys.argv:
            import threading; threading.Event().wait()
    if "slow" in sys.argv:
        print("ending", flush=True); sys.stdin.read()
    return signals.exit_code
main(run)
"""


@contextmanager
def daemon(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DAEMON, *arguments]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert line(process) == ("starting" if "starting" in arguments else "up")
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_one_signal_stops(number: signal.Signals, code: int) -> None:
    with daemon() as process:
        process.send_signal(number)
        assert line(process) == "stopping"
        assert process.wait(30) == code


def test_a_second_signal_ends_at_once() -> None:
    with daemon("stubborn") as process:
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stopping"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


@pytest.mark.parametrize("argument", ["", "failing"])
def test_hup_reloads_and_goes_on(argument: str) -> None:
    with daemon(argument) as process:
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert line(process) == "reload"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_hang_up_while_starting_reloads_when_that_is_done() -> None:
    with daemon("starting") as process:
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert line(process) == "reload"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stopping", "both are one"
        assert process.wait(30) == 0


def test_an_end_is_heard_while_reloading_waits() -> None:
    with daemon("hanging") as process:
        process.send_signal(signal.SIGHUP)
        assert line(process) == "reload"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert line(process) == "stopping"
        assert process.wait(30) == 0


def test_a_hang_up_does_not_break_off_the_end() -> None:
    with daemon("slow") as process:
        process.send_signal(signal.SIGTERM)
        assert [line(process), line(process)] == ["stopping", "ending"]
        process.send_signal(signal.SIGHUP)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def raising(error: BaseException) -> Callable[[], int]:
    def function() -> int:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        (lambda: None, 0, ""),
        (lambda: 7, 7, ""),
        (raising(ConfigError("relay.toml: wrong")), 2, "relay.toml: wrong\n"),
        (raising(OnionError("no way")), 1, "no way\n"),
        (raising(KeyboardInterrupt()), 130, ""),
    ],
)
def test_exit_codes(
    function: Callable[[], int | None], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(function)
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = "from common.ops.lifecycle import main; main(lambda: print('x' * 100))"
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, b"")


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        main(lambda: 1 // 0)


def test_ready_says_who_is_where_and_is_removed(tmp_path: Path) -> None:
    with ready(tmp_path / "state", "127.0.0.1:9", b"\xab" * 32):
        told = json.loads((tmp_path / "state" / "ready").read_text())
        assert told == {"pid": os.getpid(), "address": "127.0.0.1:9", "identity": "ab" * 32, "http": ""}
        assert (tmp_path / "state" / "pid").read_text() == f"{os.getpid()}\n"
    assert list((tmp_path / "state").iterdir()) == []


def test_a_crash_leaves_no_core_file_with_secrets() -> None:
    code = (
        "import resource as r; from common.ops.lifecycle import main\n"
        "hard = r.getrlimit(r.RLIMIT_CORE)[1]; r.setrlimit(r.RLIMIT_CORE, (hard, hard))\n"
        "main(lambda: print(r.getrlimit(r.RLIMIT_CORE)[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_the_file_limit_is_what_the_system_allows() -> None:
    code = "import resource; from common.ops.lifecycle import raise_file_limit as r; print(r(), *resource.getrlimit(7))"
    out = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60).stdout
    limit, soft, _ = map(int, out.split())
    assert limit == soft
    assert raise_file_limit() >= 1024 or limit < 1024


def test_a_service_manager_is_told_once_and_no_child_speaks_for_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    monkeypatch.setenv("NOTIFY_SOCKET", "manager")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("manager")
        manager.settimeout(30)
        for _ in range(2):
            tell_started()
        assert manager.recv(100) == b"READY=1"
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
    assert "NOTIFY_SOCKET" not in os.environ


def test_a_service_manager_that_is_gone_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with ready(tmp_path, "127.0.0.1:1", b"i" * 32):
        assert "the service manager was not told of the start" in caplog.text
