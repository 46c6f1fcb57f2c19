"""The links of a process, and which circuit each cell on them is for.

One link per next relay and address is kept and shared by all circuits that go there. (By address too: who says
that a relay is to be found at his own forwarder must not draw others' circuits there.) A circuit id lives on one
link.

Each side sends exactly one DESTROY for a circuit id, and nothing after it; until the other side's has come, the id
stays in the table and cells for it are thrown away. So a cell for an id that is *not* in the table is a fault of
the peer and ends the link. (A DESTROY that overtook its own CREATE, which was never sent, is answered.)

A circuit therefore marks itself closed, under its lock, before its DESTROY is queued: `failed` comes first.
"""

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from time import monotonic
from typing import Protocol

from common.errors import Closed, DestroyReason, ProtocolError, TooLarge, Unexpected
from common.net import link_opening
from common.net.deadline import Deadline
from common.net.link import Link
from common.net.pump import Pump
from common.net.turn import TURN
from common.wire.cells import Bytes, Cell, Command, decode_destroy, encode_destroy

MAX_CIRCUITS = 8_192  # per link: a busy pair of relays; each costs about 30 KiB of keys and tables
MAX_LINKS = 4_096  # each is a descriptor, and what its peer lets wait
IDLE_LINK = 180.0  # seconds without a circuit after which a link is closed

_logger = logging.getLogger(__name__)
_CIRCUIT_AND_COMMAND, _BODY = itemgetter(0, 1), itemgetter(2)  # of a cell
_RELAY = int(Command.RELAY)

Place = tuple[bytes, str, int]  # identity, host and port of a relay


class CircuitSide(Protocol):
    """A circuit as one of its links sees it. All methods are called on the pump's thread, and never wait."""

    def cells(self, bodies: Sequence[Bytes]) -> None:
        """RELAY cells in order; raises `ProtocolError`, and the circuit is then failed."""

    def created(self, body: Bytes) -> None:
        """The other side answered CREATE; raises as `cells`."""

    def failed(self, reason: DestroyReason) -> None:
        """The circuit ended: by the peer's DESTROY, by the link's end, or because `cell` raised.

        Nothing may be queued for it on this link afterwards.
        """

    def drained(self) -> None:
        """The link takes more of this circuit again."""


class _Closing:
    """Stands in for a circuit whose DESTROY was sent and not yet answered."""

    def cells(self, bodies: Sequence[Bytes]) -> None:
        """Were sent before the peer knew."""

    def created(self, body: Bytes) -> None:
        """Likewise."""

    def failed(self, reason: DestroyReason) -> None:
        """Over at last."""

    def drained(self) -> None:
        """Nothing is sent any more."""


_CLOSING = _Closing()
Table = dict[int, CircuitSide]
NewCircuit = Callable[[Link, int, bytes], CircuitSide]


