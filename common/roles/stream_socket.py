"""The socket that `Client.connect` gives: an ordinary one, which tells a stream that broke from one that ended."""

import socket
from typing import Any

from common.errors import EndReason


class StreamSocket(socket.socket):
    """One end of a socket pair. Where a plain socket would show a clean end after a break, reading raises."""

    def __init__(self, fileno: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fileno)
        self.broken_by: EndReason | None = None

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
