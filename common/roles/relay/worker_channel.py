"""What a relay's parent and one of its workers say to each other: lines of JSON over a socketpair.

    parent                                             worker
    {"nickname": ..., "listen": ..., ...}         ->   (once, at the start)
                                                  <-   {"ready": true}, or {"failed": "a sentence"} and the end
    {"ask": "carried" | "counts" | "keys" | "rules"
     | "close", "number": N}                      ->
                                                  <-   {"ask": the same, "number": N, "answer": ...}
    {"ask": "stop", "seconds": S}                 ->   the worker drains, and ends

    carried   how many bytes the worker has carried since its start
    counts    what it has open and has counted since its start, as `Counts`
    keys      the onion keys on disk have changed: true once the worker answers CREATE with the new ones
    rules     has "exit_policy" and "log_level" too: true once streams that begin go by them
    close     accept no more links: true when that is so

The end of the channel is the end of the other process: a worker whose parent is gone ends at once, however the
parent ended, and the parent needs no other sign that a worker is gone. No key is ever said here.
"""

import json
import socket
import threading
from typing import Any

from common.errors import Closed

_MAX_LINE = 1_048_576  # bytes: settings with a long exit policy; both ends are our own processes

CARRIED, COUNTS, KEYS, RULES, CLOSE, STOP = "carried", "counts", "keys", "rules", "close", "stop"


class Channel:
    """One end: any thread sends, one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("rb")
        self._lock = threading.Lock()  # guards that lines do not mix

    def send(self, message: dict[str, Any]) -> None:
        """One line; raises `Closed` when the other side is gone, or has read nothing for very long."""
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                if self._sock.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) != len(line):
                    raise Closed("the other process does not read")
        except OSError:
            raise Closed("the other process is gone") from None

    def receive(self) -> dict[str, Any] | None:
        """The next line, None at the end."""
        try:
            line = self._lines.readline(_MAX_LINE)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def end(self) -> None:
        """Whoever receives, on either side, gets the end. Any thread; may be called again."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it ended by itself

    def close(self) -> None:
        """Lets the descriptor go: by the receiving thread, when it has got the end."""
        self._lines.close()
        self._sock.close()
