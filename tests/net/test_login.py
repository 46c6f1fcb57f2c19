"""The login client against the real login server, without a network: everything that two users do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from rich.console import Console

from common.crypto.scram import salted_password
from common.errors import OnionError
from common.ops.values import LoginServer
from common.roles.auth_client.auth_client import AuthClient, Unusable
from common.roles.auth_client.errors import LoginEnded, LoginRefused, ServerLost
from common.roles.auth_client.pins import Pins
from common.roles.auth_server.auth_server import AuthServer
from common.roles.prompt.login_prompt import LoginPrompt, Misused
from common.roles.prompt.login_screen import direct
from common.wire.login import EndedReason, ErrorCode, Mail, NewMail
from tests.net.login_peer import build, serving
from tests.system.targets import PATIENCE

ALICE, BOB = "zebra in the attic", "quokka on the roof"
SAFE: dict[str, Any] = {"iterations": 600_000, "fewest_iterations": 600_000}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AuthServer]:
    with serving(tmp_path / "server", **SAFE) as server:
        yield server


class Pushes:
    """What a client was told unasked."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[NewMail | OnionError] = SimpleQueue()
        self.hear = self._queue.put

    def next(self) -> NewMail | OnionError:
        return self._queue.get(timeout=PATIENCE)

    def none(self) -> bool:
        try:
            self._queue.get_nowait()
        except Empty:
            return True
        return False


def connected(server: AuthServer, folder: Path, pushes: Pushes | None = None) -> AuthClient:
    return AuthClient(
        direct, LoginServer(server.address, None), Pins(folder), pushed=(pushes or Pushes()).hear
    )


@contextmanager
def user(
    server: AuthServer, folder: Path, name: str, password: str, *, new: bool = True, pushes: Pushes | None = None
) -> Iterator[AuthClient]:
    with connected(server, folder, pushes) as auth:
        if new:
            auth.sign_up(name, password)
        auth.log_in(name, password)
        yield auth


def texts(auth: AuthClient) -> list[str]:
    return [mail.text for page in auth.mail() for mail in page]


def test_two_users_write_to_each_other_and_hear_of_it_at_once(server: AuthServer, tmp_path: Path) -> None:
    pushes = Pushes()
    with (
        user(server, tmp_path / "a", "alice", ALICE) as alice,
        user(server, tmp_path / "b", "bob", BOB, pushes=pushes) as bob,
    ):
        assert alice.who_am_i().name == "alice"
        alice.send("bob", "hello\nbob ✓")
        assert pushes.next() == NewMail(1, "alice")
        alice.send("Bob", "again")
        assert texts(bob) == ["hello\nbob ✓", "again"]
        assert texts(bob) == ["hello\nbob ✓", "again"], "reading a page deletes nothing"
        page: tuple[Mail, ...] = next(bob.mail())
        assert page[0].sender == "alice"
        bob.read((page[0].id,))
        assert texts(bob) == ["again"]
        assert texts(alice) == []


def test_a_mailbox_of_many_pages_is_read_whole(server: AuthServer, tmp_path: Path) -> None:
    with user(server, tmp_path, "alice", ALICE) as alice:
        for number in range(100):
            alice.send("alice", f"{number} " + "x" * 4_000)
        assert [text.split()[0] for text in texts(alice)] == [str(number) for number in range(100)]
        with pytest.raises(LoginRefused) as caught:
            alice.send("alice", "one too many from one sender")
        assert caught.value.code is ErrorCode.FULL


def test_mail_waits_for_who_is_not_there(server: AuthServer, tmp_path: Path) -> None:
    with connected(server, tmp_path / "b") as bob:
        bob.sign_up("bob", BOB)
    with user(server, tmp_path / "a", "alice", ALICE) as alice:
        alice.send("bob", "for later")
    with user(server, tmp_path / "b", "bob", BOB, new=False) as bob:
        assert bob.unread == 1
        assert texts(bob) == ["for later"]


