"""The workers of a relay, seen from their parent: N processes that listen on one port by SO_REUSEPORT.

The parent carries no circuit. It holds the claim on the port, starts the workers, starts a new one for each that
ends, and asks them what the directory wants to know. So it answers heartbeats undisturbed by what the workers do.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from common.directory.addresses import Address
from common.net.binding import claim
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.relay.counts import COUNT_TIME, Counts
from common.roles.relay.tended_worker import GRACE, TendedWorker
from common.roles.relay.worker import CLOSE_TIME, WorkerSettings
from common.roles.relay.worker_channel import CARRIED, CLOSE, COUNTS, KEYS, RULES

START_TIME = 30.0  # seconds until all workers listen: a slow machine that starts 64 of them needs some
STOP_TIME = 2.0  # seconds for the others when one cannot start: no circuit is on them yet
KEYS_TIME = 5.0  # seconds for all workers to take new onion keys, before these are told to the directory
RULES_TIME = 5.0  # seconds for all workers to take a new exit policy, before it is told to the directory

_logger = logging.getLogger(__name__)


class Workers:
    """As a `Relay` to who lists it; `address` is where others dial all of them."""

    def __init__(
        self,
        count: int,
        nickname: str,
        keys: Path,
        listen: Address,
        exit_policy: str,
        network_ports: Iterable[Address],
        advertise: Address | None = None,
    ) -> None:
        """`keys`: the folder with the identity and the onion keys. Raises `ConfigError`: the port is not free."""
        self._claim = claim((listen.host, listen.port))
        listened = Address(*self._claim.getsockname()[:2])
        self.address = advertise or listened
        ports = tuple((port.host, port.port) for port in network_ports)
        here, there = (listened.host, listened.port), (self.address.host, self.address.port)
        names = [f"{nickname}.{number}" for number in range(1, count + 1)]
        folder = str(keys.absolute())
        self._workers = [
            TendedWorker(WorkerSettings(name, folder, here, there, exit_policy, ports, _log_level()))
            for name in names
        ]
        self._timers = Pump("timers")

    def start(self) -> None:
        """Returns when all listen; raises `OnionError` when one cannot, after stopping the others."""
        self._timers.start()
        for worker in self._workers:
            worker.start()
        deadline = Deadline(START_TIME)
        try:
            for worker in self._workers:
                worker.wait_ready(deadline)
        except BaseException:
            self.stop(Deadline(STOP_TIME))
            raise

    def call_every(self, seconds: float, function: Callable[[], object]) -> None:
        """Calls it again and again, on a thread where it may wait for a few seconds."""
        self._timers.call_every(seconds, function)

    def carried(self) -> int:
        """Bytes carried since the start by all workers (waits): of one that has ended, those it told of."""
        self._ask(CARRIED, COUNT_TIME)
        return sum(worker.carried for worker in self._workers)

    def counts(self) -> Counts:
        """Of all workers together (waits): one that does not answer in time is counted as silent."""
        asked = [(worker, worker.ask(COUNTS)) for worker in self._workers]
        self._silent(asked, COUNTS, COUNT_TIME)
        return sum((worker.counts(number) for worker, number in asked), Counts())

    def keys_renewed(self) -> None:
        """Waits until the workers answer CREATE with the onion keys that are on disk."""
        for worker in self._ask(KEYS, KEYS_TIME):
            _logger.warning("%s has not taken the new onion keys: clients cannot use it for now", worker.name)

    def reconfigure(self, exit_policy: str) -> None:
        """Waits until streams that begin go by this policy, and the workers log at this process's level."""
        asked = [(worker, worker.reconfigure(exit_policy, _log_level())) for worker in self._workers]
        for worker in self._silent(asked, RULES, RULES_TIME):
            _logger.warning("%s has not taken the new exit policy or level of the log yet", worker.name)

    def stop_accepting(self, deadline: Deadline) -> None:
        """The workers take no more links, and no new ones are started; what is up lives on."""
        for worker in self._workers:
            worker.keep_down()
        self._ask(CLOSE, min(deadline.left(), CLOSE_TIME))

    def stop(self, deadline: Deadline) -> None:
        """The workers drain side by side and end; who has not ended soon after the deadline is killed."""
        for worker in self._workers:
            worker.begin_stop(deadline)
        for worker in self._workers:
            worker.join(deadline)
        self._timers.stop(Deadline(GRACE))
        self._claim.close()

    def _ask(self, question: str, seconds: float) -> list[TendedWorker]:
        """Asks all side by side, and waits; those that run and have not answered are returned."""
        return self._silent([(worker, worker.ask(question)) for worker in self._workers], question, seconds)

    def _silent(self, asked: list[tuple[TendedWorker, int]], question: str, seconds: float) -> list[TendedWorker]:
        deadline = Deadline(seconds)
        return [worker for worker, number in asked if not worker.wait_answer(question, number, deadline)]


def _log_level() -> str:
    """This process's, as the option is written."""
    return logging.getLevelName(_logger.getEffectiveLevel()).lower()
