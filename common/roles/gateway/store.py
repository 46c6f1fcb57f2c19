"""What of a gateway outlives a restart, in SQLite: the list, histories, nicknames, successions, the serial.

* One thread writes, in transactions that are on the disk when they end: whatever moment the process is killed at,
  what was stored before is there. Who must not speak before something is stored asks to be told (`flushed`).
* What is not written yet waits in memory, once for each row: a disk that is full or fails costs no relay its
  place. It is tried again, said once a minute, and the gateway goes on meanwhile as if all were stored.
* The database is this process's alone: a second gateway on the same folder does not start.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from common.directory.observation import History
from common.directory.registry_actions import BindNickname, StoreHistory, StoreRelay, StoreSuccession
from common.errors import ConfigError

log = logging.getLogger(__name__)

SCHEMA = 1
LOCK_TIME = 2.0  # seconds for the gateway before this one to let go of the database
RETRY = 5.0  # seconds between two attempts on a disk that refuses
SAY_EVERY = 60.0  # seconds

Storable = BindNickname | StoreRelay | StoreHistory | StoreSuccession

_HISTORY = [field.name for field in fields(History)]
_HISTORY_COLUMNS = ", ".join(f"{name} REAL NOT NULL" for name in _HISTORY)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS serial (one INTEGER PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS nicknames (nickname TEXT PRIMARY KEY, identity BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS successions (old BLOB PRIMARY KEY, new BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS relays (identity BLOB PRIMARY KEY, envelope BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS histories (identity BLOB PRIMARY KEY, {_HISTORY_COLUMNS});
PRAGMA user_version = {SCHEMA};
"""
_PUT = {
    "serial": "INSERT OR REPLACE INTO serial VALUES (?, ?)",
    "nicknames": "INSERT OR REPLACE INTO nicknames VALUES (?, ?)",
    "successions": "INSERT OR REPLACE INTO successions VALUES (?, ?)",
    "relays": "INSERT OR REPLACE INTO relays VALUES (?, ?)",
    "histories": "INSERT OR REPLACE INTO histories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
}
_DELETE = {
    "relays": "DELETE FROM relays WHERE identity = ?",
    "histories": "DELETE FROM histories WHERE identity = ?",
}

_Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """What an earlier run left; `relays` are the envelopes of those listed, not verified."""

    serial: int
    nicknames: dict[str, bytes]
    successors: dict[bytes, bytes]
    relays: list[bytes]
    histories: dict[bytes, History]


