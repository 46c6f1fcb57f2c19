"""What of a link waits in the kernels at its two ends: there nothing can be put in order any more.

Unsent here: about `QUEUE_TIME` of what the connection carries, by the kernel's own pacing rate, so on a slow link
a quiet circuit does not wait behind a busy one's bytes, and a fast one never runs dry.

Arrived there and not read: what a busy receiver has not come to. Kernels let that grow to megabytes, which a long
path needs to be filled and a short one does not. So on a short one the rest waits in the sender's outbox, where
the quietest circuit is served first.

Only Linux tells enough; elsewhere the upper bound for the first holds, and none for the second.
"""

import fcntl
import socket
import struct
import sys

QUEUE_TIME = 0.010  # seconds: the pump comes round within half of that, also on a busy machine
LEAST = 16_384  # bytes: one long cell
MOST = 131_072  # bytes: two batches of a link
SHORT_PATH = 0.001  # seconds there and back: relays in one house
ARRIVED = 98_304  # bytes to ask for, of which Linux makes twice as many: 100 MB/s at that distance, if full cells
_SIOCOUTQNSD = 0x894B  # ioctl, linux/sockios.h: bytes not sent yet
_PACING_RATE = struct.Struct("=104xQ")  # in struct tcp_info, linux/tcp.h: bytes a second
_MIN_RTT = struct.Struct("=148xI")  # microseconds
_INT = struct.Struct("=i")
_LINUX = sys.platform == "linux"


class KernelQueue:
    """Of one connected TCP socket; raises `OSError` when the socket is closed."""

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


def limit_arrivals(sock: socket.socket) -> None:
    """Keeps the queue of a connected TCP socket's arrivals short, if its path is; before much has arrived."""
    if not _LINUX:
        return
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT.size)
    if len(info) == _MIN_RTT.size and _MIN_RTT.unpack(info)[0] < SHORT_PATH * 1e6:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ARRIVED)