def test_the_password_is_changed_and_other_sessions_end(server: AuthServer, tmp_path: Path) -> None:
    pushes = Pushes()
    with (
        user(server, tmp_path, "alice", ALICE) as alice,
        user(server, tmp_path / "other", "alice", ALICE, new=False, pushes=pushes) as other,
    ):
        with pytest.raises(LoginRefused, match="wrong name or password"):
            alice.change_password("not the old one", BOB)
        assert alice.who_am_i().name == "alice", "a wrong password does not end the session"
        alice.change_password(ALICE, BOB)
        ended = pushes.next()
        assert isinstance(ended, LoginEnded)
        assert ended.reason is EndedReason.PASSWORD_CHANGED
        with pytest.raises(LoginEnded, match="changed from another session"):
            other.who_am_i()
        assert alice.who_am_i().name == "alice"
    with connected(server, tmp_path) as again:
        with pytest.raises(LoginRefused, match="wrong"):
            again.log_in("alice", ALICE)
        again.log_in("alice", BOB)


def test_one_session_ends_another_of_its_own_account_only(server: AuthServer, tmp_path: Path) -> None:
    pushes = Pushes()
    with (
        user(server, tmp_path / "a", "alice", ALICE) as alice,
        user(server, tmp_path / "a", "alice", ALICE, new=False, pushes=pushes) as other,
        user(server, tmp_path / "b", "bob", BOB) as bob,
    ):
        assert {each.id for each in alice.sessions()} == {alice.session, other.session}
        assert [each.id for each in alice.sessions() if each.here] == [alice.session]
        with pytest.raises(LoginRefused, match="no such session"):
            bob.log_out(alice.session)
        alice.log_out(other.session)
        ended = pushes.next()
        assert isinstance(ended, LoginEnded)
        assert ended.reason is EndedReason.LOGOUT
        assert {each.id for each in alice.sessions()} == {alice.session}


def test_a_deleted_account_is_gone(server: AuthServer, tmp_path: Path) -> None:
    with user(server, tmp_path, "alice", ALICE) as alice:
        key = alice.key
        assert Pins(tmp_path).device(key, "alice") != b""
        alice.delete(ALICE)
    assert Pins(tmp_path).device(key, "alice") == b""
    with connected(server, tmp_path) as again, pytest.raises(LoginRefused, match="wrong name or password"):
        again.log_in("alice", ALICE)


def test_refusals_of_a_sign_up_are_sentences(server: AuthServer, tmp_path: Path) -> None:
    with connected(server, tmp_path) as auth:
        auth.sign_up("alice", ALICE)
        for name in ("ALICE", "a1ice"):
            with pytest.raises(LoginRefused, match="is taken, or looks like one that is"):
                auth.sign_up(name, BOB)


def test_too_many_tries_are_told_to_wait(server: AuthServer, tmp_path: Path) -> None:
    with connected(server, tmp_path) as auth:
        auth.sign_up("alice", ALICE)
    codes = []
    for _ in range(8):
        with connected(server, tmp_path / "stranger") as auth, pytest.raises(LoginRefused) as caught:
            auth.log_in("alice", "guess")
        codes.append(caught.value.code)
        if caught.value.code is ErrorCode.SLOW_DOWN:
            break
    assert codes[-1] is ErrorCode.SLOW_DOWN
    assert f"wait {caught.value.wait} second" in str(caught.value)


def test_a_stranger_does_not_lock_out_a_device_that_was_here_before(server: AuthServer, tmp_path: Path) -> None:
    with user(server, tmp_path / "owner", "alice", ALICE):
        pass
    code = ErrorCode.WRONG
    while code is ErrorCode.WRONG:
        with connected(server, tmp_path / "stranger") as auth, pytest.raises(LoginRefused) as caught:
            auth.log_in("alice", "guess")
        code = caught.value.code
    assert code is ErrorCode.SLOW_DOWN
    with user(server, tmp_path / "owner", "alice", ALICE, new=False) as alice:
        assert alice.who_am_i().name == "alice"


def test_iterations_are_raised_at_the_next_login_and_other_sessions_stay(tmp_path: Path) -> None:
    with serving(tmp_path / "server", **SAFE) as server, connected(server, tmp_path) as auth:
        auth.sign_up("alice", ALICE)
    pushes = Pushes()
    with serving(tmp_path / "server", **(SAFE | {"iterations": 700_000})) as server:
        with user(server, tmp_path, "alice", ALICE, new=False, pushes=pushes) as first:
            with user(server, tmp_path, "alice", ALICE, new=False) as second:
                assert second.who_am_i().name == first.who_am_i().name == "alice"
            assert pushes.none()


