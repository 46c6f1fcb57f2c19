"""From start to end of a program: exit codes, signals, and what the launcher reads.

Exit codes: 0 fine, 1 failed, 2 usage or configuration, 130 on ctrl-c.

Signals are read as bytes by a thread of their own (`signal.set_wakeup_fd`): a Python handler runs in the middle
of whatever the main thread does, where setting an event or taking a lock may wait for itself.
"""

import errno
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

from common.errors import ConfigError, OnionError
from common.ops.files import private_folder, write_private

FAILED, USAGE, INTERRUPTED = 1, 2, 130
READY_FILE, PID_FILE = "ready", "pid"
_logger = logging.getLogger(__name__)
_ENDING = (signal.SIGTERM, signal.SIGINT)


def main(function: Callable[[], int | None]) -> NoReturn:
    """Runs a program and exits: errors meant for people become one line on standard error and an exit code.

    A crash leaves no core file: keys and passwords would be in it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        code = function() or 0
        sys.stdout.flush()
    except ConfigError as error:
        code = _say(error, USAGE)
    except OnionError as error:
        code = _say(error, FAILED)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
        if error.errno == errno.ENOSPC:  # else who read our output has gone, as `head` does: no bug of ours
            print("the output cannot be written: no space is left where it goes", file=sys.stderr)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _say(error: OnionError, code: int) -> int:
    print(error, file=sys.stderr)
    return code


def raise_file_limit() -> int:
    """Lets this process open as many files as it may, and returns how many: each stream is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # some systems have a lower limit that they do not tell; what was before stays
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def hold_hang_ups() -> None:
    """From now on a SIGHUP waits for `Signals`: it would end a program that is only starting. The main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


class Signals:
    """While entered: SIGTERM and SIGINT set `stop`, a second one ends the process, SIGHUP calls `on_reload`.

    Only the main thread may enter it. `on_reload` has a thread of its own, where it may wait; a SIGHUP that comes
    meanwhile calls it once more. After the end SIGHUP is ignored: what is left to do is to end in order.
    """

    def __init__(self, on_reload: Callable[[], None] | None = None) -> None:
        self.stop = threading.Event()
        self._on_reload = on_reload
        self._interrupted = False
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._hung_up = threading.Event()
        self._over = False
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._thread = threading.Thread(target=self._read, name="signals", daemon=True)
        self._reloader = threading.Thread(target=self._reload, name="reload", daemon=True)

    @property
    def exit_code(self) -> int:
        """130 when ctrl-c asked for the end, else 0."""
        return INTERRUPTED if self._interrupted else 0

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writing.fileno())
        for number in (*_ENDING, signal.SIGHUP):
            self._before[number] = signal.signal(number, lambda _number, _frame: None)
        self._thread.start()
        if self._on_reload is not None:
            self._reloader.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # see `hold_hang_ups`
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before[signal.SIGHUP] = signal.SIG_IGN
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._over = True
        self._hung_up.set()
        signal.set_wakeup_fd(-1)
        self._writing.close()  # the thread reads the end
        self._thread.join(5.0)
        self._reading.close()

    def _read(self) -> None:
        while number := self._reading.recv(1):
            self._received(number[0])

    def _received(self, number: int) -> None:
        if number in _ENDING:
            if self.stop.is_set():
                os._exit(128 + number)  # asked twice: now
            self._interrupted = number == signal.SIGINT
            self.stop.set()
        elif number == signal.SIGHUP:
            self._hung_up.set()

    def _reload(self) -> None:
        assert self._on_reload is not None
        while self._hung_up.wait() and not self._over:
            self._hung_up.clear()
            try:
                self._on_reload()
            except OnionError as error:
                _logger.error("not reloaded: %s", error)
            except Exception:
                _logger.exception("unexpected error while reloading")


def tell_started() -> None:
    """Tells the service manager that started this process, if it wants to know: sd_notify(3), `Type=notify`."""
    name = os.environ.pop("NOTIFY_SOCKET", "")  # no child of ours speaks for us
    if not name:
        return
    address = "\0" + name[1:] if name.startswith("@") else name  # Linux's sockets without a file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"READY=1", address)
    except OSError as error:
        _logger.warning("the service manager was not told of the start: %s", error.strerror)


@contextmanager
def ready(state: Path, address: str, identity: bytes, http: str = "") -> Iterator[None]:
    """While entered, `state` holds the files `pid` and `ready`; enter it when the daemon can be dialled.

    `ready` is JSON: pid, address (host:port as bound), identity (hex), http (host:port of the status page, empty
    without one). Raises `ConfigError` when the disk refuses.
    """
    private_folder(state)
    pid_file, ready_file = state / PID_FILE, state / READY_FILE
    text = json.dumps({"pid": os.getpid(), "address": address, "identity": identity.hex(), "http": http})
    try:
        write_private(pid_file, f"{os.getpid()}\n".encode())
        write_private(ready_file, text.encode() + b"\n")
        tell_started()
        yield
    finally:
        ready_file.unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)
