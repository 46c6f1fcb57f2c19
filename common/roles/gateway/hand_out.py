"""Who asks for the list gets the newest document; has it built when something changed, or before it expires.

Whoever asks after a change gets a document with that change, as long as building one is quick: he waits for the
one under way. In a large network, where it takes longer, he gets the one before.
"""

from collections.abc import Callable

from common.directory.document import VALID_FOR
from common.directory.registry import Registry
from common.roles import gateway_link as link
from common.roles.gateway.document_builder import DocumentBuilder, Published
from common.roles.gateway.peer import Peer

WAIT_FOR_BUILD = 0.1  # seconds: longer builds are not waited for
_UNCHANGED = link.encode(link.Unchanged())


class HandOut:
    """Used by the gateway's thread alone, but for `current`. `send(peer, frame)` queues an answer."""

    def __init__(
        self, builder: DocumentBuilder, registry: Registry, send: Callable[[Peer, bytes], None]
    ) -> None:
        self._builder = builder
        self._registry = registry
        self._send = send
        self._asked_for = 0  # the serial of the document that is built or being built
        self._waiting: list[tuple[Peer, int]] = []  # for a document of at least this serial

    @property
    def current(self) -> Published | None:
        """The newest document, None until the first is built. Any thread."""
        return self._builder.current

    def answer(self, peer: Peer, held: bytes) -> None:
        """Answers LIST now or as soon as the document is there; `held` is the digest that the peer has."""
        current, wanted = self._builder.current, self._registry.serial
        if current is None or (current.serial != wanted and current.cost < WAIT_FOR_BUILD):
            peer.asking = held
            self._waiting.append((peer, wanted))
        else:
            self._give(peer, held, current)

    def keep_fresh(self, now: float) -> None:
        """Begins to build the document of the present serial, unless it is there or another build is under way."""
        current, serial = self._builder.current, self._registry.serial
        if current is not None and self._asked_for == serial == current.serial:
            if abs(now - current.valid_after) < VALID_FOR / 2:
                return
            self._registry.renew_document()
        if self._asked_for != self._registry.serial and self._builder.idle:
            self._asked_for = self._registry.serial
            self._builder.build(self._registry.document(now))

    def next_build(self) -> float | None:
        """When (monotonic) `keep_fresh` should be called at the latest; None when it need not."""
        return self._builder.rests_until if self._asked_for != self._registry.serial else None

    def published(self) -> None:
        """There is a new document: who waited for it gets it."""
        current = self._builder.current
        assert current is not None
        served = [peer for peer, serial in self._waiting if serial <= current.serial]
        self._waiting = [(peer, serial) for peer, serial in self._waiting if serial > current.serial]
        for peer in served:
            held, peer.asking = peer.asking, None
            if held is not None and not peer.closing:
                self._give(peer, held, current)

    def _give(self, peer: Peer, held: bytes, current: Published) -> None:
        self._send(peer, _UNCHANGED if held == current.digest else current.frame)
