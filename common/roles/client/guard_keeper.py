"""The entry guards of a client, kept in a file of its state folder (mode 0600). The rule is in `directory/guards`.

Called by the threads that build circuits, which may wait for the disk. Two clients with one state folder at once
work; the guards that are kept are then those of the one that wrote last.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from common.directory.guards import Guards, decode, encode, failed, order, renew, worked
from common.errors import ConfigError, Malformed
from common.ops.files import read_private, write_private

_logger = logging.getLogger(__name__)


class GuardKeeper:
    """Thread-safe. Without a file the guards last as long as the process."""

    def __init__(self, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """Raises `ConfigError` when the file is damaged: it is never replaced in silence."""
        self._path = path
        self._now = now
        self._lock = threading.Lock()  # guards `_guards` and the file; waits for the disk
        self._guards: Guards = ()
        data = read_private(path) if path is not None else None
        if data is not None:
            try:
                self._guards = decode(data)
            except Malformed as error:
                raise ConfigError(f"{path}: {error}; restore it, or remove it to begin with new guards") from None

    @property
    def guards(self) -> Guards:
        """As they are now, the first one first; never waits."""
        return self._guards

    def order(self, listed: Collection[bytes]) -> list[bytes]:
        """The identities to begin a circuit with, the best first; none when there are too few relays."""
        with self._lock:
            self._keep(renew(self._guards, listed, self._now(), secrets.randbelow))
            return order(self._guards, listed, self._now())

    def failed(self, identity: bytes) -> None:
        """A first hop did not answer; harmless when it is no guard."""
        with self._lock:
            self._keep(failed(self._guards, identity, self._now()))

    def worked(self, identity: bytes) -> None:
        """A circuit was built through a first hop."""
        with self._lock:
            self._keep(worked(self._guards, identity, self._now(), secrets.randbelow))

    def _keep(self, guards: Guards) -> None:
        """Requires the lock."""
        changed = encode(guards) != encode(self._guards)
        self._guards = guards
        if changed and self._path is not None:
            try:
                write_private(self._path, encode(guards))
            except ConfigError as error:
                _logger.warning("the guards are not kept: %s", error)
                self._path = None
