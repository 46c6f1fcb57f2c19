"""The poller tells what `epoll` says, and at once whether anything follows what can be read."""

import socket
from collections.abc import Iterator
from functools import partial

import pytest

from common.net.poller import ENDED, READ, WRITE, Poller

PATIENCE = 30.0  # seconds after which a test that hangs fails


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def told(poller: Poller) -> list[int]:
    """Calls whoever is to be told; what was said to them."""
    heard: list[int] = []
    for handler, events in poller.wait(PATIENCE):
        handler(events)
        heard.append(events)
    return heard


def nothing(_events: int) -> None:
    pass


def test_bytes_and_the_end_that_follows_them_are_told_together(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    poller.watch(near.fileno(), READ, nothing)
    far.sendall(b"first")
    assert told(poller) == [READ]
    assert near.recv(100) == b"first"
    far.sendall(b"last")
    far.shutdown(socket.SHUT_WR)
    near.recv(1, socket.MSG_PEEK)
    assert READ | ENDED in (told(poller) + told(poller))  # the end may come a moment after the bytes


def test_what_is_watched_can_change_and_end(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poller.watch(near.fileno(), WRITE, nothing)
    assert told(poller) == [WRITE]
    far.sendall(b"data")
    near.recv(1, socket.MSG_PEEK)
    assert told(poller) == [WRITE], "nobody asked to read"
    poller.watch(near.fileno(), READ | WRITE, nothing)
    assert told(poller) == [READ | WRITE]
    poller.watch(near.fileno(), 0, nothing)
    poller.watch(near.fileno(), 0, nothing)
    assert poller.wait(0) == []


@pytest.mark.parametrize("wanted", [READ, WRITE, READ | WRITE])
def test_a_broken_socket_is_told_as_whatever_was_asked_for(
    wanted: int, poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    far.sendall(b"unread")
    near.sendall(b"unread")
    near.recv(1, socket.MSG_PEEK)
    far.recv(1, socket.MSG_PEEK)
    far.close()  # with unread bytes: a reset
    with pytest.raises(ConnectionResetError):
        while near.recv(100):
            pass
    poller.watch(near.fileno(), wanted, nothing)
    (events,) = told(poller)
    assert events & wanted == wanted


def test_a_handler_may_unwatch_a_descriptor_that_is_ready_too(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    """It is still told, as its owner is closed by then and knows what to do."""
    for one, other in (pair, pair[::-1]):
        poller.watch(one.fileno(), WRITE, lambda _events, other=other: poller.watch(other.fileno(), 0, nothing))  # type: ignore[misc]
    assert told(poller) == [WRITE, WRITE]
    assert poller.wait(0) == []


def test_waiting_ends_after_the_time_given(poller: Poller) -> None:
    assert poller.wait(0) == []
    assert poller.wait(0.001) == []


def test_a_closed_descriptor_may_come_again_as_another(poller: Poller) -> None:
    heard: list[str] = []
    for name in ("first", "second"):
        near, far = socket.socketpair()
        with near, far:
            poller.watch(near.fileno(), READ, partial(lambda who, _events: heard.append(who), name))
            far.sendall(b"x")
            told(poller)
            poller.watch(near.fileno(), 0, nothing)
    assert heard == ["first", "second"]
