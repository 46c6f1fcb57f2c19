"""What a link leaves unsent with the kernel, on real TCP sockets; the kernel itself makes one of them slow."""

import fcntl
import socket
import sys
import termios
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from common.net import kernel_queue
from common.net.handshake import tune
from common.net.kernel_queue import (
    ARRIVED,
    LEAST,
    LOOK,
    MOST,
    PASSING,
    QUEUE_TIME,
    STILL,
    STILL_REST,
    STILL_TIME,
    KernelQueue,
    limit_arrivals,
)
from common.net.path_queue import PathQueue
from common.wire.cells import LONG_CELL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is unsent")

_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h
SLOW = 1_000_000  # bytes a second
MIDDLE = 5_000_000
LIMIT = 70_000  # bytes on their way


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of one TCP connection, the first tuned as a link's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    with one, other:
        tune(one)
        one.setblocking(False)
        yield one, other


def fill(sock: socket.socket) -> int:
    """Sends until the kernel takes no more; how much that was."""
    taken = 0
    try:
        while True:
            taken += sock.send(bytes(LEAST))
    except BlockingIOError:
        return taken


def test_a_fast_connection_may_hold_what_it_always_might(pair: tuple[socket.socket, socket.socket]) -> None:
    queue = KernelQueue(pair[0])
    assert queue.allowed == queue.room(0.0, MOST) == MOST
    pair[0].send(b"x")
    assert pair[1].recv(1) == b"x"
    queue.adapt(0.0)
    assert queue.allowed == MOST
    assert queue.room(0.0, LEAST) == LEAST, "and no more than was asked for"


@pytest.mark.parametrize(("rate", "allowed"), [(SLOW, LEAST), (MIDDLE, int(MIDDLE * QUEUE_TIME))])
def test_a_slow_connection_holds_some_milliseconds_of_its_rate(
    pair: tuple[socket.socket, socket.socket], rate: int, allowed: int
) -> None:
    one, other = pair
    one.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
    one.send(b"x")
    other.recv(1)
    queue = KernelQueue(one)
    queue.adapt(0.0)
    assert queue.allowed == allowed
    assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == allowed


def test_room_is_what_is_not_filled(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    one.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, 10_000)  # so slow that nothing leaves meanwhile
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    queue = KernelQueue(one)
    assert fill(one) >= MOST
    assert queue.room(0.0, MOST) <= 0
    assert not queue.path_full, "the poller will tell"


