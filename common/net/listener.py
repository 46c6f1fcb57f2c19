"""Accepts TLS connections: a listening socket, one thread that accepts, a short-lived thread for each handshake.

A stranger can hold one handshake for `HANDSHAKE_TIME` and no longer, and there are `MAX_HANDSHAKES` at once. For
one more the oldest is broken off, of the address that has the most: an honest handshake takes milliseconds, so
those that last are the strangers', and who opens many from one address drives out his own. Nothing here logs a
peer's address.
"""

import errno
import logging
import select
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Generic, Protocol, TypeVar

from common.errors import Closed
from common.net import link_opening
from common.net.binding import listen_on
from common.net.deadline import Deadline
from common.net.link import Link, LinkOwner
from common.net.source import source_of

HANDSHAKE_TIME = 10.0  # seconds: several round trips to the other side of the world, and a busy machine
MAX_HANDSHAKES = 256  # threads of strangers at once; at 10 ms each that is 25,000 links a second
_PAUSE = 0.2  # seconds without accepting when the system has no more descriptors, memory or threads
_REPEAT = 60.0  # seconds between two log lines about that
_TLS_HANDSHAKE = b"\x16"  # the first byte of every TLS connection (RFC 8446, section 5.1)
_HTTP_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN")
_MAX_REQUEST = 65_536  # bytes of a mistaken request taken in, so that closing does not destroy our answer
_HTTP_ANSWER = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
)
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_logger = logging.getLogger(__name__)
_numbers = count(1)


class Closable(Protocol):
    """What a handshake makes."""

    def close(self) -> None:
        """Ends it."""


Made = TypeVar("Made", bound=Closable)


@dataclass(slots=True)
class _Handshake:
    source: str | None
    sock: socket.socket | None  # None: it is handed out, or broken off


