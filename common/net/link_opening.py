"""How a link comes to be: TCP, TLS, then HELLO each way. These functions wait, up to their deadline."""

import socket
import ssl
from functools import cache

from common.errors import AuthenticationFailed, Closed, DestroyReason, ProtocolError, Unexpected
from common.net.deadline import Deadline
from common.net.handshake import connect, receive, send_all, shake_hands, text_of, tune
from common.net.kernel_queue import limit_arrivals
from common.net.link import Link, LinkOwner
from common.net.source import source_of
from common.net.tls import TlsSession, client_context
from common.wire.cells import Cell, Command, choose_version, encode_cell, encode_hello
from common.wire.framing import CellReader

_client_context = cache(client_context)


def dial(address: tuple[str, int], identity: bytes, owner: LinkOwner, deadline: Deadline) -> Link:
    """A link to exactly `identity` at a host (IPv4, IPv6 or name) and port; no cell is sent to anyone else.

    Raises `AuthenticationFailed` (somebody else answered) or `Closed` (all other failures).
    """
    sock = connect(address, deadline)
    return _open(sock, TlsSession(_client_context(), server_side=False), owner, identity, deadline)


def accept(sock: socket.socket, context: ssl.SSLContext, owner: LinkOwner, deadline: Deadline) -> Link:
    """A link on a socket that a listener accepted, which from now on is the link's; raises `Closed`."""
    return _open(sock, TlsSession(context, server_side=True), owner, None, deadline)


def _open(
    sock: socket.socket, tls: TlsSession, owner: LinkOwner, identity: bytes | None, deadline: Deadline
) -> Link:
    reader = CellReader()
    try:
        tune(sock)
        limit_arrivals(sock)
        shake_hands(sock, tls, identity, deadline)
        early = _greet(sock, tls, reader, deadline)
        source = source_of(sock.getpeername()[0])
        sock.setblocking(False)
    except AuthenticationFailed:
        sock.close()
        raise
    except (OSError, ProtocolError, Closed) as error:
        sock.close()
        reason = getattr(error, "reason", None) or DestroyReason.UNREACHABLE
        raise Closed(f"the link's handshake failed: {text_of(error)}", reason) from None
    return Link(sock, tls, owner, identity, reader, early, source)


def _greet(sock: socket.socket, tls: TlsSession, reader: CellReader, deadline: Deadline) -> list[Cell]:
    """Exchanges HELLO; returns what came behind it."""
    tls.write(encode_cell(0, Command.HELLO, encode_hello()))
    send_all(sock, tls.outgoing(), deadline)
    cells = reader.feed(*tls.read())  # what came with the end of the handshake
    while not cells:
        cells = reader.feed(*tls.read(receive(sock, deadline)))
    if cells[0].command != Command.HELLO:
        raise Unexpected("the first cell is not HELLO")
    choose_version(cells[0].body)
    return cells[1:]
