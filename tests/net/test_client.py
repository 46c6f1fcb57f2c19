"""A client and a whole network in one process: what streams, circuits and links promise."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep

import pytest

from common.errors import DirectoryError, EndReason, Refused, Unreachable
from common.net.deadline import Deadline
from common.net.turn import TURN
from common.roles.client.client import Client, _Quiet
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.wish import Opening
from common.roles.relay import exit as exit_module
from common.roles.relay.relay_circuit import RelayCircuit
from common.wire.cells import Bytes
from tests.net.in_process import (
    NETWORK,
    InProcess,
    circuit_of,
    descriptors,
    receive_all,
    receive_exactly,
    threads,
    wait_until,
)
from tests.system.targets import (
    BLOCK,
    PATIENCE,
    VALUES,
    Target,
    checksum,
    digest_of,
    echo,
    finish_then_read,
    flood,
    never_answering,
    pieces,
    silent,
    sink,
    unused_port,
)

MB = 1_000_000


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 8) as network:
        yield network


@pytest.fixture
def client(network: InProcess) -> Iterator[Client]:
    with network.client((3, 5)) as client:
        yield client


def _connect(client: Client, target: Target, isolation: tuple[str, ...] = ()) -> socket.socket:
    sock = client.connect(target.host, target.port, isolation)
    sock.settimeout(PATIENCE)
    return sock


# ---- paths


def test_only_the_first_hop_ever_sees_a_connection_from_the_client(network: InProcess) -> None:
    with network.client(5) as client, Target(echo) as target, _connect(client, target) as sock:
        wait_until(lambda: len(client.pool.circuits) == 3)  # the two spare ones are up too
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        first_hops = {network.path(circuit)[0].identity for circuit in client.pool.circuits}
        assert {link.identity for link in client.links.all} == first_hops
        # Both ends' addresses: two connections may share one local port when they go to different places.
        ours = {(link._sock.getsockname(), link._sock.getpeername()) for link in client.links.all}
        for member in network.members:
            accepted = [link._sock for link in member.links if not link.dialled]
            seen = {(sock.getpeername(), sock.getsockname()) for sock in accepted}
            assert bool(seen & ours) == (member.identity in first_hops)


def test_each_relay_knows_its_neighbours_only(network: InProcess) -> None:
    with network.client(5) as client, Target(echo) as target, _connect(client, target):
        path = network.path(circuit_of(client))
        for near, far in pairwise(path):
            assert far.identity in {link.identity for link in near.links}


def test_a_circuit_has_another_id_on_each_link_of_its_path(network: InProcess) -> None:
    """Security: two relays that compare what they carry do not find a circuit by its id."""
    with network.client(5) as client:
        circuit = client.pool.circuits[0]
        ids = [circuit.circuit_id]
        for member in network.path(circuit)[:-1]:
            tables = [table for link, table in member.relay.relay.links._tables.items() if not link.dialled]
            (side,) = (table[ids[-1]] for table in tables if ids[-1] in table)
            assert isinstance(side, RelayCircuit)
            assert side._next is not None
            ids.append(side._next[1])
        assert len(ids) == len(set(ids)) == 5


@pytest.mark.parametrize("hops", range(1, 9))
def test_circuits_of_one_to_eight_hops_work(network: InProcess, hops: int) -> None:
    with network.client(hops) as client, Target(echo) as target, _connect(client, target) as sock:
        assert len(set(circuit_of(client).path)) == hops
        sender = threading.Thread(target=sock.sendall, args=(BLOCK,))
        sender.start()
        assert receive_exactly(sock, len(BLOCK)) == BLOCK
        sender.join()


def test_fewer_relays_than_hops_wanted_give_a_warning_and_a_shorter_path(tmp_path: Path) -> None:
    warnings: list[str] = []
    with InProcess(tmp_path, 2) as network, network.client(4, warnings.append) as client:
        assert {len(circuit.path) for circuit in client.pool.circuits} == {2}
        assert len(warnings) == 1
        assert "2 relays instead of 4" in warnings[0]


def test_one_relay_is_never_taken_for_a_path_silently(tmp_path: Path) -> None:
    with InProcess(tmp_path, 1) as network:
        client = Client([network.pin], NETWORK)
        try:
            with pytest.raises(DirectoryError, match="only 1 of 2 relays are listed: start more relays"):
                client.start(timeout=1.0)
        finally:
            client.close()


def test_different_isolation_never_shares_a_circuit(network: InProcess, client: Client) -> None:
    keys = [("a",), ("a", ""), ("b",), ("a", "b"), ("ab",), ("proxy", "a")]
    with Target(echo) as target:
        socks = [_connect(client, target, key) for key in keys * 3]
        for sock in socks:
            sock.sendall(b"x")
        assert all(sock.recv(1) == b"x" for sock in socks)
        used = [circuit for circuit in client.pool.circuits if circuit.isolation is not None]
        assert sorted(circuit.isolation or () for circuit in used) == sorted(keys)
        assert all(len(circuit.attachments) == 3 for circuit in used)
        for sock in socks:
            sock.close()


def test_a_new_identity_uses_no_circuit_of_before(client: Client) -> None:
    with Target(echo) as target, _connect(client, target) as sock:
        before = set(client.pool.circuits)
        for _ in range(10):
            client.new_identity()
            with _connect(client, target):
                assert circuit_of(client) not in before
                before |= set(client.pool.circuits)
        sock.sendall(b"still here")
        assert receive_exactly(sock, 10) == b"still here"


def test_names_of_targets_are_not_looked_up_in_the_clients_process(
    network: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All roles share this process, so look-ups are told apart by their threads."""
    real, asked = socket.getaddrinfo, []

    def watched(host: str, *args: object, **more: object) -> object:
        asked.append((threading.current_thread().name, host))
        return real(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    with network.client(3) as client, Target(echo) as target:
        client.connect("localhost", target.port).close()
        assert client.resolve("localhost")
        with pytest.raises(Refused):
            client.connect("no-such-name.invalid", 80)
    names = {(thread, host) for thread, host in asked if host != "127.0.0.1"}
    assert {host for _, host in names} == {"localhost", "no-such-name.invalid"}
    assert all(thread.startswith("resolver") for thread, _ in names), "only exits look names up"


# ---- what arrives


@pytest.mark.parametrize("size", [0, 1, 65_536, 64 * MB])
def test_what_is_sent_arrives_and_the_answer_comes_after_half_close(client: Client, size: int) -> None:
    with Target(checksum) as target, _connect(client, target) as sock:
        for piece in pieces(size):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).decode() == f"{size} {digest_of(size)}"


