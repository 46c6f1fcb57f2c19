"""Ports for daemons that come back to them: free now, and none that the system gives to connections by itself.

A port that `bind` chose is one of those: while its daemon is away any connection of this machine may leave by it.
Where the system gives nearly all, as some are set up to, one of them has to do.
"""

import secrets
import socket
from collections.abc import Container, Iterator
from itertools import chain
from pathlib import Path

from common.errors import ConfigError

LOWEST = 10_000  # below are the ports of well-known programs
_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL = 32_768  # from there on Linux gives them
_TRIES = 200


class FreePorts:
    """Of one host (an address of this machine); none is taken twice."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._taken: set[int] = set()

    def take(self, but: Container[int] = ()) -> int:
        """One that is not in `but`. Raises `ConfigError`: none was found."""
        for port in chain(self._below(), self._given()):
            if port not in self._taken and port not in but and self.is_free(port):
                self._taken.add(port)
                return port
        raise ConfigError(f"{self._host}: no port is free")

    def _below(self) -> Iterator[int]:
        """Some that the system gives to no connection."""
        try:
            first_given = int(_GIVEN.read_text().split()[0])
        except (OSError, ValueError, IndexError):
            first_given = _USUAL
        count = first_given - LOWEST
        return (LOWEST + secrets.randbelow(count) for _ in range(_TRIES if count > 0 else 0))

    def _given(self) -> Iterator[int]:
        """Some that the system gives."""
        for _ in range(_TRIES):
            with socket.socket() as probe:
                probe.bind((self._host, 0))
                port: int = probe.getsockname()[1]
            yield port

    def is_free(self, port: int) -> bool:
        """Whether a daemon could listen there now."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
                probe.listen(1)
            except OSError:
                return False
        return True