class Links:
    """A `LinkOwner` that dispatches cells to circuits. `new_circuit` answers CREATE on accepted links.

    They are served on the pump's thread.
    """

    def __init__(self, pump: Pump, new_circuit: NewCircuit | None = None) -> None:
        self._pump = pump
        self._new_circuit = new_circuit
        self._lock = threading.Lock()  # guards the tables' shape; a link's own table is changed under it too
        self._tables: dict[Link, Table] = {}
        self._dialled: dict[Place, Link] = {}
        self._dialling: dict[Place, threading.Lock] = {}
        self._idle_since: dict[Link, float] = {}  # when a link last came to be without a circuit
        self._closed = False
        self._past_in = self._past_out = 0  # bytes of links that have ended
        self.creates_answered = 0
        self.creates_refused: Counter[DestroyReason] = Counter()

    # ---- links

    def add(self, link: Link, place: Place | None = None) -> None:
        """Takes an accepted link, or one dialled at a place, into the table and starts it; raises `Closed`."""
        with self._lock:
            refused = DestroyReason.SHUTTING_DOWN if self._closed else None
            if len(self._tables) >= MAX_LINKS and not self._make_room():
                refused = DestroyReason.LIMIT
            if refused is None:
                self._tables[link] = {}
                self._idle_since[link] = monotonic()
                if place is not None:
                    self._dialled[place] = link
        if refused is not None:
            link.close(refused.name.lower(), refused)
            raise Closed("no more links are taken", refused)
        link.start(self._pump)

    def find(self, address: tuple[str, int], identity: bytes) -> Link | None:
        """The open dialled link to a relay at that address, if there is one."""
        link = self._dialled.get((identity, *address))
        return link if link is not None and not link.closed else None

    def obtain(self, address: tuple[str, int], identity: bytes, deadline: Deadline) -> Link:
        """The link to a relay, dialled if need be (waits); raises `Closed` or `AuthenticationFailed`."""
        place = (identity, *address)
        with self._lock:
            gate = self._dialling.setdefault(place, threading.Lock())
        if not gate.acquire(timeout=deadline.left()):
            raise Closed("timed out", DestroyReason.TIMEOUT)
        try:
            link = self.find(address, identity)
            if link is None:
                link = link_opening.dial(address, identity, self, deadline)
                self.add(link, place)
            return link
        finally:
            gate.release()
            with self._lock:
                self._dialling.pop(place, None)

    def close_idle(self) -> None:
        """Closes links that have carried no circuit for a while; called now and then."""
        with self._lock:
            old = monotonic() - IDLE_LINK
            for link in self._idle():
                if self._idle_since[link] < old:
                    link.close("idle", DestroyReason.FINISHED)

    def close(self, deadline: Deadline) -> None:
        """Gives what is queued to the kernel, then ends all links and waits until they are over."""
        with self._lock:
            self._closed = True
            links = list(self._tables)
        for link in links:
            link.flush()  # all of them, or one whose peer stalls would take the others' time
        for link in links:
            link.drain(deadline)
            link.close("shutting down", DestroyReason.SHUTTING_DOWN)
        for link in links:
            link.join(deadline)

    @property
    def all(self) -> list[Link]:
        """The open links."""
        with self._lock:
            return list(self._tables)

    @property
    def sides(self) -> list[CircuitSide]:
        """All circuits, once for each of their links."""
        with self._lock:
            return [side for table in self._tables.values() for side in list(table.values())]

    def unowned(self, link: Link) -> tuple[int, int]:
        """Bytes that wait on a link for circuits that are over, and how many circuits it has that are not.

        The bytes are answers that a peer asks for and does not read.
        """
        with self._lock:
            sides = dict(self._tables.get(link, {}))
        live = [circuit_id for circuit_id, side in sides.items() if side is not _CLOSING]
        return link.waiting - sum(map(link.backlog, live)), len(live)

    @property
    def carried(self) -> int:
        """Bytes carried since the start: what came over links or what left over links, whichever is more.

        In a middle relay the two are the same traffic; at an exit only one direction of a stream is on a link.
        """
        return max(self.traffic)

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes that came over links since the start, and bytes that left over them."""
        with self._lock:
            links = list(self._tables)
            past_in, past_out = self._past_in, self._past_out
        return past_in + sum(link.bytes_in for link in links), past_out + sum(link.bytes_out for link in links)

    # ---- circuits

    def register(self, link: Link, side: CircuitSide) -> int:
        """A fresh circuit id on a dialled link, now in use for `side`; raises `Closed` or `TooLarge`."""
        with self._lock:
            table = self._tables.get(link)
            if table is None or link.closed:
                raise Closed("the link is gone", DestroyReason.LINK_CLOSED)
            if len(table) >= MAX_CIRCUITS:
                raise TooLarge("too many circuits on the link")
            while True:
                circuit_id = secrets.randbits(32)
                if circuit_id and circuit_id not in table:
                    break
            table[circuit_id] = side
            return circuit_id

    def destroy(self, link: Link, circuit_id: int, reason: DestroyReason) -> None:
        """Sends DESTROY, dropping what waits; harmless when the circuit is gone from the link already.

        The circuit must be marked closed.
        """
        with self._lock:
            table = self._tables.get(link)
            if table is None or table.get(circuit_id, _CLOSING) is _CLOSING:
                return
            table[circuit_id] = _CLOSING
        link.forget(circuit_id)
        link.queue(circuit_id, Command.DESTROY, encode_destroy(reason))
        TURN.flush(link)

    def circuits(self, link: Link) -> int:
        """How many circuits a link carries."""
        table = self._tables.get(link)
        return len(table) if table else 0

    # ---- LinkOwner

    def link_cells(self, link: Link, cells: list[Cell]) -> None:
        """Hands the cells to their circuits, those that follow each other together.

        What that makes to be sent is sent at the turn's end, once for all of them.
        """
        table = self._tables.get(link)
        if table is None:
            return
        for (circuit_id, command), run in groupby(cells, _CIRCUIT_AND_COMMAND):
            side = table.get(circuit_id)
            if side is not None and command == _RELAY:
                try:
                    side.cells(list(map(_BODY, run)))
                except Exception as error:
                    self._fail(link, circuit_id, side, error)
            else:
                for cell in run:
                    self._other_cell(link, table, table.get(circuit_id), cell)

    def link_drained(self, link: Link, circuit_ids: list[int]) -> None:
        """Lets the circuits go on that had stopped reading their sources."""
        table = self._tables.get(link)
        for circuit_id in circuit_ids:
            side = table.get(circuit_id) if table else None
            if side is not None:
                side.drained()

    def link_closed(self, link: Link, error: Closed) -> None:
        """Ends all circuits of the link."""
        with self._lock:
            table = self._tables.pop(link, {})
            if link.dialled:
                self._dialled = {place: other for place, other in self._dialled.items() if other is not link}
            self._past_in += link.bytes_in
            self._past_out += link.bytes_out
            self._idle_since.pop(link, None)
        _logger.debug("%s ended: %s", link.name, error)
        for side in list(table.values()):
            side.failed(DestroyReason.LINK_CLOSED)

    # ---- helpers

    def _idle(self) -> list[Link]:
        """Open links without a circuit. Requires the lock, also to close them: `register` gives one none then."""
        return [link for link, table in self._tables.items() if not table and not link.closed]

    def _make_room(self) -> bool:
        """Ends the idlest link if as many as may be are open; whether one more may be now. Requires the lock."""
        if sum(not link.closed for link in self._tables) < MAX_LINKS:
            return True  # the pump has still to hear of those that have ended
        idlest = min(self._idle(), key=self._idle_since.__getitem__, default=None)
        if idlest is None:
            return False
        idlest.close("another link needs its place", DestroyReason.LIMIT)
        return True

    def _other_cell(self, link: Link, table: Table, side: CircuitSide | None, cell: Cell) -> None:
        """Not RELAY for a circuit that is."""
        if side is None:
            self._first_cell(link, table, cell)
        elif cell.command == Command.DESTROY:
            self._destroyed(link, table, cell)
        elif cell.command == Command.CREATED:
            try:
                side.created(cell.body)
            except Exception as error:
                self._fail(link, cell.circuit_id, side, error)
        else:
            raise Unexpected("CREATE for a circuit id in use")

    def _first_cell(self, link: Link, table: Table, cell: Cell) -> None:
        circuit_id, command, body = cell
        if link.dialled or self._new_circuit is None or command not in (Command.CREATE, Command.DESTROY):
            raise Unexpected("a cell for a circuit that is not")
        if command == Command.DESTROY:
            link.queue(circuit_id, Command.DESTROY, encode_destroy(decode_destroy(body)))
            TURN.flush(link)
            return
        if len(table) >= 2 * MAX_CIRCUITS:  # refused, and never closed by the peer
            raise TooLarge("a flood of CREATE")
        try:
            if len(table) >= MAX_CIRCUITS:
                raise TooLarge("too many circuits on the link")
            table[circuit_id] = self._new_circuit(link, circuit_id, bytes(body))
            self.creates_answered += 1
        except ProtocolError as error:
            self.creates_refused[error.reason] += 1
            table[circuit_id] = _CLOSING
            link.queue(circuit_id, Command.DESTROY, encode_destroy(error.reason))
            TURN.flush(link)

    def _fail(self, link: Link, circuit_id: int, side: CircuitSide, error: Exception) -> None:
        """Ends a circuit that could not take what came for it."""
        if isinstance(error, ProtocolError):
            _logger.debug("%s: a circuit ends: %s", link.name, error)
            reason = error.reason
        else:
            _logger.error("%s: internal error, a circuit ends", link.name, exc_info=error)
            reason = DestroyReason.INTERNAL
        side.failed(reason)
        self.destroy(link, circuit_id, reason)

    def _destroyed(self, link: Link, table: Table, cell: Cell) -> None:
        reason = decode_destroy(cell.body)
        with self._lock:
            side = table.pop(cell.circuit_id)
            if not table:
                self._idle_since[link] = monotonic()
        if side is _CLOSING:
            return
        side.failed(reason)
        link.forget(cell.circuit_id)
        link.queue(cell.circuit_id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
        TURN.flush(link)