@pytest.mark.parametrize("size", [0, 1, 65_536, 64 * MB])
def test_what_a_target_sends_arrives_whole(client: Client, size: int) -> None:
    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        for piece in pieces(size):
            sock.sendall(piece)

    with Target(serve) as target, _connect(client, target) as sock:
        digest, count = hashlib.sha256(), 0
        while data := sock.recv(262_144):
            digest.update(data)
            count += len(data)
        assert (count, digest.hexdigest()) == (size, digest_of(size))


def test_every_value_of_a_byte_and_zeros_at_the_end_arrive(client: Client) -> None:
    with Target(echo) as target, _connect(client, target) as sock:
        sender = threading.Thread(target=_say_and_finish, args=(sock, VALUES))
        sender.start()
        assert receive_all(sock) == VALUES
        sender.join()


def _say_and_finish(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_a_target_that_has_ended_still_hears_the_client(client: Client) -> None:
    heard: threading.Event = finish_then_read.heard  # type: ignore[attr-defined]
    heard.clear()
    with Target(finish_then_read) as target, _connect(client, target) as sock:
        assert receive_all(sock) == b"first"
        sock.sendall(b"second")
        sock.shutdown(socket.SHUT_WR)
        assert heard.wait(PATIENCE)


def test_data_that_arrives_while_the_application_finishes_is_not_lost(client: Client) -> None:
    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        sock.sendall(BLOCK[:100_000])

    with Target(serve) as target:
        for number in range(150):
            with _connect(client, target) as sock:
                sleep(number % 30 * 0.0001)  # finishes before, while and after the data comes
                sock.shutdown(socket.SHUT_WR)
                assert receive_all(sock) == BLOCK[:100_000]


def test_fifty_streams_run_at_once_on_one_circuit(client: Client) -> None:
    with Target(echo) as target:
        socks = [_connect(client, target) for _ in range(50)]
        circuit = circuit_of(client)
        assert len(circuit.attachments) == 50
        token = os.urandom(100_000)

        def talk(sock: socket.socket) -> bool:
            sock.sendall(token)
            sock.shutdown(socket.SHUT_WR)
            with sock:
                return receive_all(sock) == token

        with ThreadPoolExecutor(50) as pool:
            assert all(pool.map(talk, socks))
        wait_until(lambda: not circuit.attachments)


def test_a_thousand_streams_use_a_constant_number_of_links(network: InProcess, client: Client) -> None:
    def counts() -> list[int]:
        return [len(client.links.all), *(len(member.links) for member in network.members)]

    with Target(echo) as target:
        _connect(client, target).close()
        wait_until(lambda: len(client.pool.circuits) == 3)
        before = counts()
        open_files = descriptors()

        def ask(_: int) -> bool:
            with _connect(client, target) as sock:
                sock.sendall(b"x")
                return sock.recv(1) == b"x"

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(ask, range(1_000)))
        assert counts() == before
    wait_until(lambda: descriptors() <= open_files)


