"""Signing up and logging in as a person does: the real program at a real terminal, through a whole network."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.ops.values import LoginServer
from common.roles.auth_client.auth_client import AuthClient
from common.roles.auth_client.pins import Pins
from common.roles.auth_server.auth_server import AuthServer
from common.roles.prompt.login_screen import direct, through
from tests.net.in_process import NETWORK, InProcess
from tests.net.login_peer import serving
from tests.net.test_client_program import (
    QUIET,
    ROOT,
    Terminal,
    as_json,
    command,
    needs_readline,
    run,
    terminal,
)

QUESTION = "[web/git/server] "
PASSWORD, OTHER = "zebra in the attic", "quokka on the roof"
SAFE: dict[str, Any] = {"iterations": 600_000, "fewest_iterations": 600_000}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AuthServer]:
    with serving(tmp_path / "server", **SAFE) as server:
        yield server


@pytest.fixture
def options(network: InProcess, server: AuthServer, tmp_path: Path) -> list[str]:
    address, key = network.pin
    known = ["--gateway", str(address), "--gateway-key", key.hex(), "--network", NETWORK]
    return [*known, "--state", str(tmp_path / "client"), "--hops", "3", "--login", str(server.address)]


def client_of(server: AuthServer, folder: Path) -> AuthClient:
    return AuthClient(direct, LoginServer(server.address, None), Pins(folder))


def sign_up(server: AuthServer, folder: Path, name: str = "alice", password: str = PASSWORD) -> None:
    with client_of(server, folder) as auth:
        auth.sign_up(name, password)


def type_sign_up(shown: Terminal) -> None:
    """At the prompt: two entries that differ, then two that are the same."""
    shown.type("server\n")
    shown.until("sign up or log in? [log in] ")
    shown.type("s\n")
    shown.until("name: ")
    shown.type("alice\n")
    for first, second in (("abc", "abd"), (PASSWORD, PASSWORD)):
        shown.until("new password for alice: ")
        shown.type(first + "\n")
        if first == "abc":
            shown.until("this password is weak")
        shown.until("the same again: ")
        shown.type(second + "\n")
        if first == "abc":
            shown.until("the two differ: once more")


@needs_readline
def test_a_person_signs_up_talks_and_nothing_of_the_password_is_left(
    options: list[str], server: AuthServer, tmp_path: Path
) -> None:
    everything = ""
    with terminal(options) as shown:
        shown.until(QUESTION)
        type_sign_up(shown)
        everything += shown.until("first contact with the login server")
        shown.until("alice is signed up")
        shown.until("logged in as alice")
        shown.until("alice> ")
        shown.type("whoami\n")
        shown.until("alice, here since")
        shown.until("alice> ")
        shown.type("passwd\n")
        shown.until("password of alice: ")
        shown.type(PASSWORD + "\n")
        shown.until("new password for alice: ")
        shown.type(OTHER + "\n")
        shown.until("the same again: ")
        shown.type(OTHER + "\n")
        everything += shown.until("the password is changed")
        shown.until("alice> ")
        command_line = Path(f"/proc/{shown.process.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{shown.process.pid}/environ").read_bytes()
        shown.type("quit\n")
        shown.until(QUESTION)
        shown.type("server login alice\n")
        shown.until("password of alice: ")
        shown.type("not this one\n")
        shown.until("wrong name or password")
        shown.until("password of alice: ")
        shown.type(OTHER + "\n")
        everything += shown.until("logged in as alice")
        shown.until("alice> ")
        shown.type("\x04")
        shown.until(QUESTION)
        shown.type("quit\n")
        assert shown.end() == 0
    for secret in (PASSWORD, OTHER, "not this one"):
        for text in (everything.encode(), command_line, environment):
            assert secret.encode() not in text
        for path in (tmp_path / "client").rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    history = (tmp_path / "client" / "history").read_text().splitlines()
    assert history == ["server", "server login alice", "quit"]


@needs_readline
def test_new_mail_is_shown_when_it_comes_and_what_is_typed_stays(
    options: list[str], server: AuthServer, tmp_path: Path
) -> None:
    sign_up(server, tmp_path)
    sign_up(server, tmp_path, "bob", OTHER)
    with terminal(options, "server", "login", "alice") as shown, client_of(server, tmp_path / "bob") as bob:
        shown.until("password of alice: ")
        shown.type(PASSWORD + "\n")
        shown.until("alice> ")
        bob.log_in("bob", OTHER)
        shown.type("whoa")
        shown.until("whoa")
        bob.send("alice", "hello there")
        shown.until("new mail from bob, 1 in all: inbox shows it")
        shown.until("alice> whoa")
        shown.type("mi\n")
        shown.until("alice, here since")
        shown.until("alice> ")
        shown.type("inbox\n")
        shown.until("hello there")
        shown.until("alice> ")
        shown.type("nonsense\n")
        shown.until("nonsense is none of whoami, send")
        shown.until("alice> ")
        shown.type("logout\n")
        shown.until("logged out")
        assert shown.end() == 0


def test_ctrl_c_at_the_password_leaves_the_client_running_and_the_terminal_as_it_was(options: list[str]) -> None:
    with terminal(options) as shown:
        shown.until(QUESTION)
        shown.type("server login alice\n")
        shown.until("password of alice: ")
        shown.type("half a pass\x03")
        shown.until("cancelled; quit or ctrl-d leaves")
        shown.until(QUESTION)
        shown.type("help\n")
        shown.until("help")  # is shown while it is typed: the terminal shows what is typed again
        shown.until("this text")
        shown.until(QUESTION)
        shown.type("quit\n")
        assert shown.end() == 0


def test_ctrl_c_at_the_password_of_a_command_is_130(options: list[str]) -> None:
    with terminal(options, "server", "login", "alice") as shown:
        shown.until("password of alice: ")
        shown.type("half\x03")
        assert shown.end() == 130
    assert "Traceback" not in shown.seen


def test_a_server_that_ends_is_said_at_the_prompt(network: InProcess, options: list[str], tmp_path: Path) -> None:
    with serving(tmp_path / "other", **SAFE) as server:
        sign_up(server, tmp_path)
        with terminal(options, "--login", str(server.address)) as shown:
            shown.until(QUESTION)
            shown.type("server login alice\n")
            shown.until("password of alice: ")
            shown.type(PASSWORD + "\n")
            shown.until("alice> ")
            server.stop()
            shown.until("the login server shuts down: log in again later")
            shown.until("alice> ")
            shown.type("whoami\n")
            shown.until("the login server shuts down")
            shown.until(QUESTION)
            shown.type("server login alice\n")
            shown.until("password of alice: ")
            shown.type(PASSWORD + "\n")
            shown.until("refuses connections: is the server running")
            shown.until(QUESTION)
            shown.type("quit\n")
            assert shown.end() == 0


# ---- as commands


def say(options: list[str], *words: str, text: str = PASSWORD + "\n") -> "subprocess.CompletedProcess[str]":
    return run(options, "server", *words, "--password-fd", "0", text=text)


def test_commands_are_scriptable_and_answer_in_json(options: list[str], server: AuthServer, tmp_path: Path) -> None:
    made = say(options, "signup", "alice", "--json")
    assert as_json(made) == {"name": "alice", "server_key": Pins(tmp_path / "client").key(server.address).hex()}  # type: ignore[union-attr]
    you = as_json(say(options, "login", "alice", "--command", "whoami", "--json"))
    assert you["name"] == "alice"
    text = say(options, "login", "alice", "--command", "send alice hello", "--command", "inbox")
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("sent to alice\nalice, 20")
    assert text.stdout.endswith(":\n    hello\n")
    changed = say(options, "login", "alice", "--command", "passwd", text=f"{PASSWORD}\n{OTHER}\n")
    assert changed.returncode == 0, changed.stderr
    wrong = say(options, "login", "alice", "--command", "whoami")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.endswith("wrong name or password\n")
    gone = say(options, "login", "alice", "--command", "delete", "--json", text=f"{OTHER}\n")
    assert as_json(gone) == {"deleted": "alice"}


def test_lines_from_a_pipe_are_a_conversation(options: list[str], server: AuthServer, tmp_path: Path) -> None:
    sign_up(server, tmp_path)
    done = say(options, "login", "alice", text=f"{PASSWORD}\nsend alice one\ninbox\nwhat\nwhoami\n")
    assert done.returncode == 0, done.stderr
    assert "    one\n" in done.stdout
    assert "alice, here since" in done.stdout
    assert "what is none of" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_the_login_client_speaks_the_same_words_without_the_network(server: AuthServer, tmp_path: Path) -> None:
    def auth_client(*words: str, text: str) -> "subprocess.CompletedProcess[str]":
        known = ["--login", str(server.address), "--state", str(tmp_path / "state"), "--direct", "--password-fd", "0"]
        return subprocess.run(
            [sys.executable, str(ROOT / "auth_client.py"), *known, *words],
            input=text, capture_output=True, text=True, timeout=60, env=QUIET, cwd="/",
        )  # fmt: skip

    made = auth_client("signup", "alice", text=PASSWORD)
    assert (made.returncode, made.stdout) == (0, "alice is signed up\n")
    assert "first contact with the login server" in made.stderr
    again = auth_client("login", "alice", "--command", "whoami", text=PASSWORD)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("alice, here since")


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize("output", ["full", "gone"])
def test_mail_that_could_not_be_shown_is_not_deleted(
    server: AuthServer, tmp_path: Path, output: str, as_json: list[str]
) -> None:
    with client_of(server, tmp_path) as auth:
        auth.sign_up("alice", PASSWORD)
        auth.log_in("alice", PASSWORD)
        auth.send("alice", "hello")
    if output == "full":
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stdout = os.pipe()
        os.close(reading)
    known = ["--login", str(server.address), "--state", str(tmp_path), "--direct", "--password-fd", "0"]
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "auth_client.py"), *known, "login", "alice", "--command", "inbox", *as_json],
            input=PASSWORD, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, env=QUIET, cwd="/",
        )  # fmt: skip
    finally:
        os.close(stdout)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    with client_of(server, tmp_path) as auth:
        auth.log_in("alice", PASSWORD)
        assert [mail.text for page in auth.mail() for mail in page] == ["hello"]


def test_a_changed_key_is_refused_and_how_to_accept_it_works(
    options: list[str], server: AuthServer, tmp_path: Path
) -> None:
    sign_up(server, tmp_path)
    pins = Pins(tmp_path / "client")
    pins.remember(LoginServer(server.address, b"k" * 32))
    refused = say(options, "login", "alice", "--command", "whoami")
    assert refused.returncode == 1
    assert f"believed {(b'k' * 32).hex()}" in refused.stderr
    accept = refused.stderr.split("--accept-key ")[1].split()[0]
    assert f"shown    {accept}" in refused.stderr
    done = say(options, "login", "alice", "--command", "whoami", "--accept-key", accept)
    assert done.returncode == 0, done.stderr
    assert pins.key(server.address) == bytes.fromhex(accept)
    assert say(options, "login", "alice", "--command", "whoami").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["login", "alice", "hunter2"], 2, "hunter2"),
        (["login", "alice", "--password", "hunter2"], 2, "--password: unknown option"),
        (["login", "a\tb", "--password-fd", "0"], 1, "this name cannot be used"),
        (["login", "alice", "--password-fd", "77"], 2, "77 cannot be read"),
        (["login", "[/red]", "--password-fd", "0"], 1, "a name has letters, digits, and . _ - only"),
        ([], 1, "there is nobody to ask: say signup NAME or login NAME"),
        (["login", "alice"], 2, "there is no terminal to ask for the password: give --password-fd FD"),
        (["login", "alice", "--password-fd", "0", "--login", "127.0.0.1:1"], 1, "refuses connections"),
        (["login", "alice", "--password-fd", "0", "--login", "127.0.0.1:1", "--direct"], 1, "cannot be reached"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_a_code(options: list[str], words: list[str], code: int, sentence: str) -> None:
    done = run(options, "server", *words, text=PASSWORD if words else "")
    lines = [line for line in done.stderr.splitlines() if " %" not in line[:8] and "first contact" not in line]
    asked = "" if words else "sign up or log in? [log in] "
    assert (done.returncode, done.stdout, len(lines)) == (code, asked, 1), done.stderr
    assert sentence in lines[0]


def test_each_login_has_a_circuit_of_its_own(network: InProcess, server: AuthServer) -> None:
    with network.client() as client:
        connect = through(client)
        with connect(server.address.host, server.address.port), connect(server.address.host, server.address.port):
            used = [len(circuit.streams) for circuit in client.circuits() if circuit.streams]
    assert used == [1, 1]


def test_ctrl_c_while_a_password_is_awaited_from_a_pipe_is_130(options: list[str]) -> None:
    reading, writing = os.pipe()
    words = command(options, "server", "login", "alice", "--password-fd", str(reading))
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=QUIET, pass_fds=[reading], cwd="/") as process:
        try:
            assert process.stderr is not None
            shown = b""
            while b"ready" not in shown:
                shown = process.stderr.readline()
                assert shown, "it ended before it was ready"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            os.close(reading)
            os.close(writing)
    assert process.returncode == 130
    assert b"Traceback" not in errors
