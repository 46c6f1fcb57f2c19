"""A turn: what one thread does between two waits. What it wants sent is sealed and given to the kernel at its end.

So the messages of many streams share a cell, and the cells of many circuits a system call; nothing waits longer
than its thread works on what has come. What a thread says that is in no turn is sealed at once, and the pump sends
it.
"""

import logging
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from common.net.link import Link

_logger = logging.getLogger(__name__)


class Settles(Protocol):
    """A circuit whose messages are recorded and not yet sealed."""

    def settle(self) -> None:
        """Seals them, queues the cells, and tells the turn which link is to be flushed."""


class Turn(threading.local):
    """The turn of the thread that asks: each thread has its own, so nothing here is locked."""

    def __init__(self) -> None:
        self._open = False
        self._circuits: dict[Settles, None] = {}  # in the order they spoke
        self._links: dict[Link, None] = {}

    def begin(self) -> None:
        """From now on what is sent waits for `end`."""
        assert not self._open, "a turn in a turn"
        self._open = True

    def end(self) -> None:
        """Sends it all."""
        if self._circuits:
            circuits, self._circuits = self._circuits, {}
            for circuit in circuits:
                try:
                    circuit.settle()
                except Exception:  # the others' messages must not wait until they speak again
                    _logger.exception("internal error while a circuit's messages were sealed")
        self._open = False
        if self._links:
            links, self._links = self._links, {}
            for link in links:
                link.flush()

    def settle(self, circuit: Settles) -> None:
        """The circuit has something to say: at the end of the turn, or at once."""
        if self._open:
            self._circuits[circuit] = None
        else:
            circuit.settle()

    def flush(self, link: "Link") -> None:
        """The link has queued cells: likewise."""
        if self._open:
            self._links[link] = None
        else:
            link.flush()


TURN = Turn()
