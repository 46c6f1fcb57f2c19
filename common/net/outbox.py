"""What waits to be sent on a link: a queue per circuit, the quietest circuit served first.

Each circuit has a count of the bytes it has sent, which halves every `HALF_LIFE`; the smallest count goes first
(the idea of Tor's EWMA scheduler, Tang and Goldberg 2010), equal counts in the order they came. It sends up to a
`QUANTUM` in a row: cells of one circuit that come together cost whoever gets them a fifth less than those of many
in turns. Within a circuit the order is kept. Circuit id 0, the link's own cells, goes before all.

Instead of shrinking every count as time passes, what is sent later weighs more: `weight` doubles every half-life.
So the order of two counts never changes by itself, and a heap of them stays valid. When weights grow large, or the
table does, all counts are scaled back at once (`_renew`), which also drops circuits that no longer matter.

No I/O, no lock, no clock: the owner locks, and time is an argument.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

from common.wire.cells import LONG_CELL, Pieces, size_of

QUANTUM = 65_536  # bytes: what a link encrypts at once anyhow, so nobody waits longer for it
HALF_LIFE = 1.0  # seconds: long against a round trip, short against a person's patience
HIGH_WATER = 524_288  # a circuit with more waiting should stop reading its source: 2 ms of a fast link
LOW_WATER = 262_144  # and may go on here: half is left to send while the source wakes up
_MAX_DOUBLINGS = 500.0  # a float holds 2**1023
_SAME_WEIGHT = 0.01  # seconds: what a byte weighs is not reckoned anew before, as it is 0.7 % more by then
_MIN_TABLE = 1_024  # circuits; below this the table is not worth cleaning


class _Circuit:
    """One circuit's cells, its bytes waiting, and its weighted count of bytes sent."""

    __slots__ = ("cells", "congested", "count", "waiting")

    def __init__(self) -> None:
        self.cells: deque[Pieces] = deque()
        self.waiting = 0
        self.count = 0.0
        self.congested = False


