"""Logging: plain lines, and repeats are counted instead of written."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.ops.config import PROJECT
from common.ops.logs import RepeatFilter, set_up


def record(text: str, *args: object, name: str = "net") -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, __file__, 1, text, args, None)


def test_repeats_are_counted_and_told_with_the_next() -> None:
    now = 0.0
    repeats = RepeatFilter(lambda: now)
    shown = [repeats.filter(record("link %d closed", number)) for number in range(46)]
    assert shown == [True] * 5 + [False] * 41
    assert repeats.filter(record("something else"))
    now = 60.0
    last = record("link %d closed", 99)
    assert repeats.filter(last)
    assert last.getMessage() == "link 99 closed (… 41 more like this)"
    later = record("link %d closed", 100)
    assert repeats.filter(later)
    assert later.getMessage() == "link 100 closed"


def test_a_flood_of_different_lines_is_not_remembered() -> None:
    repeats = RepeatFilter(lambda: 0.0)
    for number in range(10_000):
        assert repeats.filter(record(f"text {number}"))
    assert len(repeats._kinds) == 256


def test_lines_have_time_level_and_role(tmp_path: Path) -> None:
    code = (
        "import logging, pathlib, sys; from common.ops.logs import set_up\n"
        "set_up('relay', 'info', pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)\n"
        "logging.getLogger('x').info('listening on port %d', 7); logging.getLogger('x').debug('not shown')\n"
    )
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO relay: listening on port 7\n"
    to_stderr = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(line, to_stderr.stderr)
    log = tmp_path / "relay.log"
    subprocess.run([sys.executable, "-c", code, str(log)], cwd=PROJECT, check=True, timeout=60)
    assert re.fullmatch(line, log.read_text())


def test_a_log_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened for the log"):
        set_up("relay", "info", tmp_path / "missing" / "relay.log")


def test_no_log_of_a_library_names_a_url(tmp_path: Path) -> None:
    """Not even of an answer that cannot be read: urllib3 warns of one with the whole URL."""
    code = """
import pathlib, socket, sys, threading, requests
from common.ops.logs import set_up
set_up("client", "debug", pathlib.Path(sys.argv[1]))
server = socket.create_server(("127.0.0.1", 0))
def answer():
    sock, _ = server.accept()
    sock.recv(65_536)
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nzebra\\r\\nContent-Length: 0\\r\\n\\r\\n")
    sock.close()
threading.Thread(target=answer).start()
requests.get("http://127.0.0.1:%d/secret-page" % server.getsockname()[1])
"""
    log = tmp_path / "client.log"
    subprocess.run([sys.executable, "-c", code, str(log)], cwd=PROJECT, check=True, timeout=60)
    assert "at level debug" in log.read_text()
    assert "secret-page" not in log.read_text()