# ---- streams that stall


def test_a_reader_that_stops_stops_its_own_stream_only(client: Client) -> None:
    with (
        Target(flood) as fast,
        Target(echo) as other,
        _connect(client, fast) as stalled,
        _connect(client, other) as sock,
    ):
        assert stalled.recv(1)
        circuit = circuit_of(client)
        assert len(circuit.attachments) == 2
        link = circuit.link
        wait_until(lambda: _is_quiet(lambda: link.bytes_in))
        start = monotonic()
        sender = threading.Thread(target=sock.sendall, args=(BLOCK * 5,))
        sender.start()
        receive_exactly(sock, 5 * len(BLOCK))
        sender.join()
        assert monotonic() - start < 5
        assert link.bytes_in < 30 * MB


def _is_quiet(read: Callable[[], int]) -> bool:
    """Whether a counter stands still for a moment."""
    before = read()
    sleep(0.1)
    return read() == before


def test_a_target_that_never_reads_stops_the_sender_and_nobody_else(client: Client) -> None:
    with Target(silent) as mute, Target(echo) as other, _connect(client, mute) as stalled:
        stalled.setblocking(False)
        sent = 0

        def fill() -> bool:
            nonlocal sent
            before = sent
            try:
                while True:
                    sent += stalled.send(BLOCK)
            except BlockingIOError:
                return sent == before

        while not (fill() and _is_quiet(lambda: circuit_of(client).link.bytes_out)):
            assert sent < 64 * MB, "nothing stops a sender whose target does not read"
        with _connect(client, other) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"


def test_floods_in_opposite_directions_never_stall(network: InProcess) -> None:
    """Two relays, each the exit of the other's client, both ways at full speed."""
    with network.client(2) as one, network.client(2) as two:
        with Target(flood) as source, Target(sink) as drain:
            socks = [_connect(client, source) for client in (one, two) for _ in range(2)]
            drains = [_connect(client, drain) for client in (one, two) for _ in range(2)]
            with ThreadPoolExecutor(8) as pool:
                received = [pool.submit(receive_exactly, sock, 10 * MB) for sock in socks]
                sent = [pool.submit(sock.sendall, BLOCK * 10) for sock in drains]
                assert all(future.result(PATIENCE) is not None for future in received)
                for future in sent:
                    future.result(PATIENCE)
            for sock in (*socks, *drains):
                sock.close()


# ---- refusals


@pytest.mark.parametrize("policy", ["default", "local", "none"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "10.1.2.3", "192.168.0.1", "169.254.169.254"])
def test_private_targets_are_refused_unless_the_policy_opens_them(
    policies: dict[str, Client], policy: str, host: str
) -> None:
    allowed = policy == "local" and host in ("127.0.0.1", "localhost")
    with Target(echo) as target:
        if allowed:
            policies[policy].connect(host, target.port).close()
            return
        with pytest.raises(Refused) as refused:
            policies[policy].connect(host, target.port, timeout=PATIENCE)
        expected = EndReason.REFUSED if policy == "local" and host == "::1" else EndReason.POLICY
        assert refused.value.reason is expected
        assert not target.accepted


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """A client of a network for each exit policy."""
    clients = {}
    networks = []
    for policy in ("default", "local", "none"):
        network = InProcess(tmp_path_factory.mktemp(policy), 2, policy)
        network.__enter__()
        context = network.client(2)
        clients[policy] = context.__enter__()
        networks.append((context, network))
    yield clients
    for context, network in networks:
        context.__exit__(None, None, None)
        network.__exit__()


def test_relays_that_let_nothing_out_are_never_exits(tmp_path: Path) -> None:
    with InProcess(tmp_path, 2, "none") as network, Target(echo) as target:
        only = network.add("local")
        network.wait_listed()
        with network.client(3) as client:
            for number in range(10):
                isolation = (str(number),)
                client.connect(target.host, target.port, isolation).close()
                assert circuit_of(client, isolation).exit.descriptor.identity == only.identity


