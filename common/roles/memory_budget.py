"""The memory budget of a process: what waits in links' outboxes, and for streams' targets and programs, together.

A window bounds what one stream lets wait, not what thousands do whose targets never read; and a relay in the
middle sees no windows at all. So a process looks now and then at what it holds. Beyond `BUDGET` the circuits that
hold the most are ended, at a client as well: a program that does not read loses its circuit, and programs that are
isolated from it keep theirs.

Until the next look it may hold more, by what arrives meanwhile: 31 MB at 1 Gbit/s, and 220 MB at the 0.87 GB/s
that one process was seen to open. Where cells are short, Python's objects take half as much again.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter

from common.errors import DestroyReason
from common.net.link import Link
from common.net.plug import Plug
from common.net.pump import Pump
from common.roles.circuit_end import Attachment, CircuitEnd
from common.roles.links import Links

BUDGET = 536_870_912  # bytes: 64 circuits' whole windows, or a thousand stalled streams' first ones
KEPT = 3 / 4  # of the budget is left: a quarter has to come again before each circuit is asked again
LOOK = 0.25  # seconds from one look to the next, which takes 0.1 to 0.3 ms with 2,000 streams

_logger = logging.getLogger(__name__)


class MemoryBudget:
    """Of the links and the streams that one pump serves."""

    def __init__(self, links: Links, pump: Pump, early: Callable[[], int] = lambda: 0) -> None:
        """`early`: bytes that wait for targets which are not reached yet."""
        self._links = links
        self._pump = pump
        self._early = early
        self.circuits_shed = 0

    def start(self) -> None:
        """Looks from now on, until the pump stops."""
        self._pump.call_every(LOOK, self._look)

    # ---- the pump's thread

    def held(self) -> int:
        """Bytes that wait now, also of streams that are over and are still delivered; see `LOOK`."""
        return self._held(self._pump.waiting())

    def _held(self, plugs: list[Plug]) -> int:
        """Asks sockets and links only, not each circuit."""
        return self._early() + sum(plug.held for plug in plugs) + sum(link.waiting for link in self._links.all)

    def _look(self) -> None:
        plugs = self._pump.waiting()
        held = self._held(plugs)
        if held > BUDGET:
            self._shed(held - int(KEPT * BUDGET), plugs)

    def _shed(self, excess: int, plugs: list[Plug]) -> None:
        """Ends who holds the most, until enough is free: circuits, and links for what is no circuit's."""
        rests: defaultdict[CircuitEnd, list[Plug]] = defaultdict(list)  # of streams that are over, still delivered
        for plug in plugs:
            if isinstance(plug.owner, Attachment) and not plug.owner.live:
                rests[plug.owner.circuit].append(plug)
        circuits: dict[CircuitEnd, int] = {
            side: side.held for side in self._links.sides if isinstance(side, CircuitEnd)
        }
        for circuit, rest in rests.items():
            circuits[circuit] = circuits.get(circuit, 0) + sum(plug.held for plug in rest)
        holders: list[tuple[int, int, CircuitEnd | Link]] = [(held, held, each) for each, held in circuits.items()]
        for link in self._links.all:
            unowned, live = self._links.unowned(link)
            holders.append((unowned // (1 + live), unowned, link))  # which would all end too
        for rank, held, holder in sorted(holders, key=itemgetter(0), reverse=True):
            if excess <= 0 or not rank:
                return
            excess -= held
            if isinstance(holder, Link):
                _logger.warning("%s: it holds %d bytes of no circuit, and is ended", holder.name, held)
                holder.close("the link is overloaded", DestroyReason.LIMIT)
                continue
            _logger.warning("%s: a circuit that holds %d bytes is ended", holder.link.name, held)
            if not holder.closed:  # else its id may be another's by now
                holder.end(DestroyReason.LIMIT)
            self.circuits_shed += 1
            for plug in rests[holder]:
                plug.abort()
