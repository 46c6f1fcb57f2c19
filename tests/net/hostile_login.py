"""A login server that a test writes line by line, over real TLS: for what an honest one never says."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from ssl import PEM_cert_to_DER_cert

from common.directory.addresses import Address
from common.errors import Closed
from common.net.deadline import Deadline
from common.net.tls import server_context
from common.net.tls_stream import TlsStream
from common.ops.values import LoginServer
from common.wire.frames import FrameReader, encode_frame
from common.wire.login import MAX_FRAME, VERSION, Hello, Message, Welcome
from common.wire.login_codec import decode, encode
from tests.net.certificates import make_certificate
from tests.system.targets import PATIENCE, Target

WELCOME = Welcome(VERSION, 600_000, 4_096, 1_000)


class Peer:
    """The server's end of one connection. `heard` is all that the client has said."""

    def __init__(self, stream: TlsStream, binding: bytes) -> None:
        self.binding = binding
        self.heard: list[Message] = []
        self._stream = stream
        self._frames = FrameReader(MAX_FRAME)
        self._arrived: list[bytes] = []

    def receive(self) -> Message:
        """The next message; raises `Closed` at the end."""
        deadline = Deadline(PATIENCE)
        while not self._arrived:
            self._arrived += self._frames.feed(self._stream.receive())
            if not self._arrived:
                assert self._stream.wait_readable(deadline), "the client says nothing"
        self.heard.append(decode(self._arrived.pop(0)))
        return self.heard[-1]

    def say(self, *messages: Message | bytes) -> None:
        """All in one write."""
        frames = [encode_frame(each) if isinstance(each, bytes) else encode(each) for each in messages]
        self._stream.send(b"".join(frames), Deadline(PATIENCE))

    def greet(self, welcome: Welcome = WELCOME) -> None:
        assert isinstance(self.receive(), Hello)
        self.say(welcome)

    def rest(self) -> None:
        """Listens until the client has gone."""
        try:
            while True:
                self.receive()
        except Closed:
            pass


class HostileServer:
    """Use `serving`. `server` is what a client is told, `peers` the connections so far."""

    def __init__(self, target: Target, key: bytes) -> None:
        self.server = LoginServer(Address("127.0.0.1", target.port), key)
        self.peers: list[Peer] = []

    def heard(self) -> list[Message]:
        """All that was said on the last connection."""
        return self.peers[-1].heard


@contextmanager
def serving(folder: Path, script: Callable[[Peer], None]) -> Iterator[HostileServer]:
    """A server on loopback whose every connection runs the script, and then hears the rest."""
    certificate, key, identity = make_certificate(folder)
    context = server_context(certificate, key)
    binding = sha256(PEM_cert_to_DER_cert(certificate.read_text())).digest()
    finished = threading.Semaphore(0)

    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        try:
            peer = Peer(TlsStream.accept(sock, context, Deadline(PATIENCE)), binding)
            hostile.peers.append(peer)
            script(peer)
            peer.rest()
        except Closed:
            pass  # the client left in the middle
        finally:
            finished.release()

    with Target(serve) as target:
        hostile = HostileServer(target, identity)
        yield hostile
        for _ in range(target.accepted):
            assert finished.acquire(timeout=PATIENCE), "a client stays connected"
