"""What the proxy port refuses, keeps apart, and says: passwords, isolation, look-ups, reasons, bad input."""

import logging
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import pytest

from common.errors import DestroyReason, EndReason, Refused
from common.roles.client.client import Client
from common.roles.proxy import programs
from common.roles.proxy.programs import AddressNotices, programs_of
from common.roles.proxy.proxy import Proxy, ProxyRules
from common.roles.relay import exit as exit_module
from common.roles.relay.relay_circuit import RelayCircuit
from common.wire.messages import Sought
from common.wire.socks import Isolate
from tests.net.in_process import LOOPBACK, InProcess, receive_all, receive_exactly, stream_sockets, wait_until
from tests.system.targets import PATIENCE, Target, echo, never_answering, unused_port

NONE = b"\x05\x01\x00"  # a greeting without credentials
CONNECT, BIND, UDP, RESOLVE, RESOLVE_PTR = 1, 2, 3, 0xF0, 0xF1
UNREACHABLE = "127.255.255.255"  # TCP to a broadcast address: the kernel says so at once


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture(scope="module")
def client(network: InProcess) -> Iterator[Client]:
    with network.client(2) as client:
        yield client


@pytest.fixture(scope="module")
def proxy(client: Client) -> Iterator[Proxy]:
    with serving(client) as proxy:
        yield proxy


@contextmanager
def serving(client: Client, rules: ProxyRules | None = None) -> Iterator[Proxy]:
    """A proxy port with these rules."""
    proxy = Proxy(client, LOOPBACK, rules or ProxyRules())
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def dial(proxy: Proxy) -> socket.socket:
    sock = socket.create_connection((proxy.address.host, proxy.address.port))
    sock.settimeout(PATIENCE)
    return sock


def request5(host: str, port: int, command: int = CONNECT) -> bytes:
    return bytes([5, command, 0, 3, len(host)]) + host.encode() + struct.pack(">H", port)


def request4(host: str, port: int, command: int = CONNECT, user: bytes = b"") -> bytes:
    """By name (SOCKS4a) unless the host is an IPv4 address."""
    try:
        return bytes([4, command]) + struct.pack(">H", port) + socket.inet_aton(host) + user + b"\0"
    except OSError:
        return bytes([4, command]) + struct.pack(">H", port) + b"\0\0\0\1" + user + b"\0" + host.encode() + b"\0"


def password(user: bytes, word: bytes) -> bytes:
    """A greeting with credentials, and these."""
    return b"\x05\x01\x02\x01" + bytes([len(user)]) + user + bytes([len(word)]) + word


def said(proxy: Proxy, data: bytes) -> bytes:
    """All that the port says to these bytes, until it ends."""
    with dial(proxy) as sock:
        sock.sendall(data)
        return receive_all(sock)


def code_of(proxy: Proxy, protocol: str, host: str, port: int) -> int:
    """What the port answers to CONNECT: SOCKS5's code, in SOCKS4 the one in its port field, HTTP's status."""
    with dial(proxy) as sock:
        if protocol == "SOCKS5":
            sock.sendall(NONE + request5(host, port))
            return receive_exactly(sock, 4)[3]
        if protocol == "SOCKS4":
            sock.sendall(request4(host, port))
            answer = receive_exactly(sock, 8)
            assert answer[1] in (90, 91)
            return answer[3] if answer[1] == 91 else 0
        sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode())
        return int(receive_exactly(sock, 12)[9:])


# ---- reasons


CODES = {
    EndReason.REFUSED: (5, 5, 502),
    EndReason.UNREACHABLE: (3, 3, 503),
    EndReason.TIMEOUT: (6, 6, 504),
    EndReason.NOT_FOUND: (4, 4, 404),
    EndReason.POLICY: (2, 2, 403),
}


@pytest.mark.parametrize("reason", CODES, ids=lambda reason: reason.name)
def test_every_protocol_tells_why_not(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, reason: EndReason) -> None:
    monkeypatch.setattr(exit_module, "CONNECT_TIMEOUT", 0.3)
    with never_answering() as silent:
        host, port = {
            EndReason.REFUSED: ("127.0.0.1", unused_port()),
            EndReason.UNREACHABLE: (UNREACHABLE, 80),
            EndReason.TIMEOUT: silent,
            EndReason.NOT_FOUND: ("no-such-name.invalid", 80),
            EndReason.POLICY: ("10.0.0.1", 80),
        }[reason]
        assert tuple(code_of(proxy, protocol, host, port) for protocol in ("SOCKS5", "SOCKS4", "HTTP")) == CODES[reason]


