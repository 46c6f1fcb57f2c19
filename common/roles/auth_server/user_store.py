"""Who there is and who may try: users with their verifiers, devices, and the tries that the throttle counts.

Looking up a name and counting a try take the same statements whether somebody has the name or not. A name that was
tried is kept as a keyed hash: people type passwords where names belong. Of a device token only the hash is kept.
"""

import hmac
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from common.crypto.scram import Verifier
from common.errors import OnionError
from common.login.conversation import NOBODY, Account
from common.login.throttle import KEPT, Tries, Verdict, admit, succeeded
from common.roles.auth_server.user_database import Database
from common.wire.login import EndedReason

MAX_USERS = 100_000  # about 1 KB each, and as many as one quick check at the start takes a second for
MAX_DEVICES = 32  # of a user: more than anybody has; the one that was not used for longest is forgotten
MAX_SESSIONS = 16  # of a user, for the same reason
MAX_TRIES = 100_000  # names whose tries are remembered: 10 MB; each try costs a stranger more than it costs us
TOKEN_SIZE = 32
SESSION_SIZE = 8  # bytes; a session's id only tells sessions of one user apart, it opens nothing
_TRIES_LABEL = b"tries: "
_DEVICE = "SELECT count, at FROM devices WHERE token = ? AND user = ?"


class NameTaken(OnionError):
    """Somebody has this name, or one that looks like it."""


class NoRoom(OnionError):
    """There are as many users as allowed."""


