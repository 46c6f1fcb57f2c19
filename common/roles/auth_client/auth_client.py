"""The client's side of the login: sign up, log in, and what can be asked then; the password never leaves it.

    with AuthClient(client.connect, server, Pins(folder)) as auth:
        auth.log_in("alice", password)
        auth.send("bob", "hello")

Signing up sends what proves a password later (RFC 5802), not the password. Logging in proves that the password is
known, for this very connection, and the server proves that it knows the account; one that does not is left.
A server's key is believed as the option `login` says it, else as it was when a login first worked.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Self

from common.crypto.saslprep import saslprep
from common.crypto.scram import (
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    ScramClient,
    Verifier,
    make_verifier,
    salted_password,
)
from common.errors import AuthenticationFailed, Malformed, OnionError
from common.login.names import normal_name
from common.ops.values import LoginServer
from common.roles.auth_client.connection import Connect, LoginConnection, OtherKey
from common.roles.auth_client.errors import FakeServer, LoginRefused, ServerLost
from common.roles.auth_client.pins import KeyChanged, Pins
from common.wire.login import (
    MAX_IDS,
    MAX_SESSION,
    SALT_SIZE,
    Challenge,
    Delete,
    Done,
    ErrorCode,
    Inbox,
    LogOut,
    Mail,
    MailList,
    NewMail,
    Ok,
    Proof,
    Read,
    Rekey,
    Scram,
    Send,
    Sent,
    Session,
    SessionList,
    Sessions,
    SignUp,
    WhoAmI,
    You,
)

MOST_MAIL = 10_000  # texts in one mailbox, ten times what a server keeps: a hostile one must not fill our memory


class AuthClient:
    """One connection to the login server, and one account at most. Thread-safe once logged in, but nothing
    else may be asked while `change_password` or `delete` runs: before a proof the server takes only `ping`.

    `name` is who is logged in, as the server writes it; `unread` how many texts were stored then; `session` this
    session's id.
    """

    def __init__(
        self,
        connect: Connect,
        server: LoginServer,
        pins: Pins,
        *,
        accept: bytes | None = None,
        tell: Callable[[str], None] = lambda _text: None,
        pushed: Callable[[NewMail | OnionError], None] = lambda _push: None,
    ) -> None:
        """`accept`: the key that its user has been told to believe now. `tell` hears what a person should know;
        `pushed` hears of new mail, and of the end of the session, on another thread.

        Connects and greets, waits. Raises `KeyChanged`, `Refused`, `Closed` or `ServerLost`, each a sentence.
        """
        self.name = ""
        self.unread = 0
        self.session = ""
        self._server = server
        self._pins = pins
        self._accepted = accept
        self._tell = tell
        believed = accept or server.key or pins.key(server.address)
        try:
            self._connection = LoginConnection.open(connect, server.address, believed, pushed)
        except OtherKey as error:
            source = "the option login (network.toml or client.toml)" if server.key and not accept else ""
            assert believed is not None
            raise KeyChanged(server.address, believed, error.shown, source) from None
        if believed is None:
            tell(
                f"first contact with the login server {server.address}: its key is {self.key.hex()}; "
                "compare it with what its owner says. It is remembered when the login works"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self._connection.close()

    @property
    def key(self) -> bytes:
        """The server's Ed25519 key."""
        return self._connection.key

    # ---- who

    def sign_up(self, name: str, password: str) -> None:
        """Makes an account; not logged in afterwards. Takes a second. Raises `LoginRefused`."""
        name = check_name(name)
        verifier = self._new_verifier(password)
        self._connection.request(SignUp(name, *_fields(verifier)), Ok)
        self._believe()

    def log_in(self, name: str, password: str) -> None:
        """Proves the password, and checks the server's proof. Takes a second.

        Raises `LoginRefused` (wrong, slow down, ...), `FakeServer` when it does not know the account.
        """
        name = check_name(name)
        check_password(password)
        done, used = self._prove(name, password)
        self.name, self.unread, self.session = name, done.unread, done.session
        self._believe()
        self._connection.trust()
        if used < self._iterations(done.iterations):
            verifier = self._new_verifier(password, done.iterations)
            self._connection.request(Rekey(*_fields(verifier), keep=True), Ok)

    def change_password(self, old: str, new: str) -> None:
        """Ends all other sessions. Raises `LoginRefused` (wrong: the old one)."""
        verifier = self._new_verifier(new)
        self._prove(self.name, old)
        self._connection.request(Rekey(*_fields(verifier), keep=False), Ok)

    def delete(self, password: str) -> None:
        """Ends the account, its mailbox and all its sessions."""
        self._prove(self.name, password)
        self._connection.request(Delete(), Ok)
        self._pins.keep_device(self.key, self.name, b"")

    # ---- what can be asked

    def who_am_i(self) -> You:
        """The account, and this session."""
        return self._connection.request(WhoAmI(), You)

    def send(self, to: str, text: str) -> int:
        """A text into a mailbox: its id there. Raises `Unusable`, or `LoginRefused`."""
        to = check_name(to)
        most = self._connection.welcome.max_text
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise Unusable("this text cannot be sent: it is no text in UTF-8") from None
        if size > most:
            raise LoginRefused(ErrorCode.TOO_LONG, more=f": {most:,} bytes is the most")
        try:
            return self._connection.request(Send(to, text), Sent).id
        except LoginRefused as error:
            if error.code is ErrorCode.NO_SUCH_USER:
                raise LoginRefused(error.code, more=f" {to}") from None
            raise

    def mail(self) -> Iterator[tuple[Mail, ...]]:
        """The mailbox, oldest first, page by page; nothing is deleted. Raises `ServerLost` beyond `MOST_MAIL`."""
        after = count = 0
        while True:
            page = self._connection.request(Inbox(after), MailList)
            count += len(page.mail)
            if count > MOST_MAIL:
                self.close()
                raise ServerLost(f"the login server has no end of mail: {MOST_MAIL:,} texts is the most")
            if page.mail:
                yield page.mail
                last = page.mail[-1].id
            if not page.mail or not page.more or last <= after:
                return
            after = last

    def read(self, ids: tuple[int, ...]) -> None:
        """These texts are deleted."""
        for at in range(0, len(ids), MAX_IDS):
            self._connection.request(Read(ids[at : at + MAX_IDS]), Ok)

    def sessions(self) -> tuple[Session, ...]:
        """All sessions of the account."""
        return self._connection.request(Sessions(), SessionList).sessions

    def log_out(self, session: str = "") -> None:
        """Ends a session; empty: this one, and with it the connection's use. Raises `LoginRefused`."""
        if len(session) > MAX_SESSION or not (session.isascii() and session.isprintable()):
            raise LoginRefused(ErrorCode.NO_SUCH_SESSION)
        self._connection.request(LogOut(session), Ok)

    # ---- helpers

    def _prove(self, name: str, password: str) -> tuple[Done, int]:
        """For a normal name: the server's last word, and the iterations of the stored verifier.

        On a slow or busy machine the challenge may be too old by the time the password is hashed: then another is
        asked for, and the hash is there already.
        """
        salted = cache(salted_password)
        try:
            return self._exchange(name, password, salted)
        except LoginRefused as error:
            if error.code is not ErrorCode.EXPIRED:
                raise
        return self._exchange(name, password, salted)

    def _exchange(
        self, name: str, password: str, salted: Callable[[bytes, bytes, int], bytes]
    ) -> tuple[Done, int]:
        scram = ScramClient(name, password, self._connection.binding, salted=salted)
        device = self._pins.device(self.key, name)
        try:
            challenge = self._connection.request(Scram(scram.first(), device), Challenge)
            proof = Proof(scram.final(challenge.data))
        except KeyboardInterrupt:  # the server waits for a proof and would take nothing else
            self.close()
            raise
        except (Malformed, AuthenticationFailed) as error:
            self.close()
            raise ServerLost(f"the login server asks for what none may ({error}): no proof was sent") from None
        try:
            done = self._connection.prove(proof)
        except LoginRefused as error:
            raise self._explained(error) from None
        try:
            scram.verify(done.data)
        except AuthenticationFailed:
            self.close()
            raise FakeServer(name) from None
        self._pins.keep_device(self.key, name, done.device)
        return done, scram.verifier.iterations

    def _explained(self, error: LoginRefused) -> LoginRefused:
        """A key that nobody vouched for may be the reason: the proof then fits another connection."""
        known = self._accepted or self._server.key or self._pins.key(self._server.address)
        if error.code is not ErrorCode.WRONG or known:
            return error
        return LoginRefused(
            error.code,
            more=f"; if you are sure of both, somebody may stand between you and the login server: ask its owner "
            f"whether its key is {self.key.hex()}",
        )

    def _believe(self) -> None:
        """The server has proved that the account is its own, or taken it: its key is the one from now on."""
        if self._server.key is None:
            self._pins.remember(self._server._replace(key=self.key))

    def _new_verifier(self, password: str, iterations: int = 0) -> Verifier:
        check_password(password)
        wanted = self._iterations(max(iterations, self._connection.welcome.iterations))
        return make_verifier(password, os.urandom(SALT_SIZE), wanted)

    def _iterations(self, wanted: int) -> int:
        """As many as the server wants, never fewer than are safe; raises `ServerLost` for a waste of time."""
        if wanted > MAX_ITERATIONS:
            self.close()
            raise ServerLost(f"the login server asks for {wanted:,} iterations, {MAX_ITERATIONS:,} is the most")
        return max(wanted, MIN_ITERATIONS)


class Unusable(OnionError):
    """A name or a password that no account can have, or a text that nobody can send; it says why."""


def check_name(name: str) -> str:
    """The name in its normal form; raises `Unusable`, as the server would refuse it."""
    try:
        return normal_name(name)
    except Malformed as error:
        raise Unusable(f"this name cannot be used: {error}") from None


def check_password(password: str) -> None:
    """Raises `Unusable`."""
    try:
        saslprep(password)
    except Malformed as error:
        raise Unusable(f"this password cannot be used: {error}") from None


def _fields(verifier: Verifier) -> tuple[bytes, int, bytes, bytes]:
    return verifier.salt, verifier.iterations, verifier.stored_key, verifier.server_key
