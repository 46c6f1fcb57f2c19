"""A link: one TLS connection between two nodes, on which cells go both ways.

Threads. A link has two: the *reader* takes what arrives and calls the owner; the *writer* sends what the kernel
did not take at once. Any thread may call any method. Nobody waits for the peer but these two, and the reader never
waits for the writer: two relays whose readers wait to send would wait for each other for ever.

Locks, in the order in which they are taken; neither is held while the owner is called:
`_tls_lock` guards the TLS session, `_unsent` and sending on the socket. It is held while a batch is encrypted and
given to the kernel, or while what one read brought is decrypted, never while waiting. `flush` only tries it: who
holds it looks into the outbox again after letting go, so no cell is left behind.
`_lock` guards the outbox, `_handed_over` and `closed`, and is held for a few operations only.

Nothing is encrypted while ciphertext waits for the kernel: what is encrypted has its place in the order for good,
and scheduling is the outbox's.
"""

import logging
import select
import socket
import ssl
import threading
from functools import cache
from itertools import chain, count, groupby
from time import monotonic
from typing import Protocol

from common.errors import AuthenticationFailed, Closed, DestroyReason, ProtocolError, Unexpected
from common.net.deadline import Deadline
from common.net.handshake import PATIENCE, connect, receive, send_all, shake_hands, text_of, tune
from common.net.kernel_queue import KernelQueue, limit_arrivals
from common.net.outbox import HIGH_WATER, QUANTUM, Outbox
from common.net.tls import TlsSession, client_context
from common.wire.cells import Bytes, Cell, Command, choose_version, cut_cells, encode_cell, encode_hello, size_of
from common.wire.framing import CellReader

RECEIVE_BUFFER = 262_144  # bytes per read: 16 long cells, beyond which nothing is gained
BATCH = QUANTUM  # bytes encrypted at once: enough for one system call, little enough to stay in order
ROUNDS = 16  # batches one `flush` sends for all: no caller is kept for longer than 1 MiB
MAX_BACKLOG = 268_435_456  # bytes in the outbox: owners end circuits long before; this is the last resort
_NOTHING = memoryview(b"")

_logger = logging.getLogger(__name__)
_numbers = count(1)
_client_context = cache(client_context)


class LinkOwner(Protocol):
    """Who is told what happens on a link. Calls come with no lock of the link held, and must not wait."""

    def link_cells(self, link: "Link", cells: list[Cell]) -> None:
        """Reader thread: all whole cells of one read, in order; never HELLO or PADDING."""

    def link_drained(self, link: "Link", circuit_ids: list[int]) -> None:
        """Any thread: these circuits' backlogs were above `HIGH_WATER` and fell below `LOW_WATER` by sending."""

    def link_closed(self, link: "Link", error: Closed) -> None:
        """Reader thread: exactly once for each started link, after the last `link_cells`."""


