"""A link: one TLS connection between two nodes, on which cells go both ways.

The pump's thread reads, encrypts, sends and calls the owner; what is received meanwhile waits in the kernel. Any
thread may queue cells and ask for them to be sent. Nobody waits for the peer: two relays that wait to send would
wait for each other for ever.

`_lock` guards the outbox, `closed` and who waits in `drain`. It is held for a few operations only, and never while
the owner is called.

Nothing is encrypted while ciphertext waits for the kernel: what is encrypted has its place in the order for good,
and scheduling is the outbox's.
"""

import logging
import socket
import threading
from collections.abc import Callable
from itertools import count, groupby
from time import monotonic
from typing import Protocol

from common.errors import Closed, DestroyReason, ProtocolError, Unexpected
from common.net.deadline import Deadline
from common.net.handshake import PATIENCE, text_of
from common.net.kernel_queue import KernelQueue
from common.net.outbox import HIGH_WATER, QUANTUM, Outbox
from common.net.poller import READ, WRITE
from common.net.pump import Pump
from common.net.tls import TlsSession
from common.wire.cells import Bytes, Cell, Command, cut_cells, join_cells, size_of
from common.wire.framing import CellReader

BATCH = QUANTUM  # bytes encrypted at once: enough for one system call, little enough to stay in order
ROUNDS = 16  # batches one link sends in a turn: others of the process wait for no more than 1 MiB
MAX_BACKLOG = 1_073_741_824  # bytes in the outbox: owners end circuits at half of it; this is the last resort
_NOTHING = memoryview(b"")

_logger = logging.getLogger(__name__)
_numbers = count(1)


class LinkOwner(Protocol):
    """Who is told what happens on a link: on the pump's thread with no lock of the link held; none may wait."""

    def link_cells(self, link: "Link", cells: list[Cell]) -> None:
        """All whole cells of one read, in order; never HELLO or PADDING."""

    def link_drained(self, link: "Link", circuit_ids: list[int]) -> None:
        """These circuits' backlogs were above `HIGH_WATER` and fell below `LOW_WATER` by sending."""

    def link_closed(self, link: "Link", error: Closed) -> None:
        """Exactly once for each started link, after the last `link_cells`; not when its pump was stopped."""


