"""A relay of several processes, whose parent is this one: keys, counting, and workers that die, hang or cannot start."""

import errno
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from common.circuit.actions import StreamEnded
from common.circuit.origin import PathHop
from common.directory.addresses import Address
from common.errors import ConfigError, DestroyReason, EndReason
from common.net.deadline import Deadline
from common.ops.keystore import RENEW_AFTER, load_or_create_identity, load_or_create_onion_keys
from common.roles.gateway.gateway import Gateway
from common.roles.relay import tended_worker
from common.roles.relay import workers as workers_module
from common.roles.relay.listed_relay import ListedRelay
from common.roles.relay.tended_worker import MISSED_COUNTS
from common.roles.relay.workers import Workers
from common.wire.cells import Command
from tests.net.in_process import LOOPBACK, PATIENCE, Member, threads, wait_until
from tests.net.processes import children, is_alive, listeners, peer_of
from tests.net.raw_client import RawClient
from tests.net.registering import NETWORK
from tests.net.test_gateway import running
from tests.net.test_listed_relay import entries
from tests.net.test_relay import hop

COUNT = 2
PING = 0.2  # seconds between a gateway's pings


@contextmanager
def gone_afterwards() -> Iterator[None]:
    """No process or thread of a relay is left."""
    before, count = children(os.getpid()), threading.active_count()
    yield
    assert children(os.getpid()) <= before
    wait_until(lambda: threading.active_count() <= count)


@contextmanager
def started(folder: Path, *gateways: Gateway) -> Iterator[Member]:
    """A relay of two workers."""
    with gone_afterwards():
        identity = load_or_create_identity(folder)
        pins = [(gateway.address, gateway.identity) for gateway in gateways]
        relay = ListedRelay(
            identity,
            folder,
            LOOPBACK,
            None,
            pins,
            network=NETWORK,
            nickname="many",
            exit_policy="local",
            workers=COUNT,
        )
        relay.start()
        try:
            yield Member(relay, identity, folder)
        finally:
            relay.stop(5.0)


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    with started(tmp_path / "keys") as member:
        yield member


def pids(member: Member) -> set[int]:
    """The workers that listen."""
    return listeners(member.address.port, children(os.getpid()))


@contextmanager
def a_link_to_each(member: Member) -> Iterator[dict[int, RawClient]]:
    """By process: dials until every worker has a link."""
    with ExitStack() as stack:
        links: dict[int, RawClient] = {}
        workers = pids(member)
        assert len(workers) == COUNT
        for _ in range(100):  # that one of two gets none of 100: 2^-99
            raw = RawClient(member.address)
            stack.callback(raw.close)
            links[peer_of(raw.peer.sock.getsockname(), workers)] = raw
            if links.keys() == workers:
                break
        assert links.keys() == workers
        yield links


def is_answered(raw: RawClient, member: Member, onion_key: bytes) -> bool:
    """Whether a CREATE for that onion key gets CREATED."""
    try:
        raw.build(PathHop(member.identity, onion_key, member.address.host, member.address.port))
    except AssertionError:  # a DESTROY came
        return False
    return True


def age_keys(folder: Path, seconds: float) -> None:
    """Makes all onion keys on disk older."""
    path = folder / "onion_keys.json"
    items = json.loads(path.read_text())
    path.write_text(json.dumps([item | {"created": item["created"] - seconds} for item in items]))


# ---- one relay to everybody


def test_every_worker_answers_for_the_one_identity(member: Member) -> None:
    with a_link_to_each(member) as links:
        for raw in links.values():
            raw.build(hop(member))


def test_the_relay_is_listed_once_and_its_heartbeats_do_not_wait_for_its_workers(tmp_path: Path) -> None:
    with (
        running(tmp_path / "gateway", ping_interval=PING) as gateway,
        started(tmp_path / "keys", gateway) as member,
    ):
        (entry,) = entries(gateway, 1)
        assert entry.descriptor.address == member.address
        workers = pids(member)
        try:
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            threading.Event().wait(10 * PING)  # two missed pings, and a relay leaves the list
            (later,) = entries(gateway, 1)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        assert later.running_since == entry.running_since, "it has left the list meanwhile"


