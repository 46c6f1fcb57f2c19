"""A gateway, relays and clients over real sockets: who gets listed, who does not, and what a bad peer achieves."""

import contextlib
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from common.directory.addresses import Address
from common.directory.descriptor import registration_proof, removal_proof, sign_proof
from common.directory.document import DirectoryDocument
from common.errors import Closed, ConfigError, DirectoryError, Unreachable
from common.net import tls as tls_module
from common.net.deadline import Deadline
from common.net.tls import client_context, server_context
from common.net.tls_stream import TlsStream
from common.ops.keystore import load_or_create_identity
from common.roles.client.bootstrap import DirectoryClient
from common.roles.gateway import connections as gateway_connections
from common.roles.gateway import gateway as gateway_module
from common.roles.gateway.gateway import Gateway
from common.roles.gateway.peer import Peer
from common.roles.gateway_link import (
    Document,
    Error,
    GatewayConnection,
    Hello,
    List,
    Message,
    Ok,
    Pong,
    Register,
    Unchanged,
    Unregister,
    Welcome,
    compress,
    encode,
)
from common.roles.relay.registration import RegistrationState
from common.wire.strict_json import encode_json
from tests.net.links import dialled_by_openssl, needs_openssl, node
from tests.net.registering import NETWORK, PATIENCE, RegisteringRelay, registered

LOOPBACK = Address("127.0.0.1", 0)
ROOT = Path(__file__).parents[2]  # where the packages are, for a process of its own


@contextlib.contextmanager
def running(folder: Path, listen: Address = LOOPBACK, **options: Any) -> Iterator[Gateway]:
    identity = load_or_create_identity(folder)
    options = {"ping_interval": 0.5} | options
    gateway = Gateway(
        [listen],
        identity.private_key,
        identity.certificate,
        identity.key,
        network=NETWORK,
        state_dir=folder,
        **options,
    )
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path / "gateway") as started:
        yield started


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def client_of(gateway: Gateway, **options: Any) -> DirectoryClient:
    return DirectoryClient([(gateway.address, gateway.identity)], NETWORK, **options)


def names(document: DirectoryDocument) -> set[str]:
    return {entry.descriptor.nickname for entry in document.relays}


def fetch_until(gateway: Gateway, wanted: set[str]) -> float:
    """Asks until exactly `wanted` are listed; the seconds it took."""
    client, deadline, start = client_of(gateway), Deadline(PATIENCE), time.monotonic()
    while True:
        found = names(client.fetch(deadline))
        if found == wanted:
            return time.monotonic() - start
        assert not deadline.expired, found


def connect(gateway: Gateway, role: str = "client") -> GatewayConnection:
    return GatewayConnection.open(
        gateway.address, gateway.identity, Deadline(PATIENCE), network=NETWORK, role=role, context=client_context()
    )


def ask(connection: GatewayConnection, message: Message) -> Message:
    connection.send(message, Deadline(PATIENCE))
    return connection.receive(Deadline(PATIENCE))


def relay_of(gateway: Gateway, folder: Path, nickname: str, address: Address | None = None) -> Any:
    return registered(folder / f"{nickname}.keys", nickname, gateway.address, gateway.identity, address)


# ---- relays come and go ----


def test_five_relays_are_listed_and_a_client_sees_them_within_four_seconds(
    gateway: Gateway, tmp_path: Path
) -> None:
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        for number in range(5):
            stack.enter_context(relay_of(gateway, tmp_path, f"relay{number}"))
        client = client_of(gateway)
        stack.callback(client.stop)
        client.start()
        document = client.wait_for(5, Deadline(PATIENCE))
        took = time.monotonic() - start
        assert names(document) == {f"relay{number}" for number in range(5)}
        assert gateway.relays_listed == 5
    assert took < 4
    assert fetch_until(gateway, set()) < 1


def test_a_relay_that_says_goodbye_or_hangs_up_is_gone_at_once(gateway: Gateway, tmp_path: Path) -> None:
    with relay_of(gateway, tmp_path, "relay") as relay:
        relay.wait_for(RegistrationState.LISTED)
        client = client_of(gateway)
        assert names(client.fetch(Deadline(PATIENCE))) == {"relay"}
        relay.registration.stop()
        fetch_until(gateway, set())  # when the good-bye was too slow, the end of the connection says it


