"""Who does not read makes others hold much: too much for a process ends the circuits that hold the most, no others.

Each test first makes a process hold something, then sets the budget below that.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from common.circuit.actions import Opened
from common.circuit.origin import Origin
from common.circuit.window import STREAM_WINDOW
from common.errors import DestroyReason
from common.net.link import Link
from common.roles import memory_budget
from common.roles.relay.exit import Exit
from common.roles.relay.relay_circuit import RelayCircuit
from common.wire.cells import Command, decode_destroy, encode_destroy
from common.wire.messages import Data, Drop
from tests.net.in_process import InProcess, Member, circuit_of, receive_exactly, wait_until
from tests.net.raw_client import RawClient
from tests.net.test_relay import hop
from tests.system.targets import PATIENCE, Target, echo, flood, silent

MUCH = 200_000  # bytes of a stream that no kernel takes


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture
def relay(network: InProcess) -> Iterator[Member]:
    """A relay that carries nothing, afterwards too."""
    relay = network.members[0]
    yield relay
    wait_until(lambda: not relay.circuits)


class RawCircuit:
    """A circuit, on a link of its own, of a client that need not keep to any rule."""

    def __init__(self, *path: Member) -> None:
        self.raw = raw = RawClient(path[0].address)
        self.id, self.origin = raw.build(*map(hop, path))
        while not self.origin.built:
            self.flush()
            self.receive()

    def begin(self, host: str, port: int) -> int:
        """A stream for which the exit was asked: its id."""
        stream_id = self.origin.endpoint.begin(host, port, 0.0)
        self.flush()
        return stream_id

    def open(self, target: Target) -> int:
        """A stream whose target has answered: its id."""
        stream_id = self.begin(target.host, target.port)
        while not any(isinstance(action, Opened) for action in self.receive()):
            pass
        return stream_id

    def send(self, stream_id: int) -> int:
        """Sends what the stream's window allows, which is some; returns how much it has sent in all."""
        window = self.origin.endpoint._streams[stream_id].send_window
        while not window.left:
            self.receive()
        self.origin.endpoint.send(stream_id, bytes(window.left))
        self.flush()
        return window.sent

    def fill(self, stream_id: int, relay: Member) -> None:
        """Sends until the exit holds much that no kernel takes."""
        stream = self.at(relay).attachments[stream_id]
        while stream.held < MUCH:
            sent = self.send(stream_id)
            wait_until(lambda: stream.bytes_in == sent)  # noqa: B023

    def drop(self, cells: int, relay: Member) -> None:
        """Sends so many cells for nobody, which no window stops, and waits until its relay has them."""
        link = self.at(relay).link
        before = link.cells_in
        for _ in range(cells):
            self.origin.endpoint.tell(Drop(self.origin.endpoint.max_data))
            self.flush()
        wait_until(lambda: link.cells_in == before + cells)

    def receive(self) -> list[object]:
        """What the next cell of this circuit leads to; DESTROY leads to its reason."""
        cell = self.raw.cell()
        if cell.command == Command.DESTROY:
            return [decode_destroy(cell.body)]
        return list(self.origin.receive([cell.body], 0.0))

    def ended_by(self) -> DestroyReason:
        """Waits for the relay's DESTROY."""
        while True:
            for action in self.receive():
                if isinstance(action, DestroyReason):
                    return action

    def flush(self) -> None:
        """Sends what the origin wants to send."""
        self.raw.flush(self.id, self.origin)

    def at(self, relay: Member) -> RelayCircuit:
        """As its relay sees it."""
        sides = relay.relay.relay.links.sides
        return next(side for side in sides if isinstance(side, RelayCircuit) and side.circuit_id == self.id)


