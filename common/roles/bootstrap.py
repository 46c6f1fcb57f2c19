"""A client's side of the directory: gets the document, keeps it fresh, and starts from the last one it had.

* What is held was verified by `TrustedDirectory`, whatever file or gateway it came from.
* While it runs, one thread asks the gateway every 5 to 10 seconds (jittered) whether the document it holds is
  still the newest, over one connection that stays open: nearly free, and a relay that died is soon forgotten.
* Gateways are tried in the order given; a document is followed by newer ones of the same gateway only.
* A document that expires is not used any more, but until then a gateway may be away.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common.directory.addresses import Address
from common.directory.document import DirectoryDocument, RelayEntry, TrustedDirectory, digest
from common.errors import Closed, ConfigError, DirectoryError, OnionError, ProtocolError, Unexpected, Unreachable
from common.net.deadline import Deadline
from common.net.tls import client_context
from common.ops.files import read_private, write_private
from common.roles.gateway_link import Document, Error, GatewayConnection, List, Unchanged, decompress

log = logging.getLogger(__name__)

POLL_SHORTEST = 5.0  # seconds between two questions
POLL_LONGEST = 10.0
POLL_WAITING = 0.2  # seconds, while somebody waits for relays to appear
RETRY_WAITING = 1.0  # the most seconds after a failure, while somebody waits
RETRY_FIRST = 0.5  # seconds after a failure, doubled up to POLL_LONGEST
ASK_TIME = 30.0  # seconds for one answer: the largest document over a slow line
CACHE_EVERY = 60.0  # seconds between two writes of the cache: its document lives ten times as long

Progress = Callable[[int, str], None]


class DirectoryClient:
    """The directory as a client sees it; inert until `start` or `fetch`, and safe to use from any thread.

    `gateways` are (address, pinned Ed25519 key) pairs. `on_progress(percent, text)` tells of the first document.
    """

    def __init__(
        self,
        gateways: Sequence[tuple[Address, bytes]],
        network: str,
        cache_path: Path | None = None,
        *,
        now: Callable[[], float] = time.time,
        on_progress: Progress | None = None,
    ) -> None:
        if not gateways:
            raise ConfigError("no gateway is configured: give at least one address and key")
        self._gateways = tuple(gateways)
        self._network = network
        self._cache_path = cache_path
        self._now = now
        self._on_progress = on_progress
        self._context = client_context()
        # Guards `_trusted`; taken before `_changed`, held while signatures are verified, which may take a second.
        self._verifying = threading.Lock()
        self._trusted = {key: TrustedDirectory(network, frozenset({key})) for _, key in gateways}
        self._changed = threading.Condition()  # guards what follows, up to the thread's own
        self._document: DirectoryDocument | None = None
        self._envelope: bytes | None = None
        self._waiting = 0
        self._refresh_wanted = False
        self._stopping = False
        self._failure = "no gateway has answered yet"
        # The thread's own.
        self._connection: GatewayConnection | None = None
        self._cached: bytes | None = None
        self._cache_due = 0.0
        self._thread = threading.Thread(target=self._run, name="directory", daemon=True)

    # ---- any thread ----

    @property
    def document(self) -> DirectoryDocument | None:
        """The document in force, None when there is none or it has expired."""
        with self._changed:
            return self._valid()

    @property
    def relays(self) -> tuple[RelayEntry, ...]:
        """The live relays, none when there is no valid document."""
        document = self.document
        return document.relays if document is not None else ()

    def start(self) -> None:
        """Takes a cached document if it is still valid, and begins to keep it fresh; returns at once."""
        self._load_cache()
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the thread; what is held stays usable. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._save_cache(at_once=True)

    def refresh_soon(self) -> None:
        """Asks the gateway now, for instance because a relay did not answer."""
        with self._changed:
            self._refresh_wanted = True
            self._changed.notify_all()

    def fetch(self, deadline: Deadline) -> DirectoryDocument:
        """Gets the newest document now, over a connection of its own; raises `DirectoryError`."""
        failure: OnionError = Unreachable("no gateway answers")
        for address, key in self._gateways:
            try:
                with self._open(address, key, deadline) as connection:
                    self._ask(connection, deadline)
                document = self.document
                if document is not None:
                    return document
            except (DirectoryError, ProtocolError, Closed) as error:
                failure = error
                if deadline.expired:
                    break
        raise failure if isinstance(failure, DirectoryError) else Unreachable(f"the gateway failed: {failure}")

    def wait_for(self, relays: int, deadline: Deadline) -> DirectoryDocument:
        """Waits until the document lists that many relays; `start` first. Raises `DirectoryError`, a sentence."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._stopping or self._has(relays), deadline.left())
                document = self._valid()
            finally:
                self._waiting -= 1
        if document is None:
            raise Unreachable(f"there is no valid directory document: {self._failure}")
        if len(document.relays) < relays:
            raise DirectoryError(f"only {len(document.relays)} of {relays} relays are listed: start more relays")
        return document

    def _valid(self) -> DirectoryDocument | None:
        """Requires `_changed`."""
        document = self._document
        return document if document is not None and document.valid_until > self._now() else None

    def _has(self, relays: int) -> bool:
        """Requires `_changed`."""
        document = self._valid()
        return document is not None and len(document.relays) >= relays

    # ---- asking ----

    def _open(self, address: Address, key: bytes, deadline: Deadline) -> GatewayConnection:
        self._tell(10, "connecting to the gateway")
        return GatewayConnection.open(
            address, key, deadline, network=self._network, role="client", context=self._context
        )

    def _ask(self, connection: GatewayConnection, deadline: Deadline) -> None:
        """One question and what follows from the answer; raises `OnionError`."""
        trusted = self._trusted[connection.gateway]
        with self._verifying:
            held = trusted.envelope
        self._tell(40, "asking for the list of relays")
        connection.send(List(digest(held) if held is not None else b""), deadline)
        answer = connection.receive(deadline)
        if isinstance(answer, Document):
            self._take(trusted, decompress(answer.compressed))
        elif isinstance(answer, Unchanged) and held is not None:
            self._take(trusted, held)
        elif isinstance(answer, Error):
            raise DirectoryError(f"the gateway refuses: {answer.text}")
        else:
            raise Unexpected("the gateway said what it must not")

    def _take(self, trusted: TrustedDirectory, envelope: bytes) -> None:
        with self._verifying:
            document = trusted.update(envelope, self._now())
            with self._changed:
                self._document, self._envelope = document, envelope
                self._changed.notify_all()
        self._tell(100, f"{len(document.relays)} relays are listed")

    def _tell(self, percent: int, text: str) -> None:
        """Only until there is a document: later rounds are nobody's news."""
        if self._on_progress is not None:
            self._on_progress(percent, text)
            if percent == 100:
                self._on_progress = None

    # ---- the directory's thread ----

    def _run(self) -> None:
        retry = RETRY_FIRST
        while True:
            try:
                self._round()
                retry, pause = RETRY_FIRST, None
            except OnionError as error:
                self._hang_up()
                pause, retry = retry * (0.5 + _fraction()), min(2 * retry, POLL_LONGEST)
                with self._changed:
                    self._failure = str(error)
                log.debug("directory: %s", error)
            except Exception:
                log.exception("unexpected error while asking for the directory")
                self._hang_up()
                pause = POLL_LONGEST
            if not self._pause(pause):
                break
            self._save_cache()
        self._hang_up()

    def _round(self) -> None:
        """Asks the gateway that is connected, or else the first that answers; raises `OnionError`."""
        if self._connection is not None:
            try:
                self._ask(self._connection, Deadline(ASK_TIME))
                return
            except Closed:
                self._hang_up()  # gateways close what is idle: dial again
        for number, (address, key) in enumerate(self._gateways, 1):
            try:
                self._connection = self._open(address, key, Deadline(ASK_TIME / 3))
                self._ask(self._connection, Deadline(ASK_TIME))
                return
            except OnionError:
                self._hang_up()
                if number == len(self._gateways):
                    raise

    def _pause(self, seconds: float | None) -> bool:
        """Waits for the next round: `seconds` after a failure, else the usual time; False when it is to end."""

        def awaited() -> bool:
            return self._stopping or self._refresh_wanted

        with self._changed:
            usual = POLL_SHORTEST + (POLL_LONGEST - POLL_SHORTEST) * _fraction()
            hurried = self._waiting > 0
            wait = usual if seconds is None else seconds
            if hurried:
                wait = POLL_WAITING if seconds is None else min(seconds, RETRY_WAITING)
            self._changed.wait_for(lambda: awaited() or (self._waiting > 0 and not hurried), wait)
            self._refresh_wanted = False
            return not self._stopping

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---- the cache ----

    def _load_cache(self) -> None:
        if self._cache_path is None:
            return
        try:
            envelope = read_private(self._cache_path)
        except ConfigError as error:
            log.warning("the directory cache is not used: %s", error)
            return
        for trusted in self._trusted.values():
            if envelope is None:
                return
            try:
                self._take(trusted, envelope)
                self._cached = envelope
                return
            except (DirectoryError, ProtocolError) as error:
                log.debug("directory cache: %s", error)

    def _save_cache(self, *, at_once: bool = False) -> None:
        with self._changed:
            envelope = self._envelope
        moment = time.monotonic()
        if self._cache_path is None or envelope is None or envelope == self._cached:
            return
        if moment < self._cache_due and not at_once:
            return
        try:
            write_private(self._cache_path, envelope)
        except ConfigError as error:
            log.warning("the directory cache is not written: %s", error)
            self._cache_path = None
            return
        self._cached, self._cache_due = envelope, moment + CACHE_EVERY


def _fraction() -> float:
    return secrets.randbelow(1_000) / 1_000