def test_a_server_that_goes_says_so_and_one_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    server, pushes = build(tmp_path / "server", **SAFE), Pushes()
    server.start()
    try:
        with user(server, tmp_path, "alice", ALICE, pushes=pushes) as auth:
            server.stop()
            with pytest.raises((LoginEnded, ServerLost), match="shuts down"):
                auth.who_am_i()
            assert "shuts down" in str(pushes.next())
            with pytest.raises(ServerLost, match="cannot be reached"):
                connected(server, tmp_path)
    finally:
        server.stop()


def test_requests_from_many_threads_get_their_own_answers(server: AuthServer, tmp_path: Path) -> None:
    with user(server, tmp_path, "alice", ALICE) as alice:
        wrong: list[object] = []

        def ask(number: int) -> None:
            for _ in range(20):
                if number % 2:
                    wrong.extend([you for you in [alice.who_am_i()] if you.name != "alice"])
                else:
                    wrong.extend([each for each in alice.sessions() if each.id != alice.session])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert wrong == []


# ---- words


class Fixed:
    """Passwords that a test knows."""

    def current(self, name: str) -> str:
        return ALICE

    def new(self, name: str) -> str:
        return BOB


def test_the_words_of_the_login_prompt(server: AuthServer, tmp_path: Path) -> None:
    file = StringIO()

    def said(line: str) -> str:
        file.seek(0)
        file.truncate()
        login_prompt.say(line)
        return file.getvalue().strip()

    with user(server, tmp_path, "alice", ALICE) as alice:
        login_prompt = LoginPrompt(alice, Fixed(), Console(file=file, width=200))
        assert said("whoami").startswith("alice, here since 20")
        assert said("  SEND alice it's [red]me[/], \"you\"  ") == "sent to alice"
        assert said("inbox --keep").endswith("it's [red]me[/], \"you\"")
        assert said("inbox").endswith("it's [red]me[/], \"you\"")
        assert said("inbox") == "no mail"
        assert "(here)" in said("sessions")
        assert said("passwd") == "the password is changed; your other sessions are ended"
        assert said("") == ""
        assert "send USER TEXT" in said("help")
        for line in ("what", "send", "send bob", "inbox x", "whoami x", "logout a b", "delete me", "passwd old new"):
            with pytest.raises(Misused):
                said(line)
        with pytest.raises(LoginRefused, match="there is no such user carol"):
            said("send carol hello")
        with pytest.raises(LoginRefused, match=r"too long: 4,096 bytes is the most"):
            said("send alice " + "ü" * 3_000)
        with pytest.raises(LoginRefused, match="no such session"):
            said("logout 0123456789abcdef")
        for line in ("send al\udcffice hello", "send alice \udcff", "send " + "a" * 70_000 + " hello"):
            with pytest.raises(Unusable, match="cannot be"):
                said(line)
        for session in ("ä", "0" * 33, "\udcff", "\x7f"):
            with pytest.raises(LoginRefused, match="no such session"):
                said(f"logout {session}")
        assert said("whoami").startswith("alice"), "what cannot be meant does not end the session"
        assert not login_prompt.over
        assert said("logout") == "logged out"
        assert login_prompt.over


def test_a_login_that_was_too_slow_asks_again_and_does_not_hash_again(
    server: AuthServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(server, tmp_path / "alice") as alice:
        alice.sign_up("alice", ALICE)
    monkeypatch.setattr("common.roles.auth_server.logins.CHALLENGE_TIME", -1.0)
    hashed: list[int] = []

    def slow(password: bytes, salt: bytes, iterations: int) -> bytes:
        monkeypatch.setattr("common.roles.auth_server.logins.CHALLENGE_TIME", 60.0)  # the next one can be answered
        hashed.append(iterations)
        return salted_password(password, salt, iterations)

    monkeypatch.setattr("common.roles.auth_client.auth_client.salted_password", slow)
    with connected(server, tmp_path / "alice") as alice:
        alice.log_in("alice", ALICE)
        assert alice.who_am_i().name == "alice"
    assert hashed == [600_000]


def test_a_login_that_is_always_too_slow_is_a_sentence(
    server: AuthServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(server, tmp_path / "alice") as alice:
        alice.sign_up("alice", ALICE)
    monkeypatch.setattr("common.roles.auth_server.logins.CHALLENGE_TIME", -1.0)
    with connected(server, tmp_path / "alice") as alice:
        with pytest.raises(LoginRefused, match=r"^the login took too long: try again$"):
            alice.log_in("alice", ALICE)
