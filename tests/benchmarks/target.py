"""The target of every measured stream: one process, one thread, epoll. `python -m tests.benchmarks.target`.

A stream begins with a line that says what is wanted:
    D COUNT     COUNT bytes are sent, then the stream is closed
    U COUNT     COUNT bytes are taken (whole MB), a "." is sent after each MB
    E           everything is sent back
The port, free and on loopback, is printed first.
"""

import os
import select
import socket
from contextlib import suppress

MB = 1_000_000
_CHUNK = 1 << 18  # bytes sent or received in one call
_ECHO_CHUNK = 16_384
_BACKLOG = 4_096
_LONGEST_LINE = 64


class _Stream:
    """One accepted stream."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._mode = ""
        self._left = 0
        self._line = b""

    def readable(self, blob: memoryview, space: memoryview) -> bool:
        """Takes what came; False when the stream is over."""
        count = self.sock.recv_into(space, _CHUNK if self._mode == "U" else _ECHO_CHUNK)
        if count == 0:
            return False
        data = space[:count]
        if self._mode == "E":
            self.sock.send(data)
            return True
        if self._mode == "U":
            return self._taken(count)
        self._line += data
        head, end, rest = self._line.partition(b"\n")
        if not end:
            return len(self._line) < _LONGEST_LINE
        self._mode, self._left = chr(head[0]), int(head[1:] or b"0")
        if self._mode == "E" and rest:
            self.sock.send(rest)
        if self._mode == "U":
            return self._taken(len(rest))
        return self.writable(blob) if self._mode == "D" else True

    def writable(self, blob: memoryview) -> bool:
        """Sends one chunk; False when all is sent.

        Not more: a reader that keeps up would hold the others, and a prompt's echo, for as long as it likes.
        """
        with suppress(BlockingIOError):
            self._left -= self.sock.send(blob[: self._left])
        return self._left > 0

    @property
    def sends(self) -> bool:
        """Whether it waits to send more."""
        return self._mode == "D"

    def _taken(self, count: int) -> bool:
        before, self._left = self._left, self._left - count
        whole = -(-before // MB) - -(-self._left // MB)
        if whole:
            self.sock.send(b"." * whole)
        return True


class Target:
    """Serves for ever."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._streams: dict[int, _Stream] = {}
        self._blob = memoryview(os.urandom(_CHUNK))
        self._space = memoryview(bytearray(_CHUNK))
        self.port = int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Until the process is ended."""
        while True:
            for handle, events in self._epoll.poll():
                stream = self._streams.get(handle)
                if stream is None:
                    self._accept()
                elif not self._serve(stream, events):
                    del self._streams[handle]
                    self._epoll.unregister(handle)
                    stream.sock.close()

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._streams[sock.fileno()] = _Stream(sock)
                self._epoll.register(sock, select.EPOLLIN)

    def _serve(self, stream: _Stream, events: int) -> bool:
        try:
            if stream.sends:
                return stream.writable(self._blob)
            goes_on = stream.readable(self._blob, self._space)
            if goes_on and stream.sends:
                self._epoll.modify(stream.sock, select.EPOLLOUT)
            return goes_on
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False


if __name__ == "__main__":
    target = Target()
    print(target.port, flush=True)
    target.run()