def test_udp_and_bind_are_refused_as_unsupported(proxy: Proxy) -> None:
    for command in (BIND, UDP):
        assert said(proxy, NONE + request5("127.0.0.1", 0, command))[2:4] == b"\x05\x07"
    assert said(proxy, request4("127.0.0.1", 80, BIND))[:4] == b"\0\x5b\0\x07"


# ---- look-ups


def test_a_name_is_looked_up_at_the_exit_and_ipv4_comes_first(proxy: Proxy) -> None:
    for data, start in ((NONE + request5("localhost", 0, RESOLVE), 6), (request4("localhost", 0, RESOLVE), 4)):
        assert said(proxy, data)[start:][:4] == socket.inet_aton("127.0.0.1")[-4:]


def test_the_name_of_an_address_is_looked_up_at_the_exit(proxy: Proxy, client: Client) -> None:
    name = socket.gethostbyaddr("127.0.0.1")[0]
    data = NONE + bytes([5, RESOLVE_PTR, 0, 1]) + socket.inet_aton("127.0.0.1") + b"\0\0"
    assert said(proxy, data)[2:] == bytes([5, 0, 0, 3, len(name)]) + name.encode() + b"\0\0"
    assert client.reverse("127.0.0.1") == name


def test_an_exit_names_no_address_that_its_policy_refuses(proxy: Proxy) -> None:
    data = NONE + bytes([5, RESOLVE_PTR, 0, 1]) + socket.inet_aton("10.0.0.1") + b"\0\0"
    assert said(proxy, data)[2:4] == b"\x05\x02"


