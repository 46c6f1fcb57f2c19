"""HTTP through the network: a `requests` session whose every connection is a stream of a client.

Nothing of the environment's proxy settings is used: they could lead around the network. Servers may say anything,
at any pace: what reads an answer does so with `read`, up to a limit of bytes, and under `within`, a limit of time
that a server which drips bytes cannot stretch.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import IncompleteRead
from typing import TYPE_CHECKING

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError

from common.circuit.trace import Trace
from common.errors import OnionError, Refused
from common.roles.client.stream_socket import StreamSocket
from common.roles.client.wish import Isolation

if TYPE_CHECKING:
    from common.roles.client.client import Client

CHUNK = 65_536
# What asking and reading may raise: `requests` lets a ValueError through for some redirections that make no sense.
FAILURES = (requests.RequestException, HTTPError, OSError, ValueError)
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")  # more certificate authorities, as for other programs


class NetworkSession(requests.Session):
    """A `requests.Session` through a client; `isolation` keeps its circuits apart from others'."""

    def __init__(self, client: "Client", isolation: Isolation = (), trace: Trace | None = None) -> None:
        """`trace` sees the cells of the stream that was opened last."""
        super().__init__()
        self.trust_env = False
        self.verify = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), True)
        self.expired = False  # whether `within` has ended a request
        self._client = client
        self._isolation = isolation
        self._trace = trace
        self._lock = threading.Lock()  # guards `_streams` and `_aborted`
        self._streams: list[StreamSocket] = []
        self._aborted = False
        adapter = _Adapter()
        adapter.poolmanager.pool_classes_by_scheme = _pool_classes(self._connect)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def abort(self) -> None:
        """Ends every stream of the session at once, and opens no more; who reads hears an end or an error."""
        with self._lock:
            self._aborted = True
            streams, self._streams = self._streams, []
        for stream in streams:
            stream.abort()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Aborts the session after that time, or at once when the block is left by an error or ctrl-c."""

        def expire() -> None:
            self.expired = True
            self.abort()

        timer = self._client.pump.call_later(seconds, expire)
        try:
            yield
        except BaseException:
            self.abort()
            raise
        finally:
            timer.cancel()

    def _connect(self, host: str, port: int) -> socket.socket:
        stream = self._client.connect(host, port, self._isolation, trace=self._trace)
        with self._lock:
            self._streams = [other for other in self._streams if other.opening and other.opening.live]
            self._streams.append(stream)
            aborted = self._aborted
        if aborted:
            stream.abort()
        return stream

    def read(self, answer: requests.Response, limit: int) -> tuple[bytes, bool]:
        """The body as far as `limit`, and whether there was more; raises one of `FAILURES`."""
        body = bytearray()
        for chunk in answer.iter_content(CHUNK):
            body += chunk
            if len(body) > limit:
                self.abort()
                return bytes(body[:limit]), True
        if self.expired:  # over TLS a stream that was aborted looks like one that ended
            raise TimeoutError
        return bytes(body), self.cut_off(answer)

    def cut_off(self, answer: requests.Response) -> bool:
        """Whether an answer that does not say how long it is may have ended too early.

        Its end is then that of the stream, and over TLS a broken stream, too, looks like one that has ended.
        """
        told = "Content-Length" in answer.headers or "chunked" in answer.headers.get("Transfer-Encoding", "")
        with self._lock:
            return not told and any(stream.broken_by is not None for stream in self._streams)


def explain(url: str, error: BaseException) -> str:
    """Why a request failed, in a sentence."""
    cause = _innermost(error)
    if isinstance(cause, OnionError):
        return str(cause)
    if isinstance(error, requests.exceptions.SSLError):
        return f"{url}: the server's certificate is not valid: {cause}"
    if isinstance(error, requests.exceptions.Timeout):
        return f"{url} did not answer in time: try again"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return f"{url} sends from one address to the next without end"
    if isinstance(cause, (ConnectionError, IncompleteRead)):
        return f"{url}: the connection broke: try again"
    return f"{url} could not be fetched, the server's answer makes no sense: {_short(cause)}"


def _innermost(error: BaseException) -> BaseException:
    """The first error of ours that led to it, else the one that all began with."""
    cause = error
    while not isinstance(cause, OnionError):
        inner = cause.args[0] if cause.args and isinstance(cause.args[0], BaseException) else None
        reason = getattr(cause, "reason", None)
        following = cause.__cause__ or inner or (reason if isinstance(reason, BaseException) else None)
        following = following or cause.__context__
        if following is None or following is cause:
            break
        cause = following
    return cause


def _short(error: BaseException) -> str:
    """A server's words in an error are kept short, and from driving a terminal."""
    text = "".join(char if char.isprintable() else " " for char in str(error)) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


class _Adapter(HTTPAdapter):
    """The usual one, with a pool manager that may be changed."""


def _pool_classes(open_stream: Callable[[str, int], socket.socket]) -> dict[str, type[HTTPConnectionPool]]:
    def connect(connection: HTTPConnection) -> socket.socket:
        try:
            return open_stream(connection.host.strip("[]"), connection.port)
        except Refused as error:
            raise NewConnectionError(connection, str(error)) from error

    class Connection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class SecureConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}
