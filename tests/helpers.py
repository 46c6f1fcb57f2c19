"""What many tests share: cutting bytes three ways, a clock that only tests move, one unit of time."""

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from common.crypto.layers import PROOF, Kind, Opener
from common.crypto.onion import LayerStack
from common.errors import OnionError
from common.wire.cells import Bytes

MS = 0.001  # every timeout in a test is a multiple of this

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # whatever else the machine does


def open_layer(opener: Opener, layer: Bytes) -> tuple[Kind, Bytes]:
    """One, where a test has one."""
    (kind,), (body,) = opener.open([layer])
    return kind, body


def open_cell(stack: LayerStack, layer: Bytes) -> tuple[int, Bytes, Bytes]:
    """One: which hop it is from, its messages, and the proof of its receipt."""
    hop, ((messages, innermost),) = stack.open([layer])
    return hop, messages, innermost[-PROOF:]


T_co = TypeVar("T_co", covariant=True)


class Feed(Protocol[T_co]):
    """Something that takes bytes however they are cut and returns what they complete."""

    def __call__(self, data: bytes, /) -> Iterable[T_co]: ...


def say_no_more(sock: socket.socket) -> None:
    """Ends our direction; whoever was told nonsense may have hung up with a reset already."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


class FakeClock:
    """A monotonic clock in seconds: call it for now, `advance` to move it."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Moves on and returns the new time."""
        assert seconds >= 0
        self.now += seconds
        return self.now


def feed_three_ways(
    make: Callable[[], Feed[T_co]], data: bytes, expected: list[T_co], trailing: bytes = b""
) -> None:
    """Whole, byte by byte, and with `trailing` bytes that complete nothing: the same comes out."""
    assert list(make()(data)) == expected
    feed = make()
    assert [item for byte in data for item in feed(bytes([byte]))] == expected
    feed = make()
    assert [*feed(data + trailing), *feed(b"")] == expected


def refused_three_ways(make: Callable[[], Feed[object]], data: bytes, error: type[OnionError]) -> None:
    """Whole, byte by byte, and with trailing bytes: the same error, at the latest with the last byte."""
    for pieces in ([data], [bytes([byte]) for byte in data], [data + bytes(100)]):
        feed = make()
        with pytest.raises(error):
            for piece in pieces:
                list(feed(piece))


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    """`data` with one bit of byte `at` changed."""
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def flips(data: bytes, random: Random, count: int) -> Iterator[bytes]:
    """`data` with one bit changed: at every byte of the first and last 100, then at `count` random places."""
    edges = {at for at in range(len(data)) if at < 100 or at >= len(data) - 100}
    for at in [*sorted(edges), *(random.randrange(len(data)) for _ in range(count))]:
        yield flip(data, at, random.randrange(8))


def blocks(data: bytes, size: int = 16) -> set[bytes]:
    """Every run of `size` bytes in `data`, at any offset."""
    return {data[at : at + size] for at in range(len(data) - size + 1)}
