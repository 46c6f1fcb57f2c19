"""Messages into cells: what is said on a circuit waits here until its turn's end, and is sealed in order.

What is a little more than a short cell holds goes in a few short ones: a long one would be mostly padding, which a
slow link has to carry too. For the same reason DATA is divided where a cell has room for a part of it. And on a
long path a transfer's cell may wait to be full: a target that sends a segment or two at a time would else have the
relays carry ten times as much padding. What nobody waits for may wait for company. Anything else takes along what
waits.
"""

from math import isfinite
from typing import Protocol

from common.circuit.congestion import CongestionWindow
from common.circuit.window import CircuitSendWindow
from common.crypto.layers import MAX_HOPS
from common.wire.cells import MAX_BODY, MAX_SHORT_BODY, Bytes
from common.wire.messages import HEADER, Mark, encode_data_header

FILL_PART = 1 / 20  # of the base round trip: so long a transfer's cell may wait to be full,
MOST_FILL_TIME = 0.010  # but no more seconds than this,
LEAST_FILL_TIME = 0.001  # and not at all where it would be less than this: not worth a timer
COMPANY_TIME = 0.010  # seconds for which what nobody waits for may wait to share a cell
FULL = 15 / 16  # of a cell: more is neither waited for nor added
FEW = 4  # short cells of DATA that are sent instead of a long one, at most: a quarter of its bytes
_MARK = Mark().encode()
_HEADER_SIZE = HEADER.size
_HOPS = 5  # of the longest path that is drawn unless asked for; on longer ones cells are long near the client


class Seal(Protocol):
    """Makes a cell body of messages; returns also the end of its innermost layer."""

    def __call__(self, *messages: Bytes) -> tuple[bytes, bytes]:
        """Several pieces are joined."""


