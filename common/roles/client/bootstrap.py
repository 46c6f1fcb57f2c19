"""A client's side of the directory: asks all pinned gateways side by side, and holds what more than half say.

* One `GatewayWatch` per gateway keeps that gateway's newest valid document; none waits for another, so a gateway
  that is slow or dead delays nothing once more than half have answered.
* After every answer the documents are put together by `quorum.agree`. Relays that the late ones add come later.
* The list is used for as long as a majority's documents are valid; so long the gateways may all be away.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common.directory.addresses import Address
from common.directory.document import DirectoryDocument, RelayEntry
from common.directory.quorum import agree, majority
from common.errors import Closed, ConfigError, DirectoryError, OnionError, ProtocolError, Unreachable
from common.net.deadline import Deadline
from common.roles.client.watch import GatewayWatch, Pace

GIVE_UP = 10.0  # seconds of failures of too many gateways, after which who waits for a first list is told
STOP_TIME = 1.0  # seconds for the threads: one whose gateway hangs ends at its own deadline, holding only a socket
STRAGGLERS = 0.5  # seconds that `fetch` gives the others once a majority has answered

Progress = Callable[[int, str], None]


class DirectoryClient:
    """The directory as a client sees it; inert until `start` or `fetch`, and safe to use from any thread.

    `gateways` are (address, pinned Ed25519 key) pairs. `cache_path` is the file of one gateway's document; with
    several each has its own beside it, named with the first digits of the key. `on_progress(percent, text)` tells
    of the first list; `on_list` is called after each new one, on the thread that got it and with no lock held.
    """

    def __init__(
        self,
        gateways: Sequence[tuple[Address, bytes]],
        network: str,
        cache_path: Path | None = None,
        *,
        now: Callable[[], float] = time.time,
        on_progress: Progress | None = None,
        on_list: Callable[[], None] = lambda: None,
    ) -> None:
        if not gateways:
            raise ConfigError("no gateway is configured: give at least one address and key")
        if len({key for _, key in gateways}) != len(gateways):
            raise ConfigError("a gateway's key is configured twice: each gateway has one vote")
        self._now = now
        self._on_progress = on_progress
        self._on_list = on_list
        self._told = 0  # percent
        self._pace = pace = Pace()
        self._combining = threading.Lock()  # guards `_combined`; taken before `pace.changed`
        self._combined: dict[bytes, DirectoryDocument] = {}
        self._document: DirectoryDocument | None = None  # written with both held, read with one; so is the next
        self._revisit = 0.0  # when the first of the documents it stands on expires
        self._watches = [
            GatewayWatch(
                address,
                key,
                network,
                _cache_of(cache_path, key, len(gateways)),
                pace,
                now=now,
                tell=self._tell,
                on_round=self._combine,
            )
            for address, key in gateways
        ]
        self._needed = majority(len(gateways))

    @property
    def document(self) -> DirectoryDocument | None:
        """What more than half of the gateways say, None when no majority has a valid document."""
        with self._pace.changed:
            document = self._valid() if self._revisit > self._now() else None
        if document is None:
            self._combine()  # a document that has expired is no vote any more
            with self._pace.changed:
                document = self._valid()
        return document

    @property
    def relays(self) -> tuple[RelayEntry, ...]:
        """The live relays, none when there is no valid document."""
        document = self.document
        return document.relays if document is not None else ()

    def start(self) -> None:
        """Takes cached documents if they are still valid, and begins to keep them fresh; returns at once."""
        for watch in self._watches:
            watch.load_cache()
        for watch in self._watches:
            watch.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the threads; what is held stays usable. Idempotent."""
        deadline = Deadline(min(timeout, STOP_TIME))
        with self._pace.changed:
            self._pace.stopping = True
            self._pace.changed.notify_all()
        for watch in self._watches:
            watch.stop(deadline)

    def refresh_soon(self) -> None:
        """Asks the gateways now, for instance because a relay did not answer."""
        with self._pace.changed:
            self._pace.refreshes += 1
            self._pace.changed.notify_all()

    def fetch(self, deadline: Deadline) -> DirectoryDocument:
        """Gets the newest list now, over connections of its own; raises `DirectoryError`."""
        if len(self._watches) == 1:
            try:
                self._watches[0].ask_once(deadline)
            except (ProtocolError, Closed) as error:
                raise Unreachable(f"the gateway failed: {error}") from None
        else:
            self._ask_all(deadline)
        document = self.document
        if document is None:
            raise Unreachable(self._why())
        return document

    def _ask_all(self, deadline: Deadline) -> None:
        """Asks side by side; raises `Unreachable` unless a majority gives a valid answer."""
        changed = self._pace.changed
        answered: dict[bytes, bool] = {}  # by gateway: whether it gave a valid document

        def ask(watch: GatewayWatch) -> None:
            good = False
            try:
                watch.ask_once(deadline)
                good = True
            except OnionError:
                pass  # the watch remembers why
            finally:
                with changed:
                    answered[watch.key] = good
                    changed.notify_all()

        threads = [
            threading.Thread(target=ask, args=(watch,), name="directory-fetch", daemon=True)
            for watch in self._watches
        ]
        for thread in threads:
            thread.start()
        with changed:
            everybody = len(threads)
            changed.wait_for(
                lambda: len(answered) == everybody or sum(answered.values()) >= self._needed, deadline.left()
            )
            changed.wait_for(lambda: len(answered) == everybody, min(STRAGGLERS, deadline.left()))
            done = dict(answered)
        if len(done) == everybody:
            for thread in threads:
                thread.join()
        if sum(done.values()) < self._needed:
            raise Unreachable(self._why([watch for watch in self._watches if not done.get(watch.key)]))

    def wait_for(self, relays: int, deadline: Deadline) -> DirectoryDocument:
        """Waits until so many relays are listed; `start` first. Raises `DirectoryError`, a sentence.

        It is raised before the deadline when too many gateways have only failed for `GIVE_UP` seconds.
        """
        pace = self._pace
        with pace.changed:
            pace.waiting += 1
            pace.changed.notify_all()
            try:
                pace.changed.wait_for(
                    lambda: pace.stopping or self._has(relays) or self._hopeless(), deadline.left()
                )
            finally:
                pace.waiting -= 1
        document = self.document
        if document is None:
            raise Unreachable(self._why())
        if len(document.relays) < relays:
            by = " by more than half of the gateways" * (len(self._watches) > 1)
            raise DirectoryError(
                f"only {len(document.relays)} of {relays} relays are listed{by}: start more relays"
            )
        return document

    # ---- steps ----

    def _valid(self) -> DirectoryDocument | None:
        """Requires `pace.changed`."""
        document = self._document
        return document if document is not None and document.valid_until > self._now() else None

    def _has(self, relays: int) -> bool:
        """Requires `pace.changed`."""
        document = self._valid()
        return document is not None and len(document.relays) >= relays

    def _hopeless(self) -> bool:
        """Whether there is no list and no majority in sight. Requires `pace.changed`."""
        failing = sum(watch.failing_for() >= GIVE_UP for watch in self._watches)
        return self._valid() is None and len(self._watches) - failing < self._needed

    def _combine(self) -> None:
        """Puts the gateways' documents together, if they are others than the last time."""
        with self._combining:
            held = {watch.key: watch.document for watch in self._watches}
            documents = {key: document for key, document in held.items() if document is not None}
            same = documents.keys() == self._combined.keys()
            news = not same or any(documents[key] is not self._combined[key] for key in documents)
            if news:
                self._combined = documents
                try:
                    document = agree(documents, len(self._watches))
                except DirectoryError:
                    document = None
                with self._pace.changed:
                    self._document = document
                    self._revisit = min((each.valid_until for each in documents.values()), default=0.0)
            else:
                document = self._document
        if document is not None:
            self._tell(100, f"{len(document.relays)} relays are listed")
        with self._pace.changed:
            self._pace.changed.notify_all()  # after the news: who waits has some of its own to tell
        if news:
            self._on_list()

    def _why(self, missing: Sequence[GatewayWatch] | None = None) -> str:
        """Why there is no list: what was reached, and what is needed. `missing` are those without a document."""
        if len(self._watches) == 1:
            return f"there is no valid directory document: {self._watches[0].failure}"
        if missing is None:
            missing = [watch for watch in self._watches if watch.document is None]
        have, of = len(self._watches) - len(missing), len(self._watches)
        head = f"{have} of {of} gateways gave a valid directory document and {self._needed} are needed"
        return "; ".join([head, *(watch.failure for watch in missing)])

    def _tell(self, percent: int, text: str) -> None:
        """Only forward, and only until there is a list: later rounds are nobody's news."""
        with self._pace.changed:
            news = percent > self._told
            self._told = max(percent, self._told)
        if news and self._on_progress is not None:
            self._on_progress(percent, text)


def _cache_of(path: Path | None, key: bytes, gateways: int) -> Path | None:
    if path is None or gateways == 1:
        return path
    return path.with_name(f"{path.stem}-{key.hex()[:16]}{path.suffix}")
