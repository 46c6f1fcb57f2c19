"""One end of a connection to a gateway, for helpers that hold thousands in one thread: it never waits."""

import socket
import ssl
from collections import deque

from common.errors import AuthenticationFailed, Closed
from common.net.tls import TlsSession
from common.roles.gateway_link import MAX_REPLY
from common.wire.frames import FrameReader

_RECV_SIZE = 262_144


class GatewayPeer:
    """Connects at once; call `receive` whenever the socket can be read, `flush` when it can be written."""

    def __init__(self, gateway: tuple[str, int], key: bytes, context: ssl.SSLContext) -> None:
        self.sock = socket.create_connection(gateway)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.shaken = False
        self._key = key
        self._tls = TlsSession(context, server_side=False)
        self._frames = FrameReader(MAX_REPLY)
        self._unsent: deque[bytes] = deque()
        self._tls.handshake()
        self._send()

    @property
    def sending(self) -> bool:
        """Whether the kernel did not take all."""
        return bool(self._unsent)

    def send(self, frame: bytes) -> None:
        """Sends a frame, once the handshake is done."""
        self._tls.write(frame)
        self._send()

    def receive(self) -> list[bytes]:
        """The bodies of the frames completed by one read; raises `Closed`."""
        try:
            data = self.sock.recv(_RECV_SIZE)
        except BlockingIOError:
            return []
        if not data:
            raise Closed("the gateway closed the connection")
        self._tls.feed(data)
        if not self.shaken:
            self.shaken = self._tls.handshake()
            if not self.shaken:
                return []
            if self._tls.peer_identity() != self._key:
                raise AuthenticationFailed("not the gateway")
            self._send()
        return self._frames.feed(b"".join(self._tls.read()))

    def flush(self) -> None:
        """Gives the kernel what it takes."""
        while self._unsent:
            piece = self._unsent.popleft()
            try:
                sent = self.sock.send(piece)
            except BlockingIOError:
                sent = 0
            if sent < len(piece):
                self._unsent.appendleft(piece[sent:])
                return

    def _send(self) -> None:
        if data := self._tls.outgoing():
            self._unsent.append(data)
        self.flush()