def test_no_exit_of_a_worker_dials_the_relays_own_port(member: Member) -> None:
    """Each worker knows the shared port although it chose none."""
    with a_link_to_each(member) as links:
        for raw in links.values():
            circuit_id, origin = raw.build(hop(member))
            stream_id = origin.endpoint.begin(member.address.host, member.address.port, 0.0)
            raw.flush(circuit_id, origin)
            assert origin.receive([raw.cell().body], 0.0) == [StreamEnded(stream_id, EndReason.POLICY)]


def test_a_worker_refuses_to_extend_to_its_own_relay_by_whichever_worker(member: Member) -> None:
    with a_link_to_each(member) as links:
        for raw in links.values():
            circuit_id, origin = raw.build(hop(member), hop(member))
            raw.flush(circuit_id, origin)
            assert raw.destroyed(circuit_id) is DestroyReason.PROTOCOL


def refused_because(raw: RawClient, member: Member) -> EndReason:
    """Why a worker does not open a stream to a port of this host where nobody listens."""
    circuit_id, origin = raw.build(hop(member))
    stream_id = origin.endpoint.begin("127.0.0.1", 1, 0.0)
    raw.flush(circuit_id, origin)
    (ended,) = origin.receive([raw.cell().body], 0.0)
    assert isinstance(ended, StreamEnded)
    assert ended.stream_id == stream_id
    return ended.reason