class Outbox:
    """Cells by circuit, in pieces. `size` is the bytes waiting in all. Not thread-safe."""

    __slots__ = (
        "_circuits",
        "_epoch",
        "_heap",
        "_only",
        "_table_limit",
        "_turn",
        "_weighed_at",
        "_weight",
        "drained",
        "size",
    )

    def __init__(self) -> None:
        self.size = 0
        self.drained: list[int] = []  # circuits that fell below LOW_WATER in `take`; the owner empties it
        self._only: tuple[int, Sequence[Pieces]] | None = None  # all that waits, if it came together
        self._circuits: dict[int, _Circuit] = {}
        self._heap: list[tuple[float, int, int, _Circuit]] = []  # all other circuits that have cells
        self._turn = 0  # makes heap entries unique, and equals first come, first served
        self._epoch: float | None = None  # when a byte weighed 1
        self._weight = 1.0  # what one sent now weighs, as it was
        self._weighed_at = -_SAME_WEIGHT  # at this time
        self._table_limit = _MIN_TABLE

    def append(self, circuit_id: int, cells: Sequence[Pieces]) -> None:
        """Queues cells behind their circuit's others."""
        size = sum(map(size_of, cells))
        if not self.size and size <= QUANTUM:
            self._only = circuit_id, cells
            self.size = size
        else:
            self._line_up()
            self._append(circuit_id, cells, size)
            self.size += size

    def take(self, room: int, now: float, *, one: bool = True) -> Sequence[Pieces]:
        """The next cells to send, quietest circuit first: at most `room` bytes, but `one` cell if any waits."""
        if now - self._weighed_at >= _SAME_WEIGHT:
            self._weigh(now)
        if self.size <= room:
            return self._take_all()
        self._line_up()
        heap = self._heap
        taken: list[Pieces] = []
        while heap and room > 0:
            _, _, circuit_id, circuit = heap[0]
            cells = circuit.cells
            alone = len(heap) == 1
            if circuit.waiting <= (room if alone else min(room, QUANTUM)):  # all it has
                sent = circuit.waiting
                taken += cells
                cells.clear()
                room -= sent
            else:
                sent = 0
                while cells:
                    size = size_of(cells[0])
                    if size > room and (taken or not one):
                        room = 0
                        break
                    taken.append(cells.popleft())
                    sent += size
                    room -= size
                    if sent >= QUANTUM and not alone:
                        break
            self._count(circuit_id, circuit, sent)
        return taken

    def backlog(self, circuit_id: int) -> int:
        """The bytes of one circuit that wait."""
        only = self._only  # asked without the owner's lock: what is looked at must not change meanwhile
        if only is not None:
            return sum(map(size_of, only[1])) if only[0] == circuit_id else 0
        circuit = self._circuits.get(circuit_id)
        return circuit.waiting if circuit else 0

    def forget(self, circuit_id: int) -> None:
        """Drops what waits for a circuit, and its count."""
        self._line_up()
        circuit = self._circuits.pop(circuit_id, None)
        if circuit and circuit.cells:
            self.size -= circuit.waiting
            self._heap = [entry for entry in self._heap if entry[3] is not circuit]
            heapify(self._heap)

    def clear(self) -> None:
        """Drops everything."""
        self.size = 0
        self._only = None
        self._circuits.clear()
        self._heap.clear()
        self.drained.clear()

    def _new(self, circuit_id: int) -> _Circuit:
        circuit = self._circuits[circuit_id] = _Circuit()
        if not circuit_id:
            circuit.count = -1.0
        return circuit

    def _line_up(self) -> None:
        """Queues what was all that waited as if more had waited."""
        if self._only is not None:
            circuit_id, cells = self._only
            self._only = None
            self._append(circuit_id, cells, self.size)

    def _append(self, circuit_id: int, cells: Sequence[Pieces], size: int) -> None:
        circuit = self._circuits.get(circuit_id) or self._new(circuit_id)
        if not circuit.cells:
            self._turn += 1
            heappush(self._heap, (circuit.count, self._turn, circuit_id, circuit))
        circuit.cells.extend(cells)
        circuit.waiting = waiting = circuit.waiting + size
        if waiting > HIGH_WATER:
            circuit.congested = True

    def _take_all(self) -> Sequence[Pieces]:
        """What is asked for most: on a link that is not busy a turn's cells are all there is."""
        if self._only is not None:
            circuit_id, only = self._only
            self._only = None
            if circuit_id:
                circuit = self._circuits.get(circuit_id) or self._new(circuit_id)
                circuit.count += self.size * self._weight
            self.size = 0
            return only
        taken: list[Pieces] = []
        heap, self._heap = self._heap, []
        heap.sort()
        for _, _, circuit_id, circuit in heap:
            taken += circuit.cells
            circuit.cells.clear()
            if circuit_id:
                circuit.count += circuit.waiting * self._weight
            circuit.waiting = 0
            if circuit.congested:
                circuit.congested = False
                self.drained.append(circuit_id)
        self.size = 0
        return taken

    def _count(self, circuit_id: int, circuit: _Circuit, sent: int) -> None:
        """Records what the first circuit of the heap has sent, and gives it its new place there."""
        self.size -= sent
        circuit.waiting -= sent
        if circuit_id:
            circuit.count += sent * self._weight
        if circuit.congested and circuit.waiting < LOW_WATER:
            circuit.congested = False
            self.drained.append(circuit_id)
        if not circuit.cells:
            heappop(self._heap)
        elif sent:
            self._turn += 1
            heapreplace(self._heap, (circuit.count, self._turn, circuit_id, circuit))

    def _weigh(self, now: float) -> None:
        """Reckons what a byte sent now weighs."""
        if self._epoch is None:
            self._epoch = now
        doublings = (now - self._epoch) / HALF_LIFE
        if doublings > _MAX_DOUBLINGS or len(self._circuits) > self._table_limit:
            self._renew(now, doublings)
            doublings = 0.0
        self._weight, self._weighed_at = float(2.0**doublings), now

    def _renew(self, now: float, doublings: float) -> None:
        """Makes a byte weigh 1 again; idle circuits that count for less than a cell are as good as new ones."""
        scale = float(2.0**-doublings)
        kept: dict[int, _Circuit] = {}
        for circuit_id, circuit in self._circuits.items():
            if circuit_id:
                circuit.count *= scale
            if circuit.cells or circuit.count >= LONG_CELL:
                kept[circuit_id] = circuit
        self._circuits = kept
        self._table_limit = max(_MIN_TABLE, 2 * len(kept))
        self._heap = [(circuit.count, turn, circuit_id, circuit) for _, turn, circuit_id, circuit in self._heap]
        heapify(self._heap)
        self._epoch = now
