"""Ports that several processes share, and that nobody else gets."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from common.errors import ConfigError
from common.net.binding import claim, listen_on

LOOPBACKS = ["127.0.0.1", "::1"]
EVERYWHERE = {"127.0.0.1": "0.0.0.0", "::1": "::"}
TAKEN = "address already in use; choose another port"


@pytest.fixture(params=LOOPBACKS)
def host(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    try:
        listen_on((found, 0)).close()
    except ConfigError:
        pytest.skip("no IPv6 here")
    return found


@contextmanager
def claimed(host: str, listeners: int) -> Iterator[tuple[tuple[str, int], list[socket.socket]]]:
    """A claimed port and the sockets that listen there."""
    with ExitStack() as stack:
        address = stack.enter_context(claim((host, 0))).getsockname()[:2]
        yield address, [stack.enter_context(listen_on(address, shared=True)) for _ in range(listeners)]


def accepted(sock: socket.socket) -> int:
    """Takes all connections that wait, and counts them."""
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("listeners", [0, 1, 3])
def test_a_claimed_port_is_refused_to_everybody_else_whether_or_not_somebody_listens(
    host: str, listeners: int
) -> None:
    with claimed(host, listeners) as ((_, port), _):
        for at in (host, EVERYWHERE[host]):
            with pytest.raises(ConfigError, match=TAKEN):
                claim((at, port))
            with pytest.raises(ConfigError, match=TAKEN):
                listen_on((at, port))


def test_a_port_claimed_everywhere_is_refused_at_each_address(host: str) -> None:
    with claimed(EVERYWHERE[host], 1) as ((_, port), _):
        with pytest.raises(ConfigError, match=TAKEN):
            claim((host, port))


def test_a_port_on_which_somebody_listens_cannot_be_claimed(host: str) -> None:
    with listen_on((host, 0)) as sock, pytest.raises(ConfigError, match=TAKEN):
        claim(sock.getsockname()[:2])


def test_of_many_who_claim_one_port_at_once_one_gets_it(host: str) -> None:
    with listen_on((host, 0)) as sock:
        address = sock.getsockname()[:2]

    def attempt(_: int) -> socket.socket | None:
        try:
            return claim(address)
        except ConfigError:
            return None

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            won = [sock for sock in pool.map(attempt, range(8)) if sock is not None]
        for sock in won:
            sock.close()
        assert len(won) == 1


def test_connections_are_spread_over_all_who_listen_and_those_left_take_over(host: str) -> None:
    with claimed(host, 3) as (address, listening), ExitStack() as stack:
        for _ in range(100):  # that one of three gets none: 3 * (2/3)^100
            stack.enter_context(socket.create_connection(address))
        counts = [accepted(sock) for sock in listening]
        assert sum(counts) == 100
        assert min(counts) > 0
        listening[0].close()
        for _ in range(20):
            stack.enter_context(socket.create_connection(address))
        assert sum(accepted(sock) for sock in listening[1:]) == 20


def test_a_port_is_free_again_at_once_although_connections_linger(host: str) -> None:
    with claimed(host, 1) as (address, (listening,)):
        with socket.create_connection(address) as dialled:
            sock, _ = listening.accept()
            sock.shutdown(socket.SHUT_RDWR)  # who closes first lingers in TIME_WAIT
            assert dialled.recv(1) == b""
            sock.close()
    with claim(address), listen_on(address, shared=True):
        pass
    with listen_on(address):
        pass
