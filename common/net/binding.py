"""Sockets that listen, and ports that several processes share.

Several processes listen on one port by SO_REUSEPORT, and the kernel spreads connections over them. With that
option alone a second relay on the same port by mistake would not be refused either: it would get half of the
first one's connections. So the port is *claimed* first, by one process, in a way that only one can; the claim is
held as long as they run, and whoever listens with `shared` must belong to the holder of the claim.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import ConfigError

_BACKLOG = 1_024  # connections the kernel keeps while the accepting thread is busy


def listen_on(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """A listening socket that does not block; raises `ConfigError`. `shared`: on a port that is claimed for us."""
    with _speaking(address):
        sock = _bound(address, shared=shared)
        try:
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock


def claim(address: tuple[str, int]) -> socket.socket:
    """Takes a port, 0 for a free one, for processes of this user that listen there `shared`; close it to let go.

    The returned socket never listens. As long as it is open every other claim and every `listen_on` that is not
    shared is refused, also while nobody listens. Raises `ConfigError`: somebody has the port.
    """
    with _speaking(address):
        # Of two sockets that listen without SO_REUSEPORT the kernel lets one: that is what cannot be raced.
        door = _bound(address)
        try:
            door.listen(1)
            door.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEPORT, 1
            )  # from here on the claim may stand beside it
            held = _bound(door.getsockname()[:2], shared=True)
            # Two sockets that are bound and do not listen share a port when both have SO_REUSEADDR. It was needed
            # against connections in TIME_WAIT; without it the claim refuses who has no SO_REUSEPORT.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        finally:
            door.close()
        return held


def _bound(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    host, port = address
    if not 0 <= port <= 65_535:  # getaddrinfo takes others for a port between
        raise ConfigError(f"cannot listen on {_shown(address)}: a port is a number up to 65535, 0 for a free one")
    family, kind, protocol, _, target = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(target)
    except OSError:
        sock.close()
        raise
    return sock


@contextmanager
def _speaking(address: tuple[str, int]) -> Iterator[None]:
    """What the system refuses, as a sentence."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        text = str(getattr(error, "strerror", None) or error).lower()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            text = "address already in use; choose another port"
        raise ConfigError(f"cannot listen on {_shown(address)}: {text}") from None


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
