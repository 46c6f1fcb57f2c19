"""The file of users: versions, modes, what is refused, and that a transaction happens as a whole or not at all."""

import sqlite3
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest

from common.errors import ConfigError
from common.roles.auth_server.user_database import STEPS, Database, StoreFailed
from common.roles.auth_server.user_store import UserStore

NEXT = (*STEPS, "ALTER TABLE users ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'")
USER = "INSERT INTO users (name, skeleton, salt, iterations, stored_key, server_key, since) VALUES (?, ?, x'', 1, x'', x'', 0)"


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_an_older_file_is_brought_up_with_its_users(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    database = Database(path)
    with database.lasting() as db:
        db.execute(USER, ("a", "a"))
    database.close()
    assert version_of(path) == len(STEPS)
    database = Database(path, NEXT)
    with database.reading() as db:
        assert db.execute("SELECT name, colour FROM users").fetchall() == [("a", "blue")]
    database.close()
    assert version_of(path) == len(NEXT)
    with pytest.raises(ConfigError, match=r"users\.sqlite: was written by a newer login server"):
        Database(path)


def test_decoys_of_an_older_file_have_the_counts_of_its_users(tmp_path: Path) -> None:
    database = Database(tmp_path / "users.sqlite", STEPS[:1])
    with database.lasting() as db:
        db.execute(USER, ("a", "a"))
    database.close()
    database = Database(tmp_path / "users.sqlite")
    users = UserStore(database)
    users.follow_users(5)
    assert users.decoys() == [(5, 0.0), (1, 1.0)]
    database.close()


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "users.sqlite"
    Database(path).close()
    with pytest.raises(ConfigError):
        Database(path, (*NEXT, "CREATE TABLE users (id)"))
    assert version_of(path) == len(STEPS)
    Database(path).close()


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    secrets = set()
    for _ in range(2):
        database = Database(tmp_path / "users.sqlite")
        with database.reading() as db:
            secrets.add(db.execute("SELECT value FROM secret").fetchone())
        database.close()
    assert len(secrets) == 1


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    database = Database(tmp_path / "new folder" / "users.sqlite")
    with database.lasting() as db:
        db.execute(USER, ("a", "a"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new folder").iterdir()}
    assert modes == dict.fromkeys(["users.sqlite", "users.sqlite-wal", "users.sqlite-shm"], 0o600)
    database.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, whatever its name says" * 100, b"SQLite format 3\0" + b"\xff" * 5_000]
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "users.sqlite"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is damaged .*; restore a copy"):
        Database(path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used as a folder"):
        Database(tmp_path / "file" / "users.sqlite")
    with pytest.raises(ConfigError, match="cannot be used as the database of users"):
        Database(tmp_path)


@pytest.mark.parametrize("kind", ["lasting", "passing"])
def test_what_raises_in_a_transaction_undoes_all_of_it(tmp_path: Path, kind: str) -> None:
    database = Database(tmp_path / "users.sqlite")
    for error in (KeyError, sqlite3.OperationalError):
        with pytest.raises((KeyError, StoreFailed)):
            with getattr(database, kind)() as db:
                db.execute(USER, ("a", "a"))
                raise error
    with database.reading() as db:
        assert db.execute("SELECT COUNT(*) FROM users").fetchone() == (0,)
    database.close()


def test_what_lasts_waits_for_the_disk_and_what_passes_does_not(tmp_path: Path) -> None:
    database = Database(tmp_path / "users.sqlite")
    with database.lasting() as lasting, database.reading() as reading:
        levels = [db.execute("PRAGMA synchronous").fetchone()[0] for db in (lasting, reading)]
        (mode,) = lasting.execute("PRAGMA journal_mode").fetchone()
    with database.passing() as passing:
        levels.append(passing.execute("PRAGMA synchronous").fetchone()[0])
    assert levels == [2, 2, 1]  # FULL, FULL, NORMAL
    assert mode == "wal"
    database.close()


def test_a_disk_that_is_full_or_a_file_that_is_held_is_a_failure_and_then_over(tmp_path: Path) -> None:
    database = Database(tmp_path / "users.sqlite", patience=0.1)
    (pages,) = database._lasting.execute("PRAGMA page_count").fetchone()
    database._lasting.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="full"):
        with database.lasting() as db:
            for number in range(1_000):
                db.execute(USER, (str(number), str(number)))
    database._lasting.execute("PRAGMA max_page_count = 1000000")
    with closing(sqlite3.connect(tmp_path / "users.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"):
            with database.passing():
                pass
        other.execute("ROLLBACK")
    with database.lasting() as db:
        db.execute(USER, ("a", "a"))
    database.close()
    database.close()
    with pytest.raises(StoreFailed):
        database.changes()


def test_changes_of_this_process_and_of_another_are_seen(tmp_path: Path) -> None:
    one, two = Database(tmp_path / "users.sqlite"), Database(tmp_path / "users.sqlite")
    seen = [two.changes()]
    for database in (one, two):
        with database.passing() as db:
            db.execute(USER, (str(len(seen)), str(len(seen))))
        seen.append(two.changes())
    assert len(set(seen)) == 3
    assert two.changes() == seen[-1]
    one.close()
    two.close()


def test_tidying_waits_for_nobody_and_nobody_for_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "users.sqlite", patience=60.0)
    with closing(sqlite3.connect(tmp_path / "users.sqlite", isolation_level=None)) as backup:
        with database.lasting() as db:
            db.execute(USER, ("a", "a"))
        backup.execute("BEGIN")
        assert backup.execute("SELECT COUNT(*) FROM users").fetchone() == (1,)
        with database.lasting() as db:
            db.execute(USER, ("b", "b"))
        start = monotonic()
        database.tidy()
        assert monotonic() - start < 30.0, "it would wait for as long as its patience"
        with database.lasting() as db:
            db.execute(USER, ("c", "c"))
        backup.execute("COMMIT")
    database.tidy()
    assert (tmp_path / "users.sqlite-wal").stat().st_size == 0
    database.close()
