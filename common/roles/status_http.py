"""A status page's HTTP server: few requests at once, each short, and nothing about who asks.

* GET and HEAD of the pages that it is given; other paths are 404, other methods 405. One request a connection.
* A request has `REQUEST_TIME` to come and `REQUEST_TIME` for its answer to leave, and its head `MAX_HEAD` bytes.
  Over `MAX_REQUESTS` at once the newest is closed: who is shown does not feel a crowd here.
* A page is made once for each snapshot however many ask, and rests `REST` times as long as the snapshot and making
  it took.
* `Host` must be an address or name of this server (`is_host_allowed`): a web site that lets its name point at
  127.0.0.1 (DNS rebinding) reads nothing.
* No client's address is kept, shown or logged: it is dropped at accept.
"""

import errno
import io
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from common.directory.addresses import Address, parse_listen, unmap
from common.errors import ConfigError, Malformed
from common.net.deadline import Deadline

log = logging.getLogger(__name__)

MAX_REQUESTS = 16  # threads at once: a few people and a few Prometheus servers
MAX_HEAD = 8_192  # bytes of request line and headers; browsers send about 1,000
REQUEST_TIME = 5.0  # seconds
LINGER = 1.0  # seconds for the other side to close first: closing on unread data would destroy the answer
MAX_UNREAD = 65_536  # bytes thrown away meanwhile
REST = 9  # so making one page takes a tenth of a core at most, and the two large ones a fifth
BACKLOG = 256  # connections that the kernel keeps: those it drops come again after whole seconds
PAUSE = 0.2  # seconds without accepting when the system has no more files or memory

