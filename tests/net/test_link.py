"""Links over real sockets: order, slow and hostile peers, both directions at once, and every way to end."""

import hashlib
import logging
import socket
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import AuthenticationFailed, Closed, DestroyReason, Malformed, TooLarge
from common.net import link as link_module
from common.net import link_opening
from common.net import tls as tls_module
from common.net.deadline import Deadline
from common.net.kernel_queue import ARRIVED
from common.net.link import Link
from common.net.outbox import HIGH_WATER, LOW_WATER
from common.net.poller import READ
from common.net.pump import Pump
from common.wire.cells import (
    LONG_CELL,
    MAX_BODY,
    SHORT_CELL,
    Cell,
    Command,
    choose_version,
    encode_cell,
    encode_hello,
)
from common.wire.framing import CellReader
from tests.net.links import (
    PATIENCE,
    Coalescer,
    Dribbler,
    Interceptor,
    RawPeer,
    Recorder,
    dialled_by_openssl,
    end,
    needs_openssl,
    node,
    open_links,
    raw_and_link,
    start,
    two_links,
)

RELAY = Command.RELAY
MUCH = 1_500  # long cells


def in_time(work: Callable[[], None]) -> None:
    """Runs `work`, which must not wait for anybody, in a thread that must end."""
    thread = threading.Thread(target=work, name="in time", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def fill(link: Link) -> None:
    """Sends on circuit 1 more than kernels take from whose peer does not read."""

    def send() -> None:
        for _ in range(MUCH):
            link.send(1, RELAY, bytes(MAX_BODY))

    in_time(send)


def body(number: int, size: int = MAX_BODY) -> bytes:
    """Bytes that differ for each number."""
    return hashlib.shake_128(number.to_bytes(4, "big")).digest(size)


class Gate:
    """A reader that stands still at its first cells until the gate opens."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def __call__(self, link: Link, cells: list[Cell]) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE)


# ---- cells


def test_cells_go_both_ways_and_links_know_who_dialled() -> None:
    near, far = Recorder(), Recorder()
    with two_links(near, far) as (dialled, accepted):
        assert (dialled.dialled, dialled.identity) == (True, node()[1])
        assert (accepted.dialled, accepted.identity) == (False, None)
        dialled.send(5, Command.CREATE, b"please")
        far.wait_for(lambda: far.cells == [Cell(5, Command.CREATE, b"please")])
        accepted.send(5, Command.CREATED, body(1))
        near.wait_for(lambda: near.cells == [Cell(5, Command.CREATED, body(1))])
        assert dialled.drain(Deadline(PATIENCE)) and accepted.drain(Deadline(PATIENCE))  # and all is counted
        assert (dialled.cells_out, dialled.cells_in) == (1, 1)
        assert accepted.bytes_in == dialled.bytes_out > SHORT_CELL
        assert dialled.bytes_in == accepted.bytes_out > LONG_CELL


@pytest.mark.parametrize("interceptor", [Dribbler, Coalescer])
def test_however_segments_are_cut_the_same_cells_come(interceptor: type[Interceptor]) -> None:
    cells = [Cell(1, RELAY, body(number, size)) for number, size in enumerate([0, 1, MAX_BODY, 1_017, 1_018, 40])]
    proxies: list[Interceptor] = []

    def through(address: tuple[str, int]) -> Interceptor:
        proxies.append(interceptor(address))
        return proxies[0]

    near, far = Recorder(), Recorder()
    links = open_links(near, far, through)
    for link in links:
        for cell in cells:
            link.queue(*cell)
        start(link)
        link.flush()
    near.wait_for(lambda: near.cells == cells)
    far.wait_for(lambda: far.cells == cells)
    end(*links)
    proxies[0].join()


def test_cells_that_came_with_the_handshake_wait_for_start() -> None:
    context, _ = node()
    owner = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        raw = RawPeer(socket.create_connection(server.getsockname()), server_side=False)
        future = pool.submit(link_opening.accept, server.accept()[0], context, owner, Deadline(PATIENCE))
        raw.handshake()
        hello = encode_cell(0, Command.HELLO, encode_hello())
        raw.say(hello + encode_cell(1, RELAY, b"a") + encode_cell(1, RELAY, b"b")[:500])
        link = future.result()
    assert owner.cells == []
    raw.say(encode_cell(1, RELAY, b"b")[500:], encode_cell(1, RELAY, b"c"))
    start(link)
    owner.wait_for(lambda: [cell.body for cell in owner.cells] == [b"a", b"b", b"c"])
    raw.close()
    end(link)


def test_what_is_queued_before_start_is_sent() -> None:
    far = Recorder()
    links = open_links(Recorder(), far)
    for number in range(2_000):  # more than the kernel takes while nobody reads
        links[0].queue(1, RELAY, body(number, 9_000))
    in_time(links[0].flush)
    for link in links:
        start(link)
    far.wait_for(lambda: len(far.cells) == 2_000)
    end(*links)


def test_inside_tls_there_are_whole_cells_of_two_sizes_only() -> None:
    with raw_and_link(Recorder()) as (raw, link):
        for number in range(300):
            link.queue(1 + number % 3, RELAY, body(number, (10, MAX_BODY, 1_017)[number % 3]))
        in_time(link.flush)
        reader, records, cells = CellReader(), [], 0
        for record in raw.records():
            records.append(len(record))
            cells += len(reader.feed(record))
            if cells == 301:
                break
        assert all(size == LONG_CELL or size % SHORT_CELL == 0 for size in records)
        assert records.count(LONG_CELL) >= 100, "a long cell is one record"
        wire, sizes = raw.wire, set()
        while len(wire) >= 5:  # TLS record header: type, version, length (RFC 8446, section 5.2)
            kind, _, length = struct.unpack(">BHH", wire[:5])
            assert kind == 23
            sizes.add((length - 17) % SHORT_CELL)  # inner type (1) and tag (16)
            wire = wire[5 + length :]
        assert sizes == {0}


def test_padding_is_dropped() -> None:
    owner = Recorder()
    with raw_and_link(owner) as (raw, _):
        padding = encode_cell(0, Command.PADDING, b"")
        raw.say(padding, padding + encode_cell(1, RELAY, b"x") + padding, encode_cell(1, RELAY, b"y"))
        owner.wait_for(lambda: [cell.body for cell in owner.cells] == [b"x", b"y"])


def test_too_large_a_body_is_refused_and_the_link_lives() -> None:
    far = Recorder()
    with two_links(Recorder(), far) as (dialled, _):
        with pytest.raises(TooLarge):
            dialled.send(1, RELAY, bytes(MAX_BODY + 1))
        dialled.send(1, RELAY, bytes(MAX_BODY))
        far.wait_for(lambda: len(far.cells) == 1)


# ---- nobody waits


@pytest.mark.parametrize("pumps", [1, 2])
def test_two_links_that_send_back_all_they_get_never_stall(pumps: int) -> None:
    goal, seeds = 6_000, 700  # 11 MiB under way in each direction: more than two sockets hold

    def answer(link: Link, cells: list[Cell]) -> None:
        for cell in cells:
            link.send(*cell)

    near, far = Recorder(answer), Recorder(answer)
    links = open_links(near, far)
    pump = start(links[0])
    if pumps == 1:
        links[1].start(pump)
    else:
        start(links[1])

    def sow() -> None:
        for number in range(seeds):
            for link in links:
                link.send(1 + number % 5, RELAY, bytes(MAX_BODY))

    in_time(sow)
    near.wait_for(lambda: len(near.cells) >= goal)
    far.wait_for(lambda: len(far.cells) >= goal)
    end(*links[::-1])


def test_a_link_that_floods_leaves_others_of_its_process_their_turn() -> None:
    """The cells of the one and of the other are read by one thread."""

    def again(link: Link, cells: list[Cell]) -> None:
        link.send(1, RELAY, b"more, please")

    def flood(link: Link, cells: list[Cell]) -> None:
        while not (link.congested(1) or link.closed):
            link.queue(1, RELAY, bytes(MAX_BODY))
        link.flush()

    taken, quiet = Recorder(again), Recorder()
    taking, flooding = open_links(taken, Recorder(flood))
    ours, theirs = open_links(quiet, Recorder(lambda link, cells: link.send(*cells[0])))
    pump = start(taking)
    ours.start(pump)
    for link in (flooding, theirs):
        start(link)
    again(taking, [])
    for number in range(1, 6):
        flooded = len(taken.cells)
        taken.wait_for(lambda flooded=flooded: len(taken.cells) > flooded + 100)  # type: ignore[misc]
        ours.send(2, RELAY, b"and I?")
        quiet.wait_for(lambda number=number: len(quiet.cells) == number)  # type: ignore[misc]
    end(ours, taking, flooding, theirs)


def test_a_slow_reader_blocks_neither_queue_nor_flush_and_gets_all_in_order() -> None:
    gate, count = Gate(), MUCH
    far = Recorder(gate)
    with two_links(Recorder(), far) as (dialled, _):

        def send_all() -> None:
            for number in range(count):
                dialled.send(1 + number % 2, RELAY, body(number))

        in_time(send_all)
        assert gate.reached.wait(PATIENCE)
        assert dialled.backlog(1) > HIGH_WATER
        gate.open.set()
        far.wait_for(lambda: len(far.cells) == count)
        for circuit in (0, 1):
            got = [cell.body for cell in far.cells if cell.circuit_id == 1 + circuit]
            assert got == [body(number) for number in range(circuit, count, 2)]


def test_many_threads_may_send_at_once() -> None:
    near, far = Recorder(), Recorder()
    with two_links(near, far) as links:

        def send(link: Link, circuit_id: int) -> None:
            for number in range(500):
                link.send(circuit_id, RELAY, body(number, 2_000 if number % 3 else 20))

        with ThreadPoolExecutor(8) as pool:
            for circuit_id in range(1, 5):
                for link in links:
                    pool.submit(send, link, circuit_id)
        near.wait_for(lambda: len(near.cells) == 2_000)
        far.wait_for(lambda: len(far.cells) == 2_000)
        for owner in (near, far):
            for circuit_id in range(1, 5):
                got = [cell.body for cell in owner.cells if cell.circuit_id == circuit_id]
                assert got == [body(number, 2_000 if number % 3 else 20) for number in range(500)]


def test_a_quiet_circuit_overtakes_a_bulk_circuit() -> None:
    gate = Gate()
    far = Recorder(gate)
    with two_links(Recorder(), far) as (dialled, _):
        fill(dialled)
        assert gate.reached.wait(PATIENCE)
        waiting = dialled.backlog(1)
        dialled.send(2, RELAY, b"me first")
        gate.open.set()
        far.wait_for(lambda: len(far.cells) == MUCH + 1)
        behind = MUCH - [cell.circuit_id for cell in far.cells].index(2)
        assert behind * LONG_CELL > waiting / 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a path is")
def test_both_ends_of_a_short_path_let_little_arrive_unread() -> None:
    """What a busy peer has not read is in no order any more: megabytes of it would be ahead of a quiet circuit."""
    most = int(Path("/proc/sys/net/core/rmem_max").read_text())
    with two_links(Recorder(), Recorder()) as links:
        for link in links:
            assert link._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * min(ARRIVED, most)


def test_a_congested_circuit_is_reported_and_so_is_its_end() -> None:
    gate = Gate()
    near, far = Recorder(), Recorder(gate)
    with two_links(near, far) as (dialled, _):
        assert not dialled.congested(1)
        fill(dialled)
        dialled.send(2, RELAY, b"little")
        assert dialled.congested(1)
        before = len(near.drained)
        gate.open.set()
        near.wait_for(lambda: len(near.drained) > before)
        assert set(near.drained) == {1}
        assert dialled.backlog(1) < LOW_WATER
        assert not dialled.congested(1)


def test_forget_drops_what_waits_for_an_ended_circuit() -> None:
    gate = Gate()
    far = Recorder(gate)
    with two_links(Recorder(), far) as (dialled, _):
        fill(dialled)
        dialled.forget(1)
        assert dialled.backlog(1) == 0
        dialled.send(2, RELAY, b"goes on")
        gate.open.set()
        far.wait_for(lambda: far.cells[-1:] == [Cell(2, RELAY, b"goes on")])


def test_drain_waits_for_the_kernel_and_not_longer_than_its_deadline() -> None:
    gate = Gate()
    far = Recorder(gate)
    with two_links(Recorder(), far) as (dialled, _):
        assert dialled.drain(Deadline(PATIENCE))
        fill(dialled)
        assert not dialled.drain(Deadline(0.01))
        gate.open.set()
        assert dialled.drain(Deadline(PATIENCE))
        assert dialled.backlog(1) == 0
        far.wait_for(lambda: len(far.cells) == MUCH)


class FullPath:
    """A kernel's queue that has room once `opened`, and says that the path is full until then."""

    short_only = False

    def __init__(self, opened: threading.Event, seconds: float) -> None:
        self.path_full = False
        self.waits = 0
        self._opened = opened
        self._seconds = seconds

    def room(self, _now: float, most: int) -> int:
        self.path_full = not self._opened.is_set()
        return 0 if self.path_full else most

    def wait(self) -> float:
        self.waits += 1
        return self._seconds

    def adapt(self, _now: float) -> None:
        """It changes by its event only."""


class StillPath(FullPath):
    """One that has room for short cells only until then."""

    def room(self, _now: float, most: int) -> int:
        self.short_only = not self._opened.is_set()
        return LONG_CELL - 1 if self.short_only else most


def settle(link: Link) -> None:
    """Returns when the pump has done what was asked of it before."""
    done = threading.Event()
    assert link._pump is not None
    link._pump.call(done.set)
    assert done.wait(PATIENCE)


def test_what_a_full_path_has_no_room_for_is_sent_in_order_when_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    monkeypatch.setattr(link_module, "KernelQueue", lambda _sock: FullPath(opened, 0.001))
    near, far = Recorder(), Recorder()
    with two_links(near, far) as (dialled, _):
        for number in range(50):
            dialled.send(1, RELAY, bytes([number]))
        settle(dialled)
        assert not dialled.drain(Deadline(0.05))
        assert dialled._interest == READ, "the poller would say at once that there is room, again and again"
        assert not far.cells
        opened.set()
        assert dialled.drain(Deadline(PATIENCE))
        far.wait_for(lambda: len(far.cells) == 50)
        assert [cell.body for cell in far.cells] == [bytes([number]) for number in range(50)]
        assert not near.errors


def test_while_the_tcp_stands_still_a_quiet_circuit_passes_a_busy_ones_long_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    monkeypatch.setattr(link_module, "KernelQueue", lambda _sock: StillPath(opened, 0.001))
    near, far = Recorder(), Recorder()
    with two_links(near, far) as (dialled, _):
        for body in (b"first", bytes(MAX_BODY), b"behind it"):
            dialled.send(1, RELAY, body)
        dialled.send(2, RELAY, b"quiet")
        far.wait_for(lambda: len(far.cells) == 2)
        settle(dialled)
        assert [(cell.circuit_id, cell.body) for cell in far.cells] == [(1, b"first"), (2, b"quiet")]
        assert not dialled.drain(Deadline(0.05))
        opened.set()
        assert dialled.drain(Deadline(PATIENCE))
        far.wait_for(lambda: len(far.cells) == 4)
        assert [cell.body for cell in far.cells[2:]] == [bytes(MAX_BODY), b"behind it"], "in its circuit's order"
        assert not near.errors


def test_a_link_that_waits_for_its_path_has_one_timer_and_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "KernelQueue", lambda _sock: FullPath(threading.Event(), 3_600.0))
    near = Recorder()
    with two_links(near, Recorder()) as (dialled, _):
        for _ in range(50):
            dialled.send(1, RELAY, b"")
            settle(dialled)
        kernel = dialled._kernel
        assert isinstance(kernel, FullPath)
        assert kernel.waits == 1
        dialled.close("enough")
        assert str(near.wait_for_end()) == "enough"
    assert len(near.errors) == 1


