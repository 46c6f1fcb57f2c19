"""One connection to the login server: requests and their answers in order, what is pushed, and keep-alives.

The caller's threads send; one thread of our own reads, as long as the connection lives. Each request puts a slot
into the queue, and the oldest slot takes the next answer; a request that was given up leaves its slot behind, so
the order stays. What comes without a slot, or is pushed before `logged_in`, is out of order and ends it all.
"""

import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from common.crypto.scram import binding_of
from common.directory.addresses import Address
from common.errors import AuthenticationFailed, Closed, OnionError, ProtocolError, Unexpected
from common.net.deadline import Deadline
from common.net.tls import TlsSession, client_context
from common.net.tls_stream import TlsStream
from common.roles.auth_client.errors import LoginEnded, LoginRefused, ServerLost
from common.wire.frames import FrameReader
from common.wire.login import (
    MAX_FRAME,
    VERSION,
    Answer,
    Done,
    Ended,
    Error,
    Hello,
    Message,
    NewMail,
    Ping,
    Proof,
    Request,
    Welcome,
)
from common.wire.login_codec import decode, encode

OPEN_TIME = 30.0  # seconds for the connection through the network, TLS and the greeting, each
ANSWER_TIME = 30.0  # seconds for an answer: the server writes to a disk, the network may be slow
PING_EVERY = 60.0  # seconds; the server ends a connection that is silent for 180
_CLOSE_TIME = 5.0  # seconds for the reader to notice

_ENDED_EARLY = "the login server ended the session as soon as it had begun: log in again"
_MOST_HELD = 16  # pushes between a proof and its answer: an honest server says one
Connect = Callable[[str, int], socket.socket]  # as `Client.connect`: through the network, or plain
Pushed = Callable[[NewMail | OnionError], None]
_Expected = TypeVar("_Expected", bound=Answer)