def test_an_exit_that_answers_another_question_loses_its_circuit(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name where addresses were asked for: no honest exit says that."""

    def lie(circuit: RelayCircuit, stream_id: int, _host: str, _sought: Sought) -> None:
        circuit._resolved(stream_id, [], EndReason.DONE, "liar.example")

    monkeypatch.setattr(RelayCircuit, "_look_up", lie)
    with network.client(2) as client:
        before = client.pool.circuits
        with pytest.raises(Refused):
            client.resolve("localhost")
        assert any(circuit.ended_by is DestroyReason.PROTOCOL for circuit in before)


# ---- passwords


def test_required_credentials_are_required_in_every_protocol(client: Client) -> None:
    with Target(echo) as target, serving(client, ProxyRules(required=("alice", "sesame"))) as proxy:
        request = request5(target.host, target.port)
        http = f"CONNECT {target.host}:{target.port} HTTP/1.1\r\n".encode()
        wrong = b"Proxy-Authorization: Basic " + b64encode(b"alice:wrong") + b"\r\n"
        assert said(proxy, NONE + request) == b"\x05\xff"
        for pair in ((b"alice", b"wrong"), (b"", b""), (b"alice", b""), (b"alice", b"sesame" * 42)):
            assert said(proxy, password(*pair) + request) == b"\x05\x02\x01\x01"
        assert said(proxy, request4(target.host, target.port, user=b"alice"))[:2] == b"\0\x5d"
        assert said(proxy, http + b"\r\n").startswith(b"HTTP/1.1 407 ")
        assert said(proxy, http + wrong + b"\r\n").startswith(b"HTTP/1.1 407 ")
        assert not target.accepted
        with dial(proxy) as sock:
            sock.sendall(password(b"alice", b"sesame") + request)
            assert receive_exactly(sock, 14)[4:6] == b"\x05\x00"
        with dial(proxy) as sock:
            sock.sendall(http + wrong.replace(b64encode(b"alice:wrong"), b64encode(b"alice:sesame")) + b"\r\n")
            assert receive_exactly(sock, 12) == b"HTTP/1.1 200"


# ---- isolation


def keys(client: Client) -> set[tuple[str, ...]]:
    """Of circuits with a stream on them."""
    circuits = client.pool.circuits
    return {circuit.isolation for circuit in circuits if circuit.attachments and circuit.isolation}


@pytest.mark.parametrize(
    ("isolate", "expected"),
    [
        (set(), [0, 0, 0, 0]),
        ({Isolate.CREDENTIALS}, [0, 1, 0, 0]),
        ({Isolate.TARGET}, [0, 0, 2, 0]),
        ({Isolate.PORT}, [0, 0, 0, 3]),
        ({Isolate.CREDENTIALS, Isolate.TARGET, Isolate.PORT}, [0, 1, 2, 3]),
    ],
)
def test_isolation_by_choice(client: Client, isolate: set[Isolate], expected: list[int]) -> None:
    """Four streams: as the first, with other credentials, to another host, to another port."""
    with ExitStack() as stack:
        one, two = stack.enter_context(Target(echo)), stack.enter_context(Target(echo))
        proxy = stack.enter_context(serving(client, ProxyRules(isolate=frozenset(isolate))))
        asked = [(b"a", "localhost", one), (b"b", "LOCALHOST", one), (b"a", "127.0.0.1", one), (b"a", "localhost", two)]
        used: list[int] = []
        for user, host, target in asked:
            before = {id(circuit): set(circuit.attachments) for circuit in client.pool.circuits}
            sock = stack.enter_context(dial(proxy))
            sock.sendall(password(user, b"x") + request5(host, target.port))
            receive_exactly(sock, 14)
            used += [id(c) for c in client.pool.circuits if set(c.attachments) - before.get(id(c), set())]
        assert [used.index(circuit) for circuit in used] == expected


def test_isolation_by_listener(client: Client) -> None:
    with ExitStack() as stack:
        target = stack.enter_context(Target(echo))
        rules = ProxyRules(isolate=frozenset({Isolate.LISTENER}))
        proxies = [stack.enter_context(serving(client, rules)) for _ in range(2)]
        for proxy in proxies:
            sock = stack.enter_context(dial(proxy))
            sock.sendall(NONE + request5(target.host, target.port))
            receive_exactly(sock, 12)
        assert {("proxy", str(proxy.address)) for proxy in proxies} <= keys(client)


# ---- addresses instead of names


def test_safe_socks_refuses_addresses_in_every_protocol(client: Client) -> None:
    with Target(echo) as target, serving(client, ProxyRules(safe=True)) as proxy:
        codes = [code_of(proxy, protocol, "127.0.0.1", target.port) for protocol in ("SOCKS5", "SOCKS4", "HTTP")]
        assert codes == [2, 2, 403]
        assert not target.accepted
        assert [code_of(proxy, protocol, "localhost", target.port) for protocol in ("SOCKS5", "SOCKS4", "HTTP")] == [0, 0, 200]


def test_safe_socks_takes_addresses_that_this_port_looked_up(client: Client) -> None:
    with Target(echo) as target, serving(client, ProxyRules(safe=True)) as proxy:
        said(proxy, NONE + request5("localhost", 0, RESOLVE))
        assert code_of(proxy, "SOCKS5", "127.0.0.1", target.port) == 0


def test_a_program_is_warned_of_once_and_no_target_is_named(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "PAUSE", 0.1)
    caplog.set_level(logging.INFO)
    with Target(echo) as target, serving(client) as proxy:
        for _ in range(3):
            assert code_of(proxy, "SOCKS5", "localhost", target.port) == 0
        assert not caplog.records
        for _ in range(3):
            assert code_of(proxy, "SOCKS5", target.host, target.port) == 0
        wait_until(lambda: not proxy._notices._busy)
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "asks for addresses" in record.getMessage()
        assert "could not be identified" not in record.getMessage(), "it is this very process"
        assert target.host not in record.getMessage()
        assert str(target.port) not in record.getMessage()


def test_a_program_that_cannot_be_found_is_told_by_its_credentials(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "PAUSE", 0.1)
    notices = AddressNotices(client.pump)
    unknown = (("127.0.0.1", 1), ("127.0.0.1", 2))
    for otherwise in (("port", "a"), ("port", "a"), ("port", "b")):
        went_on = threading.Event()
        notices.note(lambda: unknown, otherwise, went_on.set)
        assert went_on.wait(PATIENCE)
        wait_until(lambda: not notices._busy)
    notices.close()
    assert len(caplog.records) == 2
    assert all("could not be identified" in record.getMessage() for record in caplog.records)


def test_a_program_whose_connection_is_gone_is_not_looked_for(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as gone:
        pass
    notices = AddressNotices(client.pump)
    went_on = threading.Event()
    notices.note(gone.getpeername, ("port", "a"), went_on.set)
    assert went_on.is_set(), "at once, on this thread"
    assert not notices._busy
    assert notices._thread is None
    notices.close()
    assert not caplog.records


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_this_machine_tells_which_program_is_at_the_other_end(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2]) as sock:
            accepted, _ = server.accept()
            with accepted:
                ends = (accepted.getpeername()[:2], accepted.getsockname()[:2])
                with open("/proc/self/comm") as comm:
                    assert programs_of([ends]) == {ends: comm.read().strip()}
            assert sock
    assert programs_of([ends, (("192.0.2.1", 1), ("127.0.0.1", 2))]) == {}


# ---- bad input


MALFORMED: dict[str, tuple[bytes, bytes]] = {  # what is sent, how the answer begins
    "no method": (b"\x05\x00", b"\x05\xff"),
    "unknown method": (b"\x05\x01\x09", b"\x05\xff"),
    "password version": (b"\x05\x01\x02\x02", b"\x05\x02\x01\x01"),
    "request version": (NONE + b"\x04\x01\x00\x01", b"\x05\x00\x05\x01"),
    "unknown command": (NONE + b"\x05\x09\x00\x01\x7f", b"\x05\x00\x05\x07"),
    "kind of address": (NONE + b"\x05\x01\x00\x02\x7f", b"\x05\x00\x05\x08"),
    "empty name": (NONE + b"\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00\x05\x01"),
    "NUL in a name": (NONE + request5("a\0b", 80), b"\x05\x00\x05\x01"),
    "no ASCII": (NONE + b"\x05\x01\x00\x03\x01\xff\x00\x50", b"\x05\x00\x05\x01"),
    "port 0": (NONE + request5("localhost", 0), b"\x05\x00\x05\x01"),
    "SOCKS4 port 0": (request4("127.0.0.1", 0), b"\x00\x5b"),
    "SOCKS4 name of 256": (request4("n" * 256, 80), b"\x00\x5b"),
    "SOCKS4 user of 256": (request4("127.0.0.1", 80, user=b"u" * 256), b"\x00\x5b"),
    "SOCKS4 UDP": (request4("127.0.0.1", 80, UDP), b"\x00\x5b"),
    "HTTP port 0": (b"CONNECT localhost:0 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
    "HTTP name of 256": (b"CONNECT " + b"n" * 256 + b":80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
    "HTTP head without end": (b"CONNECT a:1 HTTP/1.1\r\n" + b"x: y\r\n" * 3_000, b"HTTP/1.1 431 "),
    "a form's post": (b"POST / HTTP/1.1\r\nOrigin: http://a\r\nContent-Length: 9\r\n\r\n\x05\x01\x00\x05\x01", b"HTTP/1.1 405 "),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", b""),
    "zero": (b"\x00", b""),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
def test_what_is_malformed_gets_the_right_code(proxy: Proxy, name: str, cut: bool) -> None:
    data, answer = MALFORMED[name]
    with dial(proxy) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pieces = [data[at : at + 1] for at in range(min(len(data), 300))] if cut else [data]
        rest = data[300:] if cut else b""
        got = until_reset([*pieces, rest], sock)
    assert got.startswith(answer)


def until_reset(pieces: list[bytes], sock: socket.socket) -> bytes:
    """What was said to these; a port that hung up while we still spoke may reset, after its answer."""
    got = bytearray()
    try:
        for piece in pieces:
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    try:
        while data := sock.recv(65_536):
            got += data
    except ConnectionResetError:
        pass
    return bytes(got)


def test_a_name_of_255_bytes_is_looked_up_and_not_found(proxy: Proxy) -> None:
    assert [code_of(proxy, protocol, "n" * 255, 80) for protocol in ("SOCKS5", "SOCKS4", "HTTP")] == [4, 4, 404]


def test_any_greeting_at_all_leaves_the_port_serving(network: InProcess, client: Client, proxy: Proxy) -> None:
    """Real requests, cut, changed in some bytes or continued by noise."""
    random = Random(4)
    base = stream_sockets(network, client)
    with Target(echo) as target:
        seeds = [data for data, _ in MALFORMED.values() if len(data) < 600]
        seeds += [NONE + request5("10.0.0.1", 80), password(b"u", b"p") + request5("10.0.0.1", 80), request4("10.0.0.1", 80)]
        for _ in range(400):
            data = bytearray(random.choice(seeds))
            for _ in range(random.randrange(3)):
                data[random.randrange(len(data))] = random.randrange(256)
            data = data[: random.randrange(len(data) + 1)] + random.randbytes(random.choice([0, 0, 1, 40]))
            with dial(proxy) as sock:
                sock.settimeout(1.0)
                try:
                    until_reset([bytes(data)], sock)
                except TimeoutError:
                    pass  # a name that changed is being looked up
        assert code_of(proxy, "SOCKS5", target.host, target.port) == 0
    wait_until(lambda: stream_sockets(network, client) <= base)