def test_a_link_that_waits_for_its_path_ends_once_when_its_timer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "KernelQueue", lambda _sock: FullPath(threading.Event(), 0.0))
    near = Recorder()
    with two_links(near, Recorder()) as (dialled, _):
        dialled.send(1, RELAY, b"")
        settle(dialled)
        dialled.close("enough")
        near.wait_for_end()
        dialled.join(Deadline(PATIENCE))
    assert len(near.errors) == 1


def test_a_peer_that_never_reads_ends_as_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_BACKLOG", 1_000_000)
    gate, near = Gate(), Recorder()
    with two_links(near, Recorder(gate)) as (dialled, _):
        while not dialled.closed:
            dialled.send(1, RELAY, bytes(MAX_BODY))
        error = near.wait_for_end()
        assert (str(error), error.reason) == ("the link is overloaded", DestroyReason.LIMIT)
        gate.open.set()


# ---- handshakes


def test_another_identity_fails_and_gets_no_cell() -> None:
    owner = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        dialled = pool.submit(link_opening.dial, server.getsockname(), bytes(32), owner, Deadline(PATIENCE))
        raw = RawPeer(server.accept()[0], server_side=True)
        with pytest.raises(AssertionError):  # no end of a handshake, let alone a HELLO
            while not raw.tls.handshake():
                raw.sock.sendall(raw.tls.outgoing())
                data = raw.sock.recv(65_536)
                assert data
                raw.tls.feed(data)
        with pytest.raises(AuthenticationFailed):
            dialled.result()
        raw.close()
    assert not owner.cells
    assert not owner.errors


