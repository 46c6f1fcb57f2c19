"""The client as a person has it: the real program, at a real terminal where that matters, in a whole network."""

import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from select import select
from typing import Any

import pytest

from common.net.deadline import Deadline
from common.roles.prompt.prompt import worth_keeping
from tests.net.in_process import NETWORK, InProcess
from tests.system.targets import PATIENCE, VALUES, Target, WebTarget, wait_reset

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"PATH": os.environ.get("PATH", ""), "TERM": "xterm", "LANG": "C.UTF-8", "COLUMNS": "120"}


needs_readline = pytest.mark.skipif(find_spec("readline") is None, reason="this Python is built without readline")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture
def options(network: InProcess, tmp_path: Path) -> list[str]:
    address, key = network.pin
    state = str(tmp_path / "client")
    return ["--gateway", str(address), "--gateway-key", key.hex(), "--network", NETWORK, "--state", state, "--hops", "3"]


def command(options: list[str], *words: str) -> list[str]:
    return [sys.executable, str(ROOT / "client_tor.py"), *options, *words]


def run(options: list[str], *words: str, text: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(options, *words), input=text, capture_output=True, text=True, timeout=60, env={**QUIET, **environ}, cwd="/"
    )


class Terminal:
    """A program at a terminal: what a person types and sees."""

    def __init__(self, words: list[str], environ: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True, cwd="/",
            preexec_fn=lambda: _take_terminal(slave),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, line: str) -> None:
        os.write(self._master, line.encode())

    def until(self, text: str) -> str:
        """What is shown up to a text, which is then behind us."""
        deadline = Deadline(PATIENCE)
        while text not in self.seen:
            assert not deadline.expired, f"{text!r} was never shown, but {self.seen!r}"
            self._read(deadline.left())
        before, _, self.seen = self.seen.partition(text)
        return before

    def interrupt(self, text: str) -> None:
        """Ctrl-c until `text` is shown: Python's readline misses a signal in the moment before it waits for a key."""
        for _ in range(10):
            self.type("\x03")
            patience = Deadline(2.0)
            while text not in self.seen and not patience.expired:
                self._read(patience.left())
            if text in self.seen:
                break
        self.until(text)

    def _read(self, seconds: float) -> bool:
        if not select([self._master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            data = b""
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def end(self) -> int:
        """Waits for the program's end: its exit code."""
        while self._read(PATIENCE):
            pass
        code = self.process.wait(PATIENCE)
        os.close(self._master)
        return code


def _take_terminal(slave: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(options: list[str], *words: str, **environ: str) -> Iterator[Terminal]:
    shown = Terminal(command(options, *words), {**QUIET, **environ})
    try:
        yield shown
    finally:
        if shown.process.poll() is None:
            shown.process.kill()
            shown.process.wait()


# ---- at a terminal


def test_ctrl_c_ends_the_request_and_its_stream_and_not_the_client(options: list[str]) -> None:
    asked, reset = threading.Event(), threading.Event()

    def stall(sock: socket.socket, ending: threading.Event) -> None:
        sock.recv(4_096)
        asked.set()
        if wait_reset(sock):
            reset.set()

    with terminal(options) as shown, Target(stall) as target, WebTarget() as web:
        shown.until("[web/git/server] ")
        shown.type(f"web 127.0.0.1:{target.port}/\n")
        assert asked.wait(PATIENCE)
        shown.until("asking 127.0.0.1 through the network")
        shown.type("\x03")
        shown.until("cancelled; quit or ctrl-d leaves")
        assert reset.wait(PATIENCE), "the stream was not closed"
        shown.until("[web/git/server] ")
        shown.type(f"web {web.url}/values\n")
        shown.until(f"200 OK, {len(VALUES):,} bytes")
        shown.until("[web/git/server] ")
        shown.type("quit\n")
        assert shown.end() == 0


def test_the_prompt_knows_what_it_says_and_goes_on_after_anything_wrong(options: list[str]) -> None:
    with terminal(options) as shown:
        for line, answer in [
            ("web ftp://x", "ftp: is not a scheme that web knows"),
            ("web a b", "usage: web ADDRESS"),
            ("web x --save", "--save needs the name of a file"),
            ("git no_user", "is no GitHub user name"),
            ("git", "user: "),
            ("", "[web/git/server] "),
            ("srever", "srever is none of web, git, server, path, status, new, help, quit"),
            ("server", "no login server is known"),
            ("server login a secret", "usage: server [signup|login] [NAME]"),
            ("server login a --accept-key x", "--accept-key: not a key: 64 hex digits"),
            ('"', "is none of"),
            ("web 127.0.0.1:1", "refuses connections"),
            ("status", "network test: 3 relays"),
            ("path", "messages at exit"),
            ("", "Network test"),
            ("new", "new identity"),
            ("help", "how many public repositories"),
        ]:
            if answer != "[web/git/server] ":  # it has been shown
                shown.until("[web/git/server] ")
            shown.type(line + "\n")
            shown.until(answer)
            if answer == "[web/git/server] ":
                shown.type("\n")  # the network's own page
                shown.until("Network test")
        shown.until("[web/git/server] ")
        shown.type("half a li")
        shown.until("half a li")
        shown.interrupt("cancelled")
        shown.until("[web/git/server] ")
        shown.type("\x04")
        assert shown.end() == 0


@needs_readline
def test_the_history_is_private_and_holds_no_secret(options: list[str], tmp_path: Path) -> None:
    with terminal(options) as shown:
        for line in ("help", " web hidden.example", "web http://user:secret@127.0.0.1:1/", "new", "server login a secret"):
            shown.until("[web/git/server] ")
            shown.type(line + "\n")
        shown.until("[web/git/server] ")
        shown.type("\x1b[A\x1b[A\n")  # up, up: the line before the last
        shown.until("this text")
        shown.until("[web/git/server] ")
        shown.type("quit\n")
        assert shown.end() == 0
    path = tmp_path / "client" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "help\nnew\nhelp\nquit\n"


def test_a_python_without_readline_has_a_prompt_too(options: list[str], tmp_path: Path) -> None:
    without = tmp_path / "without"
    without.mkdir()
    (without / "readline.py").write_text("raise ImportError\n")  # found before the real one
    with terminal(options, PYTHONPATH=str(without)) as shown:
        shown.until("[web/git/server] ")
        shown.type("srever\n")
        shown.until("srever is none of")
        shown.until("[web/git/server] ")
        shown.type("quit\n")
        assert shown.end() == 0
    assert not (tmp_path / "client" / "history").exists()


def test_no_color_is_honoured(options: list[str]) -> None:
    def wrong(**environ: str) -> str:
        with terminal(options, **environ) as shown:
            shown.until("[web/git/server] ")
            shown.type("web ftp://x\n")
            text = shown.until("use http:// or https://")
            shown.type("quit\n")
            shown.end()
        return text

    assert "\x1b[31m" in wrong()
    assert not re.search("\x1b\\[[0-9;]*3[0-7]m", wrong(NO_COLOR="1"))


def test_status_asks_the_clients_that_run(options: list[str], tmp_path: Path) -> None:
    nobody = run(options, "status")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr == f"no client runs with the state folder {tmp_path / 'client'}: start the prompt, or socks\n"
    with terminal(options) as shown:
        shown.until("[web/git/server] ")
        shown.type("status\n")  # it waits until there is a circuit
        shown.until("network test: 3 relays")
        (answer,) = as_json(run(options, "status", "--json"))
        assert answer["client"] == {"pid": shown.process.pid, "program": "prompt", "age": answer["client"]["age"]}
        assert answer["directory"]["relays"] == 3
        text = run(options, "status").stdout
        assert text.startswith(f"prompt, pid {shown.process.pid}")
        assert "in use" in text or "spare" in text
        shown.type("quit\n")
        assert shown.end() == 0
    assert not list((tmp_path / "client").glob("control-*"))


def test_status_asks_a_running_proxy(options: list[str]) -> None:
    with subprocess.Popen(
        command(options, "socks", "--listen", "127.0.0.1:0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=QUIET
    ) as socks:
        assert socks.stdout is not None
        assert b"proxy port" in socks.stdout.readline()
        (answer,) = as_json(run(options, "status", "--json"))
        assert (answer["client"]["program"], answer["client"]["pid"]) == ("socks", socks.pid)
        socks.send_signal(signal.SIGTERM)
        assert socks.wait(PATIENCE) == 0


def test_status_waits_until_a_client_that_starts_has_a_circuit(options: list[str]) -> None:
    with subprocess.Popen(
        command(options, "socks", "--listen", "127.0.0.1:0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=QUIET
    ) as socks:
        done = run(options, "status", "--wait", "40")
        assert (done.returncode, done.stderr) == (0, "")
        assert "spare" in done.stdout or "in use" in done.stdout
        socks.terminate()
        assert socks.wait(PATIENCE) == 0


def test_status_says_how_far_a_client_is_that_cannot_start(tmp_path: Path) -> None:
    """The gateway takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        pin = ["--gateway", f"127.0.0.1:{gateway.getsockname()[1]}", "--gateway-key", "11" * 32]
        options = [*pin, "--network", NETWORK, "--state", str(tmp_path / "client")]
        with subprocess.Popen(
            command(options, "socks", "--listen", "127.0.0.1:0"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET
        ) as socks:
            connection, _ = gateway.accept()
            with connection:
                assert re.match(r"starting: \d+ %  connecting ", run(options, "status").stdout.splitlines()[1])
                done = run(options, "status", "--wait", "1")
                assert (done.returncode, done.stdout) == (1, "")
                assert re.fullmatch(rf"no circuit after 1 s: socks, pid {socks.pid}: \d+ %, connecting .*\n", done.stderr)
                socks.kill()
    assert run(options, "status", "--wait", "1").stderr.startswith("no circuit after 1 s: no client runs with the state folder")
    for wrong in ("soon", "-1", "1.5", "100000"):
        done = run(options, "status", f"--wait={wrong}")
        assert (done.returncode, "not a number of whole seconds" in done.stderr) == (2, True)


def test_the_prompt_is_there_before_any_circuit_and_can_be_left(tmp_path: Path) -> None:
    """The gateway takes the connection and says nothing, so the client cannot have started."""
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        pin = ["--gateway", f"127.0.0.1:{gateway.getsockname()[1]}", "--gateway-key", "11" * 32]
        with terminal([*pin, "--network", NETWORK, "--state", str(tmp_path / "client")]) as shown:
            shown.until("[web/git/server] ")
            shown.type("help\n")
            shown.until("this text")
            shown.until("[web/git/server] ")
            shown.type("status\n")
            shown.until("connecting to the gateway")
            shown.type("\x03")
            shown.until("cancelled; quit or ctrl-d leaves")
            shown.until("[web/git/server] ")
            shown.type("quit\n")
            assert shown.end() == 0


def test_a_start_that_failed_is_told_to_who_asks_for_something(options: list[str]) -> None:
    done = run([*options, "--exit", "nobody"], text="help\nstatus\nhelp\n")
    assert done.returncode == 1
    assert done.stdout.count("this text") == 1
    assert re.fullmatch(r".*nobody.*\n", done.stderr), done.stderr


# ---- as commands, not at a terminal


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_commands_answer_in_plain_text_and_in_json(options: list[str], tmp_path: Path) -> None:
    with WebTarget() as web:
        printed = run(options, "web", f"{web.url}/values", "--print")
        assert (printed.returncode, printed.stdout.splitlines()[0]) == (0, f"200 OK, {len(VALUES):,} bytes, no type")
        assert "\x1b" not in printed.stdout + printed.stderr
        assert as_json(run(options, "web", f"{web.url}/values", "--json"))["size"] == len(VALUES)
        saved = as_json(run(options, "web", f"{web.url}/values", "--save", str(tmp_path / "saved"), "--json"))
        assert saved["size"] == len(VALUES)
        assert (tmp_path / "saved").read_bytes() == VALUES
        report = as_json(run(options, "path", f"{web.url}/values", "--json"))
        assert len(report["hops"]) == 3


def test_the_prompt_reads_lines_from_a_pipe_and_writes_plain_text(options: list[str], tmp_path: Path) -> None:
    done = run(options, text="help\nweb ftp://x\nstatus\n")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "is not a scheme that web knows" in done.stdout
    assert "network test: 3 relays" in done.stdout
    assert not (tmp_path / "client" / "history").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["web", "ftp://x/"], 2, "ftp: is not a scheme that web knows: use http:// or https://"),
        (["git", "no user"], 2, "'no user' is no GitHub user name"),
        (["path", "file:///x"], 2, "file: is not a scheme"),
        (["web"], 2, "URL"),
        (["wbe", "x"], 2, "invalid choice"),
        (["web", "http://127.0.0.1:1/", "--print"], 1, "127.0.0.1:1 refuses connections"),
        (["git", "octocat", "--github-api", "gopher://x"], 2, "is not a web address like https://api.github.com"),
        (["git", "octocat", "--github-api", "http://127.0.0.1:1"], 1, "GitHub could not be asked"),
        (["--browser", "netscape", "web", "http://127.0.0.1:1/"], 1, "there is no browser netscape"),
        (["web", "x", "--save", "/"], 1, "exists already"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_a_code(options: list[str], words: list[str], code: int, sentence: str) -> None:
    done = run(options, *words)
    lines = [line for line in done.stderr.splitlines() if not re.match(r" *\d+ %", line)]
    assert (done.returncode, done.stdout, len(lines)) == (code, "", 1), done.stderr
    assert sentence in lines[0]


def test_a_config_with_an_unknown_option_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text('browsr = "firefox"\n')
    done = run([], "--config", str(tmp_path / "client.toml"))
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / 'client.toml'}: browsr: unknown option; did you mean browser?\n"


def test_ctrl_c_ends_a_command_with_130(options: list[str], tmp_path: Path) -> None:
    asked = threading.Event()

    def stall(sock: socket.socket, ending: threading.Event) -> None:
        sock.recv(4_096)
        asked.set()
        ending.wait(PATIENCE)

    with Target(stall) as target:
        words = command(options, "web", f"http://127.0.0.1:{target.port}/", "--print")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET) as process:
            assert asked.wait(PATIENCE)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert not out
    assert not list((tmp_path / "client").glob("control-*"))


# ---- what is kept


@pytest.mark.parametrize("line", ["", "  ", " web x", "web http://u:p@h/", "web https://token@h/x", "a\x1bb"])
def test_such_lines_are_not_kept(line: str) -> None:
    assert not worth_keeping(line)


@pytest.mark.parametrize("line", ["web x", "git octocat --list", "web http://h/@path", "quit"])
def test_such_lines_are_kept(line: str) -> None:
    assert worth_keeping(line)
