"""One plain socket of a stream, attached to the pump.

* Only the pump's thread reads, changes the poller and calls the owner, and it holds no lock when it calls.
* Any thread may write: it sends by itself when nothing is queued, so most bytes never change threads.
* Any other wish of another thread is left in an attribute, and the pump is asked to look.
* States: OPEN, CLOSING (the queue is still delivered, the owner hears nothing more), CLOSED.
* The queue has no bound of its own: a stream's window (512 KiB to 8 MiB) limits what its owner may write.
"""

import enum
import logging
import os
import socket
import struct
import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from common.net.poller import ENDED, READ, WRITE
from common.wire.cells import Bytes

if TYPE_CHECKING:
    from common.net.pump import Pump
    from common.net.timers import Timer

_log = logging.getLogger(__name__)

# One recv: what a circuit's window allows at once. It costs no more where 64 bytes arrive, as the allocator keeps
# such blocks (`common/ops/memory.py`); where it does not, mapping one for each takes 18 us.
RECV_SIZE = 262_144
GATHER = 64  # queued chunks offered to the kernel at once: more long cells than a socket usually takes
LINGER = 10.0  # seconds close() goes on delivering: a peer that does not read must not hold the queue for ever
LAST_READS = 64  # reads after sending failed: more than a kernel's receive buffer holds (8 MiB)
PIECE = 64  # bytes of memory that a queued piece takes besides its own: a stream may come byte by byte
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")  # Windows has none
_LINGER_ZERO = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # SO_LINGER: on, 0 seconds: close resets


class PlugOwner(Protocol):
    """Whom a plug reports to: always on the pump's thread and with no lock held; none of this may wait."""

    def plug_connected(self, plug: "Plug") -> None:
        """A `Pump.connect` succeeded."""

    def plug_wants(self, plug: "Plug") -> int:
        """How many bytes may be read now; 0 stops reading until `Plug.resume`."""

    def plug_received(self, plug: "Plug", data: bytes) -> None:
        """Bytes arrived, never more than `plug_wants` said."""

    def plug_ended(self, plug: "Plug") -> None:
        """The peer ended its direction; writing goes on."""

    def plug_drained(self, plug: "Plug", count: int) -> None:
        """The kernel took `count` bytes that `write` had queued."""

    def plug_failed(self, plug: "Plug", error: OSError) -> None:
        """The plug broke and is closed: at most once, and the last call. `TimeoutError`: not connected in time."""


class _State(enum.Enum):
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


_OPEN, _CLOSING, _CLOSED = _State


