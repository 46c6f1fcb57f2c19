"""Users, devices, tries, sessions and mail in a real file: the limits, and what goes when."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.crypto.scram import Verifier, decoy_verifier
from common.login.conversation import NOBODY
from common.login.throttle import FREE_TRIES, KEPT
from common.roles.auth_server import session_store, user_store
from common.roles.auth_server.session_store import SERVER_LOST, SessionOver, SessionStore
from common.roles.auth_server.user_database import Database
from common.roles.auth_server.user_store import LoggedIn, NameTaken, NoRoom, UserStore, VerifierChanged
from common.wire.login import EndedReason

DECOY = decoy_verifier(b"s" * 32, "x", 7)
ONE, OTHER = (Verifier(bytes([each]) * 16, 100 + each, bytes([each]) * 32, bytes([each]) * 32) for each in (1, 2))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "users.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def users(database: Database) -> UserStore:
    return UserStore(database)


@pytest.fixture
def sessions(database: Database, users: UserStore) -> SessionStore:
    store = SessionStore(database)
    store.still_here("here", {}, 0.0)
    for name in ("alice", "bob"):
        users.sign_up(name, name, ONE, 5.0)
    return store


def log_in(
    users: UserStore, name: str = "alice", device: bytes = b"", now: float = 10.0, server: str = "here"
) -> LoggedIn:
    account = users.find(name, DECOY)
    return users.log_in(account, users.admit(name, account.id, device, now), device, server, now)


def count(database: Database, table: str) -> int:
    with database.reading() as db:
        return int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


def test_a_user_is_found_and_nobody_else(users: UserStore) -> None:
    users.sign_up("alice", "alice", ONE, 5.0)
    found, missing = users.find("alice", DECOY), users.find("bob", DECOY)
    assert found.verifier == ONE and found.id > 0
    assert (missing.id, missing.verifier) == (NOBODY, DECOY)


def test_a_name_and_a_skeleton_are_taken_once_and_there_is_an_end(database: Database) -> None:
    users = UserStore(database, max_users=2)
    users.sign_up("alice", "alice", ONE, 5.0)
    for name, skeleton in (("alice", "other"), ("other", "alice")):
        with pytest.raises(NameTaken):
            users.sign_up(name, skeleton, OTHER, 5.0)
    users.sign_up("bob", "bob", OTHER, 5.0)
    with pytest.raises(NoRoom):
        users.sign_up("carol", "carol", OTHER, 5.0)


def test_decoys_follow_users_upwards_only_and_to_counts_of_the_server_only(users: UserStore) -> None:
    users.follow_users(101)
    assert users.decoys() == [(101, 1.0)]
    users.sign_up("alice", "alice", ONE, 5.0)
    users.follow_users(102)
    assert users.decoys() == [(102, 0.0), (101, 1.0)]
    users.sign_up("bob", "bob", OTHER, 5.0)
    users.sign_up("odd", "odd", decoy_verifier(b"s" * 32, "odd", 1_000), 5.0)
    users.follow_users(102)
    assert users.decoys() == [(102, 2 / 3), (101, 1.0)]
    for name in ("carol", "dave"):
        users.sign_up(name, name, ONE, 5.0)
    users.follow_users(102)
    assert users.decoys() == [(102, 2 / 3), (101, 1.0)]


def test_a_device_is_known_by_its_token_and_only_for_its_user(users: UserStore, sessions: SessionStore) -> None:
    token = log_in(users).device
    assert log_in(users, device=token).device == token
    assert log_in(users, device=token[:-1] + bytes([token[-1] ^ 1])).device != token
    assert log_in(users, "bob", token).device != token


def test_a_user_has_so_many_devices(
    users: UserStore, sessions: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_store, "MAX_DEVICES", 2)
    first, second, third = (log_in(users, now=float(now)).device for now in (1, 2, 3))
    assert log_in(users, device=first, now=4.0).device != first
    assert log_in(users, device=third, now=5.0).device == third
    assert second != third


def test_tries_are_counted_given_back_and_forgotten(
    users: UserStore, sessions: SessionStore, database: Database
) -> None:
    bob = users.find("bob", DECOY)
    for _ in range(FREE_TRIES):
        assert users.admit("bob", bob.id, b"", 10.0).verdict.wait == 0
    assert users.would_wait("bob", bob.id, b"", 10.0) == users.admit("bob", bob.id, b"", 10.0).verdict.wait == 1.0
    for _ in range(3 * FREE_TRIES):
        log_in(users, "alice")
    users.forget_tries(10.0 + KEPT)
    assert count(database, "tries") == 2
    users.forget_tries(10.1 + KEPT)
    assert count(database, "tries") == 0


def test_tries_of_so_many_names_are_remembered(
    users: UserStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_store, "MAX_TRIES", 3)
    for number in range(10):
        users.admit(f"nobody{number}", NOBODY, b"", 10.0 + number)
    users.forget_tries(20.0)
    assert count(database, "tries") == 3
    for _ in range(FREE_TRIES - 1):
        users.admit("nobody9", NOBODY, b"", 19.0)
    assert users.would_wait("nobody9", NOBODY, b"", 19.0) == 1.0


def test_a_changed_verifier_or_a_deleted_user_ends_a_login_under_way(
    users: UserStore, sessions: SessionStore
) -> None:
    session = log_in(users).session
    account = users.find("alice", DECOY)
    admitted = users.admit("alice", account.id, b"", 10.0)
    sessions.rekey(session, OTHER, keep=True)
    with pytest.raises(VerifierChanged):
        users.log_in(account, admitted, b"", "here", 10.0)
    account = users.find("alice", DECOY)
    sessions.delete(session)
    with pytest.raises(VerifierChanged):
        users.proved(account, admitted)


def test_a_user_has_so_many_sessions(
    users: UserStore, sessions: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_store, "MAX_SESSIONS", 2)
    first, second = log_in(users, now=1.0).session, log_in(users, now=2.0).session
    sessions.still_here("here", {first: 3.0}, 3.0)
    third = log_in(users, now=4.0).session
    assert {each.id for each in sessions.sessions(third)} == {first, third}
    with pytest.raises(SessionOver) as caught:
        sessions.who(second)
    assert caught.value.reason is EndedReason.REPLACED


def test_sessions_of_a_server_that_died_are_over(users: UserStore, sessions: SessionStore) -> None:
    sessions.still_here("dead", {}, 0.0)
    mine, lost = log_in(users, now=1.0).session, log_in(users, now=1.0, server="dead").session
    sessions.still_here("here", {}, SERVER_LOST)
    assert {each.id for each in sessions.sessions(mine)} == {mine, lost}
    for later in (1, 2):
        assert {each.id for each in sessions.sessions(mine)} == {mine, lost}
        sessions.still_here("here", {}, SERVER_LOST + later)
    assert {each.id for each in sessions.sessions(mine)} == {mine}
    with pytest.raises(SessionOver):
        sessions.inbox(lost, 0)


@pytest.mark.parametrize("jump", [1e8, -1e8])
def test_a_clock_that_jumps_ends_no_session_of_another_server(
    users: UserStore, sessions: SessionStore, jump: float
) -> None:
    there = SessionStore(users._database)
    there.still_here("there", {}, 2e8)
    other = log_in(users, now=2e8, server="there").session
    for now in (2e8 + jump, 2e8 + jump + 10):
        sessions.still_here("here", {}, now)
        there.still_here("there", {}, now + 1)
    assert there.who(other)[0] == "alice"


def test_a_server_that_died_while_the_clock_was_ahead_is_lost_too(users: UserStore, sessions: SessionStore) -> None:
    sessions.still_here("dead", {}, 1e9)
    lost = log_in(users, server="dead").session
    for now in (10.0, 20.0):
        sessions.still_here("here", {}, now)
    with pytest.raises(SessionOver):
        sessions.who(lost)


def test_a_server_that_ends_takes_its_sessions_along(
    users: UserStore, sessions: SessionStore, database: Database
) -> None:
    log_in(users)
    sessions.gone("here")
    assert count(database, "sessions") == count(database, "servers") == 0


def test_news_are_for_the_server_that_has_the_connection(users: UserStore, sessions: SessionStore) -> None:
    sessions.still_here("there", {}, 0.0)
    here, there = log_in(users).session, log_in(users, server="there").session
    number = sessions.news("here", 0)[2]
    sessions.send(here, "alice", "hi", 10.0)
    sessions.log_out(here, there)
    ended, with_mail, newest = sessions.news("here", number)
    assert (ended, with_mail) == ({}, [here])
    assert sessions.news("here", newest)[1] == []
    ended, with_mail, _ = sessions.news("there", number)
    assert (ended, with_mail) == ({there: EndedReason.LOGOUT}, [])
    sessions.forget([there])
    assert sessions.news("there", newest)[0] == {}


def test_ids_of_mail_rise_whatever_the_clock_does(users: UserStore, sessions: SessionStore) -> None:
    session = log_in(users).session
    ids = [sessions.send(session, "alice", "hi", now) for now in (10.0, 10.0, 5.0, 11.0)]
    assert ids == sorted(set(ids))
    sessions.read(session, ids)
    assert sessions.send(session, "alice", "hi", 5.0) > ids[-1]


def test_a_deleted_user_leaves_no_row(users: UserStore, sessions: SessionStore, database: Database) -> None:
    alice, bob = log_in(users).session, log_in(users, "bob").session
    sessions.send(alice, "bob", "hi", 10.0)
    sessions.send(bob, "alice", "hi", 10.0)
    sessions.delete(alice)
    sessions.forget([alice])
    assert [count(database, table) for table in ("users", "devices", "mail", "sessions")] == [1, 1, 0, 1]
    with pytest.raises(session_store.NoSuchUser):
        sessions.send(bob, "alice", "hi", 10.0)


def test_what_is_deleted_is_not_left_in_the_file(tmp_path: Path) -> None:
    database = Database(tmp_path / "users.sqlite")
    users, sessions = UserStore(database), SessionStore(database)
    users.sign_up("alice", "alice", ONE, 5.0)
    session = log_in(users).session
    ids = [sessions.send(session, "alice", f"needle {number}", 10.0) for number in range(20)]
    sessions.read(session, ids[5:])
    database.tidy()
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())  # of a server that runs, the log too
    database.close()
    assert [b"needle %d" % number in data for number in (0, 4, 7, 12, 19)] == [True, True, False, False, False]
