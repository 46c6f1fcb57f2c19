"""The application's side of SOCKS5 (RFC 1928, 1929), and the way to the target with or without a proxy."""

import os
import select
import socket
import struct
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count

from common.net.deadline import Deadline
from tests.benchmarks.loop import READ, WRITE

_LOOPBACK = "127.0.0.1"
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_ADDRESS_SIZES = {1: 4, 4: 16}
_users = count(1)


class Failed(Exception):
    """A stream did not do what it was to do."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a stream reaches the target: `entry` is dialled; `target` is asked of it when it is a SOCKS port."""

    entry: int
    target: int | None = None

    def open(self, timeout: float, *, isolated: bool = False) -> socket.socket:
        """A blocking socket whose other end is the target; raises `Failed` or `OSError`."""
        sock = new_socket()
        deadline = Deadline(timeout)
        try:
            for handle, events in opening(self, sock, isolated=isolated):
                poll = select.poll()
                poll.register(handle, events)
                if not poll.poll(1_000 * deadline.left()):
                    raise Failed("timed out while opening")
            sock.settimeout(timeout)
        except BaseException:
            sock.close()
            raise
        return sock


def new_socket() -> socket.socket:
    """A socket that does not block, for `opening`."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


Opening = Generator[tuple[int, int], None, None]
Reading = Generator[tuple[int, int], None, bytes]


def opening(route: Route, sock: socket.socket, *, isolated: bool = False) -> Opening:
    """Connects `sock` to the target, as a task; `isolated` asks for a circuit of its own by a new user name."""
    sock.connect_ex((_LOOPBACK, route.entry))
    yield sock.fileno(), WRITE
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    if route.target is None:
        return
    method = _PASSWORD if isolated else _NO_AUTHENTICATION
    sock.send(bytes([5, 1, method]))
    if (yield from _exactly(sock, 2)) != bytes([5, method]):
        raise Failed("the proxy refuses the method")
    if isolated:
        user = f"user-{os.getpid()}-{next(_users)}".encode()
        sock.send(b"\x01" + bytes([len(user)]) + user + b"\x01x")
        if (yield from _exactly(sock, 2))[1] != 0:
            raise Failed("the proxy refuses the password")
    sock.send(b"\x05\x01\x00\x01" + socket.inet_aton(_LOOPBACK) + struct.pack(">H", route.target))
    head = yield from _exactly(sock, 4)
    if head[1] != 0:
        raise Failed(f"the proxy says no: {head[1]}")
    size = _ADDRESS_SIZES.get(head[3])
    if size is None:
        size = (yield from _exactly(sock, 1))[0]
    yield from _exactly(sock, size + 2)


def _exactly(sock: socket.socket, size: int) -> Reading:
    data = b""
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except BlockingIOError:
            yield sock.fileno(), READ
            continue
        if not piece:
            raise Failed("the proxy closed early")
        data += piece
    return data