class _Slot:
    """Where the answer to one request goes."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: Answer | None = None


class LoginConnection:
    """Thread-safe. Use `open`, and `close`.

    `key` is the Ed25519 key that the server proved, `binding` the hash of its certificate, `welcome` its greeting.
    """

    def __init__(self, stream: TlsStream, key: bytes, binding: bytes, pushed: Pushed) -> None:
        self.key = key
        self.binding = binding
        self.welcome: Welcome
        self._stream = stream
        self._pushed = pushed
        self._frames = FrameReader(MAX_FRAME)
        self._changed = threading.Condition()  # guards all below, and the stream but for waiting
        self._slots: deque[_Slot] = deque()
        self._failure: OnionError | None = None
        self._ping: _Slot | None = None
        self._proving = self._trusted = False
        self._held: list[NewMail] = []  # what was pushed since the proof
        self._reader = threading.Thread(target=self._read, name="login", daemon=True)

    @classmethod
    def open(
        cls,
        connect: Connect,
        address: Address,
        believed: bytes | None,
        pushed: Pushed,
        context: ssl.SSLContext | None = None,
    ) -> "LoginConnection":
        """Connects, shakes hands and greets. `pushed` hears what the server says unasked, and why it ended.

        With `believed` given, nothing but the beginning of the handshake is said to a server with another key.
        Raises `OtherKey` then, what `connect` raises, and `ServerLost` for what does not answer as it must.
        """
        sock = connect(address.host, address.port)
        tls = TlsSession(context or client_context(), server_side=False)
        try:
            stream = TlsStream.over(sock, tls, believed, Deadline(OPEN_TIME))
        except AuthenticationFailed:
            raise OtherKey(_identity(tls)) from None
        except Closed as error:
            raise ServerLost(f"what answers there is no login server: {error}") from None
        except BaseException:
            sock.close()
            raise
        try:
            binding = binding_of(tls.peer_certificate())
            connection = cls(stream, tls.peer_identity(), binding, pushed)
            connection._start()
        except AuthenticationFailed:
            stream.close()
            raise ServerLost("what answers there is no login server: it has no key of the right kind") from None
        except BaseException:
            stream.close()
            raise
        return connection

    def _start(self) -> None:
        self._reader.start()
        try:
            welcome = self.request(Hello(VERSION), Welcome, OPEN_TIME)
            if welcome.version != VERSION:
                raise ServerLost("the login server speaks another version: update this program, or the server")
            self.welcome = welcome
        except BaseException:
            self.close()
            raise

    # ---- any thread

    def prove(self, proof: Proof) -> Done:
        """As `request`. What the server pushes right after its answer waits for `trust`."""
        with self._changed:
            self._proving = True
        try:
            return self.request(proof, Done)
        except BaseException:
            with self._changed:
                self._proving = self._trusted
            raise

    def trust(self) -> None:
        """The server has proved itself: what it pushes is heard from now on, and it hears that we are here."""
        with self._changed:
            held, self._held = self._held, []
            self._trusted = True
        for push in held:
            self._pushed(push)

    def request(self, message: Request, expected: type[_Expected], timeout: float = ANSWER_TIME) -> _Expected:
        """The answer. Raises `LoginRefused` for an error, `LoginEnded` or `ServerLost` when all is over.

        Left by ctrl-c the connection goes on, and the answer is passed over when it comes.
        """
        slot = _Slot()
        deadline = Deadline(timeout)
        with self._changed:
            self._send(message, slot, deadline)
            self._changed.wait_for(lambda: slot.answer is not None or self._failure is not None, deadline.left())
            if slot.answer is None:
                self._fail(ServerLost(f"the login server did not answer within {timeout:.0f} seconds"))
                assert self._failure is not None
                raise self._failure
        if isinstance(slot.answer, Error):
            raise LoginRefused(slot.answer.code, slot.answer.wait)
        if not isinstance(slot.answer, expected):
            self.close()
            raise ServerLost("the login server does not answer what it was asked: nothing more was said to it")
        return slot.answer

    def close(self) -> None:
        """Ends the connection; nothing is left running. Idempotent; not from within `pushed`."""
        with self._changed:
            self._fail(ServerLost("the connection to the login server is closed"))
        if self._reader.ident is not None and self._reader is not threading.current_thread():
            self._reader.join(_CLOSE_TIME)
        self._stream.close()

    def _send(self, message: Message, slot: _Slot, deadline: Deadline) -> None:
        """Requires the lock. Waiting for the kernel under it is fine: the server reads whatever we do."""
        if self._failure is not None:
            raise self._failure
        self._slots.append(slot)
        try:
            self._stream.send(encode(message), deadline)
        except Closed as error:
            self._fail(ServerLost(f"the connection to the login server broke: {error}"))
            assert self._failure is not None
            raise self._failure from None
        except BaseException:  # half a record may be on its way: nothing can follow it
            self._fail(ServerLost("the connection to the login server was given up"))
            raise

    def _fail(self, failure: OnionError) -> None:
        """Requires the lock. The first reason stays."""
        if self._failure is None:
            self._failure = failure
            self._stream.shut()
        self._changed.notify_all()

    # ---- the reader

    def _read(self) -> None:
        try:
            over = self._listen()
            if self._trusted:
                self._pushed(over)
        except BaseException:  # `pushed` may raise, when what it shows on has gone: nobody is to wait for us
            with self._changed:
                self._fail(ServerLost("what the login server said could not be told: the connection is closed"))
            raise

    def _listen(self) -> OnionError:
        """Until all is over: why it is."""
        ping_at = monotonic() + PING_EVERY
        while True:
            pushes: list[NewMail] = []
            with self._changed:
                try:
                    pushes = self._take()
                except (ProtocolError, Closed) as error:
                    self._fail(ServerLost(_lost(error)))
                over = self._failure
            for push in pushes:
                self._pushed(push)
            with self._changed:
                self._changed.notify_all()  # who has an answer hears of it after what was pushed before it
            if over is not None:
                return over
            if monotonic() >= ping_at:
                self._keep_alive()
                ping_at += PING_EVERY
            self._stream.wait_readable(Deadline(max(0.0, ping_at - monotonic())))

    def _take(self) -> list[NewMail]:
        """Requires the lock. Puts answers into their slots, of which nobody hears yet; returns what was pushed."""
        pushes: list[NewMail] = []
        if self._failure is not None:
            return pushes
        for body in self._frames.feed(self._stream.receive()):
            message = decode(body)
            if isinstance(message, NewMail) and self._proving:
                (pushes if self._trusted else self._held).append(message)
                if len(self._held) > _MOST_HELD:
                    raise Unexpected("pushed before the login")
            elif isinstance(message, Ended) and self._proving:  # why, is believed of a server that proved itself
                self._fail(LoginEnded(message.reason) if self._trusted else ServerLost(_ENDED_EARLY))
                return pushes
            elif not isinstance(message, Answer) or not self._slots:
                raise Unexpected("an answer that was not asked for")
            else:
                self._slots.popleft().answer = message
        return pushes

    def _keep_alive(self) -> None:
        """One ping at a time; one that is not answered when the next is due was the last."""
        with self._changed:
            if not self._trusted or self._failure is not None:
                return
            if self._ping is not None and self._ping.answer is None:
                self._fail(ServerLost("the login server does not answer any more"))
                return
            self._ping = _Slot()
            try:
                self._send(Ping(), self._ping, Deadline(ANSWER_TIME))
            except OnionError:
                pass  # kept as the reason; the reader's next look finds it


class OtherKey(OnionError):
    """The server shows another key than it must: `shown`, 32 bytes, or empty when it is of another kind."""

    def __init__(self, shown: bytes) -> None:
        super().__init__("the login server has another key")
        self.shown = shown


def _identity(tls: TlsSession) -> bytes:
    try:
        return tls.peer_identity()
    except AuthenticationFailed:
        return b""


def _lost(error: OnionError) -> str:
    if isinstance(error, ProtocolError):
        return "the login server says what it may not: nothing more was said to it"
    why = str(error).removeprefix("the connection ended: ")
    return f"the connection to the login server ended: {why}; log in again"
