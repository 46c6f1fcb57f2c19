"""The work that is measured: each function does it once through a route and returns what it saw.

Units: bytes, seconds. A transfer that reaches its time limit counts the bytes that came.
"""

import os
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from common.net.deadline import Deadline
from tests.benchmarks.loop import READ, Loop, Task
from tests.benchmarks.socks import Failed, Route, new_socket, opening
from tests.benchmarks.target import MB

OPEN_TIME = 30.0  # seconds a stream may take to open
SMALL = 1_024  # bytes asked for where only the first one matters
MESSAGE = 64  # bytes of an echo: a keystroke and its frame
_CHUNK = 1 << 18
_RAMP = 100  # streams opened at a time when many are
_WARM_ECHOES = 10  # not counted
_OFFER_EVERY = 0.02  # seconds
_MOST_PROBLEMS = 100  # of new streams, after which a worker gives up


@dataclass(slots=True)
class Transfer:
    """Bytes moved in `seconds`, and the CPU seconds that the meter counted; `problems` are sentences."""

    count: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.count / self.seconds / MB if self.seconds else 0.0


Meter = Callable[[], float]


def _no_meter() -> float:
    return 0.0


def download(
    route: Route, streams: int, total: int, limit: float, meter: Meter = _no_meter, *, isolated: bool = False
) -> Transfer:
    """`total` bytes over `streams` streams that are open before clock and meter start."""
    problems: list[str] = []
    socks = open_streams(route, streams, problems, isolated=isolated)
    transfer = download_over(socks, total, limit, meter)
    transfer.problems[:0] = problems
    return transfer


def download_over(socks: Sequence[socket.socket], total: int, limit: float, meter: Meter = _no_meter) -> Transfer:
    """`total` bytes over streams that are open and on which nothing was asked yet; they are closed."""
    transfer = Transfer()
    each = total // max(1, len(socks))
    space = bytearray(_CHUNK)
    metered = meter()
    begun = perf_counter()

    def reader(loop: Loop, sock: socket.socket) -> Task:
        got = 0
        try:
            sock.send(b"D %d\n" % each)
            while got < each:
                yield sock.fileno(), READ
                count = sock.recv_into(space)
                if not count:
                    raise Failed(f"a download ended after {got:,} of {each:,} bytes")
                got += count
                transfer.count += count
                transfer.seconds = perf_counter() - begun
        except (OSError, Failed) as error:
            transfer.problems.append(str(error))
        finally:
            loop.forget(sock)

    with Loop() as loop:
        for sock in socks:
            loop.spawn(reader(loop, sock))
        loop.run(Deadline(limit))
    transfer.cpu = meter() - metered
    return transfer


def upload(route: Route, total: int, limit: float, meter: Meter = _no_meter) -> Transfer:
    """`total` bytes (whole MB) over one stream; the target's acknowledgements say when they have come."""
    data = memoryview(os.urandom(_CHUNK))
    transfer = Transfer()
    deadline = Deadline(limit)
    sent = 0
    with route.open(OPEN_TIME) as sock:
        sock.setblocking(False)
        metered = meter()
        begun = perf_counter()
        sock.send(b"U %d\n" % total)
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLOUT)
        while transfer.count < total:
            ready = poll.poll(1_000 * deadline.left())
            if not ready:
                break
            if ready[0][1] & select.POLLOUT:
                sent += sock.send(data[: total - sent])
                if sent == total:
                    poll.modify(sock, select.POLLIN)
            if ready[0][1] & ~select.POLLOUT:
                answer = sock.recv(_CHUNK)
                if not answer:
                    raise Failed(f"an upload ended after {transfer.count:,} of {total:,} bytes")
                transfer.count += len(answer) * MB
                transfer.seconds = perf_counter() - begun
    transfer.cpu = meter() - metered
    return transfer


def echo(route: Route, times: int, limit: float) -> list[float]:
    """Round trips of 64 bytes on one open stream."""
    deadline = Deadline(limit)
    message = os.urandom(MESSAGE)
    taken: list[float] = []
    with route.open(OPEN_TIME) as sock:
        sock.sendall(b"E\n")
        while len(taken) < times + _WARM_ECHOES and not deadline.expired:
            begun = perf_counter()
            sock.sendall(message)
            left = MESSAGE
            while left:
                count = len(sock.recv(left))
                if not count:
                    raise Failed("an echo did not come back")
                left -= count
            taken.append(perf_counter() - begun)
    return taken[_WARM_ECHOES:]


