"""What a gateway bears: thousands who say nothing, one address with many connections, names that are not found;
and what relays may change about themselves over the wire.
"""

import contextlib
import queue
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.addresses import Address
from common.directory.family import family_proof
from common.directory.registry_actions import CheckAddress
from common.directory.succession import sign_succession
from common.errors import Unreachable
from common.net.deadline import Deadline
from common.net.tls import client_context
from common.ops.lifecycle import raise_file_limit
from common.roles.client.bootstrap import DirectoryClient
from common.roles.gateway import connections as gateway_connections
from common.roles.gateway import dial_back as gateway_dial
from common.roles.gateway.gateway import Gateway
from common.roles.gateway_link import Document, GatewayConnection, List
from common.roles.relay.registration import RegistrationState
from tests.net.registering import NETWORK, PATIENCE, RegisteringRelay, registered
from tests.net.test_gateway import running
from tests.unit.directory.relays import FakeRelay

SILENT = 5_000


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    raise_file_limit()
    with running(tmp_path / "gateway") as started:
        yield started


def connect(gateway: Gateway) -> GatewayConnection:
    return GatewayConnection.open(
        gateway.address, gateway.identity, Deadline(PATIENCE), network=NETWORK, role="client", context=client_context()
    )


def asks(connection: GatewayConnection) -> bool:
    connection.send(List(b""), Deadline(PATIENCE))
    return isinstance(connection.receive(Deadline(PATIENCE)), Document)