Build = Callable[..., RawCircuit]


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds circuits along relays, whose links end with the test."""
    circuits: list[RawCircuit] = []

    def build(*path: Member) -> RawCircuit:
        circuits.append(RawCircuit(*path))
        return circuits[-1]

    yield build
    for circuit in circuits:
        circuit.raw.close()


def held(relay: Member) -> int:
    """What a relay holds for all."""
    server = relay.relay.relay
    waiting = sum(plug.held for plug in server.pump.waiting())
    return waiting + server._exit.early() + sum(link.waiting for link in relay.links)


def allow(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """From now on."""
    monkeypatch.setattr(memory_budget, "BUDGET", budget)


# ---- at an exit


def test_an_exit_whose_targets_do_not_read_ends_the_circuit_that_holds_the_most_and_keeps_the_others(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Target(silent) as mute, Target(echo) as other:
        heavy, light = build(relay), build(relay)
        for circuit, streams in ((heavy, 8), (light, 1)):
            for _ in range(streams):
                circuit.fill(circuit.open(mute), relay)
        seen = light.at(relay)
        wait_until(lambda: relay.relay.snapshot().counts.now["waiting_bytes"] == held(relay))
        shed = relay.relay.snapshot().counts.ever["circuits_shed"]
        allow(monkeypatch, held(relay) - 1)
        assert heavy.ended_by() is DestroyReason.LIMIT
        assert relay.relay.snapshot().counts.ever["circuits_shed"] == shed + 1
        light.open(other)
        assert not seen.closed
        assert held(relay) < memory_budget.KEPT * memory_budget.BUDGET
    (line,) = [record.getMessage() for record in caplog.records if record.name == memory_budget.__name__]
    assert "a circuit that holds" in line
    assert "127.0.0.1" not in line


def test_circuits_are_ended_until_a_quarter_of_the_budget_is_free_and_no_more_of_them(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Target(silent) as mute:
        circuits = [build(relay) for _ in range(8)]
        for circuit in circuits:
            circuit.fill(circuit.open(mute), relay)
        most = max(circuit.at(relay).held for circuit in circuits)
        budget = held(relay) - 1
        allow(monkeypatch, budget)
        wait_until(lambda: held(relay) <= budget * 3 // 4)
        assert held(relay) > budget * 3 // 4 - most


def test_what_a_circuit_left_behind_counts_and_goes_and_who_has_its_id_now_stays(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams that are over at both ends are delivered for some seconds more, and no window bounds them all."""

    def finish(sock: socket.socket, ending: threading.Event) -> None:
        sock.shutdown(socket.SHUT_WR)
        ending.wait()

    with Target(finish) as mute:
        over = build(relay)
        for _ in range(8):
            stream_id = over.open(mute)
            over.fill(stream_id, relay)
            over.origin.endpoint.finish(stream_id)
            over.flush()
        wait_until(lambda: not over.at(relay).attachments)
        over.raw.say(over.id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
        assert over.ended_by() is DestroyReason.FINISHED
        assert held(relay) > MUCH
        origin = Origin([hop(relay)], over.origin._suite)
        over.raw.say(over.id, Command.CREATE, origin.create)
        assert over.raw.cell().command == Command.CREATED
        heir = over.at(relay)
        allow(monkeypatch, held(relay) - 1)
        wait_until(lambda: held(relay) < memory_budget.BUDGET, seconds=5)  # kernels take nothing more
        assert not heir.closed
        assert relay.relay.relay.links.sides == [heir]


@contextmanager
def nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look-ups wait until the block's end."""
    go_on = threading.Event()
    resolve = Exit._resolve

    def wait(*arguments: object) -> None:
        go_on.wait(PATIENCE)
        resolve(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Exit, "_resolve", wait)
    try:
        yield
    finally:
        go_on.set()


def test_what_waits_for_targets_that_are_not_reached_yet_counts_and_goes_with_its_circuit(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_is_found(monkeypatch):
        heavy, light = build(relay), build(relay)
        for circuit, streams in ((heavy, 8), (light, 1)):
            for _ in range(streams):
                circuit.send(circuit.begin("localhost", 80))
        wait_until(lambda: held(relay) > 9 * STREAM_WINDOW)
        streams_held = list(heavy.at(relay).attachments.values())
        allow(monkeypatch, 9 * STREAM_WINDOW)
        assert heavy.ended_by() is DestroyReason.LIMIT
        assert not light.at(relay).closed
        assert not any(stream._early for stream in streams_held), "the look-up that waits keeps them"


def test_small_pieces_count_with_what_they_take_in_memory(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that comes two bytes at a time is some thirty windows of memory."""
    with nothing_is_found(monkeypatch):
        circuit = build(relay)
        cell = Data(circuit.begin("localhost", 80), b"ab").encode() * 2_000
        allow(monkeypatch, 1_000_000)
        for _ in range(20):  # 80,000 bytes
            circuit.raw.say(circuit.id, Command.RELAY, circuit.origin._stack.originate(cell)[0])
        assert circuit.ended_by() is DestroyReason.LIMIT


# ---- on links


def test_links_that_hold_too_much_together_end_the_circuit_that_holds_the_most_and_no_other(
    network: InProcess, relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells without end to relays that stand still: those in the middle see no windows."""
    go_on = threading.Event()
    _, one, two = network.members
    light, heavy, quiet = build(relay, one), build(relay, two), build(relay, two)
    try:
        for other in (one, two):
            other.relay.relay.pump.call(partial(go_on.wait, PATIENCE))
        for circuit, size in ((light, 2_000_000), (heavy, 3_000_000)):
            link, _ = circuit.at(relay)._next or pytest.fail("it goes nowhere")
            while link.waiting < size:
                circuit.drop(32, relay)
        allow(monkeypatch, held(relay) - 1)
        assert heavy.ended_by() is DestroyReason.LIMIT
        assert held(relay) < memory_budget.BUDGET
    finally:
        go_on.set()
    with Target(echo) as target:
        for circuit in (light, quiet):
            circuit.open(target)


def overfilled(relay: Member) -> tuple[RawClient, Link]:
    """A stranger, and a link full of answers to DESTROY for circuits that never were, which he does not read."""
    before = set(relay.links)
    stranger = RawClient(relay.address)
    wait_until(lambda: set(relay.links) - before)
    (link,) = set(relay.links) - before
    ended = encode_destroy(DestroyReason.FINISHED)
    number = 0
    while link.waiting < 2 * MUCH:
        number += 1
        stranger.say(number, Command.DESTROY, ended)
    wait_until(lambda: link.cells_in == number)
    return stranger, link


def begin_forty(relay: Member, stranger: RawClient, link: Link, create: Callable[[], bytes]) -> None:
    """Sends so many CREATE, until the relay has them all in the link's table."""
    for number in range(40):
        stranger.say(2**31 + number, Command.CREATE, create())
    wait_until(lambda: relay.relay.relay.links.circuits(link) == 40)


def test_a_link_full_of_what_is_no_circuits_ends_and_no_circuit_does(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = build(relay)
    stranger, link = overfilled(relay)
    allow(monkeypatch, held(relay) - 1)
    wait_until(lambda: link.closed)
    stranger.close()
    with Target(echo) as target:
        kept.open(target)


def test_many_links_with_a_little_of_no_circuit_end_before_a_circuit_that_holds_less(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Security: else who fills the budget so makes every circuit end that holds anything, at each look again."""
    with Target(silent) as mute:
        kept = build(relay)
        kept.fill(kept.open(mute), relay)
        strangers = [overfilled(relay) for _ in range(3)]
        allow(monkeypatch, held(relay) - 1)
        wait_until(lambda: held(relay) <= memory_budget.BUDGET)
        assert sum(link.closed for _, link in strangers) == 1, "that frees enough"
        assert not kept.at(relay).closed
        for stranger, _ in strangers:
            stranger.close()


def test_circuits_that_were_refused_keep_no_link_full_of_what_is_no_circuits(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Security: they cost a stranger nothing, and whoever holds more than a link does for each of them would end."""
    with Target(silent) as mute:
        kept = build(relay)
        kept.fill(kept.open(mute), relay)
        stranger, link = overfilled(relay)
        begin_forty(relay, stranger, link, lambda: b"refused")
        allow(monkeypatch, held(relay) - 1)
        wait_until(lambda: held(relay) <= memory_budget.BUDGET)
        assert link.closed
        assert not kept.at(relay).closed
        stranger.close()


def test_a_link_that_many_circuits_share_does_not_end_for_a_little_of_each(
    relay: Member, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each circuit that ends leaves a cell; a circuit that holds more alone goes first."""
    with Target(silent) as mute:
        heavy = build(relay)
        heavy.fill(heavy.open(mute), relay)
        stranger, link = overfilled(relay)
        begin_forty(relay, stranger, link, lambda: Origin([hop(relay)], heavy.origin._suite).create)
        monkeypatch.setattr(memory_budget, "KEPT", 1)  # so that ending one is enough
        allow(monkeypatch, held(relay) - 1)
        assert heavy.ended_by() is DestroyReason.LIMIT
        assert not link.closed
        stranger.close()


# ---- at a client


def test_a_program_that_does_not_read_loses_its_circuit_and_others_keep_theirs(
    network: InProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with network.client(2) as client, Target(flood) as source, Target(echo) as other:
        stalled = [client.connect(source.host, source.port, ("stalled",)) for _ in range(8)]
        quick = client.connect(other.host, other.port, ("quick",))
        circuit = circuit_of(client, ("stalled",))
        wait_until(lambda: len(client.pump.waiting()) == 8 and circuit.held > 4 * STREAM_WINDOW)
        allow(monkeypatch, circuit.held - 1)
        wait_until(lambda: circuit.closed)
        assert circuit.ended_by is DestroyReason.LIMIT
        assert f"{circuit.link.name}: a circuit that holds" in caplog.text, "it was a relay"
        quick.settimeout(PATIENCE)
        quick.sendall(b"x")
        assert receive_exactly(quick, 1) == b"x"
        for sock in stalled:
            sock.settimeout(PATIENCE)
            with pytest.raises(OSError, match=r"reset|broke|closed"):
                while sock.recv(262_144):
                    pass
            sock.close()
        quick.close()
