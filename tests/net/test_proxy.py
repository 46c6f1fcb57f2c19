"""The proxy port as programs use it: SOCKS5, SOCKS4a and HTTP CONNECT, over a whole network in this process."""

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.roles.client.client import Client
from common.roles.proxy import proxy as proxy_module
from common.roles.proxy.proxy import Proxy
from common.roles.relay import exit as exit_module
from tests.helpers import say_no_more
from tests.net.in_process import (
    LOOPBACK,
    InProcess,
    circuit_of,
    receive_all,
    receive_exactly,
    stream_sockets,
    wait_until,
)
from tests.system.targets import (
    BLOCK,
    PATIENCE,
    Target,
    checksum,
    digest_of,
    echo,
    finish_then_read,
    never_answering,
    pieces,
    unused_port,
)

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture(scope="module")
def client(network: InProcess) -> Iterator[Client]:
    with network.client(3) as client:
        yield client


@pytest.fixture(scope="module")
def proxy(client: Client) -> Iterator[Proxy]:
    proxy = Proxy(client, LOOPBACK)
    proxy.start()
    yield proxy
    proxy.stop()


def dial(proxy: Proxy) -> socket.socket:
    """A program's connection to the proxy port."""
    sock = socket.create_connection((proxy.address.host, proxy.address.port))
    sock.settimeout(PATIENCE)
    return sock


def name_request(host: str, port: int, command: int = 1) -> bytes:
    """A SOCKS5 request by name."""
    return bytes([5, command, 0, 3, len(host)]) + host.encode() + port.to_bytes(2, "big")


def socks5(proxy: Proxy, host: str, port: int, command: int = 1) -> tuple[int, socket.socket]:
    """The reply's code, and the socket."""
    sock = dial(proxy)
    sock.sendall(b"\x05\x01\x00" + name_request(host, port, command))
    assert receive_exactly(sock, 2) == b"\x05\x00"
    head = receive_exactly(sock, 4)
    receive_exactly(sock, {1: 6, 4: 18}[head[3]])
    return head[1], sock


def connected(proxy: Proxy, target: Target) -> socket.socket:
    """A stream through the proxy port."""
    code, sock = socks5(proxy, target.host, target.port)
    assert code == 0
    return sock


def test_half_close_from_the_programs_side(proxy: Proxy) -> None:
    with Target(checksum) as target, connected(proxy, target) as sock:
        for piece in pieces(3_000_000):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).decode() == f"3000000 {digest_of(3_000_000)}"


def test_half_close_from_the_targets_side(proxy: Proxy) -> None:
    heard: threading.Event = finish_then_read.heard  # type: ignore[attr-defined]
    heard.clear()
    with Target(finish_then_read) as target, connected(proxy, target) as sock:
        assert receive_all(sock) == b"first"
        sock.sendall(b"second")
        sock.shutdown(socket.SHUT_WR)
        assert heard.wait(PATIENCE)


@pytest.mark.parametrize("protocol", ["socks5", "socks4a", "http"])
def test_what_a_program_says_before_the_answer_is_not_lost(proxy: Proxy, protocol: str) -> None:
    early = os.urandom(3_000)
    with Target(checksum) as target, dial(proxy) as sock:
        request, answer = {
            "socks5": (b"\x05\x01\x00" + name_request(target.host, target.port), 12),
            "socks4a": (b"\x04\x01" + target.port.to_bytes(2, "big") + b"\0\0\0\1\0localhost\0", 8),
            "http": (f"CONNECT localhost:{target.port} HTTP/1.1\r\n\r\n".encode(), 39),
        }[protocol]
        sock.sendall(request + early)
        receive_exactly(sock, answer)
        sock.sendall(early)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).decode() == f"6000 {hashlib.sha256(early * 2).hexdigest()}"