def test_the_accepting_side_of_a_failed_identity_sees_a_closed_link() -> None:
    owner = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        dialled = pool.submit(link_opening.dial, server.getsockname(), bytes(32), Recorder(), Deadline(PATIENCE))
        with pytest.raises(Closed):
            link_opening.accept(server.accept()[0], node()[0], owner, Deadline(PATIENCE))
        assert isinstance(dialled.exception(), AuthenticationFailed)
    assert not owner.cells
    assert not owner.errors


@pytest.mark.parametrize("raw_is_server", [True, False])
def test_no_common_version_is_a_clear_error_on_both_sides(raw_is_server: bool) -> None:
    context, identity = node()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        if raw_is_server:
            link = pool.submit(link_opening.dial, server.getsockname(), identity, Recorder(), Deadline(PATIENCE))
            raw = RawPeer(server.accept()[0], server_side=True)
        else:
            raw = RawPeer(socket.create_connection(server.getsockname()), server_side=False)
            link = pool.submit(link_opening.accept, server.accept()[0], context, Recorder(), Deadline(PATIENCE))
        raw.handshake()
        raw.hello((8, 9))
        with pytest.raises(Closed, match=r"no common protocol version: we speak \[1\], the peer \[8, 9\]"):
            link.result()
        hello = CellReader().feed(b"".join(raw.records()))[0]
        with pytest.raises(Malformed, match=r"no common protocol version: we speak \[8, 9\], the peer \[1\]"):
            choose_version(hello.body, (8, 9))
        raw.close()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (encode_cell(7, RELAY, b""), "the first cell is not HELLO"),
        (encode_cell(0, Command.HELLO, b"\x05"), "not a HELLO"),
        (b"\x00" * 4 + b"\x7f" + bytes(SHORT_CELL), "unknown command"),
    ],
)
def test_a_wrong_first_cell_fails_the_handshake(said: bytes, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        raw = RawPeer(socket.create_connection(server.getsockname()), server_side=False)
        link = pool.submit(link_opening.accept, server.accept()[0], node()[0], Recorder(), Deadline(PATIENCE))
        raw.handshake()
        raw.say(said)
        with pytest.raises(Closed, match=text):
            link.result()
        raw.close()


def test_silence_ends_a_handshake_at_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(Closed, match="timed out"):
            link_opening.dial(server.getsockname(), node()[1], Recorder(), Deadline(0.1))
        with pytest.raises(Closed, match="timed out"):
            link_opening.dial(server.getsockname(), node()[1], Recorder(), Deadline(0.0))


def test_nobody_there_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with pytest.raises(Closed, match="cannot connect: connection refused"):
        link_opening.dial(address, node()[1], Recorder(), Deadline(PATIENCE))
    with pytest.raises(Closed, match="not known"):
        link_opening.dial(("..", 1), node()[1], Recorder(), Deadline(PATIENCE))


# ---- ends


def test_a_malformed_cell_closes_the_link_once() -> None:
    owner = Recorder()
    with raw_and_link(owner) as (raw, link):
        raw.say(encode_cell(1, RELAY, b"good") + b"\xff" * SHORT_CELL)
        error = owner.wait_for_end()
        assert error.reason == DestroyReason.PROTOCOL
        link.join(Deadline(PATIENCE))
    assert len(owner.errors) == 1


def test_a_second_hello_closes_the_link() -> None:
    owner = Recorder()
    with raw_and_link(owner) as (raw, _):
        raw.hello()
        assert str(owner.wait_for_end()) == "a second HELLO"


def test_garbage_instead_of_tls_closes_the_link_once() -> None:
    owner = Recorder()
    with raw_and_link(owner) as (raw, link):
        raw.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        owner.wait_for_end()
        link.join(Deadline(PATIENCE))
    assert len(owner.errors) == 1


@needs_openssl
def test_endless_key_updates_do_not_fill_our_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "MAX_REPLIES", 100)
    owner = Recorder()
    with dialled_by_openssl() as (asker, sock):
        asker.write(encode_cell(0, Command.HELLO, encode_hello()))
        link = link_opening.accept(sock, node()[0], owner, Deadline(PATIENCE))
        start(link)
        deadline = Deadline(PATIENCE)
        try:
            while not link.closed and not deadline.expired:
                asker.write(b"K\n")  # one request each time that it is read
                link.join(Deadline(0.02))
        except BrokenPipeError:
            pass  # it left because the link did
        assert str(owner.wait_for_end()) == "the peer asks for too many key updates"
    end(link)


