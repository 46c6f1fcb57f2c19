"""The pump over real sockets: order, half-close, pauses, faults, and that nothing is left behind."""

import errno
import gc
import hashlib
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from common.circuit.window import STREAM_WINDOW
from common.net import busy_poll
from common.net import plug as plug_module
from common.net import pump as pump_module
from common.net.deadline import Deadline
from common.net.poller import READ, WRITE
from common.net.pump import Plug, Pump
from common.net.timers import STALE_TIMERS
from common.net.turn import TURN

WAIT = 20.0  # seconds before a test gives up waiting
LARGE = 8_000_000
DESCRIPTORS = "/proc/self/fd"


class Recorder:
    """An owner that keeps what it is told; tests wait on it."""

    def __init__(self, wants: int = 1 << 20) -> None:
        self.changed = threading.Condition()
        self.wants = wants
        self.asked = 0
        self.connected = False
        self.data = bytearray()
        self.sizes: list[int] = []
        self.drained = 0
        self.ended = False
        self.failures: list[OSError] = []
        self.order: list[str] = []

    def _note(self, what: str) -> None:
        self.order.append(what)
        self.changed.notify_all()

    def plug_connected(self, plug: Plug) -> None:
        with self.changed:
            self.connected = True
            self._note("connected")

    def plug_wants(self, plug: Plug) -> int:
        self.asked += 1
        return self.wants

    def plug_received(self, plug: Plug, data: bytes) -> None:
        with self.changed:
            self.data += data
            self.sizes.append(len(data))
            self._note("received")

    def plug_ended(self, plug: Plug) -> None:
        with self.changed:
            self.ended = True
            self._note("ended")

    def plug_drained(self, plug: Plug, count: int) -> None:
        with self.changed:
            self.drained += count
            self._note("drained")

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        with self.changed:
            self.failures.append(error)
            self._note("failed")

    def until(self, test: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(test, WAIT), self.order[-5:]


@pytest.fixture
def pump() -> Iterator[Pump]:
    made = Pump("pump-test")
    made.start()
    yield made
    made.stop(Deadline(WAIT))
    assert not made._thread.is_alive()


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


Pair = Callable[[], tuple[socket.socket, socket.socket]]
both_kinds = pytest.mark.parametrize("pair", [unix_pair, tcp_pair])


@pytest.fixture
def peers() -> Iterator[list[socket.socket]]:
    """Sockets to close when the test is over."""
    held: list[socket.socket] = []
    yield held
    for sock in held:
        sock.close()


def attached(pump: Pump, pair: Pair, owner: Recorder, peers: list[socket.socket]) -> tuple[Plug, socket.socket]:
    ours, theirs = pair()
    theirs.settimeout(WAIT)
    peers.append(theirs)
    return pump.attach(ours, owner), theirs


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def on_pump(pump: Pump, function: Callable[[], object]) -> None:
    """Runs a function on the pump and waits for it; also: everything asked for before is done."""
    done = threading.Event()
    pump.call(function)
    pump.call(done.set)
    assert done.wait(WAIT)


def settled(pump: Pump) -> None:
    for _ in range(3):
        on_pump(pump, lambda: None)


def eventually(test: Callable[[], bool]) -> bool:
    deadline = Deadline(WAIT)
    while not test() and not deadline.expired:
        time.sleep(0.005)
    return test()


# ---- bytes ----


@both_kinds
def test_large_transfers_both_ways_are_byte_exact(pump: Pump, pair: Pair, peers: list[socket.socket]) -> None:
    one, other = Recorder(), Recorder()
    ours, theirs = pair()
    left, right = pump.attach(ours, one), pump.attach(theirs, other)
    there, back = os.urandom(LARGE), os.urandom(LARGE)

    def send(plug: Plug, data: bytes) -> None:
        for start in range(0, len(data), 16_000):
            plug.write(data[start : start + 16_000])
        plug.finish()

    threads = [threading.Thread(target=send, args=args) for args in ((left, there), (right, back))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    one.until(lambda: one.ended)
    other.until(lambda: other.ended)
    assert hashlib.sha256(other.data).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(one.data).digest() == hashlib.sha256(back).digest()
    assert max(one.sizes) <= plug_module.RECV_SIZE
    left.close()
    right.close()


def test_never_reads_more_than_wanted(pump: Pump, peers: list[socket.socket]) -> None:
    owner = Recorder(wants=7)
    _, peer = attached(pump, tcp_pair, owner, peers)
    peer.sendall(bytes(1_000))
    owner.until(lambda: len(owner.data) == 1_000)
    assert max(owner.sizes) <= 7


@both_kinds
def test_writers_on_several_threads_keep_each_calls_bytes_together_and_in_order(
    pump: Pump, pair: Pair, peers: list[socket.socket]
) -> None:
    plug, peer = attached(pump, pair, Recorder(), peers)
    writers, records, size = 4, 200, 5_000

    def write(writer: int) -> None:
        for number in range(records):
            plug.write(bytes([writer, number]) * (size // 2))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {writer: [] for writer in range(writers)}
    for _ in range(writers * records):
        record = b""
        while len(record) < size:
            record += peer.recv(size - len(record))
        assert record == record[:2] * (size // 2)
        seen[record[0]].append(record[1])
    for thread in threads:
        thread.join(WAIT)
    assert all(numbers == list(range(records)) for numbers in seen.values())


@both_kinds
def test_slow_peer_the_queue_grows_and_drained_adds_up(pump: Pump, pair: Pair, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, pair, owner, peers)
    data = os.urandom(LARGE)
    taken = 0
    for start in range(0, LARGE, 100_000):
        taken += plug.write(data[start : start + 100_000])
    settled(pump)
    assert 0 < taken < LARGE
    assert plug.queued == LARGE - taken - owner.drained > 0
    plug.finish()
    assert read_all(peer) == data
    owner.until(lambda: owner.drained == LARGE - taken)
    assert plug.queued == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the kernel cannot be told what to leave")
def test_a_peer_that_does_not_read_is_noticed_before_the_kernel_holds_much(
    pump: Pump, peers: list[socket.socket]
) -> None:
    """Else its stream's window would grow as if it read quickly: each of many stalled streams then holds 2 to 8 MiB."""
    owner = Recorder()
    plug, _peer = attached(pump, tcp_pair, owner, peers)
    plug.write(*[bytes(16_384)] * 512)
    settled(pump)
    assert 8 * 2**20 - plug.queued < STREAM_WINDOW


def test_what_is_queued_counts_with_what_its_pieces_take_until_it_is_delivered_or_dropped(
    pump: Pump, peers: list[socket.socket]
) -> None:
    plug, _peer = attached(pump, tcp_pair, Recorder(), peers)
    other, _ = attached(pump, tcp_pair, Recorder(), peers)
    plug.write(bytes(LARGE))
    settled(pump)
    before = plug.held
    plug.write(*[b"ab"] * 1_000)
    assert plug.held == before + 1_000 * (2 + plug_module.PIECE)
    plug.close()
    settled(pump)
    assert not other.held
    assert pump.waiting() == [plug], "it still delivers"
    plug.abort()
    assert pump.waiting() == []
    assert not plug.held


@both_kinds
def test_pieces_of_one_write_arrive_in_order_however_many_they_are(
    pump: Pump, pair: Pair, peers: list[socket.socket]
) -> None:
    owner = Recorder()
    plug, peer = attached(pump, pair, owner, peers)
    pieces = [os.urandom(size % 7_000) for size in range(0, 700 * plug_module.GATHER, 700)] * 3  # some are empty
    data = b"".join(pieces)
    assert len(pieces) > 2 * plug_module.GATHER
    taken = plug.write(*pieces) + plug.write(b"and ", b"", b"more")
    plug.finish()
    assert read_all(peer) == data + b"and more"
    owner.until(lambda: owner.drained == len(data) + 8 - taken)
    assert plug.queued == 0


@both_kinds
def test_writing_nothing_is_nothing(pump: Pump, pair: Pair, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, pair, owner, peers)
    assert plug.write() == plug.write(b"") == plug.write(b"", b"") == 0
    settled(pump)
    assert plug.queued == 0
    assert plug._interest == READ  # nobody waits for room
    plug.finish()
    assert read_all(peer) == b""


# ---- ends ----


def test_a_queue_seen_while_another_thread_sends_it_is_not_waited_for_ever_after(peers: list[socket.socket]) -> None:
    """The socket is always ready to send: the pump would spin."""
    pump = Pump("not started")
    plug, _ = attached(pump, tcp_pair, Recorder(), peers)
    plug.look()
    plug._chunks.append(b"what another thread is giving to the kernel")
    plug._watch()
    assert plug._interest == READ | WRITE
    plug._chunks.clear()
    plug.ready(WRITE)
    assert plug._interest == READ
    pump.stop(Deadline(WAIT))


@both_kinds
def test_half_close_ours_first(pump: Pump, pair: Pair, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, pair, owner, peers)
    plug.write(b"question")
    plug.finish()
    plug.finish()
    assert read_all(peer) == b"question"
    assert plug.write(b"too late") == 0
    assert not owner.ended
    peer.sendall(b"answer")
    peer.close()
    owner.until(lambda: owner.ended)
    assert owner.data == b"answer"
    assert not owner.failures


@both_kinds
def test_half_close_theirs_first(pump: Pump, pair: Pair, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, pair, owner, peers)
    peer.sendall(b"question")
    peer.shutdown(socket.SHUT_WR)
    owner.until(lambda: owner.ended)
    assert owner.data == b"question"
    answer = os.urandom(LARGE)
    plug.write(answer)
    plug.finish()
    assert read_all(peer) == answer
    plug.close()
    settled(pump)
    assert not owner.failures


@both_kinds
def test_finish_waits_for_the_queue(pump: Pump, pair: Pair, peers: list[socket.socket]) -> None:
    plug, peer = attached(pump, pair, Recorder(), peers)
    plug.write(bytes(LARGE))
    plug.finish()
    assert plug.queued > 0
    assert len(read_all(peer)) == LARGE


@both_kinds
def test_close_delivers_the_queue_first_and_calls_the_owner_no_more(
    pump: Pump, pair: Pair, peers: list[socket.socket]
) -> None:
    owner = Recorder()
    plug, peer = attached(pump, pair, owner, peers)
    peer.sendall(b"unread by the owner")
    owner.until(lambda: bool(owner.data))
    data = os.urandom(LARGE)
    plug.write(data)
    plug.close()
    settled(pump)
    calls = len(owner.order)
    peer.sendall(b"into the void")  # unread bytes at a close must not reset what is still on its way
    assert read_all(peer) == data
    peer.close()
    assert eventually(lambda: plug._sock.fileno() < 0)
    assert plug.write(b"x") == 0
    assert len(owner.order) == calls


def test_close_gives_up_after_the_linger_deadline(
    pump: Pump, peers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plug_module, "LINGER", 0.1)
    plug, _ = attached(pump, tcp_pair, Recorder(), peers)
    plug.write(bytes(LARGE))
    plug.close()
    assert eventually(lambda: plug._sock.fileno() < 0)
    assert plug.queued == 0


def test_abort_resets_and_drops_the_queue(pump: Pump, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, tcp_pair, owner, peers)
    plug.write(bytes(LARGE))
    plug.abort()
    with pytest.raises(ConnectionResetError):
        read_all(peer)
    assert plug.queued == 0
    assert not owner.failures


def test_abort_of_a_socketpair_ends_it(pump: Pump, peers: list[socket.socket]) -> None:
    plug, peer = attached(pump, unix_pair, Recorder(), peers)
    plug.abort()
    assert read_all(peer) == b""


def test_reset_by_the_peer_fails_once_and_last(pump: Pump, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, tcp_pair, owner, peers)
    reset(peer)
    owner.until(lambda: bool(owner.failures))
    assert isinstance(owner.failures[0], ConnectionResetError)
    assert plug.write(b"x") == 0
    plug.resume()
    plug.finish()
    plug.close()
    plug.abort()
    settled(pump)
    assert owner.order == ["failed"]


def test_reset_is_noticed_while_reading_is_paused_and_bytes_are_queued(
    pump: Pump, peers: list[socket.socket]
) -> None:
    owner = Recorder(wants=0)
    plug, peer = attached(pump, tcp_pair, owner, peers)
    plug.write(bytes(LARGE))
    reset(peer)
    owner.until(lambda: bool(owner.failures))
    assert isinstance(owner.failures[0], ConnectionResetError | BrokenPipeError)
    assert plug.queued == 0


def test_reset_ends_the_lingering_of_a_closed_plug(pump: Pump, peers: list[socket.socket]) -> None:
    owner = Recorder()
    plug, peer = attached(pump, tcp_pair, owner, peers)
    plug.close()
    assert read_all(peer) == b""
    assert plug._sock.fileno() >= 0
    reset(peer)
    assert eventually(lambda: plug._sock.fileno() < 0)
    assert not owner.order


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@both_kinds
def test_sending_to_a_closed_peer_fails_on_the_pump_after_what_it_had_sent(
    pump: Pump, pair: Pair, peers: list[socket.socket]
) -> None:
    owner = Recorder(wants=0)
    plug, peer = attached(pump, pair, owner, peers)
    peer.sendall(b"last words")
    settled(pump)
    owner.wants = 1_000
    peer.close()
    deadline = Deadline(WAIT)
    while not owner.failures and not deadline.expired:  # over TCP the first write only provokes the reset
        plug.write(b"anyone?")
        plug.resume()
    assert owner.data == b"last words"
    assert owner.order[-1] == "failed"
    assert isinstance(owner.failures[0], BrokenPipeError | ConnectionResetError)


# ---- pauses ----


@both_kinds
def test_paused_reader_does_not_spin_and_resumes_from_another_thread(
    pump: Pump, pair: Pair, peers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Recorder(wants=0)
    plug, peer = attached(pump, pair, owner, peers)
    settled(pump)
    turns = count_turns(pump, monkeypatch)
    peer.sendall(b"held back")
    peer.shutdown(socket.SHUT_WR)
    time.sleep(0.1)  # the time in which a spinning pump would turn thousands of times
    assert turns() < 10
    assert owner.asked < 5
    owner.wants = 100
    plug.resume()
    owner.until(lambda: owner.ended)
    assert owner.data == b"held back"


def count_turns(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a handler was called since now."""
    count = [0]
    real = pump.watch

    def watch(fd: int, events: int, handler: Callable[[int], None]) -> None:
        def counted(ready: int) -> None:
            count[0] += 1
            handler(ready)

        real(fd, events, counted)

    def count_those_known() -> None:
        for fd, handler in list(pump._poller._handlers.items()):
            watch(fd, pump._poller._wanted[fd], handler)

    on_pump(pump, count_those_known)
    monkeypatch.setattr(pump, "watch", watch)
    return lambda: count[0]


def test_hang_up_of_a_paused_plug_does_not_spin(
    pump: Pump, peers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = count_turns(pump, monkeypatch)
    owner = Recorder(wants=0)
    plug, peer = attached(pump, tcp_pair, owner, peers)
    ended = Recorder()
    both, other = attached(pump, tcp_pair, ended, peers)
    both.finish()
    other.close()
    reset(peer)
    ended.until(lambda: ended.ended)
    time.sleep(0.1)  # as above
    assert turns() < 10
    owner.wants = 1
    plug.resume()
    owner.until(lambda: bool(owner.failures))


def test_resume_is_never_lost(pump: Pump, peers: list[socket.socket]) -> None:
    """A reader that is allowed one byte at a time by another thread, which races with the pump's pausing."""

    class OneByOne(Recorder):
        def plug_received(self, plug: Plug, data: bytes) -> None:
            self.wants = 0
            super().plug_received(plug, data)

    owner = OneByOne(wants=1)
    plug, peer = attached(pump, unix_pair, owner, peers)
    peer.sendall(bytes(2_000))
    for count in range(1, 2_000):
        owner.until(lambda count=count: len(owner.data) == count)  # type: ignore[misc]
        owner.wants = 1
        plug.resume()
    owner.until(lambda: len(owner.data) == 2_000)


def test_owner_replaced_midway_loses_no_byte(pump: Pump, peers: list[socket.socket]) -> None:
    second = Recorder()

    class Handshake(Recorder):
        def plug_wants(self, plug: Plug) -> int:
            return 10 - len(self.data)

        def plug_received(self, plug: Plug, data: bytes) -> None:
            super().plug_received(plug, data)
            if len(self.data) == 10:
                plug.owner = second

    first = Handshake()
    _, peer = attached(pump, unix_pair, first, peers)
    data = os.urandom(100_000)
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    second.until(lambda: second.ended)
    assert bytes(first.data + second.data) == data
    assert len(first.data) == 10


# ---- connecting and accepting ----


def test_only_a_socket_that_it_connects_asks_a_silent_peer_whether_it_is_there(
    pump: Pump,
) -> None:
    owner = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        dialled = pump.connect(socket.AF_INET, server.getsockname(), owner, WAIT)
        attached = pump.attach(server.accept()[0], Recorder())
        owner.until(lambda: owner.connected)
    asks = [plug._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for plug in (dialled, attached)]
    assert asks == [1, 0]


def test_connect_then_what_was_written_before_arrives(pump: Pump, peers: list[socket.socket]) -> None:
    owner = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        plug = pump.connect(socket.AF_INET, server.getsockname(), owner, WAIT)
        plug.resume()
        plug.write(b"early ")
        plug.write(b"bytes")
        plug.finish()
        peer, _ = server.accept()
    peers.append(peer)
    assert read_all(peer) == b"early bytes"
    owner.until(lambda: owner.connected)
    peer.sendall(b"answer")
    peer.close()
    owner.until(lambda: owner.ended)
    assert owner.data == b"answer"
    assert owner.order[0] == "connected"
    assert not owner.failures


def test_connect_closed_at_once_still_delivers(pump: Pump) -> None:
    owner = Recorder()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        plug = pump.connect(socket.AF_INET, server.getsockname(), owner, WAIT)
        plug.write(b"hello")
        plug.close()
        peer, _ = server.accept()
        with peer:
            assert read_all(peer) == b"hello"
    assert eventually(lambda: plug._sock.fileno() < 0)


def test_connect_refused(pump: Pump) -> None:
    owner = Recorder()
    with socket.socket() as bound:  # bound and not listening: nobody else can get the port meanwhile
        bound.bind(("127.0.0.1", 0))
        plug = pump.connect(socket.AF_INET, bound.getsockname(), owner, WAIT)
        plug.write(b"lost")
        owner.until(lambda: bool(owner.failures))
    assert isinstance(owner.failures[0], ConnectionRefusedError)
    assert owner.order == ["failed"]
    assert plug.queued == 0


def test_connect_that_fails_at_once_is_reported_too(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Recorder()
    pump.connect(socket.AF_INET, ("255.255.255.255", 9), owner, WAIT)
    owner.until(lambda: len(owner.failures) == 1)

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    pump.connect(socket.AF_INET, ("127.0.0.1", 9), owner, WAIT)
    monkeypatch.undo()
    owner.until(lambda: len(owner.failures) == 2)
    assert owner.failures[1].errno == errno.EMFILE


@pytest.fixture
def full_server(peers: list[socket.socket]) -> tuple[str, int]:
    """Listens with a backlog that is full: a further connect gets no answer."""
    server = socket.socket()
    peers.append(server)
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    address: tuple[str, int] = server.getsockname()
    for _ in range(16):
        sock = socket.socket()
        peers.append(sock)
        sock.settimeout(0.1)
        try:
            sock.connect(address)
        except TimeoutError:
            return address
    pytest.skip("this kernel accepts beyond the backlog")


def test_connect_timeout(pump: Pump, full_server: tuple[str, int]) -> None:
    owner = Recorder()
    plug = pump.connect(socket.AF_INET, full_server, owner, 0.1)
    owner.until(lambda: bool(owner.failures))
    assert isinstance(owner.failures[0], TimeoutError)
    assert owner.order == ["failed"]
    assert plug._sock.fileno() < 0


def test_connect_to_a_host_that_is_slow_to_answer(
    pump: Pump, full_server: tuple[str, int], peers: list[socket.socket]
) -> None:
    """Its kernel drops the first SYN; one's own host has else answered before `connect` is over."""
    owner = Recorder()
    pump.connect(socket.AF_INET, full_server, owner, WAIT)
    server = peers[0]
    server.setblocking(False)
    assert not owner.connected

    def made_room() -> bool:
        try:
            peers.append(server.accept()[0])
        except BlockingIOError:
            pass
        return owner.connected

    assert eventually(made_room)
    assert owner.order == ["connected"]


def test_abort_while_connecting(pump: Pump, full_server: tuple[str, int]) -> None:
    owner = Recorder()
    plug = pump.connect(socket.AF_INET, full_server, owner, 0.1)
    plug.abort()
    assert eventually(lambda: plug._sock.fileno() < 0)
    assert not owner.order


def test_a_thousand_plugs_at_once(pump: Pump) -> None:
    count = 1_000
    soft_limit_allows(2 * count + 100)

    class Echo(Recorder):
        def plug_received(self, plug: Plug, data: bytes) -> None:
            plug.write(data)

        def plug_ended(self, plug: Plug) -> None:
            plug.close()

    echo = Echo()
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    stop = pump.listen(server, lambda sock: pump.attach(sock, echo))
    owners = [Recorder() for _ in range(count)]
    plugs = [pump.connect(socket.AF_INET, server.getsockname(), owner, WAIT) for owner in owners]
    for number, plug in enumerate(plugs):
        plug.write(number.to_bytes(4, "big") * 100)
    for number, owner in enumerate(owners):
        owner.until(lambda owner=owner: len(owner.data) == 400)  # type: ignore[misc]
        assert owner.data == number.to_bytes(4, "big") * 100
    for plug in plugs:
        plug.finish()
    for owner, plug in zip(owners, plugs, strict=True):
        owner.until(lambda owner=owner: owner.ended)  # type: ignore[misc]
        plug.close()
    stop()
    stop()
    settled(pump)
    assert server.fileno() < 0
    assert eventually(lambda: not pump._members)


def soft_limit_allows(descriptors: int) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < descriptors:
        if hard != resource.RLIM_INFINITY and hard < descriptors:
            pytest.skip("too few descriptors allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


def test_out_of_descriptors_pauses_accepting_and_logs_once(
    pump: Pump, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "ACCEPT_PAUSE", 0.02)

    class Exhausted(socket.socket):
        failures = 3

        def accept(self) -> tuple[socket.socket, object]:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    server = Exhausted()
    server.bind(("127.0.0.1", 0))
    server.listen()
    owner = Recorder()
    with caplog.at_level(logging.WARNING):
        pump.listen(server, lambda sock: pump.attach(sock, owner))
        with socket.create_connection(server.getsockname()) as peer:
            peer.sendall(b"patient")
            owner.until(lambda: bool(owner.data))
    assert server.failures == 0
    assert [record.getMessage() for record in caplog.records] == [
        "pump-test: accepting pauses: Too many open files"
    ]


# ---- calls and timers ----


def test_calls_run_in_order_on_the_pump_thread(pump: Pump) -> None:
    seen: list[int] = []
    for number in range(1_000):
        pump.call(lambda number=number: seen.append(number))  # type: ignore[misc]
    places: list[bool] = []
    on_pump(pump, lambda: places.append(pump.on_pump_thread()))
    assert seen == list(range(1_000))
    assert places == [True]
    assert not pump.on_pump_thread()


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pump, Recorder, socket.socket, list[None]]]:
    """A pump that looks for what comes next instead of sleeping, with a plug, its far end, and its looks in vain."""
    looks: list[None] = []
    for limit in ("SHORT", "LIGHT", "LATE"):
        monkeypatch.setattr(busy_poll, limit, 2 * WAIT)

    class Counting(busy_poll.BusyPoll):
        def __init__(self, wait: Callable[[float | None], busy_poll.Events]) -> None:
            super().__init__(wait, give_way=lambda: looks.append(None))

    monkeypatch.setattr(pump_module, "BusyPoll", Counting)
    pump, owner = Pump("looking"), Recorder()
    pump.start()
    near, far = socket.socketpair()
    pump.attach(near, owner)
    with far:
        for _ in range(2 * busy_poll.ENOUGH):
            before = len(owner.data)
            far.sendall(b"x")
            owner.until(lambda before=before: len(owner.data) > before)  # type: ignore[misc]
        _look_on(looks)
        yield pump, owner, far, looks
        pump.stop(Deadline(WAIT))


def _look_on(looks: list[None]) -> None:
    """Waits until the pump has looked in vain once more."""
    before, deadline = len(looks), time.monotonic() + WAIT
    while len(looks) == before:
        assert time.monotonic() < deadline, "it sleeps"


def test_a_pump_that_looks_hears_of_sockets(
    looking: tuple[Pump, Recorder, socket.socket, list[None]],
) -> None:
    _, owner, far, looks = looking
    far.sendall(b"yz")
    owner.until(lambda: owner.data.endswith(b"yz"))
    _look_on(looks)
    far.shutdown(socket.SHUT_WR)
    owner.until(lambda: owner.ended)


def test_a_pump_that_looks_hears_of_calls_and_timers(
    looking: tuple[Pump, Recorder, socket.socket, list[None]],
) -> None:
    pump, _, _, looks = looking
    called, timed = threading.Event(), threading.Event()
    pump.call(called.set)
    assert called.wait(WAIT)
    _look_on(looks)
    pump.call_later(0.01, timed.set)
    assert timed.wait(WAIT)


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has the policy")
def test_the_pump_does_not_take_the_core_of_who_woke_it_and_other_threads_are_as_they_were(pump: Pump) -> None:
    policies: list[int] = []
    on_pump(pump, lambda: policies.append(os.sched_getscheduler(0)))
    assert policies == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has the policy")
@pytest.mark.parametrize("refused", ["sched_getscheduler", "sched_setscheduler"])
def test_where_the_policy_cannot_be_had_the_pump_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """musl has the functions, and both always fail; so may containers."""

    def fails(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, refused, fails)
    pump = Pump("pump-test")
    pump.start()
    settled(pump)
    pump.stop(Deadline(WAIT))


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has the policy")
def test_a_policy_that_somebody_chose_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getscheduler", lambda _pid: os.SCHED_IDLE)
    chosen: list[object] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *choice: chosen.append(choice))
    pump = Pump("pump-test")
    pump.start()
    settled(pump)
    pump.stop(Deadline(WAIT))
    assert chosen == []


def test_a_burst_of_calls_rings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pump = Pump()
    rings: list[int] = []
    real = pump._rung

    def rung(ready: int) -> None:
        rings.append(len(pump._bell.recv(4_096, socket.MSG_PEEK)))
        real(ready)

    pump._poller.watch(pump._bell.fileno(), READ, rung)
    pump.start()
    try:
        entered, go = threading.Event(), threading.Event()
        pump.call(entered.set)
        pump.call(lambda: go.wait(WAIT))
        assert entered.wait(WAIT)
        rings.clear()
        for _ in range(1_000):
            pump.call(lambda: None)
        go.set()
        settled(pump)
        assert sum(rings) <= 5
    finally:
        pump.stop(Deadline(WAIT))


def test_timers_run_in_order_and_not_when_cancelled(pump: Pump) -> None:
    seen: list[str] = []
    done = threading.Event()
    pump.call_later(0.06, lambda: seen.append("third"))
    pump.call_later(0.07, done.set)
    pump.call_later(0.02, lambda: seen.append("first"))
    cancelled = pump.call_later(0.03, lambda: seen.append("cancelled"))
    on_pump(pump, lambda: pump.call_later(0.04, lambda: seen.append("second")))
    cancelled.cancel()
    cancelled.cancel()
    assert done.wait(WAIT)
    assert seen == ["first", "second", "third"]


def test_cancelled_timers_do_not_pile_up(pump: Pump) -> None:
    kept = threading.Event()
    pump.call_later(0.01, kept.set)
    for _ in range(5_000):
        pump.call_later(3_600, lambda: None).cancel()
    assert kept.wait(WAIT)
    settled(pump)
    assert len(pump._timers.heap) <= 2 * STALE_TIMERS


def test_cancelled_timers_do_not_pile_up_where_none_is_due(pump: Pump) -> None:
    for _ in range(5_000):
        pump.call_later(3_600, lambda: None).cancel()
    settled(pump)
    settled(pump)
    assert len(pump._timers.heap) <= 2 * STALE_TIMERS


# ---- faults in callbacks ----


@pytest.mark.parametrize("where", ["plug_wants", "plug_received", "plug_ended"])
def test_exception_in_a_callback_is_logged_and_ends_that_plug_only(
    pump: Pump, peers: list[socket.socket], caplog: pytest.LogCaptureFixture, where: str
) -> None:
    broken, healthy = Recorder(), Recorder()

    def fault(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    setattr(broken, where, fault)
    _, other = attached(pump, tcp_pair, healthy, peers)
    ours, peer = tcp_pair()
    peers.append(peer)
    peer.settimeout(WAIT)
    peer.sendall(b"boom")
    peer.shutdown(socket.SHUT_WR)
    plug = pump.attach(ours, broken)
    with pytest.raises(ConnectionResetError):
        read_all(peer)
    assert eventually(lambda: plug._sock.fileno() < 0)
    assert not broken.failures
    other.sendall(b"fine")
    healthy.until(lambda: healthy.data == b"fine")
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_exception_in_a_call_or_timer_or_accept_does_not_stop_the_pump(
    pump: Pump, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    pump.call(fault)
    pump.call_later(0, fault)
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def fault_with(sock: socket.socket) -> None:
        kept.append(sock)
        fault()

    pump.listen(server, fault_with)
    with socket.create_connection(server.getsockname()) as peer:
        peer.settimeout(WAIT)
        assert eventually(lambda: len(caplog.records) == 3)
        assert read_all(peer) == b""
    kept[0].close()
    settled(pump)


# ---- the end ----


def test_stop_closes_everything_and_leaves_no_thread_and_no_descriptor() -> None:
    gc.collect()
    threads, descriptors = threading.active_count(), open_descriptors()
    pump = Pump()
    pump.start()
    owner = Recorder()
    pairs = [tcp_pair() for _ in range(20)] + [unix_pair() for _ in range(20)]
    plugs = [pump.attach(ours, owner) for ours, _ in pairs]
    plugs[0].write(bytes(LARGE))
    plugs[1].close()
    plugs[2].abort()
    server = socket.create_server(("127.0.0.1", 0))
    pump.listen(server, lambda sock: pump.attach(sock, owner))
    pump.connect(socket.AF_INET, server.getsockname(), owner, WAIT)
    pump.stop(Deadline(WAIT))
    pump.stop(Deadline(WAIT))
    assert server.fileno() < 0
    assert all(plug._sock.fileno() < 0 for plug in plugs)
    for _, theirs in pairs:
        theirs.close()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


def test_after_stop_everything_is_harmless() -> None:
    pump = Pump()
    pump.start()
    pump.stop(Deadline(WAIT))
    owner = Recorder()
    ours, theirs = unix_pair()
    plug = pump.attach(ours, owner)
    assert read_all(theirs) == b""
    theirs.close()
    plug.write(b"x")
    plug.resume()
    plug.close()
    plug.abort()
    server = socket.create_server(("127.0.0.1", 0))
    stop = pump.listen(server, lambda sock: None)
    stop()
    assert server.fileno() < 0
    pump.call_later(0, lambda: None).cancel()
    assert not owner.order


def test_a_pump_never_started_can_be_stopped() -> None:
    pump = Pump()
    ours, theirs = unix_pair()
    pump.attach(ours, Recorder())
    pump.stop(Deadline(1))
    assert read_all(theirs) == b""
    theirs.close()


def test_streams_leave_no_descriptor_behind(pump: Pump) -> None:
    gc.collect()
    before = open_descriptors()
    for number in range(200):
        owner = Recorder()
        ours, theirs = tcp_pair()
        plug = pump.attach(ours, owner)
        theirs.sendall(b"x")
        owner.until(lambda owner=owner: bool(owner.data))  # type: ignore[misc]
        (plug.close if number % 2 else plug.abort)()
        theirs.close()
    assert eventually(lambda: open_descriptors() == before)
    assert not pump._members


def open_descriptors() -> int:
    return len(os.listdir(DESCRIPTORS)) if os.path.isdir(DESCRIPTORS) else 0


def test_a_timer_that_is_made_at_the_end_of_a_turn_runs_although_nothing_else_happens() -> None:
    rang = threading.Event()
    pump = Pump()

    class Settles:
        def settle(self) -> None:
            pump.call_later(0.01, rang.set)

    pump.start()
    try:
        pump.call(lambda: TURN.settle(Settles()))
        assert rang.wait(WAIT)
    finally:
        pump.stop(Deadline(WAIT))
