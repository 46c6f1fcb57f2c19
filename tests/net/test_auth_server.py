"""The login server over real sockets: what each request does, for its own user and for nobody else."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.net.deadline import Deadline
from common.roles.auth_server import session_store, user_store
from common.roles.auth_server.auth_server import AuthServer
from common.wire import login
from common.wire.login import EndedReason, ErrorCode
from common.wire.login_codec import encode
from tests.net.in_process import wait_until
from tests.net.login_peer import (
    ITERATIONS,
    PASSWORD,
    PATIENCE,
    Ended,
    LoginPeer,
    Refused,
    greeted,
    member,
    new_verifier,
    parts,
    serving,
)

BAD_NAMES = ["", " ", "a b", "a\x00b", "a\nb", "р" + "aypal", "-a", "x" * 65, "\u202eevil", "a/b"]  # noqa: RUF001


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AuthServer]:
    with serving(tmp_path) as running:
        yield running


def refused(peer: LoginPeer, message: login.Message) -> ErrorCode:
    """The code with which the server refuses."""
    with pytest.raises(Refused) as caught:
        peer.ask(message, login.Ok)
    return caught.value.code


def test_sign_up_log_in_and_talk(server: AuthServer) -> None:
    with greeted(server) as peer:
        peer.sign_up("Alice")
        done = peer.log_in("alice")
        assert (done.unread, done.iterations) == (0, ITERATIONS)
        you = peer.ask(login.WhoAmI(), login.You)
        assert (you.name, you.session) == ("alice", done.session)
        peer.ask(login.Ping(), login.Pong)
        peer.ask(login.LogOut(), login.Ok)
        assert peer.is_over()
    with greeted(server) as again:
        assert again.log_in("ALICE").session != done.session


def test_sessions_that_ended_while_the_disk_refused_are_forgotten_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.roles.auth_server.auth_server.HOUSEKEEPING", 0.1)
    refusing = "CREATE TRIGGER full BEFORE DELETE ON sessions BEGIN SELECT RAISE(ABORT, 'no'); END"
    with (
        serving(tmp_path) as server,
        contextlib.closing(sqlite3.connect(tmp_path / "users.sqlite", isolation_level=None)) as db,
        member(server, "alice") as alice,
    ):
        db.execute(refusing)
        with greeted(server) as other:
            other.log_in("alice")
        wait_until(lambda: server._left)
        assert len(alice.ask(login.Sessions(), login.SessionList).sessions) == 2
        db.execute("DROP TRIGGER full")
        wait_until(lambda: len(alice.ask(login.Sessions(), login.SessionList).sessions) == 1)


def test_the_welcome_tells_the_limits(server: AuthServer) -> None:
    with LoginPeer(server.address) as peer:
        assert peer.hello() == login.Welcome(1, ITERATIONS, 4_096, 1_000)


def test_another_version_is_refused_and_ends_the_connection(server: AuthServer) -> None:
    with LoginPeer(server.address) as peer:
        assert refused(peer, login.Hello(2)) is ErrorCode.VERSION
        assert peer.is_over()


def test_a_name_and_what_looks_like_it_is_taken_once(server: AuthServer) -> None:
    with greeted(server) as peer:
        peer.sign_up("scope")
        for name in ("scope", "SCOPE", "\N{FULLWIDTH LATIN SMALL LETTER S}cope", "ѕсоре"):  # noqa: RUF001
            assert refused(peer, login.SignUp(name, *parts(new_verifier()))) is ErrorCode.NAME_TAKEN, name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused(server: AuthServer, name: str) -> None:
    with greeted(server) as peer:
        assert refused(peer, login.SignUp(name, *parts(new_verifier()))) is ErrorCode.BAD_NAME
        peer.sign_up("good")


def test_a_weak_verifier_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, fewest_iterations=ITERATIONS) as server, greeted(server) as peer:
        assert refused(peer, login.SignUp("a", *parts(new_verifier(iterations=ITERATIONS - 1)))) is ErrorCode.WEAK
        peer.sign_up("a")
        peer.log_in("a")
        peer.log_in("a")
        assert refused(peer, login.Rekey(*parts(new_verifier(iterations=1)), True)) is ErrorCode.WEAK


def test_a_closed_server_takes_no_new_users(tmp_path: Path) -> None:
    with serving(tmp_path) as server, greeted(server) as peer:
        peer.sign_up("early")
    with serving(tmp_path, closed=True) as server, greeted(server) as peer:
        assert refused(peer, login.SignUp("late", *parts(new_verifier()))) is ErrorCode.CLOSED
        server.reconfigure(closed=False)
        peer.ask(login.SignUp("late", *parts(new_verifier())), login.Ok)
        server.reconfigure(closed=True)
        assert refused(peer, login.SignUp("later", *parts(new_verifier()))) is ErrorCode.CLOSED
        peer.log_in("early")


def test_there_is_a_limit_of_users(tmp_path: Path) -> None:
    with serving(tmp_path, max_users=1) as server:
        with greeted(server) as peer:
            peer.sign_up("a")
            assert refused(peer, login.SignUp("b", *parts(new_verifier()))) is ErrorCode.BUSY
            assert peer.is_over()


def test_mail_is_stored_until_it_is_read(server: AuthServer) -> None:
    with member(server, "bob") as bob:
        bob.ask(login.LogOut(), login.Ok)
    with member(server, "alice") as alice:
        ids = [alice.ask(login.Send("Bob", text), login.Sent).id for text in ("one", "two\n\x00\x1b[0m", "")]
        assert ids == sorted(set(ids))
    with greeted(server) as bob:
        assert bob.log_in("bob").unread == 3
        page = bob.ask(login.Inbox(), login.MailList)
        assert [(mail.id, mail.sender, mail.text) for mail in page.mail] == [
            (ids[0], "alice", "one"),
            (ids[1], "alice", "two\n\x00\x1b[0m"),
            (ids[2], "alice", ""),
        ]
        assert [mail.id for mail in bob.ask(login.Inbox(ids[0]), login.MailList).mail] == ids[1:]
        bob.ask(login.Read((ids[0], ids[2], 12345)), login.Ok)
        assert bob.inbox() == ["two\n\x00\x1b[0m"]


def test_new_mail_is_pushed_to_every_session_of_its_receiver(server: AuthServer) -> None:
    with member(server, "alice") as alice, member(server, "bob") as bob, greeted(server) as elsewhere:
        elsewhere.log_in("bob")
        alice.ask(login.Send("bob", "hi"), login.Sent)
        assert bob.push() == elsewhere.push() == login.NewMail(1, "alice")
        alice.ask(login.Ping(), login.Pong)
        assert alice.pushes == []


def test_a_mailbox_and_a_text_have_limits(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "MAX_FROM_ONE", 2)
    monkeypatch.setattr(session_store, "MAX_STORED", 3)
    with member(server, "a") as a, member(server, "b") as b, member(server, "c"):
        assert refused(a, login.Send("nobody", "x")) is ErrorCode.NO_SUCH_USER
        assert refused(a, login.Send("", "x")) is ErrorCode.NO_SUCH_USER
        assert refused(a, login.Send("c", "é" * 2_049)) is ErrorCode.TOO_LONG
        for text in ("é" * 2_048, "2"):
            a.ask(login.Send("c", text), login.Sent)
        assert refused(a, login.Send("c", "3")) is ErrorCode.FULL
        b.ask(login.Send("c", "3"), login.Sent)
        assert refused(b, login.Send("c", "4")) is ErrorCode.FULL


def test_a_full_mailbox_comes_in_pages(server: AuthServer) -> None:
    texts = [str(number) + "\x01" * 4_000 for number in range(5)]  # 24,000 bytes each, as JSON writes them
    with member(server, "a") as a:
        for text in texts:
            a.ask(login.Send("a", text), login.Sent)
        seen: list[str] = []
        after, more = 0, True
        while more:
            page = a.ask(login.Inbox(after), login.MailList)
            assert page.mail
            seen += [mail.text for mail in page.mail]
            after, more = page.mail[-1].id, page.more
        assert seen == texts


def test_a_session_ends_another_of_its_own_user(server: AuthServer) -> None:
    with member(server, "alice") as here, greeted(server) as there:
        there.log_in("alice")
        listed = here.ask(login.Sessions(), login.SessionList).sessions
        assert {(each.id, each.here) for each in listed} == {(here.session, True), (there.session, False)}
        here.ask(login.LogOut(there.session), login.Ok)
        assert there.push() == login.Ended(EndedReason.LOGOUT)
        assert there.is_over()
        assert [each.id for each in here.ask(login.Sessions(), login.SessionList).sessions] == [here.session]


def test_a_changed_password_ends_other_sessions_and_forgets_other_devices(server: AuthServer) -> None:
    with member(server, "alice") as here, greeted(server) as there:
        other_device = there.log_in("alice").device
        here.log_in("alice", device=here.device)
        here.rekey("another password")
        assert there.push() == login.Ended(EndedReason.PASSWORD_CHANGED)
        assert there.is_over()
        kept = here.device
    with greeted(server) as peer:
        with pytest.raises(Refused, match="wrong"):
            peer.log_in("alice")
        assert peer.log_in("alice", "another password", other_device).device != other_device
    with greeted(server) as peer:
        assert peer.log_in("alice", "another password", kept).device == kept


def test_more_iterations_leave_other_sessions_and_devices_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as server, member(server, "alice") as peer:
        device = peer.device
    with serving(tmp_path, iterations=2 * ITERATIONS) as server:
        with greeted(server) as here, greeted(server) as there:
            there.log_in("alice", device=device)
            assert here.log_in("alice").iterations == 2 * ITERATIONS
            here.iterations = 2 * ITERATIONS
            here.rekey(PASSWORD, keep=True)
            there.ask(login.Ping(), login.Pong)
            assert there.pushes == []
        with greeted(server) as again:
            client = again.scram("alice")
            challenge = again.ask(login.Scram(client.first(), device), login.Challenge)
            assert b",i=200" in challenge.data
            assert again.ask(login.Proof(client.final(challenge.data)), login.Done).device == device


def test_rekey_and_delete_need_a_fresh_proof(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with member(server, "alice") as peer:
        monkeypatch.setattr("common.login.conversation.FRESH", -1)
        assert refused(peer, login.Delete()) is ErrorCode.PROOF_NEEDED
        assert refused(peer, login.Rekey(*parts(new_verifier()), True)) is ErrorCode.PROOF_NEEDED
        monkeypatch.setattr("common.login.conversation.FRESH", 60)
        peer.log_in("alice")
        peer.ask(login.Delete(), login.Ok)


def test_within_a_session_only_its_own_name_is_proved(server: AuthServer) -> None:
    with member(server, "bob"), member(server, "alice") as alice:
        assert refused(alice, login.Scram(alice.scram("bob").first())) is ErrorCode.WRONG
        alice.log_in("alice")
        assert alice.ask(login.WhoAmI(), login.You).name == "alice"


def test_a_deleted_account_leaves_nothing(server: AuthServer) -> None:
    with member(server, "bob") as bob, member(server, "alice") as alice, greeted(server) as elsewhere:
        elsewhere.log_in("alice")
        alice.ask(login.Send("bob", "from alice"), login.Sent)
        bob.push()
        bob.ask(login.Send("alice", "to alice"), login.Sent)
        alice.ask(login.Delete(), login.Ok)
        assert alice.is_over()
        assert elsewhere.push() in (login.NewMail(1, "bob"), login.Ended(EndedReason.DELETED))
        assert elsewhere.is_over()
        assert bob.inbox() == []
        assert refused(bob, login.Send("alice", "?")) is ErrorCode.NO_SUCH_USER
    with greeted(server) as peer:
        with pytest.raises(Refused, match="wrong"):
            peer.log_in("alice")
        peer.sign_up("alice", "somebody else")
        assert peer.log_in("alice", "somebody else").unread == 0


def test_the_session_quiet_longest_makes_room(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_store, "MAX_SESSIONS", 1)
    with member(server, "alice") as first, greeted(server) as second:
        second.log_in("alice")
        assert first.push() == login.Ended(EndedReason.REPLACED)
        second.ask(login.WhoAmI(), login.You)


@pytest.mark.parametrize("limit", ["SILENCE", "IDLE"])
def test_a_session_without_use_is_ended(server: AuthServer, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    with greeted(server) as peer:
        peer.sign_up("alice")
        monkeypatch.setattr(f"common.login.conversation.{limit}", 0.2)
        peer.log_in("alice")
        assert peer.push() == login.Ended(EndedReason.IDLE)
        assert peer.is_over()


def test_who_does_not_log_in_is_ended(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.login.conversation.STRANGER_TIME", 0.2)
    with LoginPeer(server.address) as peer:
        assert peer.is_over()


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", encode(login.Ping())), ((60_000).to_bytes(4, "big"), b"x")],
    ids=["pings", "a message that never ends"],
)
def test_a_stranger_wins_no_time_by_talking(
    server: AuthServer, monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes
) -> None:
    monkeypatch.setattr("common.login.conversation.STRANGER_TIME", 0.5)
    with greeted(server) as peer:
        peer.sock.sendall(first)
        deadline = Deadline(PATIENCE)
        with pytest.raises((Ended, OSError)):
            while not deadline.expired:
                peer.sock.settimeout(PATIENCE)
                peer.sock.sendall(then)
                peer.sock.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    peer.receive()


def test_a_stranger_wins_no_time_by_saying_much_at_once(
    server: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.login.conversation.STRANGER_TIME", 0.5)
    monkeypatch.setattr("common.roles.auth_server.connection.BURST", 2.0)
    with greeted(server) as peer:
        peer.send(*[login.Ping()] * 200)
        answered = 0
        with pytest.raises(Ended):
            while answered < 100:  # at 20 a second the rest would take ten
                peer.answer()
                answered += 1


def test_a_stop_tells_members_and_leaves_no_thread(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with member(server, "alice") as alice, greeted(server) as stranger:
            server.stop()
            server.stop()
            assert alice.push() == login.Ended(EndedReason.SHUTTING_DOWN)
            assert alice.is_over()
            assert stranger.is_over()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("login ")]


def test_when_it_stops_what_has_arrived_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with greeted(server) as peer:
            requests = [login.SignUp(name, *parts(new_verifier())) for name in ("a", "b", "c")]
            peer.send(*requests)
            assert peer.answer() == login.Ok()
            server.stop()
            assert [peer.answer(), peer.answer()] == [login.Ok()] * 2
    with serving(tmp_path) as server:
        for name in ("a", "b", "c"):
            with greeted(server) as peer:
                peer.log_in(name)


def test_members_stay_when_strangers_fill_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, max_connections=3) as server:
        with member(server, "alice") as alice:
            strangers = [LoginPeer(server.address) for _ in range(5)]
            assert all(stranger.is_over() for stranger in strangers[:3])
            alice.ask(login.WhoAmI(), login.You)
            for stranger in strangers:
                stranger.close()
            with member(server, "bob"), member(server, "carol"):
                with LoginPeer(server.address) as late:
                    assert refused(late, login.Hello(1)) is ErrorCode.BUSY


def test_requests_that_come_too_fast_are_answered_later_and_in_order(
    server: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.roles.auth_server.connection.BURST", 3.0)
    monkeypatch.setattr("common.roles.auth_server.connection.RATE", 50.0)
    with greeted(server) as peer:
        peer.send(*[login.Ping()] * 20)
        assert [peer.answer() for _ in range(20)] == [login.Pong()] * 20


def test_a_disk_that_is_full_is_busy_and_confirms_nothing(server: AuthServer) -> None:
    with member(server, "alice") as alice:
        database = server._database._lasting
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        sent = 0
        with pytest.raises(Refused, match="busy"):
            for _ in range(100):
                alice.ask(login.Send("alice", "x" * 4_096), login.Sent)
                sent += 1
        assert alice.is_over()
        database.execute("PRAGMA max_page_count = 1000000")
    with greeted(server) as again:
        assert again.log_in("alice").unread == sent
        again.ask(login.Send("alice", "more"), login.Sent)
