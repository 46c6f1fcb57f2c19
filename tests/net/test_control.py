"""The control socket: who may ask, what is told, and what bad questions and dead clients do."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, OnionError
from common.roles.client import control
from common.roles.client.client import Client
from common.roles.client.control import ControlSocket, ask_all
from common.roles.client.control import control as control_of
from common.roles.client.views import status
from tests.net.in_process import InProcess, threads
from tests.system.targets import PATIENCE, Target, echo

QUESTION = {"command": "status", "targets": False}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network, network.client(3) as client:
        yield client


def ask_raw(path: Path, text: bytes, *, end: bool = True) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(text)
        if end:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65_536):
            answer += piece
        return answer


def test_status_tells_circuits_streams_directory_and_build_times(client: Client, tmp_path: Path) -> None:
    with control_of(client, tmp_path, "socks"), Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
            (answer,) = ask_all(tmp_path, QUESTION)
    assert answer["client"]["pid"] == os.getpid()
    assert answer["client"]["program"] == "socks"
    assert answer["directory"]["relays"] == 3
    assert 0 <= answer["directory"]["valid_for"] <= 600
    (used,) = [circuit for circuit in answer["circuits"] if circuit["state"] == "in use"]
    assert set(used["path"]) == {"r0", "r1", "r2"}
    assert (used["bytes_in"], used["bytes_out"]) == (5, 5)
    assert [(stream["state"], stream["bytes_in"], stream["bytes_out"]) for stream in used["streams"]] == [("open", 5, 5)]
    assert used["suite"] == "fernet"
    assert answer["built"] >= 1
    assert 0 < answer["build_seconds_median"] <= answer["build_seconds_most"]


def test_where_streams_go_is_told_only_when_asked_for(client: Client, tmp_path: Path) -> None:
    with control_of(client, tmp_path, "prompt"), Target(echo) as target, client.connect(target.host, target.port):
        (plain,) = ask_all(tmp_path, QUESTION)
        (asked,) = ask_all(tmp_path, {**QUESTION, "targets": True})
    place = f"{target.host}:{target.port}"
    assert place not in json.dumps(plain)
    assert place in [stream["target"] for circuit in asked["circuits"] for stream in circuit["streams"]]


def test_close_reasons_are_counted(client: Client, tmp_path: Path) -> None:
    with Target(echo) as target, client.connect(target.host, target.port, ("closing",)):
        before = client.pool.close_reasons.get("finished", 0)
        next(circuit for circuit in client.pool.circuits if circuit.isolation == ("closing",)).end()
        assert client.pool.close_reasons["finished"] == before + 1


def test_guards_are_told_by_name_and_circuits_begin_with_one(tmp_path: Path) -> None:
    with InProcess(tmp_path, 4) as network, network.client(3) as client:
        told = status(client)["guards"]
        names = {entry.descriptor.nickname for entry in client.relays()}
        assert {guard["relay"] for guard in told} <= names
        assert all(guard["listed"] for guard in told)
        assert {view.path[0] for view in client.circuits()} <= {guard["relay"] for guard in told}
        assert any(guard["until"] for guard in told)


def test_only_our_own_user_may_connect(tmp_path: Path) -> None:
    with ControlSocket(tmp_path, lambda question: question) as listening:
        mode = listening.path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"null\n", b"[]\n", b"{", b"\xff\xfe\n", b"[" * 3_000 + b"\n", b"{}" * 100_000, b'"x"\n'],
    ids=["nothing", "empty", "null", "list", "cut", "no-utf8", "deep", "long", "text"],
)
def test_a_bad_question_gets_a_sentence_or_nothing_and_the_next_one_an_answer(tmp_path: Path, text: bytes) -> None:
    with ControlSocket(tmp_path, lambda question: {"heard": question}) as listening:
        try:
            answer = ask_raw(listening.path, text)
            assert "one line of JSON" in json.loads(answer)["error"]
        except (BrokenPipeError, ConnectionResetError):
            assert len(text) > control.MAX_QUESTION
        assert ask_all(tmp_path, QUESTION) == [{"heard": QUESTION}]


def test_one_who_connects_and_says_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ASK_TIME", 0.2)
    with ControlSocket(tmp_path, lambda question: {"heard": question}) as listening:
        assert ask_raw(listening.path, b"", end=False) == b""
        assert ask_all(tmp_path, QUESTION) == [{"heard": QUESTION}]


def test_an_unknown_command_is_a_sentence(client: Client, tmp_path: Path) -> None:
    with control_of(client, tmp_path, "prompt"):
        assert ask_all(tmp_path, {"command": "stop"}) == [{"error": "the one command is status"}]


def test_a_bug_in_an_answer_ends_one_connection_only(tmp_path: Path) -> None:
    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if "bug" in question:
            raise ZeroDivisionError
        return {"fine": True}

    with ControlSocket(tmp_path, answer):
        with pytest.raises(OnionError, match="does not answer"):
            ask_all(tmp_path, {"bug": 1})
        assert ask_all(tmp_path, QUESTION) == [{"fine": True}]


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[]\n", 100_000 * b"["], ids=["no JSON", "list", "deep"])
def test_who_answers_nonsense_is_named(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control-1.sock"))
        listening.listen()
        listening.settimeout(PATIENCE)

        def respond() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.recv(4_096)
                sock.sendall(answer)

        responding = threading.Thread(target=respond)
        responding.start()
        with pytest.raises(OnionError, match=r"control-1\.sock: the client there does not answer"):
            ask_all(tmp_path, QUESTION)
        responding.join(PATIENCE)


def test_sockets_of_dead_clients_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / "control-1.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    assert dead.exists()
    assert ask_all(tmp_path, QUESTION) == []
    assert not dead.exists()


def test_a_folder_with_a_long_name_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    with ControlSocket(folder, lambda question: question):
        assert ask_all(folder, QUESTION) == [QUESTION]
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        ControlSocket(tmp_path / "file" / "below", lambda question: question)


def test_two_clients_with_one_folder_both_answer(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from common.roles.client.control import ControlSocket\n"
        f"with ControlSocket(Path({str(tmp_path)!r}), lambda question: {{'me': 'other'}}):\n"
        "    print('ready', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with ControlSocket(tmp_path, lambda question: {"me": "this"}):
            assert {answer["me"] for answer in ask_all(tmp_path, QUESTION)} == {"this", "other"}
    finally:
        other.communicate(timeout=PATIENCE)
    assert ask_all(tmp_path, QUESTION) == []


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = threads()
    with ControlSocket(tmp_path, lambda question: question):
        assert ask_all(tmp_path, QUESTION)
        assert any(thread.name == "control" for thread in threading.enumerate())
    assert threads() == before
    assert not list(tmp_path.iterdir())