def test_both_owners_hear_of_an_end_once() -> None:
    near, far = Recorder(), Recorder()
    with two_links(near, far) as (dialled, _):
        dialled.close("enough")
        dialled.close("again")
        assert str(near.wait_for_end()) == "enough"
        assert far.wait_for_end().reason == DestroyReason.LINK_CLOSED
        dialled.send(1, RELAY, b"into nothing")
        assert dialled.backlog(1) == 0
        assert not dialled.drain(Deadline(PATIENCE))
    assert len(near.errors) == len(far.errors) == 1


def test_an_owner_may_close_from_its_own_callback() -> None:
    far = Recorder(lambda link, cells: link.close("heard enough"))
    near = Recorder()
    with two_links(near, far) as (dialled, _):
        dialled.send(1, RELAY, b"x")
        assert str(far.wait_for_end()) == "heard enough"
        near.wait_for_end()
        assert len(far.cells) == 1


def test_close_while_the_writer_is_blocked_and_the_peer_does_not_read() -> None:
    gate, near = Gate(), Recorder()
    with two_links(near, Recorder(gate)) as (dialled, _):
        fill(dialled)
        dialled.close("tired")
        assert str(near.wait_for_end()) == "tired"
        dialled.join(Deadline(PATIENCE))
        assert dialled._sock.fileno() == -1
        gate.open.set()