def test_a_long_path_is_looked_at_and_may_be_full(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel tells is what was sent: the fields are where they are taken for."""
    monkeypatch.setattr(kernel_queue, "LONG_PATH", 0.0)
    one, other = pair
    queue = KernelQueue(one)
    looks: list[tuple[float, float, float, float, int, bool]] = []
    path = SimpleNamespace(limit=0, seen=lambda *values, full: looks.append((*values, full)), wait=lambda size: size)
    queue._path = cast("PathQueue", path)
    one.send(bytes(10_000))
    other.recv(10_000, socket.MSG_WAITALL)
    assert queue.room(5.0, MOST) == MOST
    assert queue.room(5.0 + LOOK / 2, MOST) == MOST
    assert queue.room(5.0 + LOOK, MOST) == MOST
    assert [values[0] for values in looks] == [5.0, 5.0 + LOOK]
    assert not queue.short_only
    _, round_trip, variation, least, acked, full = looks[-1]
    assert not full
    assert 0 < least <= round_trip < 1
    assert 0 < variation < 1
    assert 0 <= acked - 10_000 <= 1, "its SYN counts as a byte"
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    fill(one)
    path.limit = 1
    assert queue.room(5.0 + LOOK, MOST) <= 0
    assert queue.path_full
    assert queue.wait() > 0
    path.limit = 0
    queue.room(5.0 + LOOK, MOST)
    assert not queue.path_full
    queue.adapt(5.0 + 2 * LOOK)
    queue.adapt(5.0 + 3 * LOOK)
    assert [values[-1] for values in looks[-2:]] == [True, False], "whether it was full since the last look"


@pytest.mark.parametrize(
    ("flying", "room", "short_only"),
    [
        (LIMIT - LONG_CELL, LONG_CELL, False),
        (LIMIT - 1, 1, False),
        (LIMIT, LONG_CELL - 1, True),
        (LIMIT + PASSING - 1, 1, True),
        (LIMIT + PASSING, 0, True),
    ],
)
def test_short_cells_pass_a_paths_limit_by_a_little(
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    flying: int,
    room: int,
    short_only: bool,
) -> None:
    """As the last long cell did: a quiet circuit's need not wait until that is acknowledged."""
    monkeypatch.setattr(KernelQueue, "_ask", lambda _queue, what: flying if what == termios.TIOCOUTQ else 0)
    queue = KernelQueue(pair[0])
    monkeypatch.setattr(kernel_queue, "LONG_PATH", 0.0)
    queue._path = cast("PathQueue", SimpleNamespace(limit=LIMIT, seen=lambda *_values, full: None))
    assert queue.room(5.0, MOST) == room
    assert queue.short_only == short_only
    assert queue.path_full == (room == 0)


class Told:
    """What a kernel tells of a connection with 50 ms there and back, changed by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.window, self.least = 10, 50_000
        monkeypatch.setattr(
            kernel_queue, "_tcp_info", lambda _: (50_000, 0, self.window, 1_000_000_000, 0, self.least)
        )


def test_a_path_that_is_short_after_all_has_no_limit_any_more(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would change it: one sample below 10 ms, while a queue stood, slowed a link for as long as it lived."""
    monkeypatch.setattr(KernelQueue, "_ask", lambda _queue, what: 2 * LIMIT if what == termios.TIOCOUTQ else 0)
    told, queue = Told(monkeypatch), KernelQueue(pair[0])
    queue._path = cast("PathQueue", SimpleNamespace(limit=LIMIT, seen=lambda *_values, full: None))
    assert queue.room(5.0, MOST) < 0
    told.least = 9_999
    assert queue.room(5.0 + LOOK, MOST) == MOST
    assert not queue.path_full
    assert not queue.short_only


def test_a_tcp_that_stands_still_gets_no_long_cell(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, queue = Told(monkeypatch), KernelQueue(pair[0])
    assert queue.room(5.0, MOST) == MOST
    told.window = STILL
    assert queue.room(5.0 + LOOK / 10, MOST) == LONG_CELL - 1, "it is seen before the next long cell goes"
    assert queue.short_only
    assert not queue.path_full
    assert 0 < queue.wait() < STILL_TIME / 5
    told.window = STILL + 1
    assert queue.room(5.1, MOST) == MOST
    assert not queue.short_only


def test_a_window_that_stays_small_is_no_standstill(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing need come back that would tell the end; and a TCP that loses much would get no long cell at all."""
    told, queue = Told(monkeypatch), KernelQueue(pair[0])
    queue.room(5.0, MOST)
    told.window = 1
    looks = [5.0 + tick / 100 for tick in range(1, 501)]
    still = [now for now in looks if queue.room(now, MOST) < LONG_CELL]
    assert still[0] == looks[0]
    assert STILL_TIME < still[-1] - still[0] <= STILL_TIME + 0.05
    assert len(still) == looks.index(still[-1]) + 1
    told.window = 10
    queue.room(10.005, MOST)
    told.window = 1
    assert queue.room(5.01 + STILL_REST, MOST) == LONG_CELL - 1


def test_a_short_path_carries_enough_with_a_small_window(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, queue = Told(monkeypatch), KernelQueue(pair[0])
    told.window, told.least = 1, 1_000
    assert queue.room(5.0, MOST) == MOST
    assert not queue.short_only


def test_the_window_is_where_it_is_taken_for(pair: tuple[socket.socket, socket.socket]) -> None:
    info = kernel_queue._tcp_info(pair[0])
    assert info is not None
    assert info[2] == 10, "RFC 6928"


def test_a_short_path_is_looked_at_seldom(pair: tuple[socket.socket, socket.socket]) -> None:
    queue = KernelQueue(pair[0])
    queue._path = cast("PathQueue", SimpleNamespace(limit=0))
    pair[0].send(b"x")
    pair[1].recv(1)
    for tick in range(200):
        assert queue.room(5.0 + tick * LOOK, MOST) == MOST


def test_a_closed_socket_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    queue = KernelQueue(pair[0])
    pair[0].close()
    with pytest.raises(OSError):
        queue.room(0.0, MOST)
    with pytest.raises(OSError):
        queue.adapt(0.0)
    with pytest.raises(OSError):
        queue.wait()


def test_on_a_short_path_little_may_arrive_that_is_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    limit_arrivals(other)
    assert other.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * ARRIVED
    fill(one)
    unread = int.from_bytes(fcntl.ioctl(other, termios.FIONREAD, bytes(4)), sys.byteorder)
    assert 0 < unread <= 2 * ARRIVED


def test_a_long_path_is_left_to_the_kernel(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_queue, "SHORT_PATH", 0.0)
    before = pair[1].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    limit_arrivals(pair[1])
    assert pair[1].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