def test_a_target_that_refuses_is_said_so(client: Client) -> None:
    with pytest.raises(Refused, match="refuses connections") as refused:
        client.connect("127.0.0.1", unused_port())
    assert refused.value.reason is EndReason.REFUSED


def test_an_unknown_name_is_said_so(client: Client) -> None:
    with pytest.raises(Refused, match="no address is known") as refused:
        client.connect("no-such-name.invalid", 80)
    assert refused.value.reason is EndReason.NOT_FOUND


def test_a_target_that_never_answers_times_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_module, "CONNECT_TIMEOUT", 0.3)
    with never_answering() as (host, port), pytest.raises(Refused, match="did not answer in time") as refused:
        client.connect(host, port)
    assert refused.value.reason is EndReason.TIMEOUT


def test_the_clients_own_deadline_holds_when_the_exits_does_not(client: Client) -> None:
    start = monotonic()
    with never_answering() as (host, port), pytest.raises(Refused) as refused:
        client.connect(host, port, timeout=0.5)
    assert refused.value.reason is EndReason.TIMEOUT
    assert monotonic() - start < 3


@pytest.mark.parametrize(("host", "port"), [("", 80), ("a b", 80), ("x" * 256, 80), ("ä.example", 80)])
def test_a_target_that_cannot_be_named_is_refused_at_once(client: Client, host: str, port: int) -> None:
    with pytest.raises(Refused):
        client.connect(host, port)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_that_cannot_be_is_refused_at_once(client: Client, port: int) -> None:
    with pytest.raises(Refused):
        client.connect("127.0.0.1", port)


# ---- ends


def test_a_circuit_that_ends_breaks_its_streams_with_an_error_and_no_others(client: Client) -> None:
    with Target(echo) as target, _connect(client, target) as doomed, _connect(client, target, ("b",)) as other:
        circuit_of(client).end()
        with pytest.raises(ConnectionResetError):
            receive_all(doomed)
        other.sendall(b"x")
        assert other.recv(1) == b"x"
        with _connect(client, target) as again:
            again.sendall(b"x")
            assert again.recv(1) == b"x"