def test_what_a_program_says_early_waits_when_the_circuit_has_no_window(
    client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first bytes of a stream are sent when they may be, and are not dropped when they may not."""
    early = os.urandom(3_000)
    with Target(checksum) as target, connected(proxy, target):
        circuit = circuit_of(client, ("proxy",))
        endpoint = circuit.endpoint
        window, sendable, asked = endpoint._send_window, endpoint.sendable, threading.Event()

        def watched(stream_id: int, now: float) -> int:
            if stream_id == endpoint.used_streams:  # the newest: the one below
                asked.set()
            return sendable(stream_id, now)

        monkeypatch.setattr(endpoint, "sendable", watched)
        with circuit.lock:
            limit, window.limit = window.limit, window.sent
        with dial(proxy) as sock:
            sock.sendall(b"\x05\x01\x00" + name_request(target.host, target.port) + early)
            receive_exactly(sock, 12)
            assert asked.wait(PATIENCE)
            with circuit.lock:
                window.limit = limit
            circuit.drained()
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock).decode() == f"3000 {hashlib.sha256(early).hexdigest()}"


# ---- answers


def test_a_target_that_refuses_is_code_5(proxy: Proxy) -> None:
    code, sock = socks5(proxy, "127.0.0.1", unused_port())
    with sock:
        assert code == 5
        assert not sock.recv(1)


def test_an_unknown_name_is_code_4(proxy: Proxy) -> None:
    code, sock = socks5(proxy, "no-such-name.invalid", 80)
    sock.close()
    assert code == 4


def test_a_target_that_never_answers_is_code_6(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_module, "CONNECT_TIMEOUT", 0.3)
    with never_answering() as (host, port):
        code, sock = socks5(proxy, host, port)
    sock.close()
    assert code == 6


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "192.168.1.1", "::1"])
def test_with_the_default_policy_private_targets_are_code_2(
    tmp_path_factory: pytest.TempPathFactory, host: str, default_proxy: Proxy
) -> None:
    with Target(echo) as target:
        code, sock = socks5(default_proxy, host, target.port)
        sock.close()
        assert code == 2
        assert not target.accepted


@pytest.fixture(scope="module")
def default_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The port of a client in a network whose exits have the default policy."""
    with InProcess(tmp_path_factory.mktemp("default"), 2, "default") as network, network.client(2) as client:
        proxy = Proxy(client, LOOPBACK)
        proxy.start()
        yield proxy
        proxy.stop()


def test_the_networks_own_ports_are_code_2_from_the_relay_they_belong_to(tmp_path: Path) -> None:
    with InProcess(tmp_path, 1) as network, network.client(1) as client:
        proxy = Proxy(client, LOOPBACK)
        proxy.start()
        for address in (network.members[0].address, network.gateway.address):
            code, sock = socks5(proxy, "localhost", address.port)
            sock.close()
            assert code == 2
        proxy.stop()


def test_names_are_resolved_at_the_exit(proxy: Proxy) -> None:
    with dial(proxy) as sock:
        sock.sendall(b"\x05\x01\x00" + name_request("localhost", 0, command=0xF0))
        answer = receive_all(sock)
        assert answer[2:4] == b"\x05\x00"
        assert answer[6:-2] in (socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1"))


def test_whoever_opens_the_port_as_a_web_site_gets_a_page(proxy: Proxy) -> None:
    with dial(proxy) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"not a web site" in receive_all(sock)


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x16\x03\x01", b"\x05\x00", b"\x05\x01\x09", os.urandom(32) + b"\xff" * 99]
)
def test_what_is_no_request_ends(proxy: Proxy, data: bytes) -> None:
    with dial(proxy) as sock:
        sock.sendall(data)
        say_no_more(sock)
        try:
            receive_all(sock)
        except ConnectionResetError:
            pass  # as good


def test_a_program_that_says_nothing_is_hung_up_on(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "HANDSHAKE_TIME", 0.2)
    with dial(proxy) as sock:
        try:
            assert not sock.recv(1)
        except ConnectionResetError:
            pass  # as good


# ---- isolation


def test_different_credentials_never_share_a_circuit(client: Client, proxy: Proxy) -> None:
    with Target(echo) as target:
        socks = []
        for user, password in [(b"a", b"1"), (b"a", b"2"), (b"b", b"1"), (b"a", b"1"), (b"", b"a")]:
            sock = dial(proxy)
            auth = bytes([1, len(user)]) + user + bytes([len(password)]) + password
            sock.sendall(b"\x05\x01\x02" + auth + name_request(target.host, target.port))
            receive_exactly(sock, 14)
            socks.append(sock)
        socks.append(connected(proxy, target))
        used = {circuit.isolation: circuit for circuit in client.pool.circuits if circuit.attachments}
        expected = {("proxy", "a", "1"), ("proxy", "a", "2"), ("proxy", "b", "1"), ("proxy", "", "a"), ("proxy",)}
        assert set(used) == expected
        assert len(set(used.values())) == len(expected)
        assert len(used["proxy", "a", "1"].attachments) == 2
        for sock in socks:
            sock.close()


# ---- ends


def test_a_broken_stream_is_a_reset_for_the_program(client: Client, proxy: Proxy) -> None:
    with Target(echo) as target, connected(proxy, target) as sock:
        circuit_of(client, ("proxy",)).end()
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


def test_a_circuit_that_ends_while_its_stream_opens_breaks_it(client: Client, proxy: Proxy) -> None:
    """The program has the yes, and the circuit is gone before its socket is joined to the stream."""
    with Target(echo) as target:
        for _ in range(100):
            with connected(proxy, target) as sock:
                circuit_of(client, ("proxy",)).end()
                with pytest.raises(ConnectionResetError):
                    receive_all(sock)


@pytest.mark.parametrize("linger", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("moment", ["greeting", "request", "stream"])
def test_a_program_that_goes_away_leaves_nothing(network: InProcess, client: Client, proxy: Proxy, linger: bool, moment: str) -> None:
    def silent_until_end(sock: socket.socket, _ending: threading.Event) -> None:
        sock.recv(1)

    with Target(silent_until_end) as target:
        connected(proxy, target).close()
        circuit = circuit_of(client, ("proxy",))
        wait_until(lambda: not circuit.attachments)
        base = stream_sockets(network, client)
        for _ in range(20):
            sock = dial(proxy)
            if linger:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(b"\x05\x01\x00")
            receive_exactly(sock, 2)
            if moment != "greeting":
                sock.sendall(name_request(target.host, target.port))
            if moment == "stream":
                receive_exactly(sock, 10)
            sock.close()
        wait_until(lambda: not circuit.attachments and not circuit.endpoint.open_streams, 5.0)
        wait_until(lambda: stream_sockets(network, client) <= base, 5.0)


def test_a_taken_port_is_a_sentence(client: Client, proxy: Proxy) -> None:
    with pytest.raises(ConfigError, match="already in use; choose another port with --listen"):
        Proxy(client, proxy.address)


def test_a_stopped_proxy_accepts_no_more_and_its_streams_go_on(client: Client) -> None:
    proxy = Proxy(client, LOOPBACK)
    proxy.start()
    with Target(echo) as target, connected(proxy, target) as sock:
        proxy.stop()
        wait_until(lambda: _refused(proxy))
        sock.sendall(BLOCK[:1_000])
        assert receive_exactly(sock, 1_000) == BLOCK[:1_000]


def _refused(proxy: Proxy) -> bool:
    try:
        dial(proxy).close()
    except OSError:
        return True
    return False
