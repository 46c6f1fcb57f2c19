"""A relay and what may come to its port: every bad input ends its own circuit or link, and nothing else."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from common.circuit import origin as origin_module
from common.circuit.actions import Answered, Deliver, Opened, StreamEnded
from common.circuit.origin import Origin, PathHop
from common.crypto import onion as onion_module
from common.crypto.handshake import Create, Suite
from common.crypto.layers import MAX_HOPS
from common.directory.addresses import Address
from common.directory.exit_policy import ExitPolicy
from common.errors import AuthenticationFailed, Closed, DestroyReason, EndReason
from common.net import link_opening
from common.net.deadline import Deadline
from common.net.plug import Plug
from common.ops.keystore import load_or_create_identity, load_or_create_onion_keys
from common.roles import links as links_module
from common.roles.client.client import Client
from common.roles.relay import listed_relay, look_ups
from common.roles.relay import relay as relay_module
from common.roles.relay.relay import Relay, RelayIdentity
from common.wire.cells import SHORT_CELL, Command, decode_destroy, encode_cell, encode_destroy
from tests.net.in_process import (
    LOOPBACK,
    InProcess,
    Member,
    circuit_of,
    descriptors,
    receive_all,
    receive_exactly,
    threads,
    wait_until,
)
from tests.net.raw_client import RawClient
from tests.system.targets import PATIENCE, Target, echo, silent, unused_port

SUITE = Suite.FERNET


def hop(member: Member) -> PathHop:
    """What a client knows of a relay."""
    onion_key = load_or_create_onion_keys(member.folder, time.time()).current.public
    return PathHop(member.identity, onion_key, member.address.host, member.address.port)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture(scope="module")
def bystander(network: InProcess) -> Iterator[tuple[Client, socket.socket]]:
    """A client whose stream goes through every relay."""
    with network.client(3) as client, Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            yield client, sock


@pytest.fixture
def victim(network: InProcess, bystander: tuple[Client, socket.socket]) -> Iterator[Member]:
    """A relay; afterwards its threads, descriptors and circuits are what they were, and others did not notice."""
    client, sock = bystander
    wait_until(lambda: len(client.pool.circuits) >= 3)
    circuit = circuit_of(client)
    member = network.members[0]
    for other in network.members[1:]:  # so that a test that extends adds no link, there or back
        for dialling, dialled in ((member, other), (other, member)):
            raw = RawClient(dialling.address)
            circuit_id, origin = raw.build(hop(dialling), hop(dialled))
            raw.flush(circuit_id, origin)
            origin.receive([raw.cell().body], 0.0)
            raw.close()
    wait_until(lambda: not any(name.startswith(("handshake", "dial")) for name in threads()))
    wait_until(lambda: sum(not link.dialled for link in member.links) <= 4)
    base = _counts(member)
    yield member
    wait_until(lambda: _counts(member) <= base)
    assert not circuit.closed, "a stranger's fault ended somebody else's circuit"
    token = os.urandom(50_000)
    sock.sendall(token)
    assert receive_exactly(sock, len(token)) == token


def _counts(member: Member) -> tuple[int, int, int, int]:
    """Without the threads that look names up: they are few, made when first needed, and stay."""
    kept = [name for name in threads() if not name.startswith("resolver")]
    return len(kept), descriptors(), member.circuits, len(member.links)


@pytest.fixture
def raw(victim: Member) -> Iterator[RawClient]:
    client = RawClient(victim.address)
    yield client
    client.close()


# ---- before there is a link


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="silence, then the end"),
        pytest.param(os.urandom(5_000), id="garbage"),
        pytest.param(b"\x16" + os.urandom(5_000), id="garbage that begins like TLS"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="truncated TLS"),
        pytest.param(b"\x16\x03\x01\xff\xff" + bytes(70_000), id="an oversized TLS record"),
    ],
)
def test_what_is_not_a_link_ends_and_leaves_nothing(victim: Member, data: bytes) -> None:
    with socket.create_connection((victim.address.host, victim.address.port)) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
        except OSError:
            pass  # ended with a reset, maybe at once: as good


def test_silent_strangers_do_not_keep_others_out(victim: Member) -> None:
    address = victim.address.host, victim.address.port
    silent = [socket.create_connection(address) for _ in range(300)]
    raw = RawClient(victim.address)
    raw.build(hop(victim))
    raw.close()
    for sock in silent:
        sock.close()


def test_a_link_without_a_common_protocol_version_ends(victim: Member) -> None:
    raw = RawClient(victim.address, versions=(2, 65_535))
    assert raw.link_ended()
    raw.close()


@pytest.mark.parametrize("cut", [1, 7, SHORT_CELL - 1])
def test_a_link_that_ends_in_the_middle_of_a_cell_leaves_nothing(raw: RawClient, victim: Member, cut: int) -> None:
    raw.build(hop(victim))
    raw.peer.say(encode_cell(5, Command.CREATE, bytes(100))[:cut])


# ---- cells that no honest peer sends: the link ends


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes([0, 0, 0, 9, 99]) + bytes(SHORT_CELL - 5), id="unknown command"),
        pytest.param(bytes([0, 0, 0, 9, 4, 0xFF, 0xFF]) + bytes(SHORT_CELL - 7), id="a length beyond the cell"),
        pytest.param(encode_cell(9, Command.RELAY, b"")[:-1] + b"x", id="padding that is not zero"),
        pytest.param(encode_cell(0, Command.CREATE, bytes(1_282)), id="CREATE without a circuit id"),
        pytest.param(encode_cell(9, Command.RELAY, bytes(100)), id="RELAY for a circuit that never was"),
        pytest.param(encode_cell(9, Command.CREATED, bytes(1_152)), id="CREATED that nobody asked for"),
        pytest.param(encode_cell(0, Command.HELLO, b"\x01\x00\x01"), id="a second HELLO"),
    ],
)
def test_a_cell_that_cannot_be_ends_the_link(raw: RawClient, data: bytes) -> None:
    raw.peer.say(data)
    assert raw.link_ended()


def test_a_circuit_id_in_use_ends_the_link(raw: RawClient, victim: Member) -> None:
    circuit_id, _ = raw.build(hop(victim))
    raw.say(circuit_id, Command.CREATE, Origin([hop(victim)], SUITE).create)
    assert raw.link_ended()


def test_a_destroy_of_two_bytes_ends_the_link(raw: RawClient, victim: Member) -> None:
    circuit_id, _ = raw.build(hop(victim))
    raw.say(circuit_id, Command.DESTROY, b"\0\0")
    assert raw.link_ended()


# ---- CREATE that cannot be answered: the circuit ends, always alike


def _create(member: Member) -> Create:
    return Create.decode(Origin([hop(member)], SUITE).create)


def _with(create: Create, **changes: bytes) -> bytes:
    fields = {name: getattr(create, name) for name in ("suite", "identity", "onion_key", "ephemeral", "mlkem_key")}
    return Create(**{**fields, **changes}).encode()


@pytest.mark.parametrize(
    "fault", ["onion_key", "identity", "low order", "mlkem_key", "short", "long", "suite", "empty"]
)
def test_a_create_that_cannot_be_answered_ends_the_circuit_and_tells_nothing(
    raw: RawClient, victim: Member, fault: str
) -> None:
    create = _create(victim)
    body = {
        "onion_key": _with(create, onion_key=os.urandom(32)),
        "identity": _with(create, identity=os.urandom(32)),
        "low order": _with(create, ephemeral=bytes(32)),
        "mlkem_key": _with(create, mlkem_key=b"\xff" * 1_184),
        "short": create.encode()[:-1],
        "long": create.encode() + b"\0",
        "suite": b"\x01\x09" + create.encode()[2:],
        "empty": b"",
    }[fault]
    raw.say(7, Command.CREATE, body)
    assert raw.destroyed(7) is DestroyReason.PROTOCOL
    raw.build(hop(victim))  # the link lives on


def test_a_replayed_create_gives_other_keys(raw: RawClient, victim: Member) -> None:
    origin = Origin([hop(victim)], SUITE)
    answers = []
    for circuit_id in (1, 2):
        raw.say(circuit_id, Command.CREATE, origin.create)
        answers.append(raw.cell().body)
    assert answers[0] != answers[1]
    origin.created(answers[0])
    origin.endpoint.resolve("localhost", 0.0)
    raw.flush(2, origin)  # a replayer has no keys for the second circuit, and the first's do not fit
    assert raw.destroyed(2) is DestroyReason.PROTOCOL


def test_a_flood_of_create_is_refused_with_limit(
    network: InProcess, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "CREATE_BURST", 5)
    monkeypatch.setattr(relay_module, "CREATE_RATE", 0)
    raw = RawClient(victim.address)
    for _ in range(5):
        raw.build(hop(victim))
    raw.say(9, Command.CREATE, Origin([hop(victim)], SUITE).create)
    assert raw.destroyed(9) is DestroyReason.LIMIT
    raw.close()


def test_a_relay_that_is_to_end_begins_nothing_and_carries_on_with_what_it_has(tmp_path: Path) -> None:
    with InProcess(tmp_path, 1) as network, Target(echo) as target:
        (member,) = network.members
        raw = RawClient(member.address)
        circuit_id, origin = raw.build(hop(member))
        stream_id = origin.endpoint.begin(target.host, target.port, 0.0)
        assert isinstance(raw.action(circuit_id, origin), Opened)
        member.relay.relay.stop_accepting(Deadline(PATIENCE))

        raw.say(circuit_id + 1, Command.CREATE, Origin([hop(member)], SUITE).create)
        assert raw.destroyed(circuit_id + 1) is DestroyReason.SHUTTING_DOWN
        refused = origin.endpoint.begin(target.host, target.port, 0.0)
        assert raw.action(circuit_id, origin) == StreamEnded(refused, EndReason.LIMIT)
        asked = origin.endpoint.resolve("127.0.0.1", 0.0)
        assert raw.action(circuit_id, origin) == Answered(asked, EndReason.LIMIT, ())

        origin.endpoint.send(stream_id, b"still here")
        delivered = raw.action(circuit_id, origin)
        assert isinstance(delivered, Deliver)
        assert b"".join(delivered.pieces) == b"still here"
        raw.close()


def test_a_relay_that_is_to_end_delivers_what_came_by_circuits_that_are_over(tmp_path: Path) -> None:
    size, read_on, got = 500_000, threading.Event(), []

    def serve(sock: socket.socket, _: object) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.shutdown(socket.SHUT_WR)
        read_on.wait(PATIENCE)
        got.append(len(receive_all(sock)))

    with InProcess(tmp_path, 2) as network, Target(serve) as target:
        with network.client(2) as client, client.connect(target.host, target.port) as sock:
            assert sock.recv(1) == b""
            exit_ = network.path(circuit_of(client))[-1].relay
            sock.sendall(bytes(size))
            sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: not exit_.snapshot().counts.now["streams"])  # both sides have ended it
            assert exit_.snapshot().counts.now["waiting_bytes"]
        leaving = threading.Thread(target=exit_.leave, args=(PATIENCE,))
        leaving.start()
        wait_until(lambda: not exit_.snapshot().counts.now["circuits"])
        leaving.join(3 * listed_relay.LOOK)
        assert leaving.is_alive(), "it waits, though no circuit is left"
        read_on.set()
        leaving.join(PATIENCE)
        wait_until(lambda: got)
    assert got == [size]


def test_a_link_carries_no_more_circuits_than_its_limit(
    raw: RawClient, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "MAX_CIRCUITS", 3)
    ids = [raw.build(hop(victim))[0] for _ in range(3)]
    raw.say(9, Command.CREATE, Origin([hop(victim)], SUITE).create)
    assert raw.destroyed(9) is DestroyReason.LIMIT
    raw.say(ids[0], Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
    assert raw.cell().command == Command.DESTROY
    raw.build(hop(victim))


def test_refused_creates_that_are_never_closed_do_not_fill_the_table(
    raw: RawClient, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "MAX_CIRCUITS", 50)
    before = victim.circuits
    try:
        for circuit_id in range(1, 500):
            raw.say(circuit_id, Command.CREATE, b"")
    except OSError:
        pass  # the relay has had enough
    for _ in range(499):
        if raw.link_ended():
            break
    assert victim.circuits - before <= 100


# ---- RELAY cells


def test_a_layer_that_does_not_verify_ends_the_circuit(raw: RawClient, victim: Member) -> None:
    circuit_id, origin = raw.build(hop(victim))
    origin.endpoint.resolve("localhost", 0.0)
    for body in origin.take_cells(0):
        raw.say(circuit_id, Command.RELAY, body[:-1] + bytes([body[-1] ^ 1]))
    assert raw.destroyed(circuit_id) is DestroyReason.PROTOCOL
    raw.build(hop(victim))


@pytest.mark.parametrize("body", [b"", b"\0", os.urandom(100), os.urandom(16_377)], ids=len)
def test_garbage_in_a_relay_cell_ends_the_circuit(raw: RawClient, victim: Member, body: bytes) -> None:
    circuit_id, _ = raw.build(hop(victim))
    raw.say(circuit_id, Command.RELAY, body)
    assert raw.destroyed(circuit_id) is DestroyReason.PROTOCOL


def test_a_replayed_cell_ends_the_circuit(raw: RawClient, victim: Member) -> None:
    circuit_id, origin = raw.build(hop(victim))
    origin.endpoint.resolve("127.0.0.1", 0.0)
    (body,) = origin.take_cells(0)
    raw.say(circuit_id, Command.RELAY, body)
    (answered,) = origin.receive([raw.cell().body], 0.0)
    assert isinstance(answered, Answered)
    raw.say(circuit_id, Command.RELAY, body)
    assert raw.destroyed(circuit_id) is DestroyReason.PROTOCOL


def test_extend_to_the_relay_itself_is_refused(raw: RawClient, victim: Member) -> None:
    circuit_id, origin = raw.build(hop(victim), hop(victim))
    raw.flush(circuit_id, origin)
    assert raw.destroyed(circuit_id) is DestroyReason.PROTOCOL


def test_extend_to_a_dead_port_ends_the_circuit_with_unreachable(raw: RawClient, victim: Member) -> None:
    nobody = PathHop(os.urandom(32), os.urandom(32), "127.0.0.1", unused_port())
    circuit_id, origin = raw.build(hop(victim), nobody)
    raw.flush(circuit_id, origin)
    assert raw.destroyed(circuit_id) is DestroyReason.UNREACHABLE


def test_extend_to_another_identity_than_answers_ends_the_circuit(
    raw: RawClient, victim: Member, network: InProcess
) -> None:
    other = hop(network.members[1])
    impostor = PathHop(os.urandom(32), other.onion_key, other.host, other.port)
    circuit_id, origin = raw.build(hop(victim), impostor)
    raw.flush(circuit_id, origin)
    assert raw.destroyed(circuit_id) is DestroyReason.UNREACHABLE


@contextmanager
def relay_at(folder: Path, host: str) -> Iterator[Relay]:
    """A relay that others dial at `host`; nobody does."""
    identity = load_or_create_identity(folder)
    relay = Relay(
        RelayIdentity(identity.public, identity.certificate, identity.key),
        dict,
        Address("127.0.0.1", 0),
        ExitPolicy.parse("none"),
        advertise=Address(host, 9_001),
    )
    relay.start()
    try:
        yield relay
    finally:
        relay.stop(Deadline(PATIENCE))


def dialled(relay: Relay, *hosts: str) -> list[str]:
    """Those of `hosts` that a client can make the relay dial."""
    found = []
    for host in hosts:
        try:
            found.append(relay._dialable(host, 9_001)[0])
        except Closed:
            pass
    return found


ON_PUBLIC = ["8.8.8.8", "2a00:1::1"]
ON_PRIVATE = ["10.0.0.1", "100.64.0.1", "172.16.0.1", "192.168.0.1", "fd00::1"]
ON_LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1"]
NOBODYS = ["0.0.0.0", "::", "169.254.169.254", "fe80::1", "192.0.2.1", "224.0.0.1", "ff02::1", "255.255.255.255"]
EVERYWHERE = [*ON_PUBLIC, *ON_PRIVATE, *ON_LOOPBACK, *NOBODYS]


@pytest.mark.parametrize("own", ON_PUBLIC)
def test_a_relay_on_a_public_address_dials_no_private_next_hop(tmp_path: Path, own: str) -> None:
    with relay_at(tmp_path, own) as relay:
        assert dialled(relay, *EVERYWHERE) == ON_PUBLIC


@pytest.mark.parametrize("own", ON_PRIVATE)
def test_a_relay_on_a_private_address_dials_private_next_hops_and_not_its_own_host(
    tmp_path: Path, own: str
) -> None:
    with relay_at(tmp_path, own) as relay:
        assert dialled(relay, *EVERYWHERE) == ON_PUBLIC + ON_PRIVATE


def test_a_relay_on_loopback_dials_loopback_and_no_address_that_is_nobody_s(tmp_path: Path) -> None:
    with relay_at(tmp_path, "127.0.0.1") as relay:
        assert dialled(relay, *EVERYWHERE) == ON_PUBLIC + ON_PRIVATE + ON_LOOPBACK


def test_mapped_addresses_are_judged_as_what_is_in_them(tmp_path: Path) -> None:
    mapped = [f"::ffff:{host}" for host in ("127.0.0.1", "10.0.0.1", "169.254.169.254")]
    for own, count in (("8.8.8.8", 0), ("10.0.0.2", 1), ("::ffff:10.0.0.2", 1), ("::ffff:127.0.0.1", 2)):
        with relay_at(tmp_path, own) as relay:
            assert len(dialled(relay, *mapped)) == count


def test_names_are_judged_by_the_addresses_they_lead_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "public.test": ["8.8.8.8"],
        "private.test": ["10.0.0.1"],
        "metadata.test": ["169.254.169.254", "127.0.0.1"],
        "both.test": ["127.0.0.1", "10.0.0.2", "8.8.4.4"],
        "unknown.test": [],
    }

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if not names[host]:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in names[host]]

    for own, expected in (
        ("public.test", ["8.8.8.8", "8.8.4.4"]),
        ("private.test", ["8.8.8.8", "10.0.0.1", "10.0.0.2"]),
        ("unknown.test", ["8.8.8.8", "8.8.4.4"]),
    ):
        with relay_at(tmp_path, own) as relay, monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", look_up)
            assert dialled(relay, *names) == expected


def test_clients_do_not_probe_a_public_relay_s_own_host_by_extend(
    raw: RawClient, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Target(silent) as own, monkeypatch.context() as patch:
        circuit_id, origin = raw.build(hop(victim), PathHop(os.urandom(32), os.urandom(32), own.host, own.port))
        patch.setattr(victim.relay.relay, "address", Address("8.8.8.8", 9_001))
        raw.flush(circuit_id, origin)
        assert raw.destroyed(circuit_id) is DestroyReason.UNREACHABLE
        assert not own.accepted


def test_a_circuit_that_is_destroyed_while_its_extension_is_dialled_leaves_nothing(
    raw: RawClient, victim: Member
) -> None:
    with Target(silent) as mute:  # accepts, and never says a word of TLS
        stranger = PathHop(os.urandom(32), os.urandom(32), mute.host, mute.port)
        circuit_id, origin = raw.build(hop(victim), stranger)
        raw.flush(circuit_id, origin)
        wait_until(lambda: mute.accepted)
        raw.say(circuit_id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
        assert raw.destroyed(circuit_id) is DestroyReason.FINISHED


def _extend(raw: RawClient, path: PathHop, *next_hops: PathHop) -> list[tuple[int, Origin]]:
    """A circuit for each, EXTEND said."""
    circuits = [raw.build(path, next_hop) for next_hop in next_hops]
    for circuit_id, origin in circuits:
        raw.flush(circuit_id, origin)
    return circuits


def _nobody(target: Target, count: int) -> list[PathHop]:
    """So many relays that are not, at an address."""
    return [PathHop(os.urandom(32), os.urandom(32), target.host, target.port) for _ in range(count)]


def _refusal(raw: RawClient, victim: Member, target: Target) -> DestroyReason:
    """How one more EXTEND ends."""
    ((circuit_id, _),) = _extend(raw, hop(victim), *_nobody(target, 1))
    return raw.destroyed(circuit_id)


def test_extends_to_silent_addresses_do_not_take_the_dials_of_others(raw: RawClient, victim: Member) -> None:
    other = RawClient(victim.address)
    with Target(silent) as mute, Target(echo) as wrong:  # the second fails at once: it speaks no TLS
        circuits = _extend(raw, hop(victim), *_nobody(mute, relay_module.DIALS_SHARE))
        assert _refusal(raw, victim, wrong) is DestroyReason.LIMIT
        assert _refusal(other, victim, wrong) is DestroyReason.UNREACHABLE
        raw.build(hop(victim))  # what needs no dial goes on
    for _ in circuits:
        assert decode_destroy(raw.cell().body) is DestroyReason.UNREACHABLE
    other.close()


def test_more_dials_than_the_limit_are_refused_and_their_places_come_back(victim: Member) -> None:
    raws = [RawClient(victim.address) for _ in range(relay_module.MAX_DIALS // relay_module.DIALS_SHARE)]
    last = RawClient(victim.address)
    with Target(echo) as wrong:
        with Target(silent) as mute:
            for raw in raws:
                _extend(raw, hop(victim), *_nobody(mute, relay_module.DIALS_SHARE))
            wait_until(lambda: len(victim.relay.relay._dials) == relay_module.MAX_DIALS)  # links overtake each other
            assert _refusal(last, victim, wrong) is DestroyReason.LIMIT
        wait_until(lambda: not victim.relay.relay._dials)
        for raw in (last, *raws):
            raw.close()
        again = RawClient(victim.address)
        assert _refusal(again, victim, wrong) is DestroyReason.UNREACHABLE
        again.close()


def test_many_links_from_one_address_have_one_share_of_the_dials(
    victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_opening, "source_of", lambda host: host)  # loopback is exempt otherwise
    raws = [RawClient(victim.address) for _ in range(relay_module.DIALS_SHARE)]
    last = RawClient(victim.address)
    with Target(silent) as mute:
        for raw in raws:
            _extend(raw, hop(victim), *_nobody(mute, 1))
            raw.build(hop(victim))  # the relay has got to know of it
        assert _refusal(last, victim, mute) is DestroyReason.LIMIT
    for raw in (last, *raws):
        raw.close()


def test_circuits_to_the_same_relay_wait_for_one_dial(
    raw: RawClient, victim: Member, network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(host: str, port: int) -> list[IPv4Address]:
        go_on.wait(PATIENCE)
        return [IPv4Address("127.0.0.1")]

    monkeypatch.setattr(relay_module, "_ips", slow)
    known = hop(network.members[1])
    named = PathHop(known.identity, known.onion_key, "localhost", known.port)  # by this name there is no link
    circuits = dict(_extend(raw, hop(victim), *[named] * (relay_module.DIALS_SHARE + 4)))
    raw.build(hop(victim))  # the relay has taken them all
    assert threads().count("dial") == 1
    go_on.set()
    for _ in list(circuits):
        cell = raw.cell()
        circuits.pop(cell.circuit_id).receive([cell.body], 0.0)  # which opens EXTENDED of that relay alone


def test_a_look_up_takes_its_time_from_the_dial(
    raw: RawClient, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(host: str, port: int) -> list[IPv4Address]:
        time.sleep(0.2)
        return [IPv4Address("127.0.0.1")]

    monkeypatch.setattr(relay_module, "DIAL_TIMEOUT", 0.1)
    monkeypatch.setattr(relay_module, "_ips", slow)
    with Target(silent) as mute:
        assert _refusal(raw, victim, mute) is DestroyReason.UNREACHABLE
        assert not mute.accepted, "it was dialled after its time"


def test_circuits_that_wait_for_one_dial_have_a_bound_and_those_that_end_make_room(
    raw: RawClient, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MAX_WAITING", 3)
    with Target(silent) as mute:
        (nobody,) = _nobody(mute, 1)
        (first, _), *_ = _extend(raw, hop(victim), *[nobody] * 3)
        ((late, _),) = _extend(raw, hop(victim), nobody)
        assert raw.destroyed(late) is DestroyReason.LIMIT
        raw.say(first, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
        assert raw.cell().command == Command.DESTROY
        _extend(raw, hop(victim), nobody)
        raw.build(hop(victim))  # the relay has taken it
    for _ in range(3):
        assert decode_destroy(raw.cell().body) is DestroyReason.UNREACHABLE


def test_a_dial_that_gets_no_descriptor_ends_the_circuits_that_wait_for_it(
    raw: RawClient, victim: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(victim.relay.relay.links, "obtain", fail)
    with Target(echo) as target:
        assert _refusal(raw, victim, target) is DestroyReason.UNREACHABLE


@pytest.mark.parametrize("suite", list(Suite))
def test_a_circuit_of_more_hops_than_layers_have_room_for_ends(
    raw: RawClient, victim: Member, network: InProcess, monkeypatch: pytest.MonkeyPatch, suite: Suite
) -> None:
    for module in (origin_module, onion_module):  # a hostile client's own
        monkeypatch.setattr(module, "MAX_HOPS", 100)
    origin = Origin([hop(victim), hop(network.members[1])] * 10, suite)
    raw.say(1, Command.CREATE, origin.create)
    origin.created(raw.cell().body)
    for _ in range(MAX_HOPS):  # one more than honest clients ask for
        raw.flush(1, origin)
        origin.receive([raw.cell().body], 0.0)
    raw.flush(1, origin)
    assert raw.destroyed(1) is DestroyReason.LIMIT


def test_a_hop_that_answers_extend_itself_is_found_out(network: InProcess) -> None:
    path = [hop(network.members[0]), hop(network.members[1])]
    raw = RawClient(network.members[0].address)
    origin = Origin(path, SUITE)
    raw.say(1, Command.CREATE, origin.create)
    origin.created(raw.cell().body)
    impostor = Origin([path[0]], SUITE)
    raw.say(2, Command.CREATE, impostor.create)
    made_up = bytes(raw.cell().body)
    assert origin._handshake is not None
    with pytest.raises(AuthenticationFailed):
        origin._add_hop(made_up)
    raw.close()


# ---- the exit


def _answer(raw: RawClient, origin: Origin) -> object:
    """The first action that the exit's next cells lead to."""
    while True:
        actions = origin.receive([raw.cell().body], 0.0)
        if actions:
            return actions[0]


