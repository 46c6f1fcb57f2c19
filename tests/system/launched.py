"""A network started by the launcher, as a person starts it, and its client as a process: on this host or another."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.net.in_process import wait_until

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds after which a test that hangs fails

Where = Callable[..., list[str]]  # makes of a command line the one that runs it somewhere


def here(*arguments: object) -> list[str]:
    """On this host."""
    return list(map(str, arguments))


def environment() -> dict[str, str]:
    """This process's, without what would configure or proxy a program under test."""
    names = [name for name in os.environ if not name.startswith("TOR_NETWORK") and "proxy" not in name.lower()]
    return {name: os.environ[name] for name in names} | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Launched:
    """Use `with`: all relays are listed; at the end all are stopped."""

    def __init__(self, state: Path, relays: int, *options: str, where: Where = here) -> None:
        self.state = state
        self._start = [str(relays), *options]
        self._where = where
        self.client = 0

    def __enter__(self) -> Self:
        try:
            self.tell(*self._start)
        except BaseException:
            self.tell("stop")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.tell("stop")

    def tell(self, *arguments: str) -> None:
        """One command of the launcher."""
        done = self.run(*arguments)
        assert done.returncode == 0, done

    def run(self, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """One command of the launcher, with `text` on its standard input, whatever comes of it."""
        return subprocess.run(
            self._command(self._where, *arguments),
            cwd=ROOT,
            env=environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _command(self, where: Where, *arguments: str) -> list[str]:
        return where(sys.executable, "-m", "common.ops.launcher", "--state", self.state, *arguments)

    @contextmanager
    def proxy(self, log: Path, *options: str, where: Where = here) -> Iterator[str]:
        """A client's proxy port: its address. `log` gets all that the client says; `client` is its process id."""
        command = self._command(where, "client", "socks", "--listen", "127.0.0.1:0", *options)
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=file, stderr=file)
        self.client = process.pid
        try:
            wait_until(lambda: b"ctrl-c ends it" in log.read_bytes() or process.poll() is not None)
            found = re.search(r"proxy port (127\.0\.0\.1:\d+)", log.read_text())
            assert found is not None, log.read_text()
            yield found[1]
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0, log.read_text()