def first_bytes(route: Route, times: int, limit: float) -> list[float]:
    """From dialling the proxy to the first byte from the target, one new stream after another."""
    deadline = Deadline(limit)
    taken: list[float] = []
    while len(taken) < times and not deadline.expired:
        begun = perf_counter()
        with route.open(OPEN_TIME) as sock:
            sock.sendall(b"D %d\n" % SMALL)
            if not sock.recv(SMALL):
                raise Failed("a new stream ended before its first byte")
            taken.append(perf_counter() - begun)
            while sock.recv(SMALL):
                pass
    return taken


def stream_rate(route: Route, workers: int, seconds: float, problems: list[str]) -> float:
    """Streams a second that each fetch 1,024 bytes, by so many workers at once."""
    deadline = Deadline(seconds)
    done = 0

    def fetched() -> bool:
        nonlocal done
        done += not deadline.expired
        return not deadline.expired

    with Loop() as loop:
        begun = perf_counter()
        for _ in range(workers):
            loop.spawn(fetching(loop, route, fetched, problems))
        loop.run(deadline)
    return done / (perf_counter() - begun)


def fetching(loop: Loop, route: Route, fetched: Callable[[], bool], problems: list[str]) -> Task:
    """One new stream after another, each for 1,024 bytes, while `fetched`, which hears of each, says so."""
    goes_on = True
    while goes_on:
        sock = new_socket()
        try:
            yield from opening(route, sock)
            sock.send(b"D %d\n" % SMALL)
            left = SMALL
            while left:
                yield sock.fileno(), READ
                count = len(sock.recv(left))
                if not count:
                    raise Failed("a new stream ended early")
                left -= count
            goes_on = fetched()
        except (OSError, Failed) as error:
            problems.append(str(error))
            goes_on = len(problems) < _MOST_PROBLEMS
        finally:
            loop.forget(sock)


@dataclass(frozen=True, slots=True)
class ManyOpen:
    """`seconds` until all were open; `failures` are those that did not open or did not echo a byte then."""

    seconds: float
    failures: int


def open_many(route: Route, count: int, limit: float, problems: list[str], look: Callable[[], None]) -> ManyOpen:
    """Opens streams and keeps them; calls `look` while all are open and each has echoed a byte."""
    begun = perf_counter()
    socks = open_streams(route, count, problems, limit=limit)
    seconds = perf_counter() - begun
    echoed = 0

    def one(sock: socket.socket) -> Task:
        nonlocal echoed
        sock.send(b"E\nx")
        yield sock.fileno(), READ
        echoed += sock.recv(1) == b"x"

    def guarded(sock: socket.socket) -> Task:
        try:
            yield from one(sock)
        except OSError as error:
            problems.append(str(error))

    try:
        with Loop() as loop:
            for sock in socks:
                loop.spawn(guarded(sock))
            loop.run(Deadline(limit))
        look()
    finally:
        for sock in socks:
            sock.close()
    return ManyOpen(seconds, count - echoed)


def open_streams(
    route: Route, count: int, problems: list[str], *, isolated: bool = False, limit: float = OPEN_TIME
) -> list[socket.socket]:
    """Sockets that do not block, opened up to 100 at a time; what fails is told in `problems`."""
    socks: list[socket.socket] = []
    begun = 0

    def opener(loop: Loop) -> Task:
        nonlocal begun
        while begun < count:
            begun += 1
            sock = new_socket()
            opened = False
            try:
                yield from opening(route, sock, isolated=isolated)
                opened = True
                socks.append(sock)
            except (OSError, Failed) as error:
                problems.append(str(error))
            finally:
                if not opened:
                    loop.forget(sock)

    with Loop() as loop:
        for _ in range(min(count, _RAMP)):
            loop.spawn(opener(loop))
        loop.run(Deadline(limit))
    if begun - len(socks) > len(problems):
        problems.append(f"{begun - len(socks)} streams did not open in {limit:.0f} s")
    return socks


def until_first_byte(route: Route, alive: Callable[[], bool], limit: float) -> None:
    """Returns when a byte has come from the target; raises `Failed` after `limit` seconds.

    A program that has just started may refuse the first streams, and C tor holds one for a second that came too
    early: so a new one is offered every 20 ms, and the first that is answered counts.
    """
    deadline = Deadline(limit)
    answered = False

    def offer(loop: Loop) -> Task:
        nonlocal answered
        sock = new_socket()
        try:
            yield from opening(route, sock)
            sock.send(b"D %d\n" % SMALL)
            yield sock.fileno(), READ
            answered = answered or bool(sock.recv(SMALL))
        except (OSError, Failed):
            pass  # too early
        finally:
            loop.forget(sock)

    with Loop() as loop:
        while not answered:
            if deadline.expired or not alive():
                raise Failed("no byte came through")
            loop.spawn(offer(loop))
            pause = Deadline(_OFFER_EVERY)
            while not answered and not pause.expired:
                loop.turn(pause)