def _begin(raw: RawClient, circuit_id: int, origin: Origin, host: str, port: int) -> object:
    origin.endpoint.begin(host, port, 0.0)
    raw.flush(circuit_id, origin)
    return _answer(raw, origin)


@pytest.mark.parametrize("spelling", ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "127.1", "2130706433"])
@pytest.mark.parametrize("whose", ["relay", "gateway"])
def test_the_networks_own_ports_are_refused_whatever_the_policy(
    raw: RawClient, victim: Member, network: InProcess, spelling: str, whose: str
) -> None:
    port = victim.address.port if whose == "relay" else network.gateway.address.port
    circuit_id, origin = raw.build(hop(victim))
    ended = _begin(raw, circuit_id, origin, spelling, port)
    assert isinstance(ended, StreamEnded)
    assert ended.reason is EndReason.POLICY


@pytest.fixture
def forwarded(tmp_path: Path) -> Iterator[tuple[RawClient, PathHop, Target, Target]]:
    """A relay that others reach, and that reaches its gateway, at names: at the two targets, as a router forwards."""
    identity = load_or_create_identity(tmp_path)
    onion_keys = load_or_create_onion_keys(tmp_path, time.time())
    with Target(echo) as gateway, Target(echo) as advertised:
        relay = Relay(
            RelayIdentity(identity.public, identity.certificate, identity.key),
            onion_keys.accepted,
            LOOPBACK,
            ExitPolicy.parse("local"),
            [Address("localhost", gateway.port)],
            Address("localhost", advertised.port),
        )
        relay.start()
        listened = relay._listener.address
        raw = RawClient(Address(*listened))
        yield raw, PathHop(identity.public, onion_keys.current.public, *listened), gateway, advertised
        raw.close()
        relay.stop(Deadline(PATIENCE))


