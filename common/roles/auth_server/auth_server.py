"""The login server: TLS with its own key, users in a database, a thread for each connection.

* The listener has a thread that accepts and one for each handshake; each connection then has its own, and one more
  watches the database for what other connections, of another server on the same file too, have caused.
* Nobody but a connection's own thread waits for its peer.
* At most `max_connections`: over it, who has waited longest without logging in goes; members stay.
* At `stop` it accepts no more, answers what has arrived, says `ended` to members, and ends.
* Nothing that says who somebody is is logged, no proof and no token ever.
"""

import logging
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from common.crypto.scram import MIN_ITERATIONS, binding_of
from common.directory.addresses import Address
from common.errors import Closed
from common.net.deadline import Deadline
from common.net.listener import Acceptor
from common.net.tls import server_context
from common.net.tls_stream import TlsStream
from common.roles.auth_server.connection import AuthConnection
from common.roles.auth_server.logins import Logins
from common.roles.auth_server.requests import Requests, Rules
from common.roles.auth_server.session_store import SessionStore
from common.roles.auth_server.user_database import Database, StoreFailed
from common.roles.auth_server.user_store import MAX_USERS, UserStore
from common.wire.login import EndedReason, Error, ErrorCode
from common.wire.login_codec import encode

MAX_CONNECTIONS = 1_024  # each a thread and three files; more people go to a second server on the same file
LOOK = 0.5  # seconds between two looks at what another server has stored
HOUSEKEEPING = 10.0  # seconds between two signs of life and cleanings
BUSY_TIME = 1.0  # seconds to tell a newcomer that there is no room
DRAIN_TIME = 5.0  # seconds for what has arrived to be answered at the end

_logger = logging.getLogger(__name__)
_numbers = count(1)


