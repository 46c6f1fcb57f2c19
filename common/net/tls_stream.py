"""A TLS connection that one thread at a time reads and writes: what is said to a server, not a link."""

import select
import socket
import ssl

from common.errors import Closed
from common.net.deadline import Deadline
from common.net.handshake import connect, send_all, shake_hands, text_of, tune
from common.net.tls import TlsSession

RECV_SIZE = 65_536
MAX_LEFT = 1_048_576  # bytes thrown away by `finish`: what a peer may have sent before it heard


class TlsStream:
    """A TLS session and its socket, used by one thread at a time; what the system refuses is `Closed`.

    `wait_readable` alone may wait in one thread while another sends.
    """

    def __init__(self, sock: socket.socket, tls: TlsSession) -> None:
        """`tls` has shaken hands over `sock`: use `dial`, `accept` or `over`."""
        self._sock = sock
        self._sock.settimeout(0)
        self._tls = tls
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    @classmethod
    def dial(
        cls, target: tuple[str, int], context: ssl.SSLContext, identity: bytes, deadline: Deadline
    ) -> "TlsStream":
        """Connects, and compares the listening side's key with `identity`.

        Raises `Closed` when there is no connection in time, `AuthenticationFailed` when another answers.
        """
        tls = TlsSession(context, server_side=False)
        return cls._open(connect(target, deadline), tls, identity, deadline)

    @classmethod
    def accept(cls, sock: socket.socket, context: ssl.SSLContext, deadline: Deadline) -> "TlsStream":
        """On a socket that a listener accepted, which from now on is the stream's; raises `Closed`."""
        return cls._open(sock, TlsSession(context, server_side=True), None, deadline)

    @classmethod
    def _open(
        cls, sock: socket.socket, tls: TlsSession, identity: bytes | None, deadline: Deadline
    ) -> "TlsStream":
        try:
            tune(sock)
        except OSError as error:
            sock.close()
            raise Closed(f"no TLS handshake: {text_of(error)}") from None
        return cls.over(sock, tls, identity, deadline)

    @classmethod
    def over(
        cls, sock: socket.socket, tls: TlsSession, identity: bytes | None, deadline: Deadline
    ) -> "TlsStream":
        """Shakes hands over a connected socket, of any kind, which it owns from now on.

        Raises as `dial`; with an `identity` of None whoever answers is taken, and `tls` tells who that is.
        """
        try:
            shake_hands(sock, tls, identity, deadline)
            return cls(sock, tls)
        except OSError as error:
            sock.close()
            raise Closed(f"no TLS handshake: {text_of(error)}") from None
        except BaseException:
            sock.close()
            raise

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._sock.fileno()

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Sends all of `data`; raises `Closed` when the deadline passes or the connection ends."""
        self._tls.write(data)
        try:
            send_all(self._sock, self._tls.outgoing(), deadline)
            self._sock.settimeout(0)
        except OSError as error:
            raise Closed(f"cannot send: {text_of(error)}") from None

    def receive(self) -> bytes:
        """What can be read now, maybe nothing; raises `Closed` at the end."""
        try:
            data = self._sock.recv(RECV_SIZE)
        except BlockingIOError:
            data = None
        except OSError as error:
            raise Closed(f"the connection ended: {text_of(error)}") from None
        if data == b"":
            raise Closed("the other side closed the connection")
        return b"".join(self._tls.read(data or b""))  # also what came with the end of the handshake

    def wait_readable(self, deadline: Deadline) -> bool:
        """Whether something arrived before the deadline."""
        return bool(self._poller.poll(deadline.left() * 1_000))

    def shut(self) -> None:
        """Ends both directions: wakes who waits for it to be readable. Any thread; it stays to close."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    def finish(self, deadline: Deadline) -> None:
        """Says that nothing more comes, and waits until the other side has taken it all, or the deadline.

        What still arrives is thrown away: closing with unread bytes would destroy our last ones on their way.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
            taken = 0
            while taken < MAX_LEFT and self.wait_readable(deadline):
                data = self._sock.recv(RECV_SIZE)
                if not data:
                    return
                taken += len(data)
        except OSError:
            pass  # it has gone already

    def close(self) -> None:
        """Idempotent; no other thread may be waiting."""
        self._sock.close()