class GatewayStore:
    """Inert until `start`; then `put` and `flushed` may be called from any thread, until `close`."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the database; raises `ConfigError`, a sentence, when it cannot be used."""
        self._path = path
        self._changed = threading.Condition()  # guards what follows, up to the thread's own
        self._waiting: dict[tuple[str, object], _Row | None] = {}  # (table, key) -> the row, None: delete it
        self._to_tell: list[Callable[[], None]] = []
        self._closing = False
        # The thread's own.
        self._failed_since: float | None = None
        self._say_at = 0.0
        self._thread = threading.Thread(target=self._run, name="gateway-store", daemon=True)
        self._db = _open(path)

    def load(self) -> Stored:
        """Everything, before `start`; raises `ConfigError`."""
        try:
            row = self._db.execute("SELECT value FROM serial").fetchone()
            histories = self._db.execute("SELECT * FROM histories")
            return Stored(
                serial=int(row[0]) if row else 0,
                nicknames=dict(self._db.execute("SELECT nickname, identity FROM nicknames")),
                successors=dict(self._db.execute("SELECT old, new FROM successions")),
                relays=[envelope for (envelope,) in self._db.execute("SELECT envelope FROM relays")],
                histories={identity: _history(values) for identity, *values in histories},
            )
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise _unusable(self._path, error) from None

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def put(self, item: Storable) -> None:
        """To be written soon; a later one about the same row takes its place."""
        table, key, row = _row(item)
        with self._changed:
            self._waiting[table, key] = row
            self._changed.notify()

    def put_serial(self, serial: int) -> None:
        """The highest serial given out."""
        with self._changed:
            self._waiting["serial", 1] = (1, serial)
            self._changed.notify()

    def flushed(self, tell: Callable[[], None]) -> None:
        """Calls `tell` on the store's thread when all that was put before is on the disk, or the disk refuses."""
        with self._changed:
            self._to_tell.append(tell)
            self._changed.notify()

    @property
    def working(self) -> bool:
        """Whether the disk took what it was last given."""
        return self._failed_since is None

    def close(self, timeout: float = 5.0) -> None:
        """Writes what waits, if the disk takes it, and ends."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if not self._thread.is_alive():
            self._db.close()

    # ---- the store's thread ----

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, RETRY if self._failed_since is not None else None)
                batch, self._waiting = self._waiting, {}
                to_tell, self._to_tell = self._to_tell, []
                closing = self._closing
            if batch:
                self._write(batch)
            for tell in to_tell:
                tell()
            if closing:
                return

    def _has_work(self) -> bool:
        """Requires `_changed`. A disk that refused is left alone for `RETRY` seconds."""
        refused = self._failed_since is not None and time.monotonic() < self._failed_since + RETRY
        return self._closing or bool(self._to_tell) or (bool(self._waiting) and not refused)

    def _write(self, batch: dict[tuple[str, object], _Row | None]) -> None:
        now = time.monotonic()
        if self._failed_since is not None and now < self._failed_since + RETRY and not self._closing:
            self._keep(batch)
            return
        try:
            self._transact(batch)
        except sqlite3.Error as error:
            self._failed_since = time.monotonic()
            self._keep(batch)
            if now >= self._say_at:
                self._say_at = now + SAY_EVERY
                text = "cannot store: %s; going on from memory, %d changes wait"
                log.warning(text, error, len(batch))
        else:
            if self._failed_since is not None:
                log.warning("what waited is stored")
            self._failed_since, self._say_at = None, 0.0

    def _transact(self, batch: dict[tuple[str, object], _Row | None]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for table, put in _PUT.items():
                of_table = [(key, row) for (name, key), row in batch.items() if name == table]
                rows = [row for _, row in of_table if row is not None]
                gone = [(key,) for key, row in of_table if row is None]
                if rows:
                    self._db.executemany(put, rows)
                if gone:
                    self._db.executemany(_DELETE[table], gone)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _keep(self, batch: dict[tuple[str, object], _Row | None]) -> None:
        """Puts back what was not written, under what came since."""
        with self._changed:
            self._waiting = batch | self._waiting


def _row(item: Storable) -> tuple[str, object, _Row | None]:
    match item:
        case BindNickname(nickname, identity):
            return "nicknames", nickname, (nickname, identity)
        case StoreRelay(identity, envelope):
            return "relays", identity, None if envelope is None else (identity, envelope)
        case StoreHistory(identity, history):
            return "histories", identity, None if history is None else (identity, *astuple(history))
        case StoreSuccession(old, new):
            return "successions", old, (old, new)


def _history(values: list[float]) -> History:
    named = dict(zip(_HISTORY, map(float, values), strict=True))
    failures = int(named.pop("failures"))
    return History(**named, failures=failures)


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        db = sqlite3.connect(path, timeout=LOCK_TIME, isolation_level=None, check_same_thread=False)
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from None
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # in its own thread it costs nobody else anything
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise ConfigError(f"{path}: was written by a newer gateway: start that one, or another state folder")
        (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        db.executescript("BEGIN IMMEDIATE;" + _TABLES + "COMMIT;")
    except sqlite3.Error as error:
        db.close()
        raise _unusable(path, error) from None
    except ConfigError:
        db.close()
        raise
    return db


def _unusable(path: Path, error: Exception) -> ConfigError:
    text = str(error)
    if "locked" in text or "busy" in text:
        return ConfigError(f"{path}: is in use: another gateway runs on this state folder")
    if isinstance(error, sqlite3.OperationalError | OSError):
        return ConfigError(f"{path}: cannot be used as the gateway's store: {text}")
    hint = "restore it, or move it away: relays come back by themselves, but their names are then free"
    return ConfigError(f"{path}: is damaged ({text[:200]}); {hint}")
