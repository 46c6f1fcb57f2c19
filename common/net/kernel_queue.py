"""What of a link waits where nothing is put in order any more: in the kernels at its two ends, and between them.

Unsent here: about `QUEUE_TIME` of what the connection carries, by the kernel's own pacing rate, so on a slow link
a quiet circuit does not wait behind a busy one's bytes, and a fast one never runs dry.

On its way: on a slow path not much more than it holds (`path_queue`). While a TCP stands still to measure its
path, which BBR does for 0.2 s each 10 s, no long cell: a quiet circuit's short one would wait behind it all along.

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
from common.wire.cells import LONG_CELL

QUEUE_TIME = 0.010  # seconds: the pump comes round within half of that, also on a busy machine
LEAST = LONG_CELL  # bytes
MOST = 131_072  # bytes: two batches of a link
PASSING = LONG_CELL + 4_096  # bytes by which short cells may pass a path's limit, as one long cell may
LONG_PATH = 0.010  # seconds there and back: from there on a queue in the network is worth a look
LOOK, SELDOM = 0.010, 1.0  # seconds from look to look on a long path, and on another
STILL = 4  # segments: the window of a BBR that stands still
STILL_TIME = 0.2  # seconds, and a round trip, that this takes; new data ends it then, where no answer is to come
STILL_REST = 5.0  # seconds until it is believed again: a TCP that loses much has such a window all the time
SHORT_PATH = 0.001  # seconds there and back: relays in one house
ARRIVED = 98_304  # bytes to ask for, of which Linux makes twice as many: 100 MB/s at that distance, if full cells
_UNACKNOWLEDGED, _UNSENT = 0x5411, 0x894B  # ioctls SIOCOUTQ and SIOCOUTQNSD of linux/sockios.h
# struct tcp_info of linux/tcp.h: the smoothed round trip and its variation, microseconds; the congestion window,
# segments; the pacing rate, bytes a second; bytes acknowledged; the least round trip.
_TCP_INFO = struct.Struct("=68xII4xI20xQ8xQ20xI")
_MICRO = 1e-6
_INT = struct.Struct("=i")
_LINUX = sys.platform == "linux"


class KernelQueue:
    """Of one connected TCP socket; raises `OSError` when the socket is closed."""

    __slots__ = (
        "_long",
        "_look_at",
        "_path",
        "_sock",
        "_still_again",
        "_still_until",
        "_was_full",
        "allowed",
        "path_full",
        "short_only",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.allowed = MOST  # bytes that may be unsent
        # What the poller will not tell the end of:
        self.path_full = False  # there was no room
        self.short_only = False  # there was none for a long cell
        self._sock = sock
        self._path = PathQueue()
        self._look_at = 0.0
        self._long = False  # the path
        self._still_until = self._still_again = 0.0
        self._was_full = False  # the path, at any time since that look

    def room(self, now: float, most: int) -> int:
        """Bytes the kernel may be given now, `most` or less; 0 and less: none."""
        if self._long or now >= self._look_at:
            self.adapt(now)
        room, limit = most, self._path.limit if self._long else 0  # a path that was long is not looked at any more
        self.path_full = False
        self.short_only = now < self._still_until
        if limit:
            left = limit - self._ask(_UNACKNOWLEDGED)
            if left <= 0:
                self._was_full = self.short_only = True
                left += PASSING
                self.path_full = left <= 0
            room = min(room, left)
        if self.allowed < most and room > 0:
            room = min(room, self.allowed - self._ask(_UNSENT))
        return min(room, LONG_CELL - 1) if self.short_only else room

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
        round_trip, variation, window, pacing, acked, least = info
        self._long = least * _MICRO >= LONG_PATH
        self._stand_still(now, window, round_trip * _MICRO)
        if due and self._long:
            self._look_at = now + LOOK
            trips = (round_trip * _MICRO, variation * _MICRO, least * _MICRO)
            self._path.seen(now, *trips, acked, full=self._was_full)
            self._was_full = False
        allowed = int(min(max(pacing * QUEUE_TIME, LEAST), MOST))
        if abs(allowed - self.allowed) * 8 > self.allowed or allowed == MOST != self.allowed:
            self.allowed = allowed
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, allowed)

    def _stand_still(self, now: float, window: int, round_trip: float) -> None:
        """A window that small for longer is no pause, and is used as it is."""
        if not self._long or window > STILL:
            self._still_until = 0.0
        elif now >= self._still_again:
            self._still_until = now + STILL_TIME + round_trip
            self._still_again = now + STILL_REST

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