class VerifierChanged(OnionError):
    """The password was changed between the challenge and the proof, or the account is gone."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The verdict on a try; `token` is the hash of the device token if that is one of this account."""

    verdict: Verdict
    name: bytes = field(repr=False)
    token: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A new session of a user."""

    session: str
    device: bytes = field(repr=False)
    unread: int


class UserStore:
    """Users, devices and tries in a `Database`; any thread. Raises `StoreFailed` from everything."""

    def __init__(self, database: Database, max_users: int = MAX_USERS) -> None:
        self._database = database
        self._max_users = max_users
        with database.reading() as db:
            (self.secret,) = db.execute("SELECT value FROM secret").fetchone()

    def sign_up(self, name: str, skeleton: str, verifier: Verifier, now: float) -> None:
        """A new user, on the disk when this returns; raises `NameTaken` or `NoRoom`."""
        row = (name, skeleton, *columns(verifier), int(now))
        with self._database.lasting() as db:
            (users,) = db.execute("SELECT COUNT(*) FROM users").fetchone()
            if users >= self._max_users:
                raise NoRoom
            try:
                db.execute(
                    "INSERT INTO users (name, skeleton, salt, iterations, stored_key, server_key, since)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    row,
                )
            except sqlite3.IntegrityError:
                raise NameTaken from None

    def find(self, name: str, decoy: Verifier) -> Account:
        """Who has this name, in its normal form; else `NOBODY` with the decoy, by the same steps."""
        nobody: tuple[Any, ...] = (NOBODY, *columns(decoy))
        with self._database.reading() as db:
            row = db.execute(
                "SELECT id, salt, iterations, stored_key, server_key FROM users WHERE name = ?", (name,)
            ).fetchone()
        number, *verifier = nobody if row is None else row
        return Account(int(number), Verifier(*verifier))

    def decoys(self) -> list[tuple[int, float]]:
        """Iteration counts for names that nobody has, highest first, and the share of them that has each or more.

        The last share is 1. Shares only rise, so the count of such a name only rises, as that of a user does.
        """
        with self._database.reading() as db:
            return db.execute("SELECT iterations, share FROM decoys ORDER BY iterations DESC").fetchall()

    def follow_users(self, iterations: int) -> None:
        """Decoys have this count too, and are moved up as users were; call it now and then, never for one name.

        A count that no server asked for, and only a stranger chose, is none of theirs.
        """
        with self._database.passing() as db:
            db.execute(
                "INSERT OR IGNORE INTO decoys SELECT ?, NOT EXISTS (SELECT 1 FROM decoys)", (iterations,)
            )
            db.execute(
                "UPDATE decoys SET share = max(share, (SELECT COUNT(*) FROM users"
                " WHERE users.iterations >= decoys.iterations) * 1.0 / (SELECT COUNT(*) FROM users))"
                " WHERE EXISTS (SELECT 1 FROM users)"
            )

    # ---- tries ----

    def admit(self, name: str, user: int, device: bytes, now: float) -> Admitted:
        """Counts a try at `name`, which `user` has (or `NOBODY`), with a device token or b""."""
        key, token = self._key(name), _hash(device)
        with self._database.passing() as db:
            account = _tries(db, key)
            row = db.execute(_DEVICE, (token, user)).fetchone()
            verdict = admit(account, None if row is None else Tries(*row), now)
            _keep(db, key, verdict.account)
            if verdict.device is not None:
                _keep_device(db, token, verdict.device)
        return Admitted(verdict, key, None if row is None else token)

    def would_wait(self, name: str, user: int, device: bytes, now: float) -> float:
        """The seconds that `admit` would tell, without counting anything."""
        key, token = self._key(name), _hash(device)
        with self._database.reading() as db:
            account = _tries(db, key)
            row = db.execute(_DEVICE, (token, user)).fetchone()
        return admit(account, None if row is None else Tries(*row), now).wait

    def proved(self, account: Account, admitted: Admitted) -> None:
        """The try was right, in a session that is there already; raises `VerifierChanged`."""
        with self._database.passing() as db:
            _check_verifier(db, account)
            _give_back(db, admitted)

    def log_in(self, account: Account, admitted: Admitted, device: bytes, server: str, now: float) -> LoggedIn:
        """The try was right: a new session at `server`, and the device's token, a new one if it had none.

        Raises `VerifierChanged`. A user who has `MAX_SESSIONS` loses the one that was quiet longest.
        """
        token = device if admitted.token is not None else secrets.token_bytes(TOKEN_SIZE)
        session = secrets.token_hex(SESSION_SIZE)
        with self._database.passing() as db:
            _check_verifier(db, account)
            _give_back(db, admitted)
            if admitted.token is None:
                _forget_devices(db, account.id, MAX_DEVICES - 1)
                row = (_hash(token), account.id, int(now))
                db.execute("INSERT INTO devices (token, user, used) VALUES (?, ?, ?)", row)
            else:
                db.execute("UPDATE devices SET used = ? WHERE token = ?", (int(now), admitted.token))
            _end_sessions(db, account.id, MAX_SESSIONS - 1)
            new = (session, account.id, server, _hash(token), int(now), int(now))
            db.execute(
                "INSERT INTO sessions (id, user, server, device, since, seen) VALUES (?, ?, ?, ?, ?, ?)", new
            )
            unread = db.execute("SELECT COUNT(*) FROM mail WHERE recipient = ?", (account.id,)).fetchone()[0]
        return LoggedIn(session, token, unread)

    def forget_tries(self, now: float) -> None:
        """Deletes the tries that say nothing any more, and the oldest beyond `MAX_TRIES`."""
        with self._database.passing() as db:
            db.execute("DELETE FROM tries WHERE at < ?", (now - KEPT,))
            db.execute(
                "DELETE FROM tries WHERE name IN (SELECT name FROM tries ORDER BY at DESC LIMIT -1 OFFSET ?)",
                (MAX_TRIES,),
            )

    def _key(self, name: str) -> bytes:
        return hmac.digest(self.secret, _TRIES_LABEL + name.encode(), sha256)[:16]


def columns(verifier: Verifier) -> Sequence[object]:
    """A verifier as a row has it."""
    return verifier.salt, verifier.iterations, verifier.stored_key, verifier.server_key


def _hash(token: bytes) -> bytes:
    return sha256(token).digest()


def _tries(db: sqlite3.Connection, key: bytes) -> Tries:
    row = db.execute("SELECT count, at FROM tries WHERE name = ?", (key,)).fetchone()
    return Tries() if row is None else Tries(*row)


def _keep(db: sqlite3.Connection, key: bytes, tries: Tries) -> None:
    db.execute("INSERT OR REPLACE INTO tries VALUES (?, ?, ?)", (key, tries.count, tries.at))


def _keep_device(db: sqlite3.Connection, token: bytes, tries: Tries) -> None:
    db.execute("UPDATE devices SET count = ?, at = ? WHERE token = ?", (tries.count, tries.at, token))


def _give_back(db: sqlite3.Connection, admitted: Admitted) -> None:
    row = None
    if admitted.token is not None:
        row = db.execute("SELECT count, at FROM devices WHERE token = ?", (admitted.token,)).fetchone()
    device = None if row is None else Tries(*row)
    account, device = succeeded(_tries(db, admitted.name), device, admitted.verdict.by_device)
    _keep(db, admitted.name, account)
    if admitted.token is not None and device is not None:
        _keep_device(db, admitted.token, device)


def _check_verifier(db: sqlite3.Connection, account: Account) -> None:
    row = db.execute(
        "SELECT salt, iterations, stored_key, server_key FROM users WHERE id = ?", (account.id,)
    ).fetchone()
    if row is None or Verifier(*row) != account.verifier:
        raise VerifierChanged


def _forget_devices(db: sqlite3.Connection, user: int, keep: int) -> None:
    db.execute(
        "DELETE FROM devices WHERE token IN"
        " (SELECT token FROM devices WHERE user = ? ORDER BY used DESC LIMIT -1 OFFSET ?)",
        (user, keep),
    )


def _end_sessions(db: sqlite3.Connection, user: int, keep: int) -> None:
    db.execute(
        "UPDATE sessions SET ended = ? WHERE id IN (SELECT id FROM sessions WHERE user = ? AND ended IS NULL"
        " ORDER BY seen DESC, since DESC LIMIT -1 OFFSET ?)",
        (EndedReason.REPLACED, user, keep),
    )
