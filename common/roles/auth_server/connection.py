"""One connection of the login server: a thread that reads requests, answers them, and pushes what others cause.

Only this thread touches the stream and the conversation. Other threads set what is to be said under `_lock` and
wake it: they never wait for the peer.
"""

import logging
import select
import socket
import threading
from collections.abc import Callable
from time import monotonic

from common.errors import Closed, ProtocolError
from common.login.conversation import Conversation, Refusal
from common.net.deadline import Deadline
from common.net.tls_stream import TlsStream
from common.roles.auth_server.requests import Requests
from common.roles.auth_server.session_store import SessionOver, SessionStore
from common.roles.auth_server.user_database import StoreFailed
from common.roles.limits import TokenBucket
from common.wire import login
from common.wire.frames import FrameReader
from common.wire.login import EndedReason, ErrorCode
from common.wire.login_codec import decode, encode

SEND_TIME = 20.0  # seconds for a peer to take one answer
LINGER = 2.0  # seconds for a peer to take the last word: closing at once may destroy it on the way
RATE, BURST = 20.0, 200.0  # requests a second of one connection, and at once: a person types one, a script waits

_logger = logging.getLogger(__name__)


class AuthConnection:
    """Inert until `start`. `on_login` and `on_end` are called by its thread, the latter exactly once."""

    def __init__(
        self,
        stream: TlsStream,
        number: int,
        requests: Requests,
        sessions: SessionStore,
        on_login: Callable[["AuthConnection"], None],
        on_end: Callable[["AuthConnection"], None],
    ) -> None:
        self.conversation = Conversation(monotonic())
        self._stream = stream
        self._requests = requests
        self._sessions = sessions
        self._on_login = on_login
        self._on_end = on_end
        self._frames = FrameReader(login.MAX_FRAME)
        self._pace = TokenBucket(RATE, BURST)
        self._lock = threading.Lock()  # guards what follows, up to the thread
        self._ended: EndedReason | None = None
        self._dropped = False
        self._has_mail = False
        self._awake = False  # a byte is in the pair, never more than one
        self._released = False
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"login {number}", daemon=True)

    # ---- any thread ----

    def start(self) -> None:
        """Starts the thread; raises `RuntimeError` when the system gives none."""
        self._thread.start()

    def close(self) -> None:
        """For one that was never started."""
        self._release()

    def join(self, deadline: Deadline) -> None:
        """Waits for the thread, if there is one."""
        if self._thread.ident is not None:
            self._thread.join(deadline.left())

    def end(self, reason: EndedReason) -> None:
        """Says why it is over, once what has arrived is answered, and closes."""
        with self._lock:
            self._ended = self._ended or reason
            self._wake()

    def drop(self) -> None:
        """Closes without a word."""
        with self._lock:
            self._dropped = True
            self._wake()

    def mail_came(self) -> None:
        """There is something to push."""
        with self._lock:
            self._has_mail = True
            self._wake()

    def _wake(self) -> None:
        """Requires `_lock`."""
        assert self._lock.locked()
        if not self._awake and not self._released:
            self._awake = True
            self._waker.send(b"\0")

    # ---- its own thread ----

    def _run(self) -> None:
        try:
            self._serve()
        except Closed as error:
            _logger.debug("a connection ended: %s", error)
        except Exception:
            _logger.exception("internal error, a connection ends")
        finally:
            try:
                self._on_end(self)
            finally:
                self._release()

    def _serve(self) -> None:
        try:
            while True:
                for body in self._frames.feed(self._stream.receive()):
                    if self._time_is_over():
                        return
                    if self._answer(body):
                        self._stream.finish(Deadline(LINGER))
                        return
                if self._tell() or self._time_is_over():
                    return
                self._wait(self.conversation.ends_at)
        except ProtocolError as error:
            _logger.debug("a peer broke the protocol: %s", type(error).__name__)
            self._last_word(login.Error(ErrorCode.BAD_REQUEST))
        except SessionOver as over:
            self._last_word(login.Ended(over.reason))
        except StoreFailed as error:
            _logger.warning("a request failed: %s", error)
            self._last_word(login.Error(ErrorCode.BUSY))

    def _answer(self, body: bytes) -> bool:
        """Answers one request; True when that was the end."""
        if not self._may_go_on():
            return self._tell()
        message = decode(body)
        before = self.conversation.logged_in
        try:
            self.conversation.receive(message, monotonic())
            reply = self._requests.answer(self.conversation, message)
        except Refusal as refusal:
            self._send(login.Error(refusal.code, refusal.wait))
            return refusal.last
        if self.conversation.logged_in and not before:
            self._on_login(self)  # before the answer: what happens from now on is told behind it
        self._send(reply.answer)
        return reply.last

    def _may_go_on(self) -> bool:
        """Waits while requests come faster than they may; False when the connection is to end meanwhile."""
        while not self._pace.take():
            poller = select.poll()
            poller.register(self._woken, select.POLLIN)
            if poller.poll(1_000 / RATE):
                with self._lock:
                    self._rest()  # mail is told once what has arrived is answered
                    if self._dropped or self._ended is not None:
                        return False
        return True

    def _tell(self) -> bool:
        """Says what others caused; True when that was the end."""
        with self._lock:
            ended, dropped, mail = self._ended, self._dropped, self._has_mail
            self._has_mail = False
            self._rest()
        if dropped:
            return True
        if ended is not None:
            if self.conversation.logged_in:
                self._last_word(login.Ended(ended))
            return True
        if mail and self.conversation.logged_in:
            waiting = self._sessions.waiting(self.conversation.session)
            if waiting.unread:  # else it is read already
                self._send(login.NewMail(waiting.unread, waiting.newest))
        return False

    def _rest(self) -> None:
        """Requires `_lock`. What it was woken for is seen."""
        assert self._lock.locked()
        if self._awake:
            self._awake = False
            self._woken.recv(1)

    def _wait(self, until: float) -> None:
        """Until there is something to do, or that moment."""
        poller = select.poll()
        poller.register(self._stream.fileno(), select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        poller.poll(max(0.0, until - monotonic()) * 1_000)

    def _time_is_over(self) -> bool:
        """Whether it is, whatever else arrives; then members have been told."""
        if monotonic() < self.conversation.ends_at:
            return False
        if self.conversation.logged_in:
            self._last_word(login.Ended(EndedReason.IDLE))
        return True

    def _send(self, message: login.Message) -> None:
        self._stream.send(encode(message), Deadline(SEND_TIME))

    def _last_word(self, message: login.Message) -> None:
        self._stream.send(encode(message), Deadline(LINGER))
        self._stream.finish(Deadline(LINGER))

    def _release(self) -> None:
        with self._lock:
            self._released = True
        self._waker.close()
        self._woken.close()
        self._stream.close()
