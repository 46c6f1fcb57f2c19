"""The control socket: how `status` asks the clients that run, and nobody else may.

A client listens on `control-PID.sock` in its state folder, mode 0600: its own user (and root) can connect. One
connection is one question and one answer, each a line of JSON of bounded length, within a deadline:

    {"command": "status", "targets": false}     ->  {"client": ..., "circuits": [...], ...}  or  {"error": ...}

Several clients may share a folder: each has its own socket. One whose process has died is removed by whoever
finds it. Where streams go is told only when asked for, so that a status can be shown around.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from common.errors import ConfigError, OnionError
from common.net.deadline import Deadline
from common.ops.files import private_folder
from common.roles.client.views import status

if TYPE_CHECKING:
    from common.roles.client.client import Client

MAX_QUESTION = 4_096  # bytes
MAX_ANSWER = 16 * 2**20  # bytes: 60,000 streams
ASK_TIME = 2.0  # seconds for a question to come, and for its answer to be taken
ANSWER_TIME = 5.0  # seconds that who asks waits
_PATTERN = "control-*.sock"
_LONGEST_NAME = 100  # bytes of a socket's path that every system takes (108 with the end, in Linux)

_logger = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class ControlSocket:
    """Listens while entered; `answer` is called on its thread and may raise `OnionError` with a sentence."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self._folder = private_folder(folder)
        self._answer = answer
        self.path = folder / f"control-{os.getpid()}.sock"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def __enter__(self) -> Self:
        """Raises `ConfigError` when the folder cannot hold a socket."""
        fresh = self.path.with_suffix(".new")  # under its own name only once it listens: else it would look dead
        try:
            fresh.unlink(missing_ok=True)
            os.fchmod(self._sock.fileno(), 0o600)  # before it has a name: nobody else connects in between
            with _short(fresh) as name:
                self._sock.bind(name)
            self._sock.listen(8)
            os.replace(fresh, self.path)
        except OSError as error:
            self._sock.close()
            raise ConfigError(f"{self.path}: cannot be used as a control socket: {error.strerror}") from None
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # only that wakes `accept`
        except OSError:
            pass
        self._thread.join(2 * ASK_TIME)
        self._sock.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            with sock:
                try:
                    self._serve(sock)
                except OSError as error:
                    _logger.debug("control: %s", error)
                except Exception:
                    _logger.exception("control: unexpected error")

    def _serve(self, sock: socket.socket) -> None:
        line = _read_line(sock, MAX_QUESTION, Deadline(ASK_TIME))
        try:
            question = json.loads(line)
            if not isinstance(question, dict):
                raise ValueError
            answer = self._answer(question)
        except (ValueError, RecursionError):
            answer = {"error": "a question is one line of JSON, an object, of at most 4,096 bytes"}
        except OnionError as error:
            answer = {"error": str(error)}
        sock.settimeout(ASK_TIME)
        sock.sendall(json.dumps(answer).encode() + b"\n")


@contextmanager
def control(client: "Client", folder: Path, program: str) -> Iterator[None]:
    """While entered, `status` can ask this client."""
    start = monotonic()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if question.get("command") != "status":
            raise OnionError("the one command is status")
        me = {"pid": os.getpid(), "program": program, "age": monotonic() - start}
        return {"client": me, **status(client, targets=question.get("targets") is True)}

    with ControlSocket(folder, answer):
        yield


def ask_all(folder: Path, question: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of all clients that run with this state folder; sockets of dead ones are removed."""
    answers = []
    for path in sorted(folder.glob(_PATTERN)):
        try:
            answers.append(_ask(path, question))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except (OSError, ValueError, RecursionError) as error:
            raise OnionError(f"{path}: the client there does not answer: {error}") from None
    return answers


def _ask(path: Path, question: dict[str, Any]) -> dict[str, Any]:
    deadline = Deadline(ANSWER_TIME)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(deadline.left())
        with _short(path) as name:
            sock.connect(name)
        sock.sendall(json.dumps(question).encode() + b"\n")
        answer = json.loads(_read_line(sock, MAX_ANSWER, deadline))
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer


def _read_line(sock: socket.socket, limit: int, deadline: Deadline) -> bytes:
    """One line, or what there is at the end or the limit; raises `TimeoutError`."""
    data = bytearray()
    while len(data) <= limit and not data.endswith(b"\n"):
        sock.settimeout(max(0.001, deadline.left()))
        piece = sock.recv(min(65_536, limit + 1 - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data) if len(data) <= limit else b""


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """The path as a socket may be named: folders can be deeper than that, so the last one is named by number."""
    if len(os.fsencode(path)) <= _LONGEST_NAME:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
