"""A plain TCP forwarder: `python -m tests.benchmarks.forwarder NEXT_PORT`; prints the port it listens on.

A chain of these carries bytes through as many processes as a circuit does, with no protocol and no encryption:
what Python and the kernel cost by themselves. One thread, epoll; a side that is slow to take stops the other.
"""

import select
import socket
import sys
from contextlib import suppress

_CHUNK = 1 << 18  # bytes received in one call, and the most held for one direction
_BACKLOG = 4_096


class _Side:
    """One socket of a pair, and what waits to be sent on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.peer: _Side = self
        self.waiting = memoryview(b"")
        self.ended = False  # it will say no more
        self.connecting = False

    def flush(self) -> None:
        """Sends what the kernel takes; ends the direction when its source has ended."""
        with suppress(BlockingIOError):
            while self.waiting:
                self.waiting = self.waiting[self.sock.send(self.waiting) :]
        if self.peer.ended and not self.waiting:
            self.sock.shutdown(socket.SHUT_WR)

    @property
    def events(self) -> int:
        """What to wait for."""
        wants_write = self.connecting or bool(self.waiting)
        wants_read = not (self.connecting or self.peer.connecting or self.ended or self.peer.waiting)
        return (select.EPOLLOUT if wants_write else 0) | (select.EPOLLIN if wants_read else 0)


class Forwarder:
    """Serves for ever."""

    def __init__(self, next_port: int) -> None:
        self._next = ("127.0.0.1", next_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._sides: dict[int, _Side] = {}
        self._events: dict[int, int] = {}
        self._space = memoryview(bytearray(_CHUNK))
        self.port = int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Until the process is ended."""
        while True:
            for handle, events in self._epoll.poll():
                side = self._sides.get(handle)
                if handle == self._listener.fileno():
                    self._accept()
                elif side is not None:
                    self._serve(side, events)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                near = _Side(self._listener.accept()[0])
                far = _Side(socket.socket())
                near.peer, far.peer, far.connecting = far, near, True
                for side in (near, far):
                    side.sock.setblocking(False)
                    side.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sides[side.sock.fileno()] = side
                far.sock.connect_ex(self._next)
                self._watch(near)

    def _serve(self, side: _Side, events: int) -> None:
        try:
            if side.connecting:
                side.connecting = False
            elif events & select.EPOLLOUT:
                side.flush()
            if events & ~select.EPOLLOUT and not side.ended and not side.peer.waiting:
                self._read(side)
        except BlockingIOError:
            pass
        except OSError:
            self._close(side)
            return
        if side.ended and side.peer.ended and not side.waiting and not side.peer.waiting:
            self._close(side)
        else:
            self._watch(side)

    def _read(self, side: _Side) -> None:
        count = side.sock.recv_into(self._space)
        side.ended = count == 0
        side.peer.waiting = self._space[:count]
        side.peer.flush()
        if side.peer.waiting:
            side.peer.waiting = memoryview(bytes(side.peer.waiting))  # the space is used again

    def _watch(self, side: _Side) -> None:
        """Both sides: what one waits for depends on the other."""
        for each in (side, side.peer):
            handle, events = each.sock.fileno(), each.events
            if self._events.get(handle) != events:
                if handle in self._events:
                    self._epoll.modify(handle, events)
                else:
                    self._epoll.register(handle, events)
                self._events[handle] = events

    def _close(self, side: _Side) -> None:
        for each in (side, side.peer):
            handle = each.sock.fileno()
            self._sides.pop(handle, None)
            if self._events.pop(handle, None) is not None:
                self._epoll.unregister(handle)
            each.sock.close()


if __name__ == "__main__":
    forwarder = Forwarder(int(sys.argv[1]))
    print(forwarder.port, flush=True)
    forwarder.run()
