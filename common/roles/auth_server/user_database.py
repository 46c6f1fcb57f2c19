"""The file in which users are kept: SQLite, shared by the threads of a server and by several servers on one file.

* What was confirmed is on the disk: `lasting` transactions wait for it (synchronous = FULL). `passing` ones (who
  is logged in, who tried) survive a killed process, but the last of them not a power failure.
* Write-ahead logging: readers never wait for a writer. Writers wait for each other, within a process at a lock and
  between processes at the file, `PATIENCE` at most.
* Whatever SQLite refuses is a `StoreFailed`, and the transaction has not happened.
* The schema's version is SQLite's user_version. An older file is brought up step by step, all steps in one
  transaction; a newer one is refused.
* What is deleted is overwritten (secure_delete), and gone from the log at the next `tidy`.
"""

import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import ConfigError, OnionError
from common.net.deadline import Deadline
from common.ops.files import private_folder

PATIENCE = 10.0  # seconds to wait for other writers: hundreds of transactions, each a few ms
_STEP = 0.05  # seconds between two attempts to switch a new file to write-ahead logging
SECRET_SIZE = 32

# Each brings a file from one version to the next. What is here is never changed: add a step.
STEPS: tuple[str, ...] = (
    """
    CREATE TABLE secret (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
    CREATE TABLE users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        skeleton TEXT NOT NULL UNIQUE,
        salt BLOB NOT NULL,
        iterations INTEGER NOT NULL,
        stored_key BLOB NOT NULL,
        server_key BLOB NOT NULL,
        since INTEGER NOT NULL,
        last_mail INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX users_by_iterations ON users (iterations);
    CREATE TABLE devices (
        token BLOB PRIMARY KEY,
        user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        used INTEGER NOT NULL,
        count INTEGER NOT NULL DEFAULT 0,
        at REAL NOT NULL DEFAULT 0
    );
    CREATE INDEX devices_by_user ON devices (user, used);
    CREATE TABLE tries (name BLOB PRIMARY KEY, count INTEGER NOT NULL, at REAL NOT NULL);
    CREATE INDEX tries_by_time ON tries (at);
    CREATE TABLE servers (id TEXT PRIMARY KEY, seen REAL NOT NULL);
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        user INTEGER REFERENCES users ON DELETE SET NULL,
        server TEXT NOT NULL,
        device BLOB NOT NULL,
        since INTEGER NOT NULL,
        seen INTEGER NOT NULL,
        ended TEXT
    );
    CREATE INDEX sessions_by_user ON sessions (user, ended);
    CREATE INDEX sessions_by_server ON sessions (server, ended);
    CREATE TABLE mail (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        recipient INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        sender INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        id INTEGER NOT NULL,
        at INTEGER NOT NULL,
        text TEXT NOT NULL,
        UNIQUE (recipient, id)
    );
    CREATE INDEX mail_by_sender ON mail (sender, recipient);
    """,
    """
    CREATE TABLE decoys (iterations INTEGER PRIMARY KEY, share REAL NOT NULL);
    INSERT INTO decoys SELECT DISTINCT iterations, 0 FROM users;
    """,
)


class StoreFailed(OnionError):
    """The database cannot be used now: the disk is full, say, or another server holds it for too long."""


class Database:
    """One file, made or brought up to date when opened; `with` the transactions from any thread, until `close`."""

    def __init__(self, path: Path, steps: Sequence[str] = STEPS, patience: float = PATIENCE) -> None:
        """Raises `ConfigError`, a sentence, when the file cannot be used."""
        self._patience = patience
        self._writers = threading.Lock()  # guards `_lasting` and `_passing`: SQLite has one writer at a time
        self._readers = threading.Lock()  # guards `_reading`
        self._watchers = threading.Lock()  # guards `_watching`
        private_folder(path.parent)
        connections: list[sqlite3.Connection] = []
        try:
            path.touch(mode=0o600)
            path.chmod(0o600)
            for _ in range(4):
                connections.append(_connect(path, patience))
            _bring_up(connections[0], path, steps, Deadline(patience))
            connections[1].execute("PRAGMA synchronous = NORMAL")
        except (sqlite3.Error, OSError) as error:
            _close(connections)
            raise _unusable(path, error) from None
        except BaseException:
            _close(connections)
            raise
        self._lasting, self._passing, self._reading, self._watching = connections

    def close(self) -> None:
        """Idempotent; transactions afterwards are `StoreFailed`."""
        with self._writers, self._readers, self._watchers:
            _close([self._lasting, self._passing, self._reading, self._watching])

    @contextmanager
    def lasting(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when the `with` ends; nothing of it has happened if that raises."""
        with self._transaction(self._writers, self._lasting, "BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def passing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that a power failure may undo later, as long as nothing lasting follows it."""
        with self._transaction(self._writers, self._passing, "BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that only reads: all of it sees the same state."""
        with self._transaction(self._readers, self._reading, "BEGIN") as db:
            yield db

    def changes(self) -> int:
        """A number that is another one after each transaction of this process or another."""
        with self._mapped(self._watchers):
            (version,) = self._watching.execute("PRAGMA data_version").fetchone()
            return int(version)

    def tidy(self) -> None:
        """Empties the log into the file: what was deleted stands in it until then. Not now if anybody is in it."""
        with self._mapped(self._watchers):
            self._watching.execute("PRAGMA busy_timeout = 0")  # no writer waits for one who waits for readers
            try:
                self._watching.execute("PRAGMA schema_version").fetchall()  # who never read knows of no log
                self._watching.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._watching.execute(f"PRAGMA busy_timeout = {self._patience * 1_000:.0f}")

    @contextmanager
    def _transaction(
        self, lock: threading.Lock, db: sqlite3.Connection, begin: str
    ) -> Iterator[sqlite3.Connection]:
        with self._mapped(lock):
            db.execute(begin)
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _mapped(self, lock: threading.Lock) -> Iterator[None]:
        if not lock.acquire(timeout=self._patience):
            raise StoreFailed("the database is busy for too long")
        try:
            yield
        except sqlite3.Error as error:
            raise StoreFailed(f"the database cannot be used: {error}") from None
        finally:
            lock.release()


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = ON")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _bring_up(db: sqlite3.Connection, path: Path, steps: Sequence[str], deadline: Deadline) -> None:
    _log_ahead(db, deadline)
    (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if sound != "ok":
        raise sqlite3.DatabaseError(sound)
    db.execute("BEGIN IMMEDIATE")  # of two servers that start on a new file, the second finds it ready
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(steps):
            raise ConfigError(f"{path}: was written by a newer login server: start that one, or use another file")
        for step in steps[version:]:
            for statement in step.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(steps)}")
        db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(SECRET_SIZE),))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _log_ahead(db: sqlite3.Connection, deadline: Deadline) -> None:
    """Switches the file to write-ahead logging, for which SQLite by itself does not wait for another process."""
    pause = threading.Event()
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or deadline.expired:
                raise
            pause.wait(_STEP)


def _close(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()


def _unusable(path: Path, error: Exception) -> ConfigError:
    text = str(error)
    if isinstance(error, OSError):
        text = error.strerror or text
    if isinstance(error, sqlite3.OperationalError | OSError):
        return ConfigError(f"{path}: cannot be used as the database of users: {text}")
    return ConfigError(f"{path}: is damaged ({text[:200]}); restore a copy, or move it away to begin anew")