def test_a_peer_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PATIENCE", 0.2)
    gate, near = Gate(), Recorder()
    with two_links(near, Recorder(gate)) as (dialled, _):
        fill(dialled)
        assert str(near.wait_for_end()) == "the peer takes nothing"
        gate.open.set()


def test_close_before_start_is_reported_after_start() -> None:
    near, far = Recorder(), Recorder()
    dialled, accepted = open_links(near, far)
    dialled.close("changed my mind")
    start(dialled)
    assert str(near.wait_for_end()) == "changed my mind"
    start(accepted)
    far.wait_for_end()
    end(dialled, accepted)
    assert near.cells == far.cells == []


def test_an_owners_bug_ends_its_link_and_no_other_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(link: Link, cells: list[Cell]) -> None:
        raise KeyError("bug")

    far, other = Recorder(broken), Recorder()
    with caplog.at_level(logging.ERROR), two_links(Recorder(), far) as (dialled, accepted):
        one, beside = open_links(Recorder(), other)
        start(one)
        assert accepted._pump
        beside.start(accepted._pump)
        dialled.send(1, RELAY, b"x")
        assert far.wait_for_end().reason == DestroyReason.INTERNAL
        one.send(1, RELAY, b"y")
        other.wait_for(lambda: len(other.cells) == 1)
        end(one, beside)
    assert "KeyError" in caplog.text