@contextlib.contextmanager
def relay_process(gateway: Gateway, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.net.registering"]
    arguments = [str(folder), "relay", str(gateway.address), gateway.identity.hex()]
    process = subprocess.Popen(command + arguments, stdin=subprocess.PIPE, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_stopped_relay_leaves_within_two_heartbeats_and_returns_at_once(
    gateway: Gateway, tmp_path: Path
) -> None:
    with relay_process(gateway, tmp_path / "keys") as process:
        fetch_until(gateway, {"relay"})
        os.kill(process.pid, signal.SIGSTOP)
        took = fetch_until(gateway, set())
        assert took < 3 * 0.5 + 1  # the ping that finds it stopped, two intervals, and a busy machine
        os.kill(process.pid, signal.SIGCONT)
        assert fetch_until(gateway, {"relay"}) < 1


def test_a_killed_relay_vanishes_from_a_running_client(gateway: Gateway, tmp_path: Path) -> None:
    client = client_of(gateway)
    client.start()
    try:
        with relay_process(gateway, tmp_path / "keys") as process:
            client.wait_for(1, Deadline(PATIENCE))
            process.kill()
            fetch_until(gateway, set())
            client.refresh_soon()
            deadline = Deadline(4)  # sooner than the usual question
            while client.relays:
                assert not deadline.expired
    finally:
        client.stop()


def test_a_silent_relay_is_cut_off_in_the_end(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "SILENT_LIMIT", 3)
    with relay_of(gateway, tmp_path, "relay") as relay:
        relay.wait_for(RegistrationState.LISTED)
        relay.registration.stop()
        with connect(gateway, "relay") as connection:
            assert register(connection, relay) == Ok()
            with pytest.raises(Closed):
                while True:
                    connection.receive(Deadline(PATIENCE))


def test_a_renewed_onion_key_is_listed(gateway: Gateway, tmp_path: Path) -> None:
    with relay_of(gateway, tmp_path, "relay") as relay:
        relay.wait_for(RegistrationState.LISTED)
        relay.onion_key = b"2" * 32
        relay.registration.renew()
        client, deadline = client_of(gateway), Deadline(PATIENCE)
        while client.fetch(deadline).relays[0].descriptor.onion_keys != (b"2" * 32,):
            assert not deadline.expired


def test_a_relay_comes_back_after_the_gateway_restarted(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    with contextlib.ExitStack() as stack:
        with running(folder) as gateway:
            relay = stack.enter_context(relay_of(gateway, tmp_path, "relay"))
            relay.wait_for(RegistrationState.LISTED)
            client = client_of(gateway)
            serial = client.fetch(Deadline(PATIENCE)).serial
        relay.wait_for(RegistrationState.LOST)
        assert names_now(client) == {"relay"}  # the document that is held stays valid
        with running(folder, gateway.address) as again:
            fetch_until(again, {"relay"})
            assert client.fetch(Deadline(PATIENCE)).serial > serial


def names_now(client: DirectoryClient) -> set[str]:
    assert client.document is not None
    return names(client.document)


# ---- who is not listed ----


def register(connection: GatewayConnection, relay: RegisteringRelay, envelope: bytes | None = None) -> Message:
    """One registration by hand; the answer that is not a ping."""
    envelope = envelope or relay.envelope()
    proof = registration_proof(NETWORK, connection.gateway, connection.nonce, envelope)
    return ask(connection, Register(envelope, sign_proof(proof, relay.identity.private_key)))


def test_a_relay_whose_address_shows_another_identity_is_not_listed(gateway: Gateway, tmp_path: Path) -> None:
    with relay_of(gateway, tmp_path, "honest") as honest:
        honest.wait_for(RegistrationState.LISTED)
        with relay_of(gateway, tmp_path, "thief", honest.port.address) as thief:
            assert "another relay answers" in thief.wait_for(RegistrationState.REFUSED)
            assert names(client_of(gateway).fetch(Deadline(PATIENCE))) == {"honest"}


def test_a_relay_that_cannot_be_dialled_is_not_listed(gateway: Gateway, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        closed = Address("127.0.0.1", sock.getsockname()[1])
    with relay_of(gateway, tmp_path, "relay", closed) as relay:
        assert "nothing answers" in relay.wait_for(RegistrationState.REFUSED)
        assert gateway.relays_listed == 0


def test_a_nickname_is_not_taken_over_even_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "gateway") as gateway:
        with relay_of(gateway, tmp_path, "relay") as relay:
            relay.wait_for(RegistrationState.LISTED)
    with running(tmp_path / "gateway") as gateway:
        folder = tmp_path / "thief"
        with registered(folder, "Relay", gateway.address, gateway.identity) as thief:
            assert "nickname" in thief.wait_for(RegistrationState.REFUSED)


def test_a_wrong_clock_is_told(gateway: Gateway, tmp_path: Path) -> None:
    relay = RegisteringRelay(tmp_path / "keys", "relay", gateway.address, gateway.identity)
    relay.clock_error = -3_600
    relay.registration.start()
    try:
        assert "60 minutes behind" in relay.wait_for(RegistrationState.REFUSED)
    finally:
        relay.stop()


@pytest.fixture
def listed(gateway: Gateway, tmp_path: Path) -> Iterator[RegisteringRelay]:
    with relay_of(gateway, tmp_path, "relay") as relay:
        relay.wait_for(RegistrationState.LISTED)
        yield relay


def assert_still_listed(gateway: Gateway, relay: RegisteringRelay) -> None:
    (entry,) = client_of(gateway).fetch(Deadline(PATIENCE)).relays
    assert entry.descriptor.identity == relay.identity.public
    assert entry.descriptor.onion_keys == (b"1" * 32,)


def refused_code(message: Message) -> str:
    assert isinstance(message, Error)
    return message.code


def test_a_forged_registration_is_refused(gateway: Gateway, listed: RegisteringRelay, tmp_path: Path) -> None:
    """The relay's own newest descriptor, as anybody can read it, and a stranger's proof."""
    stranger = load_or_create_identity(tmp_path / "stranger")
    envelope = listed.envelope()
    with connect(gateway, "relay") as connection:
        proof = registration_proof(NETWORK, gateway.identity, connection.nonce, envelope)
        answer = ask(connection, Register(envelope, sign_proof(proof, stranger.private_key)))
        assert refused_code(answer) == "signature"
    assert_still_listed(gateway, listed)


def test_a_recorded_registration_is_refused_on_another_connection(
    gateway: Gateway, listed: RegisteringRelay
) -> None:
    envelope = listed.envelope()
    with connect(gateway, "relay") as first, connect(gateway, "relay") as second:
        proof = registration_proof(NETWORK, gateway.identity, first.nonce, envelope)
        recorded = Register(envelope, sign_proof(proof, listed.identity.private_key))
        assert refused_code(ask(second, recorded)) == "signature"
    assert_still_listed(gateway, listed)


def test_a_replayed_older_descriptor_is_refused(gateway: Gateway, listed: RegisteringRelay) -> None:
    listed.clock_error = -60
    with connect(gateway, "relay") as connection:
        assert refused_code(register(connection, listed)) == "replayed"
    assert_still_listed(gateway, listed)


def test_nobody_unregisters_another_s_relay(gateway: Gateway, listed: RegisteringRelay, tmp_path: Path) -> None:
    stranger = load_or_create_identity(tmp_path / "stranger")
    with connect(gateway, "relay") as connection, connect(gateway, "relay") as other:
        own = sign_proof(removal_proof(NETWORK, gateway.identity, connection.nonce), stranger.private_key)
        assert ask(connection, Unregister(own)) == Ok()  # it removed itself, who was not there
        recorded = sign_proof(
            removal_proof(NETWORK, gateway.identity, connection.nonce), listed.identity.private_key
        )
        assert refused_code(ask(other, Unregister(recorded))) == "signature"
    assert_still_listed(gateway, listed)


ANYWHERE = Address("0.0.0.0", 0)


@pytest.mark.parametrize("allow_private", [False, True])
def test_a_gateway_beyond_loopback_lists_no_loopback_address(tmp_path: Path, allow_private: bool) -> None:
    with running(tmp_path / "gateway", ANYWHERE, allow_private=allow_private) as gateway:
        here = Address("127.0.0.1", gateway.address.port)
        with registered(tmp_path / "keys", "relay", here, gateway.identity) as relay:
            assert "advertise a public one" in relay.wait_for(RegistrationState.REFUSED)


def test_a_gateway_lists_a_private_address_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback stands for the private address, which this machine may not have."""
    monkeypatch.setattr(gateway_module, "is_private", lambda ip: ip.is_loopback)
    for allow, state in ((False, RegistrationState.REFUSED), (True, RegistrationState.LISTED)):
        with running(tmp_path / "gateway", ANYWHERE, allow_private=allow) as gateway:
            here = Address("127.0.0.1", gateway.address.port)
            with registered(tmp_path / "keys", "relay", here, gateway.identity) as relay:
                text = relay.wait_for(state)
                assert allow or "a private one to a gateway with allow_private" in text


@pytest.mark.parametrize(
    ("listen", "allow_private", "expected"),
    [
        (ANYWHERE, False, "public"),
        (LOOPBACK, False, "public loopback"),
        (ANYWHERE, True, "public private"),
        (LOOPBACK, True, "public private loopback"),
    ],
)
def test_no_gateway_dials_metadata_or_what_is_nobody_s_address(
    tmp_path: Path, listen: Address, allow_private: bool, expected: str
) -> None:
    kinds = {
        "public": ["8.8.8.8", "2a00:1::1", "::ffff:8.8.8.8"],
        "private": ["10.0.0.1", "100.64.0.1", "172.31.0.1", "192.168.0.1", "::ffff:10.0.0.1", "fd00::1"],
        "loopback": ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"],
        "nobody's": ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "192.0.2.1", "198.18.0.1"],
        "metadata": ["169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "fe80::1", "fe80::1%1"],
    }
    with running(tmp_path, listen, allow_private=allow_private) as gateway:
        dialled = [kind for kind, texts in kinds.items() for text in texts if gateway._may_advertise(ip_address(text))]
    assert dialled == [kind for kind in expected.split() for _ in kinds[kind]]


# ---- gateways that are not what they should be ----


def test_another_key_at_the_gateway_s_address_is_not_believed(gateway: Gateway, tmp_path: Path) -> None:
    wrong = load_or_create_identity(tmp_path / "other").public
    with pytest.raises(Unreachable, match="key"):
        DirectoryClient([(gateway.address, wrong)], NETWORK).fetch(Deadline(PATIENCE))
    with registered(tmp_path / "keys", "relay", gateway.address, wrong) as relay:
        assert "key" in relay.wait_for(RegistrationState.LOST)
    assert gateway.relays_listed == 0


def test_another_network_is_refused_with_a_sentence(gateway: Gateway) -> None:
    client = DirectoryClient([(gateway.address, gateway.identity)], "elsewhere")
    with pytest.raises(DirectoryError, match="network test"):
        client.fetch(Deadline(PATIENCE))


def test_a_gateway_that_says_nothing_costs_no_more_than_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = Address("127.0.0.1", sock.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(Unreachable):
            DirectoryClient([(address, bytes(32))], NETWORK).fetch(Deadline(0.3))
        assert time.monotonic() - start < 2


# ---- bad peers ----


def tls(gateway: Gateway) -> TlsStream:
    target = gateway.address.host, gateway.address.port
    return TlsStream.dial(target, client_context(), gateway.identity, Deadline(PATIENCE))


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


GREETING = encode(Hello(1, NETWORK, "client"))


@pytest.mark.parametrize(
    "said",
    [
        (65_537).to_bytes(4, "big"),
        b"\xff" * 200_000,
        b"GET / HTTP/1.1\r\n\r\n",
        frame(b"{"),
        frame(b"[]"),
        frame(65_536 * b"["),
        frame(encode_json({"type": "NOTHING"})),
        frame(encode_json({"type": "HELLO"})),
        encode(List(b"")),
        encode(Hello(1, NETWORK, "gateway")),
        GREETING + GREETING,
        GREETING + encode(Ok()),
        GREETING + encode(Pong(1)),
        GREETING + encode(Register(b"x", b"y")),
        GREETING + encode(Unregister(b"y")),
        encode(Hello(1, NETWORK, "relay")) + encode(Register(b"x", b"y")),
    ],
)
def test_what_breaks_the_protocol_ends_its_own_connection_only(gateway: Gateway, said: bytes) -> None:
    with connect(gateway) as other, contextlib.closing(tls(gateway)) as stream:
        answer = b""
        with contextlib.suppress(Closed):
            stream.send(said, Deadline(PATIENCE))
        with contextlib.suppress(Closed):
            while stream.wait_readable(Deadline(PATIENCE)):
                answer += stream.receive()
        assert b'"protocol"' in answer
        assert isinstance(ask(other, List(b"")), Document)


def test_a_client_that_asks_and_does_not_read_is_cut_off_and_holds_up_nobody(gateway: Gateway) -> None:
    with connect(gateway) as other, contextlib.closing(tls(gateway)) as stream:
        stream.send(GREETING, Deadline(PATIENCE))
        deadline = Deadline(PATIENCE)
        with pytest.raises(Closed):
            while True:
                stream.send(encode(List(b"")) * 2_000, deadline)
                assert isinstance(ask(other, List(b"")), Document)
        assert not deadline.expired
        assert isinstance(ask(other, List(b"")), Document)


def test_a_version_that_nobody_speaks_is_refused_with_a_sentence(gateway: Gateway) -> None:
    with contextlib.closing(tls(gateway)) as stream:
        stream.send(encode(Hello(9, NETWORK, "client")), Deadline(PATIENCE))
        assert stream.wait_readable(Deadline(PATIENCE))
        assert b"version 1" in stream.receive()


@needs_openssl
def test_endless_key_updates_do_not_fill_our_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "MAX_REPLIES", 100)
    with dialled_by_openssl() as (asker, sock), sock, pytest.raises(Closed, match="too many key updates"):
        sock.setblocking(False)
        peer = Peer(sock, node()[0], 1, None, 0.0)
        deadline = Deadline(PATIENCE)
        while not deadline.expired:
            select.select([sock], [], [], 0.02)  # until it has read the last K: it takes one at a time
            peer.receive()
            peer.flush()
            asker.write(b"K\n")


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"no TLS at all"])
def test_a_peer_that_says_nothing_is_dropped_and_holds_up_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(gateway_connections, "GREETING_TIME", 0.3)
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((gateway.address.host, gateway.address.port)))
            for _ in range(20)
        ]
        for sock in silent:
            sock.settimeout(PATIENCE)
            sock.sendall(said)
        assert client_of(gateway).fetch(Deadline(5)) is not None
        for sock in silent:
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1_000):
                    pass


def test_a_client_that_is_idle_is_dropped_and_dials_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_connections, "IDLE_TIME", 0.2)
    client = client_of(gateway)
    client.start()
    try:
        client.wait_for(0, Deadline(PATIENCE))
        with connect(gateway) as idle, pytest.raises(Closed):
            idle.receive(Deadline(PATIENCE))  # what the sweep closed, it closed for the client too
        greeted = gateway.clients_greeted
        client.refresh_soon()
        deadline = Deadline(PATIENCE)
        while gateway.clients_greeted == greeted:
            assert not deadline.expired
    finally:
        client.stop()


def test_connections_beyond_the_cap_are_closed(tmp_path: Path) -> None:
    with running(tmp_path / "gateway", max_connections=2) as gateway:
        with connect(gateway) as one, connect(gateway):
            with pytest.raises(Unreachable):
                connect(gateway)
            assert isinstance(ask(one, List(b"")), Document)


# ---- the client's side ----


def test_a_client_starts_from_its_cache_while_the_gateway_is_away(tmp_path: Path) -> None:
    cache = tmp_path / "directory.json"
    with running(tmp_path / "gateway") as gateway, relay_of(gateway, tmp_path, "relay") as relay:
        relay.wait_for(RegistrationState.LISTED)
        client = client_of(gateway, cache_path=cache)
        client.fetch(Deadline(PATIENCE))
        client.stop()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert cached_names(gateway, cache) == {"relay"}
    assert cached_names(gateway, cache, now=lambda: time.time() + 601) is None
    data = bytearray(cache.read_bytes())
    data[len(data) // 2] ^= 1
    cache.write_bytes(bytes(data))
    assert cached_names(gateway, cache) is None


def cached_names(gateway: Gateway, cache: Path, now: Callable[[], float] = time.time) -> set[str] | None:
    """What a client knows that finds its cache and no gateway."""
    client = DirectoryClient([(gateway.address, gateway.identity)], NETWORK, cache, now=now)
    client.start()
    try:
        return names(client.document) if client.document is not None else None
    finally:
        client.stop()


def test_progress_is_told_until_there_is_a_document(gateway: Gateway) -> None:
    said: list[int] = []
    client = client_of(gateway, on_progress=lambda percent, text: said.append(percent))
    client.fetch(Deadline(PATIENCE))
    client.fetch(Deadline(PATIENCE))
    assert said == [10, 40, 100]


def test_waiting_for_relays_that_do_not_come_ends_with_a_sentence(gateway: Gateway) -> None:
    client = client_of(gateway)
    client.start()
    try:
        with pytest.raises(DirectoryError, match="0 of 3"):
            client.wait_for(3, Deadline(0.5))
    finally:
        client.stop()
    with pytest.raises(ConfigError):
        DirectoryClient([], NETWORK)


def test_an_unchanged_document_is_not_sent_again(gateway: Gateway) -> None:
    client = client_of(gateway)
    first = client.fetch(Deadline(PATIENCE))
    assert client.fetch(Deadline(PATIENCE)) is first


# ---- what is kept and logged ----


def test_clients_are_counted_and_no_address_is_logged(
    gateway: Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), relay_of(gateway, tmp_path, "relay") as relay:
        relay.wait_for(RegistrationState.LISTED)
        for _ in range(3):
            client_of(gateway).fetch(Deadline(PATIENCE))
    fetch_until(gateway, set())
    assert gateway.clients_greeted >= 4
    assert "relay relay is listed" in caplog.text
    assert "127.0.0.1" not in caplog.text


def test_an_address_that_is_taken_is_a_configuration_error(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="listen"):
        with running(tmp_path / "second", gateway.address):
            pass


def test_a_gateway_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    identity = load_or_create_identity(tmp_path)
    arguments = (identity.private_key, identity.certificate, identity.key)
    Gateway([LOOPBACK], *arguments, network=NETWORK, state_dir=tmp_path).stop()


# ---- a gateway that holds the right key and lies ----


@contextlib.contextmanager
def lying(folder: Path, *answers: bytes) -> Iterator[DirectoryClient]:
    """A client of a gateway that greets as it should, and answers the first question with `answers`."""
    identity = load_or_create_identity(folder)
    context = server_context(identity.certificate, identity.key)

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            sock.settimeout(PATIENCE)
            with context.wrap_socket(sock, server_side=True) as tls_sock:
                tls_sock.recv(65_536)
                tls_sock.sendall(encode(Welcome(1, NETWORK, bytes(32), 5_000)))
                tls_sock.recv(65_536)
                tls_sock.sendall(b"".join(answers))
                tls_sock.recv(65_536)  # until the client hangs up

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            address = Address("127.0.0.1", listener.getsockname()[1])
            yield DirectoryClient([(address, identity.public)], NETWORK)
        finally:
            thread.join(PATIENCE)


@pytest.mark.parametrize(
    "answer",
    [
        encode(Unchanged()),
        encode(Ok()),
        encode(Error("full", "Come back later.")),
        encode(Document(b"not compressed")),
        encode(Document(compress(b"not signed"))),
        (2**31).to_bytes(4, "big"),
        frame(b"not JSON"),
        b"",
    ],
)
def test_whatever_a_gateway_answers_a_client_raises_only_a_directory_error(tmp_path: Path, answer: bytes) -> None:
    with lying(tmp_path, answer) as client:
        with pytest.raises(DirectoryError):
            client.fetch(Deadline(0.5 if not answer else PATIENCE))
        assert client.document is None