class AuthServer:
    """Listens from its construction on, inert until `start`; `stop` ends it. `address` is the one bound."""

    def __init__(
        self,
        listen: Address,
        certificate: Path,
        key: Path,
        database: Path,
        *,
        iterations: int = MIN_ITERATIONS,
        fewest_iterations: int = MIN_ITERATIONS,
        max_users: int = MAX_USERS,
        max_connections: int = MAX_CONNECTIONS,
        closed: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`certificate` and `key` are PEM files. Raises `ConfigError`.

        `iterations` is what new verifiers shall have, `fewest_iterations` what is taken. `closed`: no new users.
        """
        self._id = secrets.token_hex(8)
        self._wall = wall
        self._max_connections = max_connections
        self._look = threading.Event()  # the watcher is to look at once
        self._database = Database(database)
        try:
            self._users, self._sessions = UserStore(self._database, max_users), SessionStore(self._database)
            self._logins = Logins(
                self._users,
                self._sessions,
                server=self._id,
                binding=binding_of(ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))),
                iterations=iterations,
                wall=wall,
            )
            rules = Rules(iterations, fewest_iterations, closed)
            self._requests = Requests(self._users, self._sessions, self._logins, rules, wall, self._look.set)
            self._listener = self._listening(listen, server_context(certificate, key))
        except BaseException:
            self._database.close()
            raise
        self.address = Address(*self._listener.address)
        self._lock = threading.Lock()  # guards the two tables and `_draining`
        self._connections: dict[AuthConnection, None] = {}  # in the order of their coming
        self._members: dict[str, AuthConnection] = {}  # by session
        self._draining = False
        self._stopping = threading.Event()
        self._newest_mail = 0
        self._not_found: list[str] = []  # sessions with mail that are in the database, and here in a moment
        self._left: deque[str] = deque()  # sessions that have ended, and that the database could not forget
        self._watcher = threading.Thread(target=self._watch, name="login watcher", daemon=True)

    def _listening(self, listen: Address, context: ssl.SSLContext) -> Acceptor[AuthConnection]:
        return Acceptor(
            (listen.host, listen.port),
            lambda sock, deadline: self._accept(sock, context, deadline),
            self._begin,
            whose="a login server",
        )

    # ---- any thread ----

    def start(self) -> None:
        """Serves; raises `StoreFailed`."""
        self._sessions.still_here(self._id, {}, self._wall())
        _, _, self._newest_mail = self._sessions.news(self._id, 0)
        self._watcher.start()
        self._listener.start()

    def stop(self, timeout: float = DRAIN_TIME) -> None:
        """Drains for as long as `timeout` seconds, and closes everything; idempotent."""
        deadline = Deadline(timeout)
        self._listener.close(deadline)
        with self._lock:
            self._draining = True
            connections = list(self._connections)
        for connection in connections:
            connection.end(EndedReason.SHUTTING_DOWN)
        for connection in connections:
            connection.join(deadline)
        self._stopping.set()
        self._look.set()
        if self._watcher.ident is not None:
            self._watcher.join(deadline.left() + LOOK)
        try:
            self._sessions.gone(self._id)
        except StoreFailed as error:
            _logger.debug("sessions are left for others to clean up: %s", error)
        self._database.close()

    def reconfigure(self, *, closed: bool) -> None:
        """`closed`: from now on nobody can sign up, or again everybody."""
        self._requests.rules = replace(self._requests.rules, closed=closed)

    @property
    def connections(self) -> int:
        """How many there are now, handshakes not counted."""
        return len(self._connections)

    # ---- handshakes' threads ----

    def _accept(self, sock: socket.socket, context: ssl.SSLContext, deadline: Deadline) -> AuthConnection:
        stream = TlsStream.accept(sock, context, deadline)
        connection = AuthConnection(
            stream, next(_numbers), self._requests, self._sessions, self._logged_in, self._ended
        )
        if not self._register(connection):
            try:
                stream.send(encode(Error(ErrorCode.BUSY)), Deadline(BUSY_TIME))
                stream.finish(Deadline(BUSY_TIME))
            finally:
                connection.close()
            raise Closed("no room for another connection")
        return connection

    def _register(self, connection: AuthConnection) -> bool:
        """Whether there is room; one that has not logged in may have to make it."""
        dropped = None
        with self._lock:
            if self._draining:
                return False
            if len(self._connections) >= self._max_connections:
                strangers = (each for each in self._connections if not each.conversation.logged_in)
                dropped = next(strangers, None)
                if dropped is None:
                    return False
                del self._connections[dropped]
            self._connections[connection] = None
        if dropped is not None:
            dropped.drop()
        return True

    def _begin(self, connection: AuthConnection) -> None:
        try:
            connection.start()
        except RuntimeError:
            self._ended(connection)
            raise

    # ---- connections' threads ----

    def _logged_in(self, connection: AuthConnection) -> None:
        with self._lock:
            self._members[connection.conversation.session] = connection

    def _ended(self, connection: AuthConnection) -> None:
        session = connection.conversation.session
        with self._lock:
            self._connections.pop(connection, None)
            self._members.pop(session, None)
        if session:
            try:
                self._sessions.forget([session])
            except StoreFailed as error:
                _logger.debug("a session is forgotten later: %s", error)
                self._left.append(session)

    # ---- the watcher's thread ----

    def _watch(self) -> None:
        seen, next_cleaning = -1, time.monotonic() + HOUSEKEEPING
        while not self._stopping.is_set():
            try:
                changes = self._database.changes()
                if changes != seen or self._not_found:
                    self._tell_news()
                    seen = changes
                if time.monotonic() >= next_cleaning:
                    next_cleaning = time.monotonic() + HOUSEKEEPING
                    self._clean()
            except StoreFailed as error:
                _logger.warning("the database cannot be watched: %s", error)
            except Exception:
                _logger.exception("internal error while watching the database")
            self._look.wait(LOOK)
            self._look.clear()

    def _tell_news(self) -> None:
        ended, with_mail, self._newest_mail = self._sessions.news(self._id, self._newest_mail)
        with self._lock:
            over = [(self._members.get(session), reason) for session, reason in ended.items()]
            receivers = {session: self._members.get(session) for session in [*self._not_found, *with_mail]}
        self._not_found = [session for session in with_mail if receivers[session] is None]
        for connection, reason in over:
            if connection is not None:
                connection.end(reason)
        for connection in receivers.values():
            if connection is not None:
                connection.mail_came()

    def _clean(self) -> None:
        now, wall = time.monotonic(), self._wall()
        with self._lock:
            members = list(self._members.items())
        seen = {session: wall - (now - connection.conversation.used) for session, connection in members}
        self._sessions.still_here(self._id, seen, wall)
        self._users.forget_tries(wall)
        self._logins.look_around()
        left = list(self._left)
        self._sessions.forget(left)
        for _ in left:
            self._left.popleft()
        self._database.tidy()
