"""The document that a gateway hands out, built on a thread of its own, once per change and never per request.

* Its serial is in the store before anybody gets it, so no restart gives the same serial to other contents.
* A build that took t seconds is followed by 2 t of rest: a storm of changes costs a third of a core at most, and
  what changed meanwhile is in the next document.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.document import DirectoryDocument, digest, sign_document
from common.roles import gateway_link as link
from common.roles.gateway.store import GatewayStore

log = logging.getLogger(__name__)

REST = 2  # times the length of a build


@dataclass(frozen=True, slots=True)
class Published:
    """A document as it is handed out; `frame` is the whole DOCUMENT message, shared by all who are sent it."""

    serial: int
    relays: int
    valid_after: float  # seconds since 1970
    valid_until: float
    cost: float  # seconds that building it took
    size: int  # bytes of the envelope, before compression
    digest: bytes
    frame: bytes


class DocumentBuilder:
    """Inert until `start`. `published()` is called, on some thread, when there is a new `current`."""

    def __init__(self, key: Ed25519PrivateKey, store: GatewayStore, published: Callable[[], None]) -> None:
        self.current: Published | None = None  # replaced as a whole: any thread may read it
        self._key = key
        self._store = store
        self._tell = published
        self._changed = threading.Condition()  # guards what follows
        self._wanted: DirectoryDocument | None = None
        self._busy = False
        self._rest_until = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="gateway-document", daemon=True)

    def start(self) -> None:
        """Begins to build."""
        self._thread.start()

    @property
    def rests_until(self) -> float | None:
        """The moment (monotonic) from which on `build` may be called; None while a build is under way."""
        with self._changed:
            return None if self._busy else self._rest_until

    @property
    def idle(self) -> bool:
        """Whether `build` may be called now."""
        moment = self.rests_until
        return moment is not None and time.monotonic() >= moment

    def build(self, document: DirectoryDocument) -> None:
        """Builds it; call it when `idle`."""
        with self._changed:
            self._wanted, self._busy = document, True
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Ends the thread; `current` stays."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._wanted is not None)
                document, self._wanted = self._wanted, None
                if self._stopping or document is None:
                    return
            try:
                self._build(document)
            except Exception:
                log.exception("unexpected error while building the document")
                self._done(1.0)

    def _build(self, document: DirectoryDocument) -> None:
        start = time.monotonic()
        envelope = sign_document(document, self._key)
        frame = link.encode(link.Document(link.compress(envelope)))
        hashed, size, relays = digest(envelope), len(envelope), len(document.relays)
        cost = time.monotonic() - start
        valid = document.valid_after, document.valid_until
        published = Published(document.serial, relays, *valid, cost, size, hashed, frame)

        def publish() -> None:
            self.current = published
            self._done(cost)
            self._tell()

        self._store.put_serial(document.serial)
        self._store.flushed(publish)

    def _done(self, cost: float) -> None:
        with self._changed:
            self._busy, self._rest_until = False, time.monotonic() + REST * cost