class Link:
    """One connected link, from `dial` or `accept`. Nothing is received before `start`."""

    def __init__(self, sock: socket.socket, tls: TlsSession, owner: LinkOwner, identity: bytes | None) -> None:
        self.identity = identity
        self.dialled = identity is not None
        self.name = f"link {next(_numbers)}" + (f" to {identity.hex()[:8]}" if identity else "")
        self.closed = False
        self.opened_at = monotonic()
        self.cells_in = 0
        self.cells_out = 0
        self.bytes_in = 0  # as received and sent, TLS included
        self.bytes_out = 0
        self._sock = sock
        self._tls = tls
        self._owner = owner
        self._cells = CellReader()
        self._early: list[Cell] = []  # came with HELLO
        self._error = Closed()
        self._tls_lock = threading.Lock()
        self._reader_waits = False  # for `_tls_lock`: who sends lets it pass, since Python's locks are not fair
        self._unsent = _NOTHING
        self._kernel = KernelQueue(sock)
        self._lock = threading.Lock()
        self._outbox = Outbox()
        self._handed_over = False  # sending is the writer's
        self._work = threading.Condition(self._lock)  # for the writer
        self._settled = threading.Condition(self._lock)  # for `drain`
        self._drainers = 0
        self._started = False
        self._reader = threading.Thread(target=self._run_reader, name=f"{self.name} reader", daemon=True)
        self._writer = threading.Thread(target=self._run_writer, name=f"{self.name} writer", daemon=True)

    # ---- making one: these wait, up to their deadline

    @classmethod
    def dial(cls, address: tuple[str, int], identity: bytes, owner: LinkOwner, deadline: Deadline) -> "Link":
        """A link to exactly `identity` at a host (IPv4, IPv6 or name) and port; no cell is sent to anyone else.

        Raises `AuthenticationFailed` (somebody else answered) or `Closed` (all other failures).
        """
        sock = connect(address, deadline)
        return cls._open(sock, TlsSession(_client_context(), server_side=False), owner, identity, deadline)

    @classmethod
    def accept(cls, sock: socket.socket, context: ssl.SSLContext, owner: LinkOwner, deadline: Deadline) -> "Link":
        """A link on a socket that a listener accepted, which from now on is the link's; raises `Closed`."""
        return cls._open(sock, TlsSession(context, server_side=True), owner, None, deadline)

    @classmethod
    def _open(
        cls, sock: socket.socket, tls: TlsSession, owner: LinkOwner, identity: bytes | None, deadline: Deadline
    ) -> "Link":
        try:
            tune(sock)
            limit_arrivals(sock)
            shake_hands(sock, tls, identity, deadline)
            link = cls(sock, tls, owner, identity)
            link._greet(deadline)
            sock.settimeout(None)
        except AuthenticationFailed:
            sock.close()
            raise
        except (OSError, ProtocolError, Closed) as error:
            sock.close()
            reason = getattr(error, "reason", None) or DestroyReason.UNREACHABLE
            raise Closed(f"the link's handshake failed: {text_of(error)}", reason) from None
        return link

    def _greet(self, deadline: Deadline) -> None:
        """Exchanges HELLO; what comes behind it is kept for the reader."""
        self._tls.write(encode_cell(0, Command.HELLO, encode_hello()))
        send_all(self._sock, self._tls.outgoing(), deadline)
        while True:
            cells = self._cells.feed(*self._tls.read())  # first what came with the end of the handshake
            if cells:
                break
            self._tls.feed(receive(self._sock, deadline))
        if cells[0].command != Command.HELLO:
            raise Unexpected("the first cell is not HELLO")
        choose_version(cells[0].body)
        self._early = cells[1:]  # `own` stands for these too, as HELLO is one

    def start(self) -> None:
        """Starts the link's threads, once: register the link first, its cells come at once.

        Raises `Closed` when the system gives no more threads; the link is closed then, without `link_closed`.
        """
        with self._lock:
            self._started = True
        try:
            self._writer.start()
            self._reader.start()
        except RuntimeError:
            self._started = False
            self.close("no more threads", DestroyReason.LIMIT)
            raise Closed("no more threads", DestroyReason.LIMIT) from None

    # ---- sending: any thread, never waits

    def queue(self, circuit_id: int, command: int, *bodies: Bytes) -> None:
        """Queues cells, to be sent by the next `flush`; on a closed link they are dropped. Raises `TooLarge`."""
        cells = cut_cells(circuit_id, command, bodies)
        with self._lock:
            if self.closed:
                return
            self._outbox.append(circuit_id, cells)
            overloaded = self._outbox.size > MAX_BACKLOG
        if overloaded:
            self.close("the link is overloaded", DestroyReason.LIMIT)

    def flush(self) -> None:
        """Sends what is queued as far as the kernel takes it; the writer does the rest.

        It may call `link_drained`, so call it without a lock that `link_drained` takes.
        """
        # Read without a lock: who lets go of `_tls_lock` looks here again, and so does the writer when it is done.
        while self._outbox.size and not self._handed_over and not self._reader_waits:
            if not self._tls_lock.acquire(blocking=False):
                return
            drained: list[int] = []
            failure = ""
            try:
                drained = self._send_batches()
            except (Closed, OSError) as error:
                failure = text_of(error)
            finally:
                self._tls_lock.release()
            if failure:
                self.close(failure)
            elif drained:
                self._owner.link_drained(self, drained)

    def send(self, circuit_id: int, command: int, body: Bytes) -> None:
        """`queue`, then `flush`."""
        self.queue(circuit_id, command, body)
        self.flush()

    def backlog(self, circuit_id: int) -> int:
        """The bytes of a circuit that wait in the outbox."""
        with self._lock:
            return self._outbox.backlog(circuit_id)

    @property
    def waiting(self) -> int:
        """The bytes of all circuits that wait."""
        return self._outbox.size

    def heaviest(self) -> int | None:
        """The circuit with the most bytes waiting, None when nothing waits."""
        with self._lock:
            return self._outbox.heaviest()

    def congested(self, circuit_id: int) -> bool:
        """Whether more than `HIGH_WATER` of a circuit waits; if so, `link_drained` follows (maybe already now)."""
        return self.backlog(circuit_id) > HIGH_WATER

    def forget(self, circuit_id: int) -> None:
        """Drops what waits for a circuit that has ended."""
        with self._lock:
            self._outbox.forget(circuit_id)
            self._settled.notify_all()

    # ---- ending

    def drain(self, deadline: Deadline) -> bool:
        """Waits until the kernel has all that was queued; False when the time is over or the link closed."""
        self.flush()
        with self._lock:
            self._drainers += 1
        try:
            while True:
                with self._lock:
                    if not self._settled.wait_for(self._is_settled, deadline.left()) or self.closed:
                        return False
                # A batch may be on its way from the outbox to the kernel, by whoever holds this lock.
                if not self._tls_lock.acquire(timeout=deadline.left()):
                    return False
                self._tls_lock.release()
                self.flush()
                if self._is_settled():
                    return not self.closed
        finally:
            with self._lock:
                self._drainers -= 1

    def close(self, text: str = "closed here", reason: DestroyReason = DestroyReason.LINK_CLOSED) -> None:
        """Ends the link and drops what waits; the owner hears of it from the reader. Any thread, any time."""
        with self._lock:
            if self.closed:
                return
            self._error = Closed(text, reason)
            self.closed = True
            self._outbox.clear()
            self._work.notify_all()
            self._settled.notify_all()
            started = self._started
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # only this wakes a thread that waits in recv or poll
        except OSError:
            pass  # the peer was faster
        if not started:  # else the reader does it
            with self._tls_lock:
                self._sock.close()

    def join(self, deadline: Deadline) -> None:
        """Waits for the threads of a closed link to end; the socket is closed then."""
        for thread in (self._writer, self._reader):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(deadline.left())

    # ---- the reader

    def _run_reader(self) -> None:
        try:
            self._read_cells()
        except ProtocolError as error:
            self.close(str(error), error.reason)
        except (Closed, OSError) as error:
            self.close(text_of(error))
        except Exception:
            _logger.exception("%s: internal error", self.name)
            self.close("internal error", DestroyReason.INTERNAL)
        try:
            self._owner.link_closed(self, self._error)
        except Exception:
            _logger.exception("%s: internal error after its end", self.name)
        self._writer.join(PATIENCE)
        with self._tls_lock:
            self._sock.close()

    def _read_cells(self) -> None:
        if self._early and not self.closed:
            self._deliver(self._early)
        self._early = []
        buffer = memoryview(bytearray(RECEIVE_BUFFER))
        feed = self._cells.feed
        while not self.closed:
            received = self._sock.recv_into(buffer)
            if not received:
                raise Closed("the peer closed the link")
            self.bytes_in += received
            records = self._decrypt(buffer[:received])
            if self._outbox.size:
                self.flush()  # for those who found the lock taken
            cells = feed(*records)
            if cells and not self.closed:
                self._deliver(cells)

    def _decrypt(self, ciphertext: memoryview) -> list[bytes]:
        if not self._tls_lock.acquire(blocking=False):
            self._reader_waits = True
            self._tls_lock.acquire()
            self._reader_waits = False
        try:
            self._tls.feed(ciphertext)
            return self._tls.read()
        finally:
            self._tls_lock.release()

    def _deliver(self, cells: list[Cell]) -> None:
        self.cells_in += len(cells)
        if self._cells.own:
            if any(cell.command == Command.HELLO for cell in cells):
                raise Unexpected("a second HELLO")
            cells = [cell for cell in cells if cell.circuit_id]
            if not cells:
                return
        self._owner.link_cells(self, cells)

    # ---- the writer

    def _run_writer(self) -> None:
        try:
            self._write_rest()
        except OSError as error:
            self.close(text_of(error))
        except Exception:
            _logger.exception("%s: internal error", self.name)
            self.close("internal error", DestroyReason.INTERNAL)

    def _write_rest(self) -> None:
        if self.closed:  # before it was started: the socket is closed too
            return
        poller = select.poll()
        poller.register(self._sock, select.POLLOUT)
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._handed_over or self.closed)
                if self.closed:
                    return
            if not poller.poll(PATIENCE * 1_000):
                self.close("the peer takes nothing", DestroyReason.TIMEOUT)
                return
            self._kernel.adapt()
            with self._tls_lock:
                if self._send(self._unsent):
                    self._unsent = _NOTHING
                    self._handed_over = False
            self.flush()
            self._tell_drainers()

    # ---- sending, with `_tls_lock` held

    def _send_batches(self) -> list[int]:
        """Sends until the outbox is empty, the kernel full or the turn over; returns the drained circuits."""
        assert self._tls_lock.locked()
        outbox, tls = self._outbox, self._tls
        drained: list[int] = []
        for _ in range(ROUNDS):
            room = BATCH if self._kernel.allowed >= BATCH else self._kernel.room()
            if room <= 0:
                break
            with self._lock:
                cells = outbox.take(room, monotonic())
                if outbox.drained:
                    drained += outbox.drained
                    outbox.drained.clear()
            # TLS cuts at 16,384: a long cell is a record by itself, or 16 short ones are one.
            for _, run in groupby(cells, size_of):
                tls.write(b"".join(chain.from_iterable(run)))
            self.cells_out += len(cells)
            if not self._send(tls.outgoing()):
                return drained
            if not outbox.size or self._reader_waits:  # the reader flushes after its turn
                self._tell_drainers()
                return drained
        self._hand_over()
        return drained

    def _send(self, ciphertext: bytes | memoryview) -> bool:
        """Gives the kernel what it takes; False when some is left, which is the writer's."""
        try:
            sent = self._sock.send(ciphertext, socket.MSG_DONTWAIT) if ciphertext else 0
        except BlockingIOError:
            sent = 0
        self.bytes_out += sent
        if sent == len(ciphertext):
            return True
        self._unsent = memoryview(ciphertext)[sent:]
        self._hand_over()
        return False

    def _hand_over(self) -> None:
        if not self._handed_over:
            with self._lock:
                self._handed_over = True
                self._work.notify_all()

    def _tell_drainers(self) -> None:
        if self._drainers:
            with self._lock:
                self._settled.notify_all()

    def _is_settled(self) -> bool:
        return self.closed or not (self._outbox.size or self._handed_over)
