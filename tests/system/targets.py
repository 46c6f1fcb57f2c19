"""Where streams go in tests: small TCP servers on loopback, each on threads of its own, ended by their `with`.

What is downloaded is cut from one random block of a prime length, so any byte that is lost, doubled or moved shows.
"""

import hashlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import Self

from common.net.deadline import Deadline

PATIENCE = 30.0  # seconds after which a test that hangs fails
BLOCK = os.urandom(1_000_003)
VALUES = bytes(range(256)) * 64 + bytes(100_000)  # every value of a byte, then zeros to the end

Serve = Callable[[socket.socket, threading.Event], None]  # the event: the target is being ended


def pieces(size: int) -> Iterator[bytes]:
    """`size` bytes of the pattern."""
    yield from repeat(BLOCK, size // len(BLOCK))
    yield BLOCK[: size % len(BLOCK)]


def digest_of(size: int) -> str:
    """SHA-256 of that many bytes of the pattern, in hex."""
    digest = hashlib.sha256()
    for piece in pieces(size):
        digest.update(piece)
    return digest.hexdigest()


class Target:
    """A TCP server whose `serve` runs on a thread for each connection, which is closed after it."""

    def __init__(self, serve: Serve, family: socket.AddressFamily = socket.AF_INET, host: str = "") -> None:
        host = host or ("127.0.0.1" if family == socket.AF_INET else "::1")
        self._server = socket.create_server((host, 0), family=family, backlog=256)
        self.host: str = host
        self.port: int = self._server.getsockname()[1]
        self.accepted = 0
        self._serve = serve
        self._ending = threading.Event()
        self._lock = threading.Lock()  # guards `_socks` and `_threads`
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="target")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown(socket.SHUT_RDWR)
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            _shut(sock)
        deadline = Deadline(PATIENCE)
        for thread in self._threads:
            thread.join(deadline.left())
            assert not thread.is_alive(), "a target's thread hangs"
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._run, args=(sock,), name="target stream")
            with self._lock:
                self.accepted += 1
                self._socks.append(sock)
                self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        with sock:
            try:
                if not self._ending.is_set():
                    self._serve(sock, self._ending)
            except OSError:
                pass  # the stream was broken: the test looks at its other end


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended


# ---- what targets do


def echo(sock: socket.socket, _ending: threading.Event) -> None:
    """Says what it hears."""
    while data := sock.recv(65_536):
        sock.sendall(data)


def checksum(sock: socket.socket, _ending: threading.Event) -> None:
    """Reads to the end, then answers count and SHA-256: half-close from the client's side."""
    digest, count = hashlib.sha256(), 0
    while data := sock.recv(262_144):
        digest.update(data)
        count += len(data)
    sock.sendall(f"{count} {digest.hexdigest()}".encode())


def finish_then_read(sock: socket.socket, _ending: threading.Event) -> None:
    """Says "first", ends its sending, then reads on to the end: half-close from the target's side."""
    sock.sendall(b"first")
    sock.shutdown(socket.SHUT_WR)
    heard = b""
    while data := sock.recv(65_536):
        heard += data
    assert heard == b"second", "what a client says after the target's end did not arrive"
    finish_then_read.heard.set()  # type: ignore[attr-defined]


finish_then_read.heard = threading.Event()  # type: ignore[attr-defined]


def flood(sock: socket.socket, _ending: threading.Event) -> None:
    """Sends the pattern for ever."""
    while True:
        sock.sendall(BLOCK)


def sink(sock: socket.socket, _ending: threading.Event) -> None:
    """Takes everything and says nothing."""
    buffer = bytearray(262_144)
    while sock.recv_into(buffer):
        pass


def silent(_sock: socket.socket, ending: threading.Event) -> None:
    """Accepts, and neither reads nor writes."""
    ending.wait()


def wait_reset(sock: socket.socket) -> bool:
    """Waits until the connection is reset, not only ended on one side; False when that never comes."""
    poll = select.poll()
    poll.register(sock, 0)  # errors and hang-ups are always told
    return bool(poll.poll(PATIENCE * 1_000))


@contextmanager
def never_answering() -> Iterator[tuple[str, int]]:
    """An address whose SYNs are dropped: a listening socket with a full backlog."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address: tuple[str, int] = server.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            yield address
        finally:
            for filler in fillers:
                filler.close()


def unused_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


# ---- HTTP


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "WebTarget"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests += 1
        kind, _, size = self.path.strip("/").partition("/")
        if kind == "values":
            self._answer(len(VALUES), [VALUES])
        elif kind == "bytes":
            self._answer(int(size), pieces(int(size)))
        else:
            self.send_error(404)

    def do_PUT(self) -> None:
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            data = self.rfile.read(min(left, 262_144))
            if not data:
                return
            digest.update(data)
            left -= len(data)
        answer = digest.hexdigest().encode()
        self._answer(len(answer), [answer])

    def _answer(self, size: int, body: Iterator[bytes] | list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        try:
            for piece in body:
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class WebTarget(ThreadingHTTPServer):
    """GET /bytes/N, GET /values, PUT anything (answers its SHA-256)."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host, self.port = "127.0.0.1", int(self.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests = 0
        self.lock = threading.Lock()  # guards `requests`
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="web target")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(PATIENCE)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A stream that a test has broken."""