@pytest.mark.parametrize("spelling", ["127.0.0.1", "localhost", "::ffff:127.0.0.1"])
def test_the_networks_own_ports_are_refused_when_they_are_configured_as_names(
    forwarded: tuple[RawClient, PathHop, Target, Target], spelling: str
) -> None:
    raw, relay, *own = forwarded
    circuit_id, origin = raw.build(relay)
    for target in own:
        ended = _begin(raw, circuit_id, origin, spelling, target.port)
        assert isinstance(ended, StreamEnded)
        assert ended.reason is EndReason.POLICY
        assert not target.accepted
    with Target(echo) as other:
        assert isinstance(_begin(raw, circuit_id, origin, spelling, other.port), Opened)


class SlowNames:
    """Names under ".slow" are looked up until `released`; `asked` are all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: Any, *arguments: Any, **named: Any) -> Any:
        self.asked.append(host)
        if str(host).endswith(".slow"):
            assert self.released.wait(PATIENCE)
            raise socket.gaierror
        return self._real(host, *arguments, **named)


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    names = SlowNames(monkeypatch)
    yield names
    names.released.set()


def test_names_that_are_looked_up_for_ever_hold_up_no_other_circuit(
    raw: RawClient, victim: Member, slow_names: SlowNames
) -> None:
    one, slow = raw.build(hop(victim))
    two, quick = raw.build(hop(victim))
    for number in range(look_ups.RESOLVERS):
        slow.endpoint.begin(f"target{number}.slow", 80, 0.0)
        slow.endpoint.resolve(f"name{number}.slow", 0.0)
    raw.flush(one, slow)
    quick.endpoint.resolve("localhost", 0.0)
    raw.flush(two, quick)
    answered = _answer(raw, quick)
    assert isinstance(answered, Answered)
    assert answered.addresses
    assert len(slow_names.asked) == look_ups.RUNNING + 1


def test_a_name_of_a_stream_that_has_ended_is_not_looked_up(
    raw: RawClient, victim: Member, slow_names: SlowNames
) -> None:
    circuit_id, origin = raw.build(hop(victim))
    for number in range(look_ups.RUNNING):
        origin.endpoint.begin(f"target{number}.slow", 80, 0.0)
    given_up = origin.endpoint.begin("given-up.slow", 80, 0.0)
    raw.flush(circuit_id, origin)
    wait_until(lambda: len(slow_names.asked) == look_ups.RUNNING)
    origin.endpoint.reset(given_up, EndReason.DONE)
    raw.flush(circuit_id, origin)
    assert not origin.receive([raw.cell().body], 0.0)  # the exit's END
    origin.endpoint.resolve("localhost", 0.0)
    raw.flush(circuit_id, origin)
    slow_names.released.set()
    while not any(isinstance(action, Answered) for action in origin.receive([raw.cell().body], 0.0)):
        pass  # what became of the others
    assert "given-up.slow" not in slow_names.asked


def test_names_of_a_circuit_that_has_ended_are_not_looked_up(
    raw: RawClient, victim: Member, slow_names: SlowNames
) -> None:
    one, slow = raw.build(hop(victim))
    for number in range(look_ups.RUNNING):
        slow.endpoint.resolve(f"name{number}.slow", 0.0)
    slow.endpoint.begin("given-up.slow", 80, 0.0)
    slow.endpoint.resolve("given-up-too.slow", 0.0)
    raw.flush(one, slow)
    wait_until(lambda: len(slow_names.asked) == look_ups.RUNNING)
    raw.say(one, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
    assert raw.cell().command == Command.DESTROY
    raw.build(hop(victim))  # by now all that belongs to the first is over
    slow_names.released.set()
    wait_until(lambda: not victim.relay.relay._exit._look_ups._queues)
    assert len(slow_names.asked) == look_ups.RUNNING


def test_a_target_that_vanishes_is_noticed(raw: RawClient, victim: Member) -> None:
    """The kernel asks a silent one whether it is there; a test cannot take a target away without a word."""
    circuit_id, origin = raw.build(hop(victim))
    with Target(echo) as target:
        assert isinstance(_begin(raw, circuit_id, origin, target.host, target.port), Opened)
        (sock,) = (
            member._sock
            for member in list(victim.relay.relay.pump._members)
            if isinstance(member, Plug) and member._sock.getpeername()[1] == target.port
        )
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        told = [
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert told == [120, 30, 4]


def test_a_flood_of_begin_is_refused_with_limit(victim: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "BEGIN_BURST", 2)
    monkeypatch.setattr(relay_module, "BEGIN_RATE", 0)
    raw = RawClient(victim.address)
    circuit_id, origin = raw.build(hop(victim))
    with Target(echo) as target:
        for _ in range(2):
            assert isinstance(_begin(raw, circuit_id, origin, target.host, target.port), Opened)
        ended = _begin(raw, circuit_id, origin, target.host, target.port)
        assert isinstance(ended, StreamEnded)
        assert ended.reason is EndReason.LIMIT
        raw.close()


def test_an_exit_ends_its_targets_when_the_client_hangs_up(victim: Member) -> None:
    raw = RawClient(victim.address)
    circuit_id, origin = raw.build(hop(victim))
    with Target(echo) as target:
        assert isinstance(_begin(raw, circuit_id, origin, target.host, target.port), Opened)
        sockets = descriptors()
        raw.close()
        wait_until(lambda: descriptors() < sockets)


def test_looking_for_idle_links_survives_links_that_come_and_go(victim: Member) -> None:
    relay = victim.relay.relay
    errors: list[Exception] = []
    raws: list[RawClient] = []
    for _ in range(20):
        raws.append(RawClient(victim.address))
        try:
            relay._check_idle()
        except RuntimeError as error:
            errors.append(error)
    for raw in raws:
        raw.build(hop(victim))
        raw.close()
    assert not errors
