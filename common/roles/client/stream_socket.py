"""The socket that `Client.connect` gives: an ordinary one, which tells a stream that broke from one that ended."""

import socket
from typing import TYPE_CHECKING, Any

from common.errors import EndReason

if TYPE_CHECKING:
    from common.roles.client.wish import Opening


class StreamSocket(socket.socket):
    """One end of a socket pair. Where a plain socket would show a clean end after a break, reading raises."""

    def __init__(self, fileno: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fileno)
        self.broken_by: EndReason | None = None
        self.opening: Opening | None = None  # what it was asked for as

    def abort(self) -> None:
        """Ends the stream now, in both directions; whoever reads hears so. Any thread; the socket stays to close.

        `close` is gentler: what was sent arrives, and the target may go on sending until it notices.
        """
        self.broken_by = self.broken_by or EndReason.RESET
        if self.opening is not None:
            self.opening.abort()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As `socket.recv`; raises `ConnectionResetError` at the end of a stream that broke."""
        data = super().recv(size, flags)
        if not data and size:
            self._raise_if_broken()
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`; see `recv`."""
        count = super().recv_into(buffer, nbytes, flags)
        if not count and (nbytes or len(buffer)):
            self._raise_if_broken()
        return count

    def _raise_if_broken(self) -> None:
        if self.broken_by is not None:
            reason = self.broken_by.name.lower().replace("_", " ")
            raise ConnectionResetError(f"the stream through the network broke: {reason}")