def test_a_pump_that_stops_ends_its_links_and_their_owners_hear_nothing() -> None:
    near, far = Recorder(), Recorder()
    with two_links(near, far) as (dialled, _):
        assert dialled._pump
        dialled._pump.stop(Deadline(PATIENCE))
        dialled.join(Deadline(PATIENCE))
        assert dialled.closed
        far.wait_for_end()
        dialled.send(1, RELAY, b"into nothing")
        assert not dialled.drain(Deadline(PATIENCE))
    assert not near.errors


def test_a_link_that_is_started_on_a_stopped_pump_is_closed() -> None:
    pump, far = Pump(), Recorder()
    pump.stop(Deadline(PATIENCE))
    dialled, accepted = open_links(Recorder(), far)
    dialled.start(pump)
    assert dialled.closed
    start(accepted)
    far.wait_for_end()
    end(dialled, accepted)


def test_a_link_closed_by_another_thread_while_it_starts_is_forgotten_and_its_owner_told_once() -> None:
    pump = Pump()
    pump.start()
    try:
        for _ in range(50):
            near = Recorder()
            dialled, accepted = open_links(near, Recorder())
            with ThreadPoolExecutor(1) as pool:
                closing = pool.submit(dialled.close)
                dialled.start(pump)
                closing.result(PATIENCE)
            near.wait_for_end()
            accepted.close()
            dialled.join(Deadline(PATIENCE))
            assert len(near.errors) == 1
        settled = threading.Event()
        pump.call(settled.set)
        assert settled.wait(PATIENCE)
        assert not pump._members
    finally:
        pump.stop(Deadline(PATIENCE))
