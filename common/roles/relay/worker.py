"""One worker of a relay: `python -m common.roles.relay.worker FD NAME KEYS`, which its parent starts.

A worker is a whole relay except for the directory: links, circuits and streams live and die with it. FD is its end
of the channel to the parent; NAME and KEYS, which the channel says too, are for who looks at a list of processes.
Signals that end a relay are the parent's business: it says when to stop. When the channel ends, the worker does.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.directory.addresses import Address
from common.directory.exit_policy import ExitPolicy
from common.errors import Closed, ConfigError
from common.net.deadline import Deadline
from common.ops import lifecycle, logs, memory
from common.ops.keystore import load_onion_keys, load_or_create_identity
from common.roles.relay import worker_channel
from common.roles.relay.relay import Relay, RelayIdentity
from common.roles.relay.worker_channel import Channel

CLOSE_TIME = 2.0  # seconds to stop accepting

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told at its start. `listen` is the claimed port; no exit dials the `network_ports`."""

    name: str
    keys: str
    listen: tuple[str, int]
    advertise: tuple[str, int]
    exit_policy: str
    network_ports: tuple[tuple[str, int], ...]
    log_level: str

    def to_message(self) -> dict[str, Any]:
        """As the first line on the channel."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Self:
        """The same again: JSON has lists for tuples, which are as good here."""
        return cls(**message)


class Worker:
    """A relay that does as its parent says."""

    def __init__(self, settings: WorkerSettings, channel: Channel) -> None:
        """Raises `ConfigError`: the keys, the port."""
        self._channel = channel
        self._log_level = settings.log_level
        self._keys = Path(settings.keys)
        self._onion_keys = load_onion_keys(self._keys).accepted()
        identity = load_or_create_identity(self._keys)
        self._relay = Relay(
            RelayIdentity(identity.public, identity.certificate, identity.key),
            self._accepted,
            Address(*settings.listen),
            ExitPolicy.parse(settings.exit_policy),
            [Address(*port) for port in settings.network_ports],
            Address(*settings.advertise),
            shared=True,
        )
        self._stopped = threading.Event()

    def serve(self) -> int:
        """Until the channel ends; the exit code."""
        self._relay.start()
        self._channel.send({"ready": True})
        while (message := self._channel.receive()) is not None:
            try:
                self._obey(message)
            except Closed:
                break
        if not self._stopped.is_set():
            os._exit(lifecycle.FAILED)  # the parent is gone: nobody would say when to stop
        return 0

    def _obey(self, message: dict[str, Any]) -> None:
        match message:
            case {"ask": worker_channel.STOP, "seconds": float(seconds)}:
                # On a thread of its own, so that the parent's end is seen meanwhile.
                threading.Thread(target=self._stop, args=(seconds,), name="stop", daemon=True).start()
            case {"ask": worker_channel.COUNTS, "number": int(number)}:
                self._relay.pump.call(partial(self._tell_counts, number))
            case {"ask": question, "number": number}:
                self._channel.send({"ask": question, "number": number, "answer": self._answer(question, message)})

    def _tell_counts(self, number: int) -> None:
        """On the pump's thread: the channel's does not wait for it."""
        counts = self._relay.count().to_message()
        try:
            self._channel.send({"ask": worker_channel.COUNTS, "number": number, "answer": counts})
        except Closed:
            self._channel.end()  # the channel's thread sees that

    def _answer(self, question: str, message: dict[str, Any]) -> int:
        match question:
            case worker_channel.CARRIED:
                return self._relay.carried()
            case worker_channel.KEYS:
                return self._reload()
            case worker_channel.RULES:
                if message["log_level"] != self._log_level:
                    self._log_level = message["log_level"]
                    logs.set_level(self._log_level)
                self._relay.reconfigure(message["exit_policy"])
            case worker_channel.CLOSE:
                self._relay.stop_accepting(Deadline(CLOSE_TIME))
        return True

    def _reload(self) -> bool:
        try:
            self._onion_keys = load_onion_keys(self._keys).accepted()
        except ConfigError as error:
            _logger.warning("the onion keys stay as they were: %s", error)
            return False
        return True

    def _accepted(self) -> Mapping[bytes, X25519PrivateKey]:
        return self._onion_keys

    def _stop(self, seconds: float) -> None:
        self._relay.stop(Deadline(seconds))
        self._stopped.set()
        self._channel.end()


def run() -> int:
    """Reads the settings, serves, ends."""
    # SIGTTOU: a terminal may stop who writes to it from a process group in the background, which workers are.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    message = channel.receive()
    if message is None:
        return lifecycle.FAILED
    settings = WorkerSettings.from_message(message)
    logs.set_up(settings.name, settings.log_level)
    lifecycle.raise_file_limit()
    memory.tune()
    try:
        worker = Worker(settings, channel)
    except ConfigError as error:
        channel.send({"failed": str(error)})
        return lifecycle.USAGE
    return worker.serve()


if __name__ == "__main__":
    lifecycle.main(run)