class Acceptor(Generic[Made]):
    """Listens from its construction on; accepts from `start` to `close`."""

    def __init__(
        self,
        address: tuple[str, int],
        shake_hands: Callable[[socket.socket, Deadline], Made],
        on_made: Callable[[Made], None],
        *,
        whose: str,
        handshake_time: float = HANDSHAKE_TIME,
        shared: bool = False,
    ) -> None:
        """Binds to a host (IPv4 or IPv6) and port, 0 for a free one; raises `ConfigError` when that cannot be.

        Both calls come from a handshake's thread. `shake_hands` owns the socket it is given, and raises `Closed`;
        `on_made` registers and starts what it made. `whose` port this is, as in "a relay", is told to browsers.
        `shared`: other processes listen there too, see `binding`.
        """
        self._sock = listen_on(address, shared=shared)
        self.address: tuple[str, int] = self._sock.getsockname()[:2]
        self._make = shake_hands
        self._on_made = on_made
        self._sentence = f"This is {whose}'s port of an onion-routing network, not a web server.\n".encode()
        self._handshake_time = handshake_time
        self._wake_reading, self._wake_writing = socket.socketpair()  # makes `close` an event like any other
        self._complained = float("-inf")
        self._lock = threading.Lock()  # guards `_closed` and `_handshakes`
        self._fewer = threading.Condition(self._lock)  # a handshake has ended
        self._closed = False
        self._handshakes: dict[threading.Thread, _Handshake] = {}  # the oldest first
        self._thread = threading.Thread(target=self._accept_all, name=f"listener {self.address[1]}", daemon=True)

    def start(self) -> None:
        """Starts accepting, once."""
        self._thread.start()

    def close(self, deadline: Deadline) -> None:
        """Stops accepting and breaks off handshakes; what was handed out lives on. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            handshakes = dict(self._handshakes)
        self._wake_writing.close()
        for handshake in handshakes.values():
            if handshake.sock is not None:
                _shut(handshake.sock)
        for thread in (self._thread, *handshakes):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(deadline.left())
        self._sock.close()
        self._wake_reading.close()

    def _accept_all(self) -> None:
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.register(self._wake_reading, select.POLLIN)
        pause = select.poll()
        pause.register(self._wake_reading, select.POLLIN)
        while True:
            poller.poll()
            if self._closed:
                return
            try:
                sock, (host, *_) = self._sock.accept()
                self._begin(sock, source_of(host))
            except (OSError, RuntimeError) as error:
                if isinstance(error, OSError) and error.errno not in _EXHAUSTED:
                    continue  # this one connection failed
                self._complain(error)
                pause.poll(_PAUSE * 1_000)

    def _begin(self, sock: socket.socket, source: str | None) -> None:
        """Starts a handshake's thread; raises `RuntimeError` when the system gives none."""
        thread = threading.Thread(
            target=self._run_handshake, args=(sock,), name=f"handshake {next(_numbers)}", daemon=True
        )
        with self._lock:
            if self._closed or not self._has_room():
                sock.close()
                return
            self._handshakes[thread] = _Handshake(source, sock)
        try:
            thread.start()
        except RuntimeError:
            self._end(thread)
            sock.close()
            raise

    def _has_room(self) -> bool:
        """Requires `_lock`. The thread of a handshake that is broken off makes room in a moment."""
        if len(self._handshakes) >= MAX_HANDSHAKES:
            self._break_one_off()
            self._fewer.wait_for(lambda: len(self._handshakes) < MAX_HANDSHAKES, _PAUSE)
        return len(self._handshakes) < MAX_HANDSHAKES and not self._closed

    def _break_one_off(self) -> None:
        pending = [handshake for handshake in self._handshakes.values() if handshake.sock is not None]
        sources = Counter(handshake.source for handshake in pending)
        most = max(sources.values(), default=0)
        for handshake in pending:
            if handshake.sock is not None and sources[handshake.source] == most:
                _shut(handshake.sock)
                handshake.sock = None
                return

    def _run_handshake(self, sock: socket.socket) -> None:
        try:
            self._shake_hands(sock)
        except Closed as error:
            _logger.debug("an incoming connection failed: %s", error)
        except OSError as error:
            _logger.debug("an incoming connection failed: %s", error.strerror)
        except Exception:
            _logger.exception("internal error with an incoming connection")
        finally:
            self._end(threading.current_thread())

    def _shake_hands(self, sock: socket.socket) -> None:
        deadline = Deadline(self._handshake_time)
        try:
            sock.settimeout(self._handshake_time)
            first = sock.recv(1, socket.MSG_PEEK)
            if first != _TLS_HANDSHAKE:
                _turn_away(sock, self._sentence, deadline)
                sock.close()
                return
        except OSError:
            sock.close()
            raise
        made = self._make(sock, deadline)
        with self._lock:
            closed = self._closed
            self._handshakes[threading.current_thread()].sock = None
        if closed:
            made.close()
            return
        try:
            self._on_made(made)
        except BaseException:
            made.close()
            raise

    def _end(self, thread: threading.Thread) -> None:
        with self._lock:
            self._handshakes.pop(thread, None)
            self._fewer.notify_all()

    def _complain(self, error: Exception) -> None:
        now = monotonic()
        if now - self._complained >= _REPEAT:
            self._complained = now
            _logger.warning("cannot accept connections for now: %s", getattr(error, "strerror", None) or error)


class Listener(Acceptor[Link]):
    """Accepts links."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        owner: LinkOwner,
        on_link: Callable[[Link], None],
        handshake_time: float = HANDSHAKE_TIME,
        *,
        shared: bool = False,
    ) -> None:
        """As `Acceptor`: `on_link` gets each new link, which it registers and starts."""

        def accept(sock: socket.socket, deadline: Deadline) -> Link:
            return link_opening.accept(sock, context, owner, deadline)

        super().__init__(address, accept, on_link, whose="a relay", handshake_time=handshake_time, shared=shared)


def _turn_away(sock: socket.socket, sentence: bytes, deadline: Deadline) -> None:
    """Whoever does not speak TLS: a web browser gets a sentence, all others nothing. Raises `OSError`."""
    request = b""
    while len(request) < 4 and any(method.startswith(request) for method in _HTTP_METHODS):
        sock.settimeout(max(deadline.left(), 0.001))
        data = sock.recv(4 - len(request))
        if not data:
            return
        request += data
    if request not in _HTTP_METHODS:
        return
    sock.sendall(_HTTP_ANSWER % (len(sentence), sentence))
    sock.shutdown(socket.SHUT_WR)
    taken = 0
    while taken < _MAX_REQUEST and not deadline.expired:
        sock.settimeout(max(deadline.left(), 0.001))
        data = sock.recv(_MAX_REQUEST)
        if not data:
            return
        taken += len(data)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it ended by itself