_BROWSERS_MAY = (
    "default-src 'none'",
    "style-src 'unsafe-inline'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
_HEADERS = (
    ("Content-Security-Policy", "; ".join(_BROWSERS_MAY)),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
)
_TEXT = "text/plain; charset=utf-8"
_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(:[0-9]{0,5})?")

Snapshot = TypeVar("Snapshot")  # what a role shows of itself


def is_host_allowed(given: str, listen: Address) -> bool:
    """Whether a `Host` header names a server that listens on `listen`.

    So do the host of `listen`, localhost and loopback addresses; when it is all addresses (0.0.0.0 or [::]) any
    address does, since only a name can be pointed somewhere else.
    """
    match = _HOST.fullmatch(given)
    if match is None:
        return False
    try:
        address = parse_listen(match[1] + ":0")
    except Malformed:
        return False
    if address.ip is None:
        return address.host in ("localhost", listen.host)
    everywhere = listen.ip is not None and listen.ip.is_unspecified
    return everywhere or address.host == listen.host or unmap(address.ip).is_loopback


@dataclass(frozen=True, slots=True)
class Page(Generic[Snapshot]):
    """Its content type, and what makes it of a snapshot and the time."""

    kind: str
    render: Callable[[Snapshot, float], bytes]


class _Pages(Generic[Snapshot]):
    """The pages by path, made when they are asked for."""

    def __init__(self, pages: Mapping[str, Page[Snapshot]], snapshot: Callable[[], Snapshot]) -> None:
        self.known = pages
        self._snapshot = snapshot
        self._lock = threading.Lock()  # guards `_made`; held while a page is made, so that only one is
        self._made: dict[str, tuple[Snapshot, float, bytes]] = {}  # of what, until when (monotonic), page

    def get(self, path: str) -> bytes:
        """The page, of the newest snapshot unless it rests."""
        with self._lock:
            begun = time.monotonic()
            made = self._made.get(path)
            if made is not None and begun < made[1]:
                return made[2]
            snapshot = self._snapshot()
            if made is not None and made[0] is snapshot:
                return made[2]
            page = self.known[path].render(snapshot, time.time())
            ended = time.monotonic()
            self._made[path] = snapshot, ended + REST * (ended - begun), page
            return page


class _Handler(BaseHTTPRequestHandler):
    """One request, on a thread of its own."""

    server: "_Server"
    request: socket.socket
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Reads the head itself: the standard library's limits are for each read, not for the whole."""
        self.connection = self.request
        self._too_large = False
        self.rfile = io.BytesIO(self._read_head())
        self.wfile = self._out = io.BytesIO()

    def _read_head(self) -> bytes:
        deadline, head = Deadline(REQUEST_TIME), b""
        while b"\r\n\r\n" not in head:
            if len(head) >= MAX_HEAD:
                self._too_large = True
                return b""
            self.request.settimeout(max(deadline.left(), 0.001))
            data = self.request.recv(MAX_HEAD - len(head))
            if not data:
                return b""
            head += data
        return head

    def handle(self) -> None:
        """Fills `wfile` with the answer."""
        if self._too_large:
            self.request_version, self.command = self.protocol_version, ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self.raw_requestline = self.rfile.readline()
        if not self.raw_requestline or not self.parse_request():
            return
        hosts, path = self.headers.get_all("Host", []), self.path.partition("?")[0]
        if len(hosts) != 1:
            self.send_error(HTTPStatus.BAD_REQUEST)
        elif not is_host_allowed(hosts[0].strip(), self.server.listen):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.command not in ("GET", "HEAD"):
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif path not in self.server.pages.known:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, self.server.pages.known[path].kind, self.server.pages.get(path))

    def finish(self) -> None:
        """Sends the answer and lets the other side close."""
        answer = self._out.getvalue()
        if not answer:
            return
        self.request.settimeout(REQUEST_TIME)  # for all of it, in `sendall`
        self.request.sendall(answer)
        self.request.shutdown(socket.SHUT_WR)
        deadline, unread = Deadline(LINGER), 0
        while unread < MAX_UNREAD and not deadline.expired:
            self.request.settimeout(max(deadline.left(), 0.001))
            data = self.request.recv(MAX_HEAD)
            if not data:
                return
            unread += len(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A sentence of ours; nothing of the request comes back."""
        status = HTTPStatus(code)
        self._answer(status, _TEXT, f"{status.value} {status.phrase}\n".encode())

    def handle_expect_100(self) -> bool:
        """No body is wanted: the answer says the rest."""
        return True

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response_only(status)
        for name, value in _HEADERS:
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = False  # those are not waited for

    def __init__(self, listen: Address, pages: _Pages[Any]) -> None:
        super().__init__((listen.host, listen.port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = _bind(listen)
        self.server_address = self.socket.getsockname()
        self.listen = listen
        self.pages = pages
        self._lock = threading.Lock()  # guards `_open` and `_stopping`
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection, whose other end is forgotten here."""
        try:
            return self.socket.accept()[0], ("", 0)
        except OSError:
            self._stopping.wait(PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, or its end when there are too many."""
        with self._lock:
            welcome = len(self._open) < MAX_REQUESTS and not self._stopping.is_set()
            if welcome:
                self._open.add(request)
        if welcome:
            super().process_request(request, client_address)
        else:
            request.close()

    def shutdown_request(self, request: Any) -> None:
        """After each request, however it ended."""
        with self._lock:
            self._open.discard(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away or was too slow is no error of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("internal error in the status page")

    def end(self) -> None:
        """Stops accepting, breaks off what is open, and waits for its threads."""
        self._stopping.set()
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self.shutdown()
        with self._lock:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it ended by itself
        self.server_close()


class StatusServer:
    """Use `with`: serves pages from enter to exit. `address` is the one really listened on."""

    def __init__(
        self, listen: Address, pages: Mapping[str, Page[Snapshot]], snapshot: Callable[[], Snapshot]
    ) -> None:
        """`snapshot` is called from threads of the server; raises `ConfigError` when `listen` cannot be used."""
        self._server = _Server(listen, _Pages(pages, snapshot))
        self.address = Address(*self._server.socket.getsockname()[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.end()
        self._thread.join()


def _bind(address: Address) -> socket.socket:
    try:
        family, _, _, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(target[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        text = "address already in use; choose another port"
        if error.errno != errno.EADDRINUSE:
            text = str(error.strerror or error).lower()
        raise ConfigError(f"http: cannot listen on {address}: {text}") from None
