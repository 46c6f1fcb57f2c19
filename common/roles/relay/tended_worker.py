"""One worker's place in a relay: at most one process at a time, and a thread that starts it and sees to it.

* A worker that ends is started again: at once when it had run for a while, else after ever longer pauses.
* Processes are started by `subprocess`, which runs no Python in a forked copy of this process and its threads.
  They are in a process group of their own, so that ctrl-c reaches the parent alone, which stops them in order.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from time import monotonic
from typing import Any

from common.errors import Closed, ConfigError, OnionError
from common.net.deadline import Deadline
from common.ops.config import PROJECT
from common.roles.relay import worker_channel
from common.roles.relay.counts import Counts
from common.roles.relay.worker import WorkerSettings
from common.roles.relay.worker_channel import CARRIED, COUNTS, RULES, STOP, Channel

STEADY = 60.0  # seconds a worker has run, after which its end is an accident and not a habit
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before one that keeps ending is started again
MISSED_COUNTS = 6  # counts in a row without an answer, one in ten seconds, after which a worker is taken to hang
GRACE = 1.0  # seconds a process has to end after it said that it does, or should have

_logger = logging.getLogger(__name__)


class TendedWorker:
    """`start` once, `begin_stop` and `join` once; the rest from any thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._changed = threading.Condition()  # guards all below
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._ready = False
        self._failure = ""  # why the last one could not start
        self._down = False  # no more processes
        self._number = 0  # of the last question
        self._answers: dict[str, tuple[int, int]] = {}  # of the present process: question to number and answer
        self._past = 0  # bytes that former processes have told of
        self._counts = Counts()  # of the present process, as of its last answer
        self._past_counts: Counter[str] = Counter()  # what former processes have told of
        self._missed = 0
        self._thread = threading.Thread(target=self._tend, name=f"tends {self.name}", daemon=True)

    def start(self) -> None:
        """Starts the process; returns at once."""
        self._thread.start()

    def wait_ready(self, deadline: Deadline) -> None:
        """Returns when it listens; raises `OnionError`: it cannot, or takes too long."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure, deadline.left())
            if self._failure:
                raise ConfigError(self._failure)
            if not self._ready:
                raise OnionError(f"{self.name} was not ready in time: is the machine very busy?")

    @property
    def carried(self) -> int:
        """Bytes, as of the last answer."""
        with self._changed:
            return self._past + self._answers.get(CARRIED, (0, 0))[1]

    def counts(self, number: int) -> Counts:
        """As told since the question of that `number`; of one that has not answered, what it told before."""
        with self._changed:
            ever = self._past_counts + self._counts.ever
            if self._down and self._channel is None:
                return Counts(ever=ever)  # it has ended, and none follows: nothing is open there
            if self._answered(COUNTS) < number:
                return Counts.silent(ever)
            return Counts(self._counts.now, ever)

    def ask(self, question: str, **details: str) -> int:
        """Asks, and returns the number that `wait_answer` takes."""
        with self._changed:
            self._number += 1
            self._send({"ask": question, "number": self._number, **details})
            return self._number

    def reconfigure(self, exit_policy: str, log_level: str) -> int:
        """Tells its process, and those that follow; returns the number that `wait_answer` takes for `RULES`."""
        with self._changed:
            self._settings = replace(self._settings, exit_policy=exit_policy, log_level=log_level)
            return self.ask(RULES, exit_policy=exit_policy, log_level=log_level)

    def wait_answer(self, question: str, number: int, deadline: Deadline) -> bool:
        """Whether there is an answer, or nobody who would answer; one that hangs for long is ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._channel is None or self._answered(question) >= number, deadline.left()
            )
            silent = self._channel is not None and self._answered(question) < number
            if question == CARRIED:
                self._missed = self._missed + 1 if silent and self._ready else 0
                if self._missed >= MISSED_COUNTS and self._process is not None:
                    _logger.warning("%s does not answer any more and is ended", self.name)
                    self._process.kill()
            return not silent

    def keep_down(self) -> None:
        """From now on a process that ends is not followed by another."""
        with self._changed:
            self._down = True
            self._changed.notify_all()

    def begin_stop(self, deadline: Deadline) -> None:
        """Lets it drain and end."""
        self.keep_down()
        with self._changed:
            self._send({"ask": STOP, "seconds": deadline.left()})

    def join(self, deadline: Deadline) -> None:
        """Waits for the end, and enforces it soon after the deadline."""
        self._thread.join(deadline.left() + GRACE)
        if self._thread.is_alive():
            _logger.warning("%s did not end in time and is killed", self.name)
            with self._changed:
                if self._process is not None:
                    self._process.kill()
            self._thread.join(GRACE)

    def _answered(self, question: str) -> int:
        return self._answers.get(question, (0, 0))[0]

    def _send(self, message: dict[str, Any]) -> None:
        """Requires the lock, under which the channel is closed too; it does not wait."""
        if self._channel is not None:
            try:
                self._channel.send(message)
            except Closed:
                self._channel.end()  # its thread sees that

    # ---- the thread

    def _tend(self) -> None:
        # Who tells all processes of a service means the parent: a worker inherits this until it ignores SIGHUP.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        pause = 0.0
        while True:
            started = monotonic()
            try:
                channel = self._launch()
            except OSError as error:
                how = f"never started: {error.strerror}"
            else:
                if channel is None:
                    return
                while (message := channel.receive()) is not None:
                    self._heard(message)
                how = self._bury()
            pause = 0.0 if monotonic() - started >= STEADY else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
            with self._changed:
                if not self._down:
                    _logger.warning("%s ended (%s); the next one starts in %.0f s", self.name, how, pause)
                self._changed.wait_for(lambda: self._down, pause)

    def _launch(self) -> Channel | None:
        """A new process and the channel to it; None when there is to be none. Raises `OSError`: no descriptor."""
        with self._changed:
            if self._down:
                return None
            ours, theirs = socket.socketpair()
            with theirs:
                self._channel = Channel(ours)
                try:
                    self._process = _popen(theirs.fileno(), self._settings)
                except OSError as error:
                    _logger.warning("%s cannot be started: %s", self.name, error.strerror)
                self._send(self._settings.to_message())
                return self._channel

    def _heard(self, message: dict[str, Any]) -> None:
        with self._changed:
            match message:
                case {"ready": True}:
                    self._ready, self._failure = True, ""
                case {"failed": str(sentence)}:
                    self._failure = sentence
                    _logger.warning("%s cannot start: %s", self.name, sentence)
                case {"ask": worker_channel.COUNTS, "number": int(number), "answer": dict(counts)}:
                    self._answers[COUNTS] = number, True
                    self._counts = Counts.from_message(counts)
                case {"ask": str(question), "number": int(number), "answer": int(answer)}:
                    self._answers[question] = number, answer
            self._changed.notify_all()

    def _bury(self) -> str:
        """The channel has ended; so does the process, and how is returned."""
        with self._changed:
            assert self._channel is not None
            self._channel.close()
            process, self._process, self._channel = self._process, None, None
            self._past += self._answers.get(CARRIED, (0, 0))[1]
            self._past_counts += self._counts.ever
            self._counts = Counts()
            self._answers.clear()
            self._ready, self._missed = False, 0
            self._changed.notify_all()
        if process is None:
            return "never started"
        try:
            code = process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _popen(channel: int, settings: WorkerSettings) -> "subprocess.Popen[bytes]":
    """Raises `OSError`. -P: a folder `common` where the user happens to stand must not be ours."""
    module = [sys.executable, "-P", "-m", "common.roles.relay.worker"]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [*module, str(channel), settings.name, settings.keys],
        stdin=subprocess.DEVNULL,
        pass_fds=[channel],
        env=os.environ | {"PYTHONPATH": path},
        process_group=0,
    )
