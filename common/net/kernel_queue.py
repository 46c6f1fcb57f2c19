"""What of a link waits where nothing is put in order any more: in the kernels at its two ends, and between them.

Unsent here: about `QUEUE_TIME` of what the connection carries, by the kernel's own pacing rate, so on a slow link
a quiet circuit does not wait behind a busy one's bytes, and a fast one never runs dry.

On its way: on a slow path not much more than it holds (`path_queue`).

Arrived there and not read: what a busy receiver has not come to. Kernels let that grow to megabytes, which a long
path needs to be filled and a short one does not. So on a short one the rest waits in the sender's outbox, where
the quietest circuit is served first.

Only Linux tells enough; elsewhere the upper bound for the first holds, and none for the others.
"""

import fcntl
import socket
import struct
import sys

from common.net.path_queue import PathQueue

QUEUE_TIME = 0.010  # seconds: the pump comes round within half of that, also on a busy machine
LEAST = 16_384  # bytes: one long cell
MOST = 131_072  # bytes: two batches of a link
LONG_PATH = 0.010  # seconds there and back: from there on a queue in the network is worth a look
LOOK, SELDOM = 0.010, 1.0  # seconds from look to look on a long path, and on another
SHORT_PATH = 0.001  # seconds there and back: relays in one house
ARRIVED = 98_304  # bytes to ask for, of which Linux makes twice as many: 100 MB/s at that distance, if full cells
_UNACKNOWLEDGED, _UNSENT = 0x5411, 0x894B  # ioctls SIOCOUTQ and SIOCOUTQNSD of linux/sockios.h
# struct tcp_info of linux/tcp.h: the smoothed round trip and its variation, microseconds; the pacing rate, bytes a
# second; bytes acknowledged; the least round trip.
_TCP_INFO = struct.Struct("=68xII28xQ8xQ20xI")
_MICRO = 1e-6
_INT = struct.Struct("=i")
_LINUX = sys.platform == "linux"


class KernelQueue:
    """Of one connected TCP socket; raises `OSError` when the socket is closed."""

    __slots__ = ("_look_at", "_path", "_sock", "_was_full", "allowed", "path_full")

    def __init__(self, sock: socket.socket) -> None:
        self.allowed = MOST  # bytes that may be unsent
        self.path_full = False  # there was no room, and the poller will not tell when there is
        self._sock = sock
        self._path = PathQueue()
        self._look_at = 0.0
        self._was_full = False  # the path, at any time since that look

    def room(self, now: float, most: int) -> int:
        """Bytes the kernel may be given now, `most` or less; 0 and less: none."""
        if now >= self._look_at:
            self.adapt(now)
        room, limit = most, self._path.limit
        self.path_full = False
        if limit:
            room = min(room, limit - self._ask(_UNACKNOWLEDGED))
            if room <= 0:
                self.path_full = self._was_full = True
        if self.allowed < most and room > 0:
            room = min(room, self.allowed - self._ask(_UNSENT))
        return room

    def wait(self) -> float:
        """Seconds after which a full path may have room."""
        return self._path.wait(self._ask(_UNACKNOWLEDGED))

    def adapt(self, now: float) -> None:
        """Looks at what the connection carries."""
        due = now >= self._look_at
        if due:
            self._look_at = now + SELDOM
        info = _tcp_info(self._sock)
        if info is None:
            return
        round_trip, variation, pacing, acked, least = info
        if due and least * _MICRO >= LONG_PATH:
            self._look_at = now + LOOK
            trips = (round_trip * _MICRO, variation * _MICRO, least * _MICRO)
            self._path.seen(now, *trips, acked, full=self._was_full)
            self._was_full = False
        allowed = int(min(max(pacing * QUEUE_TIME, LEAST), MOST))
        if abs(allowed - self.allowed) * 8 > self.allowed or allowed == MOST != self.allowed:
            self.allowed = allowed
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, allowed)

    def _ask(self, what: int) -> int:
        try:
            return int(_INT.unpack(fcntl.ioctl(self._sock, what, bytes(_INT.size)))[0])
        except ValueError:  # what Python says of a closed one
            raise OSError("the socket is closed") from None


def limit_arrivals(sock: socket.socket) -> None:
    """Keeps the queue of a connected TCP socket's arrivals short, if its path is; before much has arrived."""
    info = _tcp_info(sock)
    if info is not None and info[-1] * _MICRO < SHORT_PATH:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ARRIVED)


def _tcp_info(sock: socket.socket) -> tuple[int, ...] | None:
    """The fields of `_TCP_INFO`; None where the system does not tell all of them."""
    if not _LINUX:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return _TCP_INFO.unpack(info) if len(info) == _TCP_INFO.size else None
