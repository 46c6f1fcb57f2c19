"""How a client chooses, leaves and renews circuits: guards, slow circuits, new identities, the user's wishes."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from common.circuit import build_timeout, origin
from common.crypto.handshake import ClientHandshake, EphemeralKeys, Suite
from common.directory.guards import decode
from common.errors import ConfigError, DirectoryError, EndReason, Refused, TooLarge
from common.roles.client import client as client_module
from common.roles.client import client_circuit as client_circuit_module
from common.roles.client import pool as pool_module
from common.roles.client.client import Client, _Quiet
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.pool import PathWishes
from common.roles.client.spare_keys import SPARE
from common.roles.client.wish import Opening, Question, Wish
from common.roles.relay import look_ups
from common.wire.cells import Bytes
from tests.net.in_process import (
    NETWORK,
    PATIENCE,
    InProcess,
    Member,
    circuit_of,
    echoes,
    receive_all,
    threads,
    wait_until,
)
from tests.system.targets import Target, echo, silent

FEW_SECONDS = 15.0  # a busy machine's


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 6) as network:
        yield network


@contextmanager
def started(
    network: InProcess, wishes: PathWishes | None = None, guards: Path | None = None, warn: Callable[[str], None] = print
) -> Iterator[Client]:
    with Client([network.pin], NETWORK, wishes=wishes or PathWishes(3, 3), guards=guards, warn=warn) as client:
        yield client


def answers(client: Client, target: Target, isolation: tuple[str, ...] = ()) -> bool:
    with client.connect(target.host, target.port, isolation) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(b"x")
        return sock.recv(1) == b"x"


def first_hops(client: Client) -> set[bytes]:
    return {circuit.path[0].descriptor.identity for circuit in client.pool.circuits}


# ---- guards


def test_all_circuits_begin_with_one_guard_also_after_a_restart(network: InProcess, tmp_path: Path) -> None:
    file = tmp_path / "guards.json"
    seen: set[bytes] = set()
    for _ in range(2):
        with started(network, guards=file) as client, Target(echo) as target:
            for number in range(10):
                assert answers(client, target, (str(number),))
                seen |= first_hops(client)
                client.new_identity()
    assert seen == {decode(file.read_bytes())[0].identity}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_damaged_guards_file_is_a_sentence_and_is_not_replaced(network: InProcess, tmp_path: Path) -> None:
    file = tmp_path / "guards.json"
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"guards.json: is damaged; restore it, or remove it"):
        Client([network.pin], NETWORK, guards=file)
    assert file.read_text() == "{"


def test_a_small_network_has_no_guards(tmp_path: Path) -> None:
    file = tmp_path / "guards.json"
    with InProcess(tmp_path, 3) as network, started(network, guards=file) as client, Target(echo) as target:
        assert answers(client, target)
        assert client.pool.guards.guards == ()


@pytest.mark.parametrize("hops", [3, 4, 5])
def test_five_relays_are_enough_for_paths_of_five_with_guards(tmp_path: Path, hops: int) -> None:
    warnings: list[str] = []
    with InProcess(tmp_path, 5) as network, started(network, PathWishes(hops, hops), warn=warnings.append) as client:
        with Target(echo) as target:
            assert all(answers(client, target, (str(number),)) for number in range(5))
        assert {len(circuit.path) for circuit in client.pool.circuits} == {hops}
    assert not warnings


def test_a_client_whose_guard_dies_works_within_seconds_and_returns_to_it(tmp_path: Path) -> None:
    with InProcess(tmp_path, 6) as network, started(network) as client, Target(echo) as target:
        assert answers(client, target)
        guard = client.pool.guards.guards[0].identity
        network.member(guard).relay.stop(5.0)
        start = monotonic()
        assert answers(client, target)
        assert monotonic() - start < FEW_SECONDS
        assert guard not in first_hops(client)
        assert client.pool.guards.guards[0].identity == guard, "it keeps its place"


def test_a_guard_that_leads_nowhere_is_left(network: InProcess) -> None:
    """It answers the client and extends to nobody."""

    def refuse(*_: object) -> None:
        raise TooLarge("no")

    with started(network) as client, Target(echo) as target:
        assert answers(client, target)
        guard = client.pool.guards.guards[0].identity
        wait_until(lambda: len(client.pool.circuits) == 3)  # none is being built any more
        relay = network.member(guard).relay.relay
        relay._extend = refuse  # type: ignore[method-assign, assignment]
        try:
            client.new_identity()
            assert answers(client, target)
            assert circuit_of(client).path[0].descriptor.identity != guard
        finally:
            del relay._extend


def test_a_client_whose_guard_freezes_works_within_seconds(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its links stay up, and nothing comes: the stream moves to another guard by itself."""
    for module in (pool_module, client_module):
        monkeypatch.setattr(module, "ANSWER_TIME", 0.3)
    monkeypatch.setattr(build_timeout, "CEILING", 1.0)
    monkeypatch.setattr(build_timeout, "FLOOR", 1.0)
    with started(network) as client, Target(echo) as target:
        assert answers(client, target)
        wait_until(lambda: len(client.pool.circuits) == 3)
        guard = client.pool.guards.guards[0].identity
        links = network.member(guard).relay.relay.links
        real, links._new_circuit = links._new_circuit, lambda *_: Mute()
        for circuit in client.pool.circuits:
            swallow(circuit)
        try:
            start = monotonic()
            assert answers(client, target)
            assert monotonic() - start < FEW_SECONDS
            usable = [circuit for circuit in client.pool.circuits if not circuit.worn]
            assert guard not in {circuit.path[0].descriptor.identity for circuit in usable}
        finally:
            links._new_circuit = real


