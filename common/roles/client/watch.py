"""One pinned gateway as a client sees it: its newest document, asked for again and again, and kept on disk.

* What is held was verified by `TrustedDirectory`, whatever file or connection it came from. An expired document in
  the cache still says which serial is the lowest to be believed.
* One thread asks every 5 to 10 seconds (jittered) whether the document held is still the newest, over one
  connection that stays open: nearly free, and a relay that died is soon forgotten.
* The gateway's address is looked up at every attempt, so a name that moves is followed.
* A document that expires is not used any more, but until then its gateway may be away.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.directory.addresses import Address
from common.directory.document import DirectoryDocument, TrustedDirectory, digest
from common.errors import Closed, ConfigError, DirectoryError, OnionError, ProtocolError, Unexpected
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
OPEN_TIME = 10.0  # seconds to reach and greet a gateway
CACHE_EVERY = 60.0  # seconds between two writes of the cache: its document lives ten times as long


@dataclass(slots=True)
class Pace:
    """What the watches of one client share; `changed` guards it, and is notified of every change."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: int = 0  # who waits for relays to appear
    refreshes: int = 0  # counts the wishes to ask now
    stopping: bool = False


class GatewayWatch:
    """Inert until `start` or `ask_once`; `stop` after `pace.stopping` was set.

    `tell(percent, text)` hears how far a question is, `on_round` is called after each, on the thread that asked
    and with no lock held.
    """

    def __init__(
        self,
        address: Address,
        key: bytes,
        network: str,
        cache_path: Path | None,
        pace: Pace,
        *,
        now: Callable[[], float],
        tell: Callable[[int, str], None],
        on_round: Callable[[], None],
    ) -> None:
        self.address = address
        self.key = key
        self._network = network
        self._cache_path = cache_path
        self._pace = pace
        self._now = now
        self._tell = tell
        self._on_round = on_round
        self._context = client_context()
        # Guards `_trusted`; taken before `pace.changed`, held while signatures are verified: a second, if many.
        self._verifying = threading.Lock()
        self._trusted = TrustedDirectory(network, frozenset({key}))
        # Guarded by `pace.changed`.
        self._document: DirectoryDocument | None = None
        self._envelope: bytes | None = None
        self._failure = "it has not answered yet"
        self._failing_since: float | None = None  # monotonic
        # The thread's own.
        self._connection: GatewayConnection | None = None
        self._refreshed = 0  # the wishes that were heard
        self._cached: bytes | None = None
        self._cache_due = 0.0
        self._thread = threading.Thread(target=self._run, name="directory", daemon=True)

    # ---- any thread ----

    @property
    def document(self) -> DirectoryDocument | None:
        """The gateway's newest document, None when there is none or it has expired."""
        with self._pace.changed:
            document = self._document
        return document if document is not None and document.valid_until > self._now() else None

    @property
    def failure(self) -> str:
        """Why there is no newer document, with the gateway's address; for people."""
        with self._pace.changed:
            failure = self._failure
        return failure if str(self.address) in failure else f"{self.address}: {failure}"

    def failing_for(self) -> float:
        """For how many seconds every attempt has failed. Requires `pace.changed`."""
        return time.monotonic() - self._failing_since if self._failing_since is not None else 0.0

    def start(self) -> None:
        """Begins to keep the document fresh; returns at once."""
        self._thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Waits for the thread, and writes the cache; what is held stays usable. Idempotent."""
        if self._thread.is_alive():
            self._thread.join(deadline.left())
        self._save_cache(at_once=True)

    def ask_once(self, deadline: Deadline) -> None:
        """Gets the newest document now, over a connection of its own; raises `OnionError`."""
        began = time.monotonic()
        try:
            with self._open(deadline) as connection:
                self._ask(connection, deadline)
        except OnionError as error:
            self._failed(str(error), began)
            raise

    def load_cache(self) -> None:
        """Takes the document that an earlier run kept, if it is still good."""
        if self._cache_path is None:
            return
        try:
            envelope = read_private(self._cache_path)
            if envelope is not None:
                self._take(envelope)
                self._cached = envelope
        except ConfigError as error:
            log.warning("the directory cache is not used: %s", error)
        except (DirectoryError, ProtocolError) as error:
            log.debug("directory cache: %s", error)

    # ---- asking ----

    def _open(self, deadline: Deadline) -> GatewayConnection:
        self._tell(10, "connecting to the gateway")
        return GatewayConnection.open(
            self.address, self.key, deadline, network=self._network, role="client", context=self._context
        )

    def _ask(self, connection: GatewayConnection, deadline: Deadline) -> None:
        """One question and what follows from the answer; raises `OnionError`."""
        with self._verifying:
            held = self._trusted.envelope
        self._tell(40, "asking for the list of relays")
        connection.send(List(digest(held) if held is not None else b""), deadline)
        answer = connection.receive(deadline)
        if isinstance(answer, Document):
            self._take(decompress(answer.compressed))
        elif isinstance(answer, Unchanged) and held is not None:
            self._take(held)
        elif isinstance(answer, Error):
            raise DirectoryError(f"the gateway refuses: {answer.text}")
        else:
            raise Unexpected("the gateway said what it must not")

    def _take(self, envelope: bytes) -> None:
        with self._verifying:
            document = self._trusted.update(envelope, self._now())
            with self._pace.changed:
                self._document, self._envelope = document, envelope
                self._failing_since = None
        self._on_round()

    def _failed(self, text: str, began: float) -> None:
        with self._pace.changed:
            self._failure = text
            if self._failing_since is None:
                self._failing_since = began
        self._on_round()  # what was held may have expired meanwhile

    # ---- the watch's thread ----

    def _run(self) -> None:
        retry = RETRY_FIRST
        while True:
            began = time.monotonic()
            pause: float | None = None
            try:
                self._round()
                retry = RETRY_FIRST
            except OnionError as error:
                self._hang_up()
                pause, retry = retry * (0.5 + _fraction()), min(2 * retry, POLL_LONGEST)
                self._failed(str(error), began)
                log.debug("directory: %s", error)
            except Exception:
                log.exception("unexpected error while asking for the directory")
                self._hang_up()
                pause = POLL_LONGEST
                self._failed("internal error", began)
            if not self._pause(pause):
                break
            self._save_cache()
        self._hang_up()

    def _round(self) -> None:
        """Asks over the connection that is there, or else a new one; raises `OnionError`."""
        if self._connection is not None:
            try:
                self._ask(self._connection, Deadline(ASK_TIME))
                return
            except Closed:
                self._hang_up()  # gateways close what is idle: dial again
        self._connection = self._open(Deadline(OPEN_TIME))
        self._ask(self._connection, Deadline(ASK_TIME))

    def _pause(self, seconds: float | None) -> bool:
        """Waits for the next round: `seconds` after a failure, else the usual time; False when it is to end."""
        pace = self._pace
        with pace.changed:
            usual = POLL_SHORTEST + (POLL_LONGEST - POLL_SHORTEST) * _fraction()
            hurried, seen = pace.waiting > 0, self._refreshed
            wait = usual if seconds is None else seconds
            if hurried:
                wait = POLL_WAITING if seconds is None else min(seconds, RETRY_WAITING)
            pace.changed.wait_for(
                lambda: pace.stopping or pace.refreshes > seen or (pace.waiting > 0 and not hurried), wait
            )
            self._refreshed = pace.refreshes
            return not pace.stopping

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ---- the cache ----

    def _save_cache(self, *, at_once: bool = False) -> None:
        with self._pace.changed:
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