class Packing:
    """What an endpoint has said and not sealed. Not thread-safe, as the endpoint is not."""

    __slots__ = (
        "_congestion",
        "_few",
        "_full",
        "_max_messages",
        "_seal",
        "_sealed_at",
        "_short",
        "_size",
        "_urgent",
        "_window",
        "filling",
        "max_data",
        "outgoing",
        "unsealed",
    )

    def __init__(
        self, seal: Seal, max_messages: int, window: CircuitSendWindow, congestion: CongestionWindow
    ) -> None:
        """`max_messages` is the suite's."""
        self.outgoing: list[tuple[bytes, Bytes, int]] = []  # a message, or DATA's header, the DATA and its length
        self._size = 0  # bytes of it all
        self.unsealed = 0  # bytes of DATA in it all: the circuit's window counts them only in `take_cells`
        self.filling: float | None = None  # since when a part of it waits to fill a cell, or for company
        self._urgent = False  # something in it must not wait
        self._seal = seal
        self._sealed_at = 0.0
        self._max_messages = max_messages - len(_MARK)  # any cell may turn out to be marked
        self._full = FULL * self._max_messages
        self.max_data = self._max_messages - _HEADER_SIZE
        # Bytes of messages in a short cell: so many that it is one on all links of a path of so many hops.
        self._short = MAX_SHORT_BODY - (MAX_BODY - max_messages) * _HOPS // MAX_HOPS - len(_MARK)
        self._few = FEW * (self._short - _HEADER_SIZE)
        self._window = window
        self._congestion = congestion

    def add(self, message: bytes, *, patient: bool = False) -> None:
        """What is no DATA; nothing at all makes a cell for a mark. `patient`: it may wait for something else."""
        self.outgoing.append((message, b"", 0))
        self._size += len(message)
        if not patient:
            self._urgent = True

    def add_data(self, stream_id: int, data: bytes, *, patient: bool) -> None:
        """DATA, in pieces that fit; `patient`: it may wait to fill a cell."""
        size, most, outgoing = len(data), self.max_data, self.outgoing
        self.unsealed += size
        if not patient:
            self._urgent = True
        if 0 < size <= most:
            outgoing.append((encode_data_header(stream_id, size), data, size))
            self._size += _HEADER_SIZE + size
            return
        view = memoryview(data)
        for at in range(0, size, most):
            piece = view[at : at + most]
            count = len(piece)
            outgoing.append((encode_data_header(stream_id, count), piece, count))
            self._size += _HEADER_SIZE + count

    @property
    def room(self) -> int:
        """Bytes of data of one more message that fills the cell, of what waits and is less than one."""
        return self._max_messages - self._size - _HEADER_SIZE

    def take_cells(self, now: float, *, full: bool = False) -> list[bytes]:
        """The cell bodies to send now, sealed and in order; messages that fit together share a cell.

        With `full`, what is less than `FULL`, and more than a short cell or behind a long one, may stay for
        `fill_time` seconds: `filling` tells. So may what waits for company, for `COMPANY_TIME`.
        """
        if not self.outgoing:
            return []
        if full and not self._urgent and not self.unsealed:
            if self.filling is None:
                self.filling = now
            return []
        if self._size <= self._short and self.filling is None:
            return self._take_one(now)
        cells: list[bytes] = []
        outgoing = self.outgoing
        at, end, left, unsealed = 0, len(outgoing), self._size, self.unsealed
        while at < end:
            if full and left < self._full and self._may_fill(left, unsealed, now, rest=bool(cells)):
                if self.filling is None or at:
                    self.filling = now
                del outgoing[:at]
                self._size, self.unsealed = left, unsealed
                break
            few = left <= self._few
            most = self._short if few else self._max_messages
            parts: list[Bytes] = []
            size = count = 0
            while at < end:
                head, data, length = outgoing[at]
                if size + len(head) + length > most:
                    room = most - size - _HEADER_SIZE
                    if length and room > 0 and (few or (count and size < self._full)):
                        _split(outgoing, at, room)
                        left, end = left + _HEADER_SIZE, end + 1
                        continue  # with the piece that fills the cell
                    if parts:
                        break
                parts.append(head)
                size += len(head) + length
                if length:
                    parts.append(data)
                    count += length
                at += 1
            left -= size
            unsealed -= count
            cells.append(self._sealed(parts, count, now))
        else:
            self._clear()
        if cells:
            self._sealed_at = now
        return cells

    def _take_one(self, now: float) -> list[bytes]:
        """All of it, which a short cell holds: so it is where there is no transfer."""
        parts: list[Bytes] = []
        for head, data, _ in self.outgoing:
            parts += (head, data)
        cell = self._sealed(parts, self.unsealed, now)
        self._clear()
        self._sealed_at = now
        return [cell]

    def _sealed(self, parts: list[Bytes], count: int, now: float) -> bytes:
        """One cell, which has a mark if one is due; `count` bytes of it are DATA."""
        self._congestion.sent(now, count)
        if self._window.cell_sent(count, self._congestion.step):
            body, proof = self._seal(*parts, _MARK)
            self._window.marked(proof, now)
        else:
            body, _ = self._seal(*parts)
        return body

    def _clear(self) -> None:
        self.outgoing.clear()
        self._size = self.unsealed = 0
        self.filling = None
        self._urgent = False

    def wait(self, now: float) -> float:
        """Seconds until DATA may be added, as far as the pace tells; 0 or less: now. One begun may be filled."""
        return self._congestion.wait(now, self.unsealed - self.unsealed % self.max_data)

    @property
    def due(self) -> float | None:
        """When what waits to fill a cell, or for company, has waited enough; None if nothing does."""
        if self.filling is None:
            return None
        return self.filling + (self.fill_time if self.unsealed else COMPANY_TIME)

    @property
    def fill_time(self) -> float:
        """Seconds for which a cell may wait to be full: a small part of the time that it takes anyway."""
        base = self._congestion.base
        return min(base * FILL_PART, MOST_FILL_TIME) if isfinite(base) else 0.0

    def _may_fill(self, size: int, count: int, now: float, *, rest: bool) -> bool:
        """Whether so many bytes of messages, `count` of DATA, had better wait; `rest`: what full cells left."""
        if self._urgent or not (rest or self.filling is not None or size > self._short):
            return False
        patience = self.fill_time
        if patience < LEAST_FILL_TIME or now - self._sealed_at > patience:
            return False
        return self._congestion.window > self._window.flying + count  # with no room left, no more would come


def _split(outgoing: list[tuple[bytes, Bytes, int]], at: int, room: int) -> None:
    """Makes two of the DATA that stands there: `room` bytes, and the rest."""
    head, data, _ = outgoing[at]
    _, stream_id, _ = HEADER.unpack(head)
    view = memoryview(data)
    pieces = view[:room], view[room:]
    outgoing[at : at + 1] = [(encode_data_header(stream_id, len(piece)), piece, len(piece)) for piece in pieces]