class Mute:
    """A circuit of a relay that has frozen."""

    def cells(self, bodies: object) -> None:
        pass

    def created(self, body: Bytes) -> None:
        pass

    def failed(self, reason: object) -> None:
        pass

    def drained(self) -> None:
        pass


# ---- circuits that do not answer


def swallow(circuit: ClientCircuit) -> None:
    """From now on nothing that comes on this circuit is heard."""
    circuit.cells = lambda *_: None  # type: ignore[method-assign]


def test_a_stream_that_is_not_answered_is_asked_for_elsewhere_and_said_once(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets of the circuits that were too slow get a connection that is closed without a byte."""
    monkeypatch.setattr(pool_module, "ANSWER_TIME", 0.2)
    monkeypatch.setattr(client_module, "ANSWER_TIME", 0.2)
    heard: list[bytes] = []
    ended = threading.Semaphore(0)

    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        data = b""
        try:
            data = sock.recv(100)
            sock.sendall(data)
        except ConnectionResetError:
            pass  # how an exit ends what nobody waits for
        finally:
            heard.append(data)
            ended.release()

    with started(network) as client, Target(serve) as target:
        wait_until(lambda: len(client.pool.circuits) == 2)
        silent = client.pool.circuits
        for circuit in silent:
            swallow(circuit)
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(b"once")
            assert sock.recv(4) == b"once"
            winner = next(circuit for circuit in client.pool.circuits if circuit.attachments)
            assert winner not in silent
            assert all(circuit.slow and not circuit.attachments for circuit in silent)
        for _ in range(3):
            assert ended.acquire(timeout=PATIENCE)
        assert sorted(heard) == [b"", b"", b"once"]
        with client.connect(target.host, target.port):
            assert not any(circuit.attachments for circuit in silent), "slow circuits get no new streams"


def test_a_look_up_that_is_not_answered_is_asked_elsewhere(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ANSWER_TIME", 0.2)
    monkeypatch.setattr(client_module, "ANSWER_TIME", 0.2)
    with started(network) as client:
        wait_until(lambda: len(client.pool.circuits) == 2)
        for circuit in client.pool.circuits:
            swallow(circuit)
        assert client.resolve("localhost")


def test_the_time_for_a_circuit_is_learned(network: InProcess) -> None:
    """It falls from the ceiling once enough circuits were built."""
    with started(network) as client, Target(echo) as target:
        at_first = client.pool._builder.limit(3)
        for number in range(20):
            assert answers(client, target, (str(number),))
        assert client.pool._builder.limit(3) < at_first


def test_a_circuit_has_keys_that_were_made_when_nobody_waited(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bytes] = []

    class Handshake(ClientHandshake):
        def __init__(self, identity: bytes, onion_key: bytes, suite: Suite, keys: EphemeralKeys) -> None:
            used.append(keys.x_public)
            super().__init__(identity, onion_key, suite, keys)

    with started(network) as client, Target(echo) as target:
        keys = client.pool._builder._keys._keys
        wait_until(lambda: client.pool._building == 0 and len(keys) >= SPARE)
        ready = {ours.x_public for ours in keys}
        monkeypatch.setattr(origin, "ClientHandshake", Handshake)
        client.new_identity()
        assert answers(client, target)
        assert set(used[:3]) <= ready
        wait_until(lambda: client.pool._building == 0 and len(keys) >= SPARE)
        assert len(set(used)) == len(used), "each is for one handshake"


# ---- relays that are not listed any more


def a_list_comes(client: Client, without: bytes | None = None, *, empty: bool = False) -> None:
    """As if the gateway had said so now; it says nothing else any more."""
    directory = client.directory
    directory.stop()
    (full,) = directory._combined.values()
    relays = [entry for entry in full.relays if entry.descriptor.identity != without and not empty]
    directory._document = replace(full, relays=tuple(relays))
    directory._on_list()
    reviewed = threading.Event()
    client.pump.call(reviewed.set)
    assert reviewed.wait(PATIENCE)


def judged(client: Client, circuit: ClientCircuit) -> None:
    """Until a circuit that was doubted is doubted no more."""
    wait_until(lambda: not circuit._doubted)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits in doubt have little time."""
    monkeypatch.setattr(client_circuit_module, "ANSWER_LIMIT", 0.5)


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_spare_circuits_through_a_relay_that_left_the_list_are_replaced(network: InProcess, hop: int) -> None:
    with started(network) as client:
        wait_until(lambda: len(client.pool.circuits) == 2)
        gone = client.pool.circuits[0].path[hop].descriptor.identity
        a_list_comes(client, without=gone)
        wait_until(lambda: len(client.pool.circuits) == 2)
        assert all(gone not in {entry.descriptor.identity for entry in each.path} for each in client.pool.circuits)


def test_a_stream_goes_on_over_a_relay_that_only_left_the_list_and_new_ones_go_elsewhere_until_it_is_back(
    network: InProcess, soon: None
) -> None:
    with started(network) as client, Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            circuit = circuit_of(client)
            a_list_comes(client, without=circuit.path[1].descriptor.identity)
            assert circuit._doubted
            assert answers(client, target)
            assert circuit.endpoint.used_streams == 2, "this one, and the question"
            judged(client, circuit)
            client.pool.sweep()
            assert circuit._doubted, "as long as it is missing it is asked again"
            judged(client, circuit)
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            a_list_comes(client)
            with client.connect(target.host, target.port):
                assert len(circuit.attachments) == 2, "it is as good as before"


def test_a_stream_that_only_reads_ends_with_an_error_when_its_relay_has_frozen_and_is_not_listed(
    network: InProcess, soon: None
) -> None:
    with started(network) as client, Target(silent) as target:
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            circuit = circuit_of(client)
            swallow(circuit)
            a_list_comes(client, without=circuit.path[1].descriptor.identity)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert circuit.closed
        wait_until(lambda: len(client.pool.circuits) == 2)


def test_a_retired_circuit_that_has_frozen_ends_too(network: InProcess, soon: None) -> None:
    with started(network) as client, Target(silent) as target:
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            circuit = circuit_of(client)
            swallow(circuit)
            client.new_identity()
            a_list_comes(client, without=circuit.path[2].descriptor.identity)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_a_frozen_circuit_whose_relay_is_listed_again_in_time_is_not_ended(network: InProcess, soon: None) -> None:
    with started(network) as client, Target(silent) as target, client.connect(target.host, target.port):
        circuit = circuit_of(client)
        swallow(circuit)
        a_list_comes(client, without=circuit.path[1].descriptor.identity)
        a_list_comes(client)
        judged(client, circuit)
        assert not circuit.closed


def test_a_circuit_in_doubt_is_asked_once_in_its_time(network: InProcess) -> None:
    """A list comes each few seconds, and each question takes one of its stream ids."""
    with started(network) as client, Target(echo) as target, client.connect(target.host, target.port):
        circuit = circuit_of(client, ())
        before = circuit.endpoint.used_streams
        for _ in range(3):
            circuit.doubt()
        assert circuit.endpoint.used_streams == before + 1


def test_a_list_without_any_relay_harms_no_circuit(network: InProcess, soon: None) -> None:
    with started(network) as client, Target(echo) as target, client.connect(target.host, target.port):
        wait_until(lambda: len(client.pool.circuits) == 3)
        before = client.pool.circuits
        a_list_comes(client, empty=True)
        assert client.pool.circuits == before
        assert answers(client, target)


def test_what_waits_for_an_answer_of_a_frozen_relay_is_asked_elsewhere_once_it_is_not_listed(
    network: InProcess,
) -> None:
    """Before the four seconds after which it would be anyway."""
    with started(network) as client, Target(echo) as target:
        wait_until(lambda: len(client.pool.circuits) == 2)
        frozen = client.pool.circuits
        for circuit in frozen:
            swallow(circuit)
        opened = threading.Event()
        ours, theirs = socket.socketpair()

        def answered(_address: object) -> bytes:
            opened.set()
            return b""

        with theirs:
            plug = client.pump.attach(ours, _Quiet())
            client.open(Opening(target.host, target.port, plug, answered, lambda _: None, lambda _: None))
            a_list_comes(client, without=frozen[0].path[0].descriptor.identity)
            assert opened.wait(pool_module.ANSWER_TIME / 2)


# ---- age and use


def test_an_unused_circuit_is_replaced_when_it_is_old(network: InProcess) -> None:
    with started(network) as client:
        wait_until(lambda: len(client.pool.circuits) == 2)
        old, young = client.pool.circuits
        old.born -= pool_module.MAX_IDLE_AGE + 1
        young.born -= pool_module.MAX_IDLE_AGE - PATIENCE
        client.pool.sweep()
        assert old.closed
        wait_until(lambda: len(client.pool.circuits) == 2)
        assert young in client.pool.circuits
        assert not young.closed


def test_a_circuit_in_use_takes_no_new_streams_when_it_is_old_and_ends_with_its_last(network: InProcess) -> None:
    with started(network) as client, Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            circuit = circuit_of(client)
            circuit.born -= pool_module.MAX_IDLE_AGE + 1  # its age does not count, but since when it is used
            assert circuit.used_at is not None
            circuit.used_at -= pool_module.MAX_AGE - PATIENCE
            client.pool.sweep()
            assert answers(client, target)
            assert circuit_of(client) is circuit
            circuit.used_at -= PATIENCE + 1
            client.pool.sweep()
            assert client.pool.retired == [circuit]
            with client.connect(target.host, target.port):
                assert circuit_of(client) is not circuit
            client.pool.sweep()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x", "a stream that is open goes on"
        wait_until(lambda: not circuit.attachments)
        client.pool.sweep()
        wait_until(lambda: circuit.closed)
        assert not client.pool.retired


def test_a_circuit_ends_when_its_exit_has_what_was_sent_on_streams_that_are_over(network: InProcess) -> None:
    """A target may end its side long before it has got all of ours."""
    got: list[int] = []

    def serve(sock: socket.socket, _: object) -> None:
        sock.shutdown(socket.SHUT_WR)
        got.append(len(receive_all(sock)))

    go_on = threading.Event()
    with network.client(3) as client, Target(serve) as target:
        with client.connect(target.host, target.port) as sock:
            assert sock.recv(1) == b""
            circuit = circuit_of(client)
            middle = network.path(circuit)[1].relay.relay
            middle.pump.call(lambda: go_on.wait(PATIENCE))
            sock.sendall(bytes(60_000))
        wait_until(lambda: not circuit.attachments)
        client.new_identity()
        assert not circuit.closed
        assert not got
        go_on.set()
        wait_until(lambda: circuit.closed)
        wait_until(lambda: got == [60_000])


def test_a_circuit_whose_exit_says_nothing_ends_all_the_same(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_circuit_module, "ANSWER_LIMIT", 0.05)
    go_on = threading.Event()
    with network.client(3) as client, Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            echoes(sock, 1_000)
            circuit = circuit_of(client)
        wait_until(lambda: not circuit.attachments)
        network.path(circuit)[2].relay.relay.pump.call(lambda: go_on.wait(PATIENCE))
        client.new_identity()
        wait_until(lambda: circuit.closed)
        go_on.set()


def test_a_started_client_looks_for_old_circuits_by_itself(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SWEEP", 0.05)
    with started(network) as client:
        old = client.pool.circuits[0]
        old.born -= pool_module.MAX_IDLE_AGE + 1
        wait_until(lambda: old.closed)


def test_a_circuit_that_has_nearly_used_its_stream_ids_takes_no_new_streams(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_circuit_module, "MAX_STREAMS", 3)
    with started(network) as client, Target(echo) as target:
        with client.connect(target.host, target.port) as sock:
            sock.settimeout(PATIENCE)
            circuit = circuit_of(client)
            for used in (2, 3):
                assert answers(client, target)
                assert circuit.endpoint.used_streams == used
            assert answers(client, target)
            assert circuit.endpoint.used_streams == 3
            sock.sendall(b"x")
            assert sock.recv(1) == b"x", "a stream that is open goes on"


def test_a_circuit_that_carries_nothing_makes_room_for_another_when_there_are_many(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that takes a new user name for each request leaves no more behind than that."""
    monkeypatch.setattr(pool_module, "MAX_CIRCUITS", 5)
    with started(network) as client, Target(echo) as target, client.connect(target.host, target.port, ("kept",)):
        assert answers(client, target, ("first",))
        first = circuit_of(client, ("first",))
        for number in range(12):
            assert answers(client, target, (str(number),))
            assert len(client.pool.circuits) <= 5
        wait_until(lambda: first.closed)
        wait_until(lambda: [circuit.isolation for circuit in client.pool.circuits].count(None) == 2)
        kept = {circuit.isolation for circuit in client.pool.circuits}
        assert {("kept",), ("11",), None} <= kept


def test_who_would_need_one_circuit_too_many_is_refused_at_once_and_with_the_reason(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_CIRCUITS", 3)
    with started(network) as client, Target(echo) as target:
        streams = [client.connect(target.host, target.port, (name,)) for name in "abc"]
        start = monotonic()
        with pytest.raises(Refused, match="no more streams are taken now") as refused:
            client.connect(target.host, target.port, ("d",))
        assert refused.value.reason is EndReason.LIMIT
        assert monotonic() - start < FEW_SECONDS
        assert answers(client, target, ("a",)), "those who have one are not concerned"
        streams.pop().close()
        wait_until(lambda: not circuit_of(client, ("c",)).attachments)
        assert answers(client, target, ("d",))
        for stream in streams:
            stream.close()


def test_a_system_that_gives_no_thread_for_a_while_does_not_stop_building_for_ever(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "builder":
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(pool_module, "MAX_BUILDING", 2)
    with started(network) as client, Target(echo) as target:
        wait_until(lambda: len(client.pool.circuits) == 2)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for circuit in client.pool.circuits:
                circuit.end()
            assert not client.pool.circuits
        assert answers(client, target)


def test_a_client_ends_while_a_builder_is_just_being_started(network: InProcess) -> None:
    with started(network) as client:
        client.pool._threads.add(threading.Thread(name="builder"))


class Compared(Question):
    """Counts how often it is compared with another."""

    count = 0

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return self is other

    __hash__ = object.__hash__


def test_thousands_of_wishes_that_wait_are_not_compared_with_each_other(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each circuit that is built looks at all of them: among 4,000 that took 0.1 s, ten times what building does."""
    with started(network) as client:
        wait_until(lambda: len(client.pool.circuits) == 2 and not client.pool._building)
        monkeypatch.setattr(client.pool, "_build_missing", lambda: None)
        client.pool._building = 1  # else nobody would wait
        for number in range(500):
            client.pool.assign(Compared("a.test", lambda *_: None, (str(number),)))
        assert len(client.pool._waiting) == 500 - 2
        assert Compared.count < 500
        client.pool._building = 0


def test_circuits_of_an_identity_before_count_while_they_carry_streams(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on the guard's link too, which has a limit of its own."""
    monkeypatch.setattr(pool_module, "MAX_CIRCUITS", 3)
    with started(network) as client, Target(echo) as target:
        streams = [client.connect(target.host, target.port, (name,)) for name in "abc"]
        client.new_identity()
        with pytest.raises(Refused, match="no more streams are taken now"):
            client.connect(target.host, target.port, ("d",))
        for stream in streams:
            stream.close()
        wait_until(lambda: not client.pool._retired)
        assert answers(client, target, ("d",))


@pytest.mark.parametrize("asked", ["a stream", "an address"])
def test_exits_that_have_too_much_to_do_are_not_taken_for_ones_that_refuse(
    network: InProcess, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(look_ups, "MAX_LOOKUPS", 0)
    with started(network) as client, pytest.raises(Refused) as refused:
        if asked == "a stream":
            client.connect("localhost", 1)
        else:
            client.resolve("localhost")
    assert refused.value.reason is EndReason.LIMIT


# ---- new identity


def test_what_was_asked_before_a_new_identity_shares_no_circuit_with_what_comes_after(network: InProcess) -> None:
    """Also when it has to move to another circuit after the change."""
    moved = threading.Event()

    def answered(_address: object) -> bytes:
        moved.set()
        return b""

    with started(network) as client, Target(echo) as target:
        wait_until(lambda: len(client.pool.circuits) == 2)
        for circuit in client.pool.circuits:
            swallow(circuit)
        ours, theirs = socket.socketpair()
        with theirs:
            plug = client.pump.attach(ours, _Quiet())
            old = Opening(target.host, target.port, plug, answered, lambda _reason: None, lambda _reason: None)
            client.open(old)
            asked = old.asked[0]
            client.new_identity()
            asked.end()
            assert moved.wait(PATIENCE)
            holder = next(circuit for circuit in client.pool.circuits if circuit.attachments)
            with client.connect(target.host, target.port):
                circuits = [circuit for circuit in client.pool.circuits if circuit.attachments]
                assert len(circuits) == 2
                assert len(holder.attachments) == 1
                assert asked not in circuits


# ---- wishes


def test_excluded_relays_are_on_no_path_and_the_exit_is_the_one_asked_for(network: InProcess) -> None:
    out, exit_ = network.members[1], network.members[4]
    for names in ((out.folder.name.upper(), exit_.identity.hex()), (out.identity.hex(), exit_.folder.name)):
        with started(network, PathWishes(3, 5, exclude=names[:1], exit=names[1])) as client, Target(echo) as target:
            for number in range(10):
                assert answers(client, target, (str(number),))
            paths = [network.path(circuit) for circuit in client.pool.circuits]
            assert all(path[-1] is exit_ and out not in path for path in paths)


def test_a_circuit_that_was_being_built_when_the_wishes_changed_carries_nothing(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(network) as client, Target(echo) as target:
        builder, changed = client.pool._builder, threading.Event()
        build = builder.build

        def built(wish: Wish | None) -> ClientCircuit:
            circuit = build(wish)
            if not changed.is_set():
                changed.set()
                client.reconfigure(PathWishes(2, 2))
            return circuit

        monkeypatch.setattr(builder, "build", built)
        client.new_identity()
        wait_until(lambda: changed.is_set() and client.pool._building == 0)
        assert answers(client, target)
        assert {len(circuit.path) for circuit in client.pool.circuits} == {2}


def test_an_exit_that_is_not_listed_is_a_sentence(network: InProcess) -> None:
    client = Client([network.pin], NETWORK, wishes=PathWishes(exit="nobody"))
    try:
        with pytest.raises(DirectoryError, match="the relay asked for as exit, nobody, is not listed"):
            client.start()
    finally:
        client.close()


def test_an_excluded_relay_that_is_not_listed_is_a_warning(network: InProcess) -> None:
    warnings: list[str] = []
    with started(network, PathWishes(3, 3, exclude=("nobody",)), warn=warnings.append):
        assert warnings == ["no relay called nobody is listed: it cannot be excluded before it is"]


# ---- a client that is a relay


def test_a_clients_circuits_never_pass_through_its_own_relay(network: InProcess) -> None:
    own = network.members[2]
    before = own.circuits
    with started(network, PathWishes(3, 5, own=own.identity)) as client, Target(echo) as target:
        for number in range(20):
            assert answers(client, target, (str(number),))
        assert all(own not in network.path(circuit) for circuit in client.pool.circuits)
        assert own.identity not in {guard.identity for guard in client.pool.guards.guards}
        assert own.circuits <= before
        assert _serves_others(network, own)


def _serves_others(network: InProcess, own: Member) -> bool:
    with started(network, PathWishes(3, 3, exit=own.folder.name)) as other, Target(echo) as target:
        return answers(other, target)


def test_a_client_with_guards_leaves_nothing_behind(network: InProcess, tmp_path: Path) -> None:
    before = threads()
    with started(network, guards=tmp_path / "guards.json") as client, Target(echo) as target:
        assert answers(client, target)
    wait_until(lambda: [name for name in threads() if "builder" in name] == [name for name in before if "builder" in name])
    assert os.listdir(tmp_path) == ["guards.json"]
