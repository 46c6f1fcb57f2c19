"""What streams of a wide area lead to: a server inside this process, listening on a host.

A stream's first byte says what is wanted: D, bytes without end; F and 8 bytes, as many bytes as they say, and the end;
U, all is taken, and counted; E, all is sent back.
"""

import os
import socket
import threading
from contextlib import suppress
from typing import Self

from tests.wide_area.hosts import PATIENCE, Host, listening
from tests.wide_area.programs import receive_exactly

_CHUNK = os.urandom(65_536)


class Target:
    """Use `with`. `taken`: bytes of all uploads so far."""

    def __init__(self, host: Host) -> None:
        self.taken = 0
        self._sock = listening(host)
        self.address: tuple[str, int] = self._sock.getsockname()
        self._streams: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="target")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)
        for stream in self._streams:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(PATIENCE)
        self._sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                stream, _ = self._sock.accept()
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._streams.append(stream)
                self._threads.append(threading.Thread(target=self._serve, args=(stream,), name="target's stream"))
                self._threads[-1].start()

    def _serve(self, stream: socket.socket) -> None:
        with suppress(OSError), stream:
            what = stream.recv(1)
            if what == b"F":
                size = int.from_bytes(receive_exactly(stream, 8), "big")
                for at in range(0, size, len(_CHUNK)):
                    stream.sendall(_CHUNK[: size - at])
                stream.shutdown(socket.SHUT_WR)
            while what == b"D":
                stream.sendall(_CHUNK)
            while data := stream.recv(65_536):
                if what == b"U":
                    self.taken += len(data)
                else:
                    stream.sendall(data)
