"""Programs that the benchmark starts, and what /proc says of them.

A `Popen` object is kept for each, and only through it is anything ended: its pid is not used again before that.
Each runs in a session of its own, so ctrl-c reaches the benchmark alone, which then ends them all: a signal is
held back while a program is being started, or it would not be known, and while they are being ended.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from common.net.deadline import Deadline
from common.ops.free_ports import FreePorts

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.executable)  # what runs the programs of this checkout
PATIENCE = 8.0  # seconds all have together to end by themselves: our daemons drain for a few
_TICKS = os.sysconf("SC_CLK_TCK")
_OWN_SETTINGS = "TOR_NETWORK_"  # variables that our programs would take for options

Child = subprocess.Popen[bytes]


class Processes:
    """Starts programs; `end` or leaving the `with` ends them. Inside it, in the main thread, ctrl-c and SIGTERM raise
    `KeyboardInterrupt`."""

    def __init__(self) -> None:
        self._running: list[Child] = []
        self._compiled = tempfile.TemporaryDirectory(prefix="bench-compiled-")
        self._handlers: dict[int, Any] = {}  # those there were before
        self._holding = False
        self._interrupted = False

    def start(
        self,
        command: Sequence[str | Path],
        log: Path | None = None,
        *,
        pipe: bool = False,
        commands: bool = False,
        handles: Sequence[int] = (),
    ) -> Child:
        """Starts a program; what it says goes to `log`, or its standard output to a pipe with `pipe`.

        With `commands` its standard input is a pipe too, and what it says on standard error is shown. It inherits the
        file descriptors `handles`.
        """
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_OWN_SETTINGS)}
        # Only the first start compiles our modules, as with users; where they are installed nobody may be able to write.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = self._compiled.name
        with open(log or os.devnull, "ab") as output:
            self._holding = True
            try:
                child = subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.PIPE if commands else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipe else output,
                    stderr=None if commands else output,
                    env=environment,
                    cwd=ROOT,
                    pass_fds=handles,
                    start_new_session=True,
                )
                self._running.append(child)
            finally:
                self._holding = False
        if self._interrupted:
            raise KeyboardInterrupt
        return child

    def helper(self, module: str, *arguments: object) -> tuple[Child, int]:
        """Starts a module of this folder that prints the port it listens on; returns both."""
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
        child = self.start(command, pipe=True)
        assert child.stdout is not None
        with child.stdout as output:
            return child, int(output.readline())

    def end(self, children: Iterable[Child]) -> None:
        """Asks all, waits `PATIENCE` seconds for all together, ends by force what is left."""
        children = list(children)
        for child in children:
            child.terminate()
        deadline = Deadline(PATIENCE)
        for child in children:
            try:
                child.wait(deadline.left())
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._running = [child for child in self._running if child not in children]

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        self._holding = True
        self.end(self._running)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._compiled.cleanup()

    def _interrupt(self, *_: object) -> None:
        if self._holding:
            self._interrupted = True
        else:
            raise KeyboardInterrupt


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that the processes have used so far."""
    return sum(sum(cpu_times(pid)) for pid in pids)


def cpu_times(pid: int) -> tuple[float, float]:
    """User time and system time that a process has used so far (proc(5), stat: fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS


def resident_mb(pid: int) -> float:
    """Memory the process holds now (VmRSS), in MB of 1e6 bytes."""
    return int(_status(pid, "VmRSS").split()[0]) * 1024 / 1e6


def thread_count(pid: int) -> int:
    """The threads the process has now."""
    return int(_status(pid, "Threads"))


def _status(pid: int, field: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.partition(":")[2].strip()
    raise ProcessLookupError(f"process {pid} has ended")


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listens on: for programs whose port must be known before they start."""
    ports = FreePorts("127.0.0.1")
    return [ports.take() for _ in range(count)]
