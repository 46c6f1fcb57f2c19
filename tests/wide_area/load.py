"""Load on a stream of a wide area: a transfer that goes on until it is stopped, and a prompt's echoes."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Self

from tests.wide_area.hosts import PATIENCE
from tests.wide_area.programs import Failed, receive_exactly

PROMPT = 64  # bytes of an echo
INTERVAL = 0.1  # seconds between two
_CHUNK = bytes(65_536)
_STAMP = struct.Struct("=d")
_RESET = struct.pack("ii", 1, 0)


class Bulk:
    """A transfer as fast as the stream takes it, up or down, while the `with` lasts. `moved`: bytes that the
    application has written or read."""

    def __init__(self, stream: socket.socket, *, up: bool) -> None:
        self.moved = 0
        self._stream = stream
        stream.sendall(b"U" if up else b"D")
        self._thread = threading.Thread(target=self._write if up else self._read, name="bulk")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._stream.close()

    def _write(self) -> None:
        with suppress(OSError):
            while True:
                self.moved += self._stream.send(_CHUNK)

    def _read(self) -> None:
        space = bytearray(len(_CHUNK))
        with suppress(OSError):
            while count := self._stream.recv_into(space):
                self.moved += count


def echoes(stream: socket.socket, count: int, seen: Callable[[], None] = lambda: None) -> list[float]:
    """The round trips of a prompt's messages, in seconds, sorted; one is sent each `INTERVAL`, answered or not.

    `seen` is called after each. Raises `Failed` when one does not come.
    """
    stream.sendall(b"E")
    times: list[float] = []

    def read() -> None:
        with suppress(OSError, Failed):
            for _ in range(count):
                (sent,) = _STAMP.unpack_from(receive_exactly(stream, PROMPT))
                times.append(monotonic() - sent)

    reader = threading.Thread(target=read, name="echoes")
    reader.start()
    begin = monotonic()
    for number in range(count):
        sleep(max(0.0, begin + number * INTERVAL - monotonic()))
        stream.sendall(_STAMP.pack(monotonic()).ljust(PROMPT, b"."))
        seen()
    reader.join(PATIENCE)
    if len(times) < count:
        raise Failed(f"{count - len(times)} of {count} echoes are missing")
    return sorted(times)
