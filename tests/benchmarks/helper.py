"""A program of the benchmark that takes commands: one line in is one command, one line of JSON out its answer."""

import json
import sys
from typing import IO, Any, Self

from tests.benchmarks.processes import Child, Processes
from tests.benchmarks.socks import Failed

Report = dict[str, Any]


class Helper:
    """A module of this folder in a process of its own; `close`, or the end of `with`, ends it."""

    def __init__(self, processes: Processes, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
        self.process: Child = processes.start(command, pipe=True, commands=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._commands: IO[bytes] = self.process.stdin
        self._answers: IO[bytes] = self.process.stdout

    def say(self, command: str) -> None:
        """Without waiting for the answer."""
        self._commands.write(command.encode() + b"\n")
        self._commands.flush()

    def answer(self) -> Report:
        """The next answer; raises `Failed` when the helper has ended instead."""
        line = self._answers.readline()
        if not line:
            raise Failed("a helper ended without an answer")
        report: Report = json.loads(line)
        return report

    def ask(self, command: str) -> Report:
        """Says a command and waits for its answer."""
        self.say(command)
        return self.answer()

    def close(self) -> None:
        """Closes its pipes; it ends."""
        self._commands.close()
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
