"""What tests of links share: an owner that records, two joined links, a peer that may misbehave, and interceptors."""

import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pytest

from common.errors import Closed
from common.net import link_opening
from common.net.deadline import Deadline
from common.net.link import Link
from common.net.pump import Pump
from common.net.tls import TlsSession, client_context, server_context
from common.wire.cells import Cell, Command, encode_cell, encode_hello
from tests.net.certificates import make_certificate

PATIENCE = 30.0  # seconds after which a test that hangs fails


@cache
def node() -> tuple[ssl.SSLContext, bytes]:
    """The listening side's context, and its identity."""
    with TemporaryDirectory() as folder:
        certificate, key, identity = make_certificate(Path(folder))
        return server_context(certificate, key), identity


class Recorder:
    """A link's owner that keeps what it is told; `on_cells` runs first, on the pump's thread."""

    def __init__(self, on_cells: Callable[[Link, list[Cell]], None] = lambda link, cells: None) -> None:
        self.cells: list[Cell] = []
        self.drained: list[int] = []
        self.errors: list[Closed] = []
        self._on_cells = on_cells
        self._changed = threading.Condition()

    def link_cells(self, link: Link, cells: list[Cell]) -> None:
        self._on_cells(link, cells)
        with self._changed:
            self.cells += cells
            self._changed.notify_all()

    def link_drained(self, link: Link, circuit_ids: list[int]) -> None:
        with self._changed:
            self.drained += circuit_ids
            self._changed.notify_all()

    def link_closed(self, link: Link, error: Closed) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def wait_for(self, test: Callable[[], bool]) -> None:
        """Waits until `test` holds, which is tried at each event."""
        with self._changed:
            assert self._changed.wait_for(test, PATIENCE)

    def wait_for_end(self) -> Closed:
        """The error with which the link closed."""
        self.wait_for(lambda: bool(self.errors))
        return self.errors[0]


_pumps: dict[Link, Pump] = {}


def start(link: Link) -> Pump:
    """On a pump of its own, as in a process of its own; `end` stops it."""
    pump = _pumps[link] = Pump(f"pump of {link.name}")
    pump.start()
    link.start(pump)
    return pump


def end(*links: Link) -> None:
    """Closes links and sees that they and their pumps end."""
    for link in links:
        link.close()
    deadline = Deadline(PATIENCE)
    for link in links:
        link.join(deadline)
        pump = _pumps.pop(link, None)
        if pump is not None:
            pump.stop(deadline)
            assert pump.name not in [thread.name for thread in threading.enumerate()]


def open_links(
    dialling: Recorder, accepting: Recorder, through: "Callable[[tuple[str, int]], Interceptor] | None" = None
) -> tuple[Link, Link]:
    """Two joined links, not yet started: the dialling one first."""
    context, identity = node()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address = server.getsockname()
        if through:
            address = through(address).address
        dialled = pool.submit(link_opening.dial, address, identity, dialling, Deadline(PATIENCE))
        accepted = link_opening.accept(server.accept()[0], context, accepting, Deadline(PATIENCE))
        return dialled.result(), accepted


@contextmanager
def two_links(dialling: Recorder, accepting: Recorder) -> Iterator[tuple[Link, Link]]:
    """Two joined and started links, which end with the block."""
    links = open_links(dialling, accepting)
    for link in links:
        start(link)
    try:
        yield links
    finally:
        end(*links)


class RawPeer:
    """A node written by hand on a blocking socket: it says what the test wants."""

    def __init__(self, sock: socket.socket, *, server_side: bool) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self.tls = TlsSession(node()[0] if server_side else client_context(), server_side=server_side)
        self.wire = b""

    def handshake(self) -> None:
        """The whole TLS handshake."""
        while not self.tls.handshake():
            self.sock.sendall(self.tls.outgoing())
            data = self.sock.recv(65_536)
            if not data:
                raise Closed("the other side ended the handshake")
            self.tls.feed(data)
        self.sock.sendall(self.tls.outgoing())

    def say(self, *plaintexts: bytes) -> None:
        """Encrypts each, and sends all as one."""
        for plaintext in plaintexts:
            self.tls.write(plaintext)
        self.sock.sendall(self.tls.outgoing())

    def hello(self, versions: tuple[int, ...] = (1,)) -> None:
        """Sends HELLO."""
        self.say(encode_cell(0, Command.HELLO, encode_hello(versions)))

    def records(self) -> Iterator[bytes]:
        """The plaintext of each TLS record, until the other side ends."""
        while True:
            yield from self.tls.read()
            try:
                data = self.sock.recv(65_536)
            except ConnectionError:
                return
            if not data:
                return
            self.wire += data
            self.tls.feed(data)

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()


@contextmanager
def raw_and_link(owner: Recorder) -> Iterator[tuple[RawPeer, Link]]:
    """A hand-written dialling side, HELLO said, and the link that accepted it."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        raw = RawPeer(socket.create_connection(server.getsockname()), server_side=False)
        future = pool.submit(link_opening.accept, server.accept()[0], node()[0], owner, Deadline(PATIENCE))
        raw.handshake()
        raw.hello()
        link = future.result()
    start(link)
    try:
        yield raw, link
    finally:
        raw.close()
        end(link)


class Interceptor:
    """A TCP proxy for one connection whose `relay` decides how the bytes are cut into segments."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.getsockname()
        self._target = target
        self._thread = threading.Thread(target=self._run, name="interceptor")
        self._thread.start()

    def join(self) -> None:
        """Waits until both sides have ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def relay(self, source: socket.socket, sink: socket.socket) -> None:
        """Passes on what came at once; returns at the end of `source`."""
        raise NotImplementedError

    def _run(self) -> None:
        with self._server, self._server.accept()[0] as near, socket.create_connection(self._target) as far:
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._one_way, args=(far, near), name="interceptor back")
            back.start()
            self._one_way(near, far)
            back.join(PATIENCE)

    def _one_way(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            self.relay(source, sink)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of them has gone


class Dribbler(Interceptor):
    """One byte per segment."""

    def relay(self, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65_536):
            for at in range(len(data)):
                sink.sendall(data[at : at + 1])


class Coalescer(Interceptor):
    """As much as comes until the source is quiet, then all at once."""

    def relay(self, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65_536):
            while len(data) < 1_000_000 and select.select([source], [], [], 0.01)[0]:
                more = source.recv(65_536)
                if not more:
                    break
                data += more
            sink.sendall(data)


needs_openssl = pytest.mark.skipif(
    not shutil.which("openssl"), reason="needs the openssl command, the only one that asks for updates"
)


@contextmanager
def dialled_by_openssl() -> Iterator[tuple[IO[bytes], socket.socket]]:
    """Where its input goes (each line "K" makes it ask for a key update), and the socket that it has dialled."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.getsockname()[1]}"]
        silent = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, bufsize=0) as asker:
            assert asker.stdin
            try:
                yield asker.stdin, server.accept()[0]
            finally:
                asker.kill()