def test_a_circuit_that_ends_as_the_target_answers_breaks_its_stream(client: Client) -> None:
    """Between the answer and the stream's own socket there is a moment that a busy machine makes long."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    broken = threading.Event()

    def answered(_address: object) -> bytes:
        circuit_of(client).end()
        return b""

    with Target(echo) as target, theirs:
        plug = client.pump.attach(ours, _Quiet())
        client.open(
            Opening(target.host, target.port, plug, answered, lambda _reason: None, lambda _reason: broken.set())
        )
        assert receive_all(theirs) == b""
    assert broken.wait(PATIENCE)


def test_a_target_that_resets_is_an_error_and_not_an_end(client: Client) -> None:
    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with Target(serve) as target, _connect(client, target) as sock:
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            receive_all(sock)


def test_circuits_that_end_under_load_disturb_no_other_on_their_links(network: InProcess) -> None:
    """A DESTROY meets data on each link of a path; the links, which others share, live on."""
    with network.client(5) as client, Target(flood) as source, Target(sink) as drain, Target(echo) as quiet:
        with _connect(client, quiet, ("bystander",)) as bystander:
            links = [link for member in network.members for link in member.links] + client.links.all
            for number in range(60):
                isolation = (str(number),)
                target = source if number % 2 else drain
                with _connect(client, target, isolation) as sock:
                    worker = threading.Thread(target=_run_until_broken, args=(sock, target is source))
                    worker.start()
                    sleep(number % 10 * 0.003)  # ends the circuit before, while and after the data begins to flow
                    circuit_of(client, isolation).end()
                    worker.join(PATIENCE)
                    assert not worker.is_alive()
            bystander.sendall(b"x")
            assert bystander.recv(1) == b"x"
            assert not [link.name for link in links if link.closed]


def _run_until_broken(sock: socket.socket, reads: bool) -> None:
    try:
        while True:
            if reads:
                assert sock.recv(262_144)
            else:
                sock.sendall(BLOCK)
    except OSError:
        pass


def test_a_wish_asked_of_a_closed_client_fails_at_once(network: InProcess) -> None:
    with network.client(3) as client:
        pass
    with pytest.raises(Refused):
        client.connect("127.0.0.1", 1, timeout=PATIENCE)
    with pytest.raises(Refused):
        client.resolve("localhost", timeout=PATIENCE)


def test_streams_asked_for_while_the_client_closes_end(network: InProcess) -> None:
    with ThreadPoolExecutor(16) as pool, Target(echo) as target:
        for _ in range(5):
            with network.client(3) as client:
                futures = [pool.submit(client.connect, target.host, target.port, (str(i),)) for i in range(16)]
            for future in futures:
                error = future.exception(PATIENCE)
                assert error is None or isinstance(error, Refused)
                if error is None:
                    future.result().close()


def test_a_closed_client_leaves_nothing_behind(network: InProcess) -> None:
    relays = sum(member.circuits for member in network.members)
    with Target(flood) as target:
        before = [name for name in threads() if "stream" in name or "builder" in name or "directory" in name]
        with network.client(5) as client:
            socks = [_connect(client, target, (str(number),)) for number in range(4)]
            assert all(sock.recv(1) for sock in socks)
        for sock in socks:
            with sock, pytest.raises(ConnectionResetError):
                receive_all(sock)
        wait_until(lambda: sum(member.circuits for member in network.members) <= relays)
        after = [name for name in threads() if "stream" in name or "builder" in name or "directory" in name]
        assert [name for name in after if name != "target stream"] == [n for n in before if n != "target stream"]


def test_ten_clients_at_once(network: InProcess) -> None:
    def run(number: int) -> bool:
        with network.client(3) as client, Target(echo) as target, _connect(client, target) as sock:
            token = os.urandom(1_000) + bytes([number])
            sock.sendall(token)
            return receive_exactly(sock, len(token)) == token

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(run, range(10)))


def test_an_unreachable_gateway_is_a_sentence(network: InProcess) -> None:
    address = type(network.gateway.address)("127.0.0.1", unused_port())
    client = Client([(address, network.pin[1])], NETWORK)
    try:
        with pytest.raises(Unreachable, match=f"the gateway 127.0.0.1:{address.port} does not answer"):
            client.start(timeout=0.5)
    finally:
        client.close()


def test_a_wrong_gateway_key_is_a_sentence(network: InProcess) -> None:
    client = Client([(network.pin[0], os.urandom(32))], NETWORK)
    try:
        with pytest.raises(Unreachable, match="its key is another one"):
            client.start(timeout=0.5)
    finally:
        client.close()


def test_a_circuit_whose_relay_says_nothing_is_given_up_in_time(network: InProcess) -> None:
    """A hop that swallows EXTEND: the builder's deadline holds."""
    with network.client(3) as client:
        relays = client.relays()
        first = relays[0].descriptor
        address = first.address.host, first.address.port
        link = client.links.obtain(address, first.identity, Deadline(PATIENCE))
        circuit = ClientCircuit(relays[:3], client.pool.circuits[0].origin._suite, link, client.links, client.pump)
        swallowed = network.member(first.identity).relay.relay
        real, swallowed.links._new_circuit = swallowed.links._new_circuit, _swallow
        try:
            start = monotonic()
            with pytest.raises(Exception, match="no answer from hop 1"):
                circuit.build(Deadline(0.3))
            assert monotonic() - start < 3
        finally:
            swallowed.links._new_circuit = real


class _Mute:
    def cells(self, bodies: object) -> None:
        pass

    def created(self, body: Bytes) -> None:
        raise AssertionError("nobody is asked to create anything")

    def failed(self, reason: object) -> None:
        pass

    def drained(self) -> None:
        pass


def _swallow(*_: object) -> _Mute:
    return _Mute()


@pytest.mark.parametrize("wanted", ["addresses", "a name"])
def test_an_exit_that_answers_another_question_is_not_believed_and_loses_its_circuit(
    network: InProcess, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    lie = {"addresses": ((), "liar.example"), "a name": ((ip_address("192.0.2.1"),), "")}[wanted]

    def lying(self: RelayCircuit, stream_id: int, *_: object) -> None:
        with self.lock:
            self.endpoint.resolved(stream_id, EndReason.DONE, lie[0], 60, lie[1])
        TURN.settle(self)

    monkeypatch.setattr(RelayCircuit, "_resolved", lying)
    with network.client(3) as client:
        with pytest.raises(Refused):
            if wanted == "addresses":
                client.resolve("localhost", timeout=5.0)
            else:
                client.reverse("127.0.0.1", timeout=5.0)
        assert client.pool.close_reasons["protocol"] > 0
