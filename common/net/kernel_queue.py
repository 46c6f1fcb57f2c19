"""How many bytes a link leaves unsent with the kernel: there nothing can be put in order any more.

About `QUEUE_TIME` of what the connection carries, by the kernel's own pacing rate, so on a slow link a quiet
circuit does not wait behind a busy one's bytes, and a fast one never runs dry. Only Linux tells enough;
elsewhere the upper bound holds.
"""

import fcntl
import socket
import struct
import sys

QUEUE_TIME = 0.010  # seconds: the writer wakes up within half of that, also on a busy machine
LEAST = 16_384  # bytes: one long cell
MOST = 131_072  # bytes: two batches of a link
_SIOCOUTQNSD = 0x894B  # ioctl, linux/sockios.h: bytes not sent yet
_PACING_RATE = struct.Struct("=104xQ")  # in struct tcp_info, linux/tcp.h: bytes a second
_INT = struct.Struct("=i")
_LINUX = sys.platform == "linux"


class KernelQueue:
    """Of one connected TCP socket. Any thread; raises `OSError` when the socket is closed."""

    __slots__ = ("_sock", "allowed")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.allowed = MOST

    def room(self) -> int:
        """Bytes the kernel may be given now; may be negative."""
        try:
            unsent = fcntl.ioctl(self._sock, _SIOCOUTQNSD, bytes(_INT.size))
        except ValueError:  # what Python says of a closed one
            raise OSError("the socket is closed") from None
        return self.allowed - int(_INT.unpack(unsent)[0])

    def adapt(self) -> None:
        """Looks at the connection's rate: for a link that has more to send than the kernel takes."""
        if not _LINUX:
            return
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PACING_RATE.size)
        allowed = int(min(max(_PACING_RATE.unpack(info)[0] * QUEUE_TIME, LEAST), MOST))
        if abs(allowed - self.allowed) * 8 > self.allowed or allowed == MOST != self.allowed:
            self.allowed = allowed
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, allowed)
