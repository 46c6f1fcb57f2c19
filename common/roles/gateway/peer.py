"""One accepted connection of a gateway: TLS and frames over a socket that never blocks. One thread's."""

import secrets
import selectors
import socket
import ssl
from collections import deque

from common.errors import Closed
from common.net.tls import TlsSession
from common.roles.gateway_link import MAX_REQUEST
from common.wire.frames import FrameReader

RECV_SIZE = 65_536
PIECE = 65_536  # plaintext sent to one peer in its turn: thousands who take all they get hold a ping up for 0.2 s


class Peer:
    """Who dialled. `session` is its number, never used again; `source` the address it counts for, None if none."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, session: int, source: str | None, deadline: float
    ) -> None:
        self.sock = sock
        self.session = session
        self.source = source
        self.nonce = secrets.token_bytes(32)
        self.role: str | None = None  # None until HELLO
        self.registering = False  # a REGISTER waits for its answer
        self.registered = False  # pinged; the heartbeat is its deadline
        self.asking: bytes | None = None  # a LIST that waits for the document under way: the digest held
        self.closing = False  # refused: what it says is thrown away
        self.finished = False  # refused, and all is sent: its end is awaited, or a reset would overtake the ERROR
        self.deadline = deadline
        self.interest = selectors.EVENT_READ
        self._tls = TlsSession(context, server_side=True)
        self._shaken = False
        self._frames = FrameReader(MAX_REQUEST)
        self._plain: deque[memoryview] = deque()
        self._cipher: bytes | memoryview = b""

    @property
    def sending(self) -> bool:
        """Whether something waits for the peer to take it."""
        return bool(self._plain or self._cipher)

    def receive(self) -> list[bytes]:
        """One read: the frames that it completed; raises `Closed` and `ProtocolError`."""
        try:
            data = self.sock.recv(RECV_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            raise Closed("connection reset") from None
        if not data:
            raise Closed("connection ended")
        self._tls.feed(data)
        if not self._shaken:
            self._shaken = self._tls.handshake()
            self._cipher = bytes(self._cipher) + self._tls.outgoing()
            if not self._shaken:
                return []
        return self._frames.feed(b"".join(self._tls.read()))

    def discard(self) -> None:
        """One read, thrown away; raises `Closed` at the end."""
        try:
            if self.sock.recv(RECV_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        raise Closed("connection ended")

    def finish(self) -> None:
        """Nothing more will be sent; raises `Closed`."""
        if self.finished:
            return
        self.finished = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            raise Closed("connection reset") from None

    def queue(self, frame: bytes) -> None:
        """To be sent after what is queued; the bytes are shared, not copied."""
        view = memoryview(frame)
        self._plain.extend(view[at : at + PIECE] for at in range(0, len(view), PIECE))

    def flush(self) -> bool:
        """Sends one piece, as far as the kernel takes it; whether it took anything. Raises `Closed`."""
        if not self._cipher:
            if not self._plain:
                return False
            self._tls.write(self._plain.popleft())
            self._cipher = self._tls.outgoing()
        try:
            sent = self.sock.send(self._cipher)
        except BlockingIOError:
            return False
        except OSError:
            raise Closed("connection reset") from None
        self._cipher = memoryview(self._cipher)[sent:] if sent < len(self._cipher) else b""
        return sent > 0