class Link:
    """One connected link, from `link_opening`. Nothing is sent or received before `start`."""

    def __init__(
        self,
        sock: socket.socket,
        tls: TlsSession,
        owner: LinkOwner,
        identity: bytes | None,
        reader: CellReader,
        early: list[Cell],
        source: str | None,
    ) -> None:
        """`identity`: whom we dialled, None for who dialled us; `early`: the cells that came with HELLO.

        `source`: what the peer's address counts for, see there.
        """
        self.identity = identity
        self.dialled = identity is not None
        self.source = source
        self.name = f"link {next(_numbers)}" + (f" to {identity.hex()[:8]}" if identity else "")
        self.closed = False
        self.opened_at = monotonic()
        self.cells_in = 0
        self.cells_out = 0
        self.bytes_in = 0  # as received and sent, TLS included
        self.bytes_out = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._owner = owner
        self._error = Closed()
        self._lock = threading.Lock()
        self._pump: Pump | None = None
        self._outbox = Outbox()
        # Wishes from any thread, granted by `_look`.
        self._asked = False
        self._drainers: list[threading.Event] = []
        self._ended = threading.Event()
        # The pump's thread only.
        self._tls = tls
        self._reader = reader
        self._early = early
        self._unsent = _NOTHING
        self._kernel = KernelQueue(sock)
        self._interest = 0
        self._full = False  # the kernel takes no more for now
        self._full_since = 0.0
        self._timed = False
        self._held = False  # the path has enough for now: a timer runs

    def start(self, pump: Pump) -> None:
        """Serves it on the pump's thread from now on, once: register the link first, its cells come at once."""
        with self._lock:
            self._pump = pump
        pump.adopt(self, self._begin)

    # ---- sending: any thread, never waits

    def queue(self, circuit_id: int, command: int, *bodies: Bytes) -> None:
        """Queues cells, to be sent by the next `flush`; on a closed link they are dropped. Raises `TooLarge`."""
        cells = cut_cells(circuit_id, command, bodies)
        with self._lock:
            if self.closed:
                return
            self._outbox.append(circuit_id, cells)
        if self._outbox.size > MAX_BACKLOG:
            self.close("the link is overloaded", DestroyReason.LIMIT)

    def flush(self) -> None:
        """Sends what is queued: on the pump's thread at once as far as the kernel takes it, on others soon."""
        pump = self._pump
        if pump is None:
            return  # `start` does
        if threading.get_ident() != pump.ident:
            self._ask(pump)
            return
        if self._outbox.size and not self._full:
            try:
                self._send_batches()
            except Exception as error:
                self._fail(error)

    def send(self, circuit_id: int, command: int, body: Bytes) -> None:
        """`queue`, then `flush`."""
        self.queue(circuit_id, command, body)
        self.flush()

    def backlog(self, circuit_id: int) -> int:
        """The bytes of a circuit that wait in the outbox."""
        return self._outbox.backlog(circuit_id)  # a number, as it was a moment ago: needs no lock

    @property
    def waiting(self) -> int:
        """The bytes of all circuits that wait."""
        return self._outbox.size

    def congested(self, circuit_id: int) -> bool:
        """Whether more than `HIGH_WATER` of a circuit waits; if so, `link_drained` follows (maybe already now)."""
        return self._outbox.backlog(circuit_id) > HIGH_WATER

    def forget(self, circuit_id: int) -> None:
        """Drops what waits for a circuit that has ended."""
        with self._lock:
            self._outbox.forget(circuit_id)

    def _ask(self, pump: Pump) -> None:
        if not self._asked:
            self._asked = True
            pump.call(self._look)

    # ---- ending: any thread

    def drain(self, deadline: Deadline) -> bool:
        """Waits until the kernel has all that was queued; False when the time is over or the link closed."""
        drained = threading.Event()
        with self._lock:
            pump = self._pump
            if self.closed or pump is None:
                return False
            self._drainers.append(drained)
        assert not pump.on_pump_thread(), "it would wait for itself"
        self._ask(pump)
        return drained.wait(deadline.left()) and not self.closed

    def close(self, text: str = "closed here", reason: DestroyReason = DestroyReason.LINK_CLOSED) -> None:
        """Ends the link and drops what waits; the owner hears of it from the pump."""
        with self._lock:
            if self.closed:
                return
            self._error = Closed(text, reason)
            self.closed = True
            self._outbox.clear()
            pump = self._pump
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # the peer hears of it now, however busy the pump is
        except OSError:
            pass  # the peer was faster
        if pump is None:
            self._sock.close()
        else:
            pump.call(self._look)

    def join(self, deadline: Deadline) -> None:
        """Waits until a closed link is over: its socket is closed then, and its owner was told."""
        self._ended.wait(deadline.left())

    # ---- the pump's thread: for the pump

    def dispose(self) -> None:
        """Closes the socket now, and the owner hears nothing; idempotent."""
        with self._lock:
            self.closed = True
            self._outbox.clear()
        assert self._pump is not None
        if self._interest:
            self._pump.watch(self._fd, 0, self._ready)
            self._interest = 0
        self._sock.close()
        self._pump.forget(self)
        self._tell_drainers()
        self._ended.set()

    def _begin(self) -> None:
        self._guarded(self._deliver_early)
        self._look()

    def _look(self) -> None:
        """Grants what other threads wished for."""
        self._asked = False  # first: a wish from now on asks again
        if self.closed:
            self._end()
            return
        self.flush()
        self._guarded(self._watch)
        if not self._outbox.size and not self._full:
            self._tell_drainers()

    def _ready(self, events: int) -> None:
        """The poller's events."""
        try:
            if events & WRITE and not self.closed:
                self._send_rest()
            if events & READ and not self.closed:
                self._read()
        except Exception as error:
            self._fail(error)

    # ---- the pump's thread: steps

    def _guarded(self, step: Callable[[], None]) -> None:
        """As what the poller asks for: what goes wrong ends the link, and nothing else."""
        try:
            if not self.closed:
                step()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        match error:
            case ProtocolError():
                self.close(str(error), error.reason)
            case Closed() | OSError():
                self.close(text_of(error))
            case _:
                _logger.error("%s: internal error", self.name, exc_info=error)
                self.close("internal error", DestroyReason.INTERNAL)

    def _end(self) -> None:
        if not self._ended.is_set():
            try:
                self._owner.link_closed(self, self._error)
            except Exception:
                _logger.exception("%s: internal error after its end", self.name)
        self.dispose()  # also when `close` overtook `start`, which has made it a member after its end

    def _watch(self) -> None:
        """Brings the poller's interest in line; costs a system call only when it changed."""
        assert self._pump is not None
        interest = READ | WRITE if self._full else READ
        if interest != self._interest and not self.closed:
            self._pump.watch(self._fd, interest, self._ready)
            self._interest = interest

    def _tell_drainers(self) -> None:
        if self._drainers:
            with self._lock:
                drainers, self._drainers = self._drainers, []
            for drained in drainers:
                drained.set()

    # ---- receiving

    def _read(self) -> None:
        assert self._pump is not None
        buffer = self._pump.buffer
        try:
            received = self._sock.recv_into(buffer)
        except BlockingIOError:
            return
        if not received:
            raise Closed("the peer closed the link")
        self.bytes_in += received
        cells = self._reader.feed(*self._tls.read(buffer[:received]))
        if self._reader.own:
            self._deliver_others(cells)
        elif cells:
            self.cells_in += len(cells)
            self._owner.link_cells(self, cells)

    def _deliver_early(self) -> None:
        early, self._early = self._early, []
        self._deliver_others(early)

    def _deliver_others(self, cells: list[Cell]) -> None:
        """Those that are not the link's own."""
        self.cells_in += len(cells)
        if any(cell.command == Command.HELLO for cell in cells):
            raise Unexpected("a second HELLO")
        cells = [cell for cell in cells if cell.circuit_id]
        if cells:
            self._owner.link_cells(self, cells)

    # ---- sending

    def _send_rest(self) -> None:
        """The kernel has room again."""
        self._kernel.adapt(monotonic())
        if self._send(self._unsent):
            self._unsent = _NOTHING
            self._full = False
            self._send_queued()

    def _send_queued(self) -> None:
        if self._outbox.size:
            self._send_batches()
        if not self._full:
            self._watch()
            if not self._outbox.size:
                self._tell_drainers()

    def _send_batches(self) -> None:
        """Sends until the outbox is empty, the kernel full or the turn over, and tells which circuits drained."""
        outbox, tls, kernel = self._outbox, self._tls, self._kernel
        for _ in range(ROUNDS):
            now = monotonic()
            room = kernel.room(now, BATCH)
            if room <= 0:
                if kernel.path_full:
                    self._wait_for_path()
                else:
                    self._wait_for_room()
                break
            with self._lock:
                cells = outbox.take(room, now, one=not kernel.short_only)
            if not cells:
                self._wait_for_path()
                break
            # TLS cuts at 16,384: a long cell is a record by itself, or 16 short ones are one.
            for _, run in groupby(cells, size_of):
                tls.write(join_cells(run))
            self.cells_out += len(cells)
            if not self._send(tls.outgoing()) or not outbox.size:
                break
        else:
            self._wait_for_room()
        if outbox.drained:
            drained, outbox.drained = outbox.drained, []
            self._owner.link_drained(self, drained)

    def _send(self, ciphertext: bytes | memoryview) -> bool:
        """Gives the kernel what it takes; False when some is left."""
        try:
            sent = self._sock.send(ciphertext) if ciphertext else 0
        except BlockingIOError:
            sent = 0
        self.bytes_out += sent
        if sent == len(ciphertext):
            return True
        self._unsent = memoryview(ciphertext)[sent:]
        self._wait_for_room()
        return False

    def _wait_for_room(self) -> None:
        """Goes on when the poller says so, or when it is others' turn; a peer that takes nothing is given up."""
        self._full_since = monotonic()
        self._full = True
        self._watch()
        if not self._timed:
            self._time(PATIENCE)

    def _wait_for_path(self) -> None:
        """Goes on when the path has carried enough, which no poller tells; that a peer is gone the kernel sees."""
        assert self._pump is not None
        if not self._held:
            self._held = True
            self._pump.call_later(self._kernel.wait(), self._go_on)

    def _go_on(self) -> None:
        self._held = False
        if not self._full:
            self._guarded(self._send_queued)

    def _time(self, seconds: float) -> None:
        assert self._pump is not None
        self._timed = True
        self._pump.call_later(seconds, self._check)

    def _check(self) -> None:
        """Rarely: one timer at a time, however often the kernel was full."""
        self._timed = False
        if self.closed or not self._full:
            return
        left = self._full_since + PATIENCE - monotonic()
        if left > 0:
            self._time(left)
        else:
            self.close("the peer takes nothing", DestroyReason.TIMEOUT)