class Plug:
    """One attached socket; made by `Pump.attach` and `Pump.connect` only.

    `owner` may be replaced on the pump's thread: what arrives later goes to the new one.
    `queued` is the number of bytes written and not yet taken by the kernel.
    """

    def __init__(
        self, pump: "Pump", sock: socket.socket, owner: PlugOwner, *, tcp: bool, connecting: bool = False
    ) -> None:
        self.owner = owner
        self.queued = 0
        self._pump = pump
        self._sock = sock
        self._fd = sock.fileno()
        self._tcp = tcp
        # Guards state, queue and finishing, and that nobody sends on a descriptor being closed.
        self._lock = threading.Lock()
        self._state = _OPEN
        self._chunks: deque[Bytes] = deque()
        self._finishing = False
        # Wishes from any thread, granted by `look`.
        self._asked = False
        self._resumed = not connecting
        self._error: OSError | None = None
        # The pump's thread only.
        self._connecting = connecting
        self._interest = 0
        self._paused = True
        self._ended = False
        self._timer: Timer | None = None
        self._linger: Timer | None = None

    # ---- any thread ----

    @property
    def closed(self) -> bool:
        """Whether it is over; who owned it then was told, unless it was closed on this side."""
        return self._state is _CLOSED

    @property
    def held(self) -> int:
        """Bytes of memory that what is queued takes, about."""
        return self.queued + PIECE * len(self._chunks)

    def write(self, *pieces: Bytes) -> int:
        """Sends now what the kernel takes, queues the rest, never waits; returns the number of bytes taken now.

        The bytes of one call stay together. After `finish` or `close` they are dropped and 0 is returned.
        An error is reported by `plug_failed`.
        """
        with self._lock:
            if self._state is not _OPEN or self._finishing or self._error is not None:
                return 0
            chunks = self._chunks
            knows = bool(chunks)  # the pump, that something is queued
            chunks.extend(filter(None, pieces))
            self.queued += sum(map(len, pieces))
            if knows:
                return 0
            taken = 0 if self._connecting or not chunks else self._send()
            if not chunks:
                return taken
        self._ask()
        return taken

    def finish(self) -> None:
        """Ends our direction (SHUT_WR) once the queue is empty; reading goes on. Idempotent."""
        with self._lock:
            if self._state is _OPEN and not self._finishing:
                self._finishing = True
                self._end_if_empty()

    def resume(self) -> None:
        """Asks `plug_wants` again after it said 0; nearly free when reading was not paused."""
        if self._paused:
            self._resumed = True
            self._ask()

    def read_on(self) -> None:
        """As `resume`, and at once: on the pump's thread."""
        if self._paused:
            self._resumed = True
            self.look()

    def close(self) -> None:
        """Delivers the queue within `LINGER` seconds, then closes. The owner is not called any more.

        (Unless a call was under way while another thread closed.) A TCP peer that has not ended its direction is
        given the same time to do so, or closing could reset what it has not read yet.
        """
        with self._lock:
            if self._state is not _OPEN:
                return
            self._state = _CLOSING
            if not self._finishing:
                self._finishing = True
                self._end_if_empty()
        self._ask()

    def abort(self) -> None:
        """Drops the queue and closes, over TCP with a reset; the owner is not called any more."""
        with self._lock:
            if self._state is _CLOSED:
                return
            self._drop()
            if self._tcp:
                try:
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                except OSError:
                    pass  # the peer has reset it already, or stop() has closed it
        self._ask()

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._pump.call(self.look)

    def _send(self) -> int:
        """Requires `_lock`: gives the kernel of the queue what it takes; 0 also after an error, which is kept."""
        assert self._lock.locked()
        chunks = self._chunks
        try:
            if _HAS_SENDMSG and len(chunks) > 1:
                taken = self._sock.sendmsg(islice(chunks, GATHER))
            else:
                taken = self._sock.send(chunks[0])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._error = error
            return 0
        self.queued -= taken
        if self.queued:
            _take(chunks, taken)
        else:
            chunks.clear()
        return taken

    def _end_if_empty(self) -> None:
        """Requires `_lock`."""
        assert self._lock.locked()
        if not self._chunks and not self._connecting:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # not connected any more: reading says why

    def _drop(self) -> None:
        """Requires `_lock`."""
        assert self._lock.locked()
        self._state = _CLOSED
        self._chunks.clear()
        self.queued = 0

    # ---- the pump's thread: for the pump ----

    def expire_at(self, timer: "Timer") -> None:
        """The timer of a connect; before the first `look`."""
        self._timer = timer

    def look(self) -> None:
        """Grants what other threads wished for."""
        self._asked = False  # first: a wish from now on asks again
        try:
            if self._state is _CLOSED:
                self.dispose()
            elif self._error is not None:
                self.broken(self._error)
            elif self._state is _CLOSING:
                self._settle()
            else:
                if self._resumed and not self._connecting:
                    self._resumed = False
                    if self._paused:
                        self._read()
                self._watch()
        except Exception:
            self._bug()

    def ready(self, events: int) -> None:
        """The poller's events."""
        try:
            if self._connecting:
                self._connected()
                return
            if events & WRITE:
                self._flush()
            if events & READ and self._read() and events & ENDED:
                self._read()  # most likely the end: it then shares the cell of the last bytes
        except Exception:
            self._bug()

    def broken(self, error: OSError) -> None:
        """Sending or connecting failed: what the peer had sent is still read if wanted, then the owner is told.

        A peer that sends its last bytes and closes at once must not lose them to our next write. Waiting for an
        owner that wants nothing now would be wrong: it may wait for the very bytes that cannot be sent.
        """
        if not self._connecting:
            for _ in range(LAST_READS):
                if not self._read():
                    break
        self._fail(error)

    def dispose(self) -> None:
        """Closes the socket now; idempotent."""
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        self._timer = self._linger = None
        if self._interest:
            self._pump.watch(self._fd, 0, self.ready)
            self._interest = 0
        with self._lock:
            self._drop()
            self._sock.close()
        self._pump.forget(self)

    # ---- the pump's thread: steps ----

    def _watch(self) -> None:
        """Brings the poller's interest in line; costs a system call only when it changed."""
        if self._state is _CLOSED:
            return
        if self._connecting:
            interest = WRITE
        else:
            interest = (0 if self._paused or self._ended else READ) | (WRITE if self._chunks else 0)
        if interest != self._interest:
            self._pump.watch(self._fd, interest, self.ready)
            self._interest = interest

    def _read(self) -> bool:
        """One recv; False when there is nothing more to read now."""
        if self._state is not _OPEN:
            self._discard()
            return False
        if self._ended:
            return False
        self._paused = True  # before asking, so that a resume() from now on is not lost
        wanted = self.owner.plug_wants(self)
        if wanted <= 0:
            self._watch()
            return False
        self._paused = False
        try:
            data = self._sock.recv(wanted if wanted < RECV_SIZE else RECV_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(error)
            return False
        if data:
            self.owner.plug_received(self, data)
            return True
        self._ended = True
        self._watch()
        self.owner.plug_ended(self)
        return False

    def _flush(self) -> None:
        """Hands queued bytes to the kernel and tells the owner how many it took."""
        with self._lock:
            waits = bool(self._chunks)
            taken = self._send() if waits else 0
            if taken and self._finishing:
                self._end_if_empty()
        if not waits:
            self._watch()  # it last looked while another thread was sending, which the kernel then took
        elif self._error is not None:
            self.broken(self._error)
        elif not taken:
            return
        elif self._state is _OPEN:
            self.owner.plug_drained(self, taken)
            if not self._chunks:
                self._watch()
        else:
            self._settle()

    def _connected(self) -> None:
        """The connect is decided."""
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, os.strerror(code)))
            return
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._connecting = False
            if self._finishing:
                self._end_if_empty()
        if self._state is not _OPEN:
            self._settle()
            return
        self.owner.plug_connected(self)
        self._paused = False  # plug_wants is asked when something is there to read
        self._watch()

    def _settle(self) -> None:
        """CLOSING: closes when nothing is left to deliver.

        Over TCP the peer's end is awaited and what it still sends is thrown away: a close with unread bytes is a
        reset (RFC 2525, section 2.17), which drops what the kernel had still to deliver.
        """
        if self._state is _CLOSED or (not self._chunks and (self._connecting or self._ended or not self._tcp)):
            self.dispose()
            return
        if self._linger is None:
            self._linger = self._pump.call_later(LINGER, self.dispose)
        self._paused = False
        self._watch()

    def _discard(self) -> None:
        if self._state is _CLOSED:
            return
        try:
            self._ended = not self._sock.recv(RECV_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.dispose()
            return
        if self._ended:
            self._settle()

    def _fail(self, error: OSError) -> None:
        heard = self._state is _OPEN
        self.dispose()
        if heard:
            self.owner.plug_failed(self, error)

    def _bug(self) -> None:
        _log.exception("%s: unexpected error, stream socket closed", self._pump.name)
        self.abort()


def _take(chunks: deque[Bytes], count: int) -> None:
    """Removes the first `count` bytes."""
    while count:
        head = chunks[0]
        if len(head) > count:
            chunks[0] = memoryview(head)[count:]
            return
        count -= len(head)
        chunks.popleft()