def test_a_hang_up_ends_no_worker_that_is_only_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who tells all processes of a service to read again means the parent."""
    real, begun = tended_worker._popen, []

    def popen(*arguments: object) -> object:
        process = real(*arguments)  # type: ignore[arg-type]
        process.send_signal(signal.SIGHUP)
        begun.append(process.pid)
        return process

    monkeypatch.setattr(tended_worker, "_popen", popen)
    with started(tmp_path / "keys") as member:
        assert pids(member) == set(begun)


def test_a_new_exit_policy_holds_in_every_worker_and_in_those_that_follow(member: Member) -> None:
    with a_link_to_each(member) as links:
        assert {refused_because(raw, member) for raw in links.values()} == {EndReason.REFUSED}
        member.relay.reconfigure("none")
        assert {refused_because(raw, member) for raw in links.values()} == {EndReason.POLICY}
        os.kill(next(iter(links)), signal.SIGKILL)
        wait_until(lambda: pids(member) - links.keys() and len(pids(member)) == COUNT)
    with a_link_to_each(member) as links:
        assert {refused_because(raw, member) for raw in links.values()} == {EndReason.POLICY}


# ---- keys


def test_a_new_onion_key_is_accepted_by_every_worker_and_an_old_one_by_none(member: Member) -> None:
    old = load_or_create_onion_keys(member.folder, 0.0 + os.stat(member.folder).st_mtime).current.public
    with a_link_to_each(member) as links:
        age_keys(member.folder, RENEW_AFTER)
        member.relay._renew()
        new = hop(member).onion_key
        assert new != old
        for raw in links.values():
            assert is_answered(raw, member, new)
            assert is_answered(raw, member, old), "clients may hold a document with it"
        age_keys(member.folder, 3_600.0)
        member.relay._renew()
        for raw in links.values():
            assert is_answered(raw, member, new)
            assert not is_answered(raw, member, old)


def test_damaged_onion_keys_leave_the_workers_with_those_they_have(
    member: Member, caplog: pytest.LogCaptureFixture
) -> None:
    key = hop(member).onion_key
    (member.folder / "onion_keys.json").write_text("damaged")
    with a_link_to_each(member) as links:
        member.relay._server.keys_renewed()
        assert all(is_answered(raw, member, key) for raw in links.values())


# ---- counting


def test_what_all_workers_have_carried_is_added_up_and_survives_them(member: Member) -> None:
    server = member.relay._server
    before = server.carried()
    with a_link_to_each(member) as links:
        for raw in links.values():
            for _ in range(100):
                raw.say(0, Command.PADDING, b"")
            raw.build(hop(member))  # answered: all before it has come
        total = server.carried()
        assert total >= before + COUNT * 100 * 1_024
        os.kill(next(iter(links)), signal.SIGKILL)
        wait_until(lambda: pids(member) - links.keys() and len(pids(member)) == COUNT)
        assert server.carried() >= total


# ---- workers that end, hang, or cannot start


def test_a_dead_worker_returns_and_the_others_circuits_live_on(
    member: Member, caplog: pytest.LogCaptureFixture
) -> None:
    with a_link_to_each(member) as links:
        dead, living = links
        os.kill(dead, signal.SIGKILL)
        assert links[dead].link_ended()
        links[living].build(hop(member))
        wait_until(lambda: len(pids(member)) == COUNT)
        links[living].build(hop(member))
    with a_link_to_each(member) as links:
        assert living in links
        assert dead not in links
    assert "ended (signal 9); the next one starts in 1 s" in caplog.text


def test_a_worker_returns_after_a_moment_without_descriptors(
    member: Member, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]
    real = socket.socketpair

    def socketpair() -> tuple[socket.socket, socket.socket]:
        if failures and threading.current_thread().name.startswith("tends"):
            raise failures.pop()
        return real()

    monkeypatch.setattr(socket, "socketpair", socketpair)
    dead = min(pids(member))
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: not failures)
    wait_until(lambda: len(pids(member) - {dead}) == COUNT)
    assert "ended (never started: Too many open files); the next one starts in 2 s" in caplog.text


def test_a_worker_that_hangs_is_ended_and_replaced(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "COUNT_TIME", 0.1)
    hanging, other = pids(member)
    os.kill(hanging, signal.SIGSTOP)
    for _ in range(MISSED_COUNTS):
        assert is_alive(hanging)
        member.relay._server.carried()
    wait_until(lambda: not is_alive(hanging))
    wait_until(lambda: len(pids(member)) == COUNT)
    assert other in pids(member)


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with started(tmp_path / "keys") as member:
        hanging, _ = pids(member)
        os.kill(hanging, signal.SIGSTOP)
        member.relay.stop(0.5)
        assert not is_alive(hanging)
    assert "did not end in time and is killed" in caplog.text


def test_no_worker_is_started_once_the_relay_is_stopping(member: Member) -> None:
    member.relay._server.stop_accepting(Deadline(PATIENCE))
    workers = children(os.getpid())
    assert listeners(member.address.port, workers) == set()
    os.kill(min(workers), signal.SIGKILL)
    wait_until(lambda: sum(name.startswith("tends") for name in threads()) == COUNT - 1)  # its place is given up
    assert len(children(os.getpid())) == COUNT - 1


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_relay_that_is_to_end_waits_for_no_worker_that_has_ended(tmp_path: Path, when: str) -> None:
    with started(tmp_path / "keys") as member:
        worker = min(pids(member))
        if when == "before":
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: len(pids(member)) == COUNT - 1)
        member.relay.leave()
        if when == "while":
            os.kill(worker, signal.SIGKILL)
        deadline = Deadline(PATIENCE)
        member.relay._wait_until_unused(deadline)
        assert not deadline.expired
        assert member.relay.snapshot().counts.now["silent_processes"] == 0


def test_what_keeps_a_worker_from_starting_is_the_relays_own_sentence(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path)
    (tmp_path / "onion_keys.json").write_text("damaged")
    with gone_afterwards():
        workers = Workers(COUNT, "many", tmp_path, LOOPBACK, "local", [])
        with pytest.raises(ConfigError, match=r"onion_keys\.json: is damaged; remove it"):
            workers.start()


def test_workers_have_names_with_numbers_and_the_parents_log_level(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), started(tmp_path / "keys") as member:
        (tmp_path / "keys" / "onion_keys.json").write_text("damaged")
        member.relay._server.keys_renewed()
        logging.getLogger().setLevel(logging.DEBUG)
        member.relay.reconfigure("local")
    said = capfd.readouterr().err
    for number in range(1, COUNT + 1):
        assert f" WARNING many.{number}: the onion keys stay as they were" in said
        assert f" WARNING many.{number}: at level debug" in said


def test_a_port_that_another_relay_has_is_refused(member: Member, tmp_path: Path) -> None:
    load_or_create_identity(tmp_path / "other")
    with pytest.raises(ConfigError, match="address already in use"):
        Workers(COUNT, "other", tmp_path / "other", Address("127.0.0.1", member.address.port), "local", [])