def silent_peers(gateway: Gateway, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    target = gateway.address.host, gateway.address.port
    return [stack.enter_context(socket.create_connection(target, PATIENCE)) for _ in range(count)]


def test_five_thousand_peers_that_say_nothing_keep_nobody_out(gateway: Gateway, tmp_path: Path) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(SILENT, (files - 1_000) // 2)  # both ends are in this process
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(registered(tmp_path / "keys", "relay", gateway.address, gateway.identity))
        relay.wait_for(RegistrationState.LISTED)
        silent_peers(gateway, count, stack)
        start = time.monotonic()
        with connect(gateway) as client:
            assert asks(client)
        assert time.monotonic() - start < 3
        with registered(tmp_path / "later", "later", gateway.address, gateway.identity) as later:
            later.wait_for(RegistrationState.LISTED)
        assert relay.registration.state is RegistrationState.LISTED


def test_who_has_not_greeted_makes_room_for_who_comes_later(tmp_path: Path) -> None:
    with running(tmp_path / "gateway", max_connections=10) as gateway, contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(gateway))
        silent_peers(gateway, 50, stack)
        second = stack.enter_context(connect(gateway))
        assert asks(first)
        assert asks(second)


def test_one_address_has_so_many_connections_and_no_more(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_connections, "source_of", lambda host: host)  # loopback is exempt otherwise
    monkeypatch.setattr(gateway_connections, "MAX_PER_SOURCE", 2)
    with connect(gateway), connect(gateway) as second:
        with pytest.raises(Unreachable):
            connect(gateway)
        second.close()
        deadline = Deadline(PATIENCE)
        while True:
            with contextlib.suppress(Unreachable), connect(gateway) as third:
                assert asks(third)
                return
            assert not deadline.expired


def test_names_that_are_looked_up_for_ever_hold_up_no_other_relay(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    real = socket.getaddrinfo

    def slow(host: Any, *arguments: Any, **named: Any) -> Any:
        if str(host).endswith(".slow"):
            released.wait(PATIENCE)
            raise OSError
        return real(host, *arguments, **named)

    monkeypatch.setattr(gateway_dial, "LOOKUP_TIME", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with contextlib.ExitStack() as stack:
        stack.callback(released.set)
        slow_ones = []
        for number in range(gateway_dial.RESOLVERS + 2):
            name, address = f"slow{number}", Address(f"relay{number}.slow", 9001)
            slow_ones.append(
                stack.enter_context(registered(tmp_path / name, name, gateway.address, gateway.identity, address))
            )
        with registered(tmp_path / "quick", "quick", gateway.address, gateway.identity) as quick:
            quick.wait_for(RegistrationState.LISTED)
        for relay in slow_ones:
            assert "cannot look up" in relay.wait_for(RegistrationState.REFUSED)


def test_a_relay_that_has_given_up_is_not_dialled_any_more(tmp_path: Path) -> None:
    reports: queue.SimpleQueue[CheckAddress] = queue.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        closed = Address("127.0.0.1", sock.getsockname()[1])
    checks = [CheckAddress(session, FakeRelay(session, address=closed).plain) for session in (1, 2)]
    dialler = gateway_dial.Dialler(
        lambda check, _: reports.put(check), lambda _: True, lambda check: check.session == 2
    )
    dialler.start()
    try:
        for check in checks:
            dialler.check(check)
        assert reports.get(timeout=PATIENCE) == checks[1]
        assert reports.empty()
    finally:
        dialler.stop(PATIENCE)


# ---- what relays change about themselves ----


def nicknames(gateway: Gateway) -> dict[str, bytes]:
    client = DirectoryClient([(gateway.address, gateway.identity)], NETWORK)
    relays = client.fetch(Deadline(PATIENCE)).relays
    return {entry.descriptor.nickname: entry.descriptor.identity for entry in relays}


def test_a_relay_with_a_new_identity_keeps_its_name_and_the_old_key_is_over(
    gateway: Gateway, tmp_path: Path
) -> None:
    with registered(tmp_path / "old", "relay", gateway.address, gateway.identity) as old:
        old.wait_for(RegistrationState.LISTED)
        with contextlib.closing(successor(old, gateway, tmp_path / "new")) as new:
            new.registration.start()
            new.wait_for(RegistrationState.LISTED)
            assert "another identity" in old.wait_for(RegistrationState.REFUSED)
            assert nicknames(gateway) == {"relay": new.identity.public}
            deadline = Deadline(PATIENCE)
            while "replaced" not in old.wait_for(RegistrationState.REFUSED):  # it tried again
                assert not deadline.expired
            assert nicknames(gateway) == {"relay": new.identity.public}


class Successor(RegisteringRelay):
    """A relay with a statement of its former identity."""

    close = RegisteringRelay.stop


def successor(old: RegisteringRelay, gateway: Gateway, folder: Path) -> Successor:
    new = Successor(folder, old.nickname, gateway.address, gateway.identity)
    statement = sign_succession(NETWORK, old.identity.private_key, new.identity.private_key)
    new.registration._succession = statement
    return new


def test_a_relay_that_claims_a_family_without_its_key_is_not_listed(gateway: Gateway, tmp_path: Path) -> None:
    relay = RegisteringRelay(tmp_path / "keys", "relay", gateway.address, gateway.identity)
    relay.family, _ = family_proof(Ed25519PrivateKey.generate(), NETWORK, relay.identity.public)
    relay.family_proof = bytes(64)
    relay.registration.start()
    try:
        assert "not signed" in relay.wait_for(RegistrationState.REFUSED)
    finally:
        relay.stop()
    assert nicknames(gateway) == {}


def test_a_snapshot_shows_relays_document_and_counts(gateway: Gateway, tmp_path: Path) -> None:
    with registered(tmp_path / "keys", "relay", gateway.address, gateway.identity) as relay:
        relay.wait_for(RegistrationState.LISTED)
        nicknames(gateway)
        deadline = Deadline(PATIENCE)
        while not (shown := gateway.snapshot()).relays or not shown.pings_sent or not shown.serial:
            assert not deadline.expired
        (entry,) = shown.relays
        assert entry.descriptor.nickname == "relay"
        assert "running" in entry.flags
        assert shown.histories[relay.identity.public].failures == 0
        assert shown.valid_until - shown.valid_after == 600
        assert shown.clients_greeted == 1
        assert shown.storing
        assert shown.transfer_size > 0
