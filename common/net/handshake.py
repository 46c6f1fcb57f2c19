"""What happens before there is a link: a connected and tuned socket, and the TLS handshake, under a deadline."""

import socket

from common.errors import AuthenticationFailed, Closed, DestroyReason
from common.net.deadline import Deadline
from common.net.kernel_queue import MOST
from common.net.tls import TlsSession

PATIENCE = 30.0  # seconds in which a peer must take something, and answer the kernel's probes
_HANDSHAKE_READ = 16_384  # bytes per read before the link is up
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": int(PATIENCE * 1_000)}


def connect(address: tuple[str, int], deadline: Deadline) -> socket.socket:
    """A connected socket; a name with several addresses shares the time between them. Raises `Closed`."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Closed("the address is not known", DestroyReason.UNREACHABLE) from None
    failure = "no address"
    for tried, (family, kind, protocol, _, target) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_time_left(deadline) / (len(found) - tried))
            sock.connect(target)
        except OSError as error:
            sock.close()
            failure = text_of(error)
        else:
            return sock
    raise Closed(f"cannot connect: {failure}", DestroyReason.UNREACHABLE)


def tune(sock: socket.socket) -> None:
    """No delay for short cells, a short queue in the kernel, and a dead peer noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_NOTSENT_LOWAT": MOST, **_KEEPALIVE}.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def shake_hands(sock: socket.socket, tls: TlsSession, identity: bytes | None, deadline: Deadline) -> None:
    """The TLS handshake; the dialling side's last word is not said to another than `identity`."""
    while not tls.handshake():
        send_all(sock, tls.outgoing(), deadline)
        tls.feed(receive(sock, deadline))
    if identity is not None and tls.peer_identity() != identity:
        raise AuthenticationFailed("the peer has another identity")
    send_all(sock, tls.outgoing(), deadline)


def send_all(sock: socket.socket, data: bytes, deadline: Deadline) -> None:
    """Waits until the kernel has all of `data`; raises `OSError`, `TimeoutError` too."""
    sock.settimeout(_time_left(deadline))
    sock.sendall(data)


def receive(sock: socket.socket, deadline: Deadline) -> bytes:
    """What arrives next, up to 16 KiB; raises `Closed` at the end, `OSError`, `TimeoutError` too."""
    sock.settimeout(_time_left(deadline))
    data = sock.recv(_HANDSHAKE_READ)
    if not data:
        raise Closed("the peer closed the link during its handshake")
    return data


def _time_left(deadline: Deadline) -> float:
    """What to hand to `settimeout`, for which 0 would mean something else."""
    left = deadline.left()
    if not left:
        raise TimeoutError
    return left


def text_of(error: Exception) -> str:
    """An error in words without addresses."""
    if isinstance(error, TimeoutError):
        return "timed out"
    strerror = getattr(error, "strerror", None)
    return str(strerror).lower() if strerror else str(error)
