"""The other side of a login server, spoken by hand: for tests and benchmarks that send what no real client does."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from common.crypto.scram import ScramClient, Verifier, make_verifier
from common.directory.addresses import Address
from common.net.tls import client_context
from common.ops.keystore import load_or_create_identity
from common.roles.auth_server.auth_server import AuthServer
from common.wire import login
from common.wire.frames import FrameReader
from common.wire.login_codec import decode, encode

PATIENCE = 30.0  # seconds: whatever else the machine does
ITERATIONS = 100  # a test's password is guessed by nobody
PASSWORD = "correct horse battery staple"

T = TypeVar("T", bound=login.Message)
Connect = Callable[[Address], socket.socket]


class Ended(Exception):
    """The server closed the connection."""


class Refused(Exception):
    """The server's answer is an error."""

    def __init__(self, error: login.Error) -> None:
        super().__init__(f"{error.code} {error.wait}")
        self.code, self.wait = error.code, error.wait


def dial(address: Address) -> socket.socket:
    """Straight to the server."""
    sock = socket.create_connection((address.host, address.port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else hello waits for an acknowledgement, 40 ms
    return sock


class LoginPeer:
    """A connection to a login server; pushes are kept in `pushes` while answers are awaited. Use `with`."""

    def __init__(self, address: Address, connect: Connect = dial, iterations: int = ITERATIONS) -> None:
        self.iterations = iterations
        self.sock = client_context().wrap_socket(connect(address))
        self.sock.settimeout(PATIENCE)
        self.binding = sha256(self.sock.getpeercert(binary_form=True) or b"").digest()
        self.pushes: list[login.Push] = []
        self.device = b""
        self.session = ""
        self._frames = FrameReader(login.MAX_FRAME)
        self._arrived: list[bytes] = []

    def __enter__(self) -> "LoginPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Without a word."""
        self.sock.close()

    def send(self, *messages: login.Message) -> None:
        """In one write."""
        self.sock.sendall(b"".join(map(encode, messages)))

    def receive(self) -> login.Message:
        """The next message, of any kind; raises `Ended`."""
        while not self._arrived:
            try:
                data = self.sock.recv(65_536)
            except ConnectionError:
                raise Ended from None
            if not data:
                raise Ended
            self._arrived = self._frames.feed(data)
        return decode(self._arrived.pop(0))

    def answer(self) -> login.Message:
        """The next message that is no push."""
        while isinstance(message := self.receive(), login.NewMail | login.Ended):
            self.pushes.append(message)
        return message

    def push(self) -> login.Push:
        """The next push, whether it came already or not."""
        if self.pushes:
            return self.pushes.pop(0)
        message = self.receive()
        assert isinstance(message, login.NewMail | login.Ended), message
        return message

    def ask(self, message: login.Message, kind: type[T]) -> T:
        """Sends a request: its answer, which is of this kind; raises `Refused` when it is an error."""
        self.send(message)
        answer = self.answer()
        if isinstance(answer, login.Error):
            raise Refused(answer)
        assert isinstance(answer, kind), answer
        return answer

    def is_over(self) -> bool:
        """Waits for the end; False when there is anything but pushes before it."""
        try:
            self.answer()
        except Ended:
            return True
        return False

    # ---- what clients do ----

    def hello(self) -> login.Welcome:
        """The first thing said."""
        return self.ask(login.Hello(login.VERSION), login.Welcome)

    def sign_up(self, name: str, password: str = PASSWORD) -> None:
        """A new user."""
        self.ask(login.SignUp(name, *parts(new_verifier(password, self.iterations))), login.Ok)

    def scram(self, name: str, password: str = PASSWORD) -> ScramClient:
        """The client's half of an exchange on this connection."""
        return ScramClient(name, password, self.binding, min_iterations=1)

    def log_in(self, name: str, password: str = PASSWORD, device: bytes = b"") -> login.Done:
        """The exchange, to the server's own proof; `AuthenticationFailed` when that is wrong."""
        client = self.scram(name, password)
        challenge = self.ask(login.Scram(client.first(), device), login.Challenge)
        done = self.ask(login.Proof(client.final(challenge.data)), login.Done)
        client.verify(done.data)
        self.device, self.session = done.device, done.session
        return done

    def rekey(self, password: str, *, keep: bool = False) -> None:
        """Another password, after a fresh proof."""
        self.ask(login.Rekey(*parts(new_verifier(password, self.iterations)), keep), login.Ok)

    def inbox(self) -> list[str]:
        """The texts in the mailbox."""
        return [mail.text for mail in self.ask(login.Inbox(), login.MailList).mail]


def new_verifier(password: str = PASSWORD, iterations: int = ITERATIONS) -> Verifier:
    """With a salt of its own."""
    return make_verifier(password, os.urandom(login.SALT_SIZE), iterations)


def parts(verifier: Verifier) -> tuple[bytes, int, bytes, bytes]:
    """A verifier as `signup` and `rekey` carry it."""
    return verifier.salt, verifier.iterations, verifier.stored_key, verifier.server_key


def build(folder: Path, database: Path | None = None, **options: Any) -> AuthServer:
    """A login server that takes quick passwords; its keys are in `folder`."""
    identity = load_or_create_identity(folder / "keys")
    options = {"iterations": ITERATIONS, "fewest_iterations": 1} | options
    listen = options.pop("listen", Address("127.0.0.1", 0))
    return AuthServer(listen, identity.certificate, identity.key, database or folder / "users.sqlite", **options)


@contextlib.contextmanager
def serving(folder: Path, database: Path | None = None, **options: Any) -> Iterator[AuthServer]:
    """A running login server."""
    server = build(folder, database, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def greeted(server: AuthServer | Address) -> Iterator[LoginPeer]:
    """A connection that has said hello."""
    with LoginPeer(server if isinstance(server, Address) else server.address) as peer:
        peer.hello()
        yield peer


@contextlib.contextmanager
def member(server: AuthServer | Address, name: str, password: str = PASSWORD) -> Iterator[LoginPeer]:
    """A new user, logged in."""
    with greeted(server) as peer:
        peer.sign_up(name, password)
        peer.log_in(name, password)
        yield peer
