"""What a session may do: every call names one, and is about its user only. Who has no session can do nothing.

Each call first looks whether the session is still on, in the same transaction: a session that was ended, by
another server on this file too, is `SessionOver` from the next call on. Why it ended is kept until its server has
told whoever is connected and calls `forget`.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.crypto.scram import Verifier
from common.errors import OnionError
from common.roles.auth_server.user_database import Database
from common.roles.auth_server.user_store import columns
from common.wire.login import MAX_FRAME, MAX_PAGE, EndedReason, Mail, Session
from common.wire.login_codec import encoded_size

MAX_STORED = 1_000  # texts in a mailbox: 4 MB of one user's at most
MAX_FROM_ONE = 100  # texts in a mailbox from one sender, so that it takes ten to fill it
SERVER_LOST = 60.0  # seconds without a sign of a server after which its sessions are over
_PAGE_BYTES = MAX_FRAME - 200  # what a page of texts may take of a frame
_MICROSECONDS = 1_000_000


class SessionOver(OnionError):
    """This session was ended; `reason` says why."""

    def __init__(self, reason: EndedReason) -> None:
        super().__init__(f"the session is over: {reason}")
        self.reason = reason


class NoSuchUser(OnionError):
    """Nobody has this name."""


class MailboxFull(OnionError):
    """The mailbox has no room for this sender's text."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many texts are in a mailbox, and who sent the newest; empty without any."""

    unread: int
    newest: str = field(repr=False)


class SessionStore:
    """Sessions and mail in a `Database`; any thread. Every call may raise `StoreFailed`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._doubted: set[tuple[str, float]] = set()  # servers whose last sign of life was too old, and that sign

    # ---- for a session; each raises `SessionOver`

    def who(self, session: str) -> tuple[str, int]:
        """The name of the session's user, and since when the account is there (Unix time)."""
        with self._database.reading() as db:
            user = _user(db, session)
            name, since = db.execute("SELECT name, since FROM users WHERE id = ?", (user,)).fetchone()
        return name, since

    def send(self, session: str, name: str, text: str, now: float) -> int:
        """Stores a text for the user of this name, for good when this returns: its id in that mailbox.

        Raises `NoSuchUser` or `MailboxFull`.
        """
        with self._database.lasting() as db:
            sender = _user(db, session)
            row = db.execute("SELECT id, last_mail FROM users WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise NoSuchUser
            recipient, last = row
            _check_room(db, recipient, sender)
            number: int = max(last + 1, int(now * _MICROSECONDS))  # tells nothing but the time, and only rises
            db.execute("UPDATE users SET last_mail = ? WHERE id = ?", (number, recipient))
            db.execute(
                "INSERT INTO mail (recipient, sender, id, at, text) VALUES (?, ?, ?, ?, ?)",
                (recipient, sender, number, int(now), text),
            )
        return number

    def inbox(self, session: str, after: int) -> tuple[tuple[Mail, ...], bool]:
        """The texts with an id above `after`, oldest first, as many as a page holds; whether there are more."""
        page: list[Mail] = []
        size = 0
        with self._database.reading() as db:
            user = _user(db, session)
            rows = db.execute(
                "SELECT mail.id, users.name, at, text FROM mail JOIN users ON users.id = sender"
                " WHERE recipient = ? AND mail.id > ? ORDER BY mail.id LIMIT ?",
                (user, after, MAX_PAGE + 1),
            )
            for row in rows:
                mail = Mail(*row)
                size += encoded_size(mail)
                if len(page) == MAX_PAGE or size > _PAGE_BYTES:
                    return tuple(page), True
                page.append(mail)
        return tuple(page), False

    def read(self, session: str, ids: Iterable[int]) -> None:
        """Deletes these texts, for good when this returns."""
        with self._database.lasting() as db:
            user = _user(db, session)
            db.executemany("DELETE FROM mail WHERE recipient = ? AND id = ?", [(user, each) for each in ids])

    def waiting(self, session: str) -> Waiting:
        """What is in the mailbox."""
        with self._database.reading() as db:
            user = _user(db, session)
            (unread,) = db.execute("SELECT COUNT(*) FROM mail WHERE recipient = ?", (user,)).fetchone()
            row = db.execute(
                "SELECT users.name FROM mail JOIN users ON users.id = sender"
                " WHERE recipient = ? ORDER BY mail.id DESC LIMIT 1",
                (user,),
            ).fetchone()
        return Waiting(unread, row[0] if row else "")

    def rekey(self, session: str, verifier: Verifier, keep: bool) -> None:
        """Another verifier, for good when this returns; unless `keep`, other sessions end, other devices go."""
        with self._database.lasting() as db:
            user = _user(db, session)
            db.execute(
                "UPDATE users SET salt = ?, iterations = ?, stored_key = ?, server_key = ? WHERE id = ?",
                (*columns(verifier), user),
            )
            if not keep:
                db.execute(
                    "UPDATE sessions SET ended = ? WHERE user = ? AND id != ? AND ended IS NULL",
                    (EndedReason.PASSWORD_CHANGED, user, session),
                )
                db.execute(
                    "DELETE FROM devices WHERE user = ? AND token != (SELECT device FROM sessions WHERE id = ?)",
                    (user, session),
                )

    def delete(self, session: str) -> None:
        """The account, its devices, its mailbox and what it sent are gone; all its sessions are over."""
        with self._database.lasting() as db:
            user = _user(db, session)
            db.execute(
                "UPDATE sessions SET ended = ? WHERE user = ? AND ended IS NULL", (EndedReason.DELETED, user)
            )
            db.execute("DELETE FROM users WHERE id = ?", (user,))

    def sessions(self, session: str) -> tuple[Session, ...]:
        """The sessions of the user, oldest first."""
        with self._database.reading() as db:
            user = _user(db, session)
            rows = db.execute(
                "SELECT id, since, seen FROM sessions WHERE user = ? AND ended IS NULL ORDER BY since, id", (user,)
            ).fetchall()
        return tuple(Session(each, since, seen, each == session) for each, since, seen in rows)

    def log_out(self, session: str, other: str) -> bool:
        """Ends a session of the same user; False when that is none."""
        with self._database.passing() as db:
            user = _user(db, session)
            changed = db.execute(
                "UPDATE sessions SET ended = ? WHERE id = ? AND user = ? AND ended IS NULL",
                (EndedReason.LOGOUT, other, user),
            ).rowcount
        return changed == 1

    # ---- for a server

    def forget(self, sessions: Iterable[str]) -> None:
        """These sessions' connections have ended."""
        with self._database.passing() as db:
            db.executemany("DELETE FROM sessions WHERE id = ?", [(each,) for each in sessions])

    def still_here(self, server: str, seen: Mapping[str, float], now: float) -> None:
        """The server lives, and its sessions were last used at these times; sessions of lost servers go.

        One caller at a time, whose calls are as far apart as those of other servers. Lost is whose sign of life is
        of another time and has not changed since the last call: a clock that jumps ends nobody's session.
        """
        with self._database.passing() as db:
            db.execute("INSERT OR REPLACE INTO servers VALUES (?, ?)", (server, now))
            rows = [(int(used), session) for session, used in seen.items()]
            db.executemany("UPDATE sessions SET seen = ? WHERE id = ? AND seen != ?1", rows)
            doubted = set(db.execute("SELECT id, seen FROM servers WHERE abs(seen - ?) > ?", (now, SERVER_LOST)))
            lost = [(each,) for each, _ in doubted & self._doubted]
            db.executemany("DELETE FROM servers WHERE id = ?", lost)
            db.execute("DELETE FROM sessions WHERE server NOT IN (SELECT id FROM servers)")
        self._doubted = doubted

    def gone(self, server: str) -> None:
        """The server ends, and so have its sessions."""
        with self._database.passing() as db:
            db.execute("DELETE FROM sessions WHERE server = ?", (server,))
            db.execute("DELETE FROM servers WHERE id = ?", (server,))

    def news(self, server: str, after: int) -> tuple[dict[str, EndedReason], list[str], int]:
        """What a server's connections must hear of: the sessions that were ended, and those with newer mail.

        Newer than the text with the number `after`; the last result is the newest one's, for the next call.
        """
        with self._database.reading() as db:
            ended = dict(
                db.execute("SELECT id, ended FROM sessions WHERE server = ? AND ended IS NOT NULL", (server,))
            )
            (newest,) = db.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mail'"
            ).fetchone()
            rows = db.execute(
                "SELECT DISTINCT sessions.id FROM mail JOIN sessions ON sessions.user = mail.recipient"
                " WHERE mail.number > ? AND sessions.server = ? AND sessions.ended IS NULL",
                (after, server),
            )
            with_mail = [session for (session,) in rows]
        return {session: EndedReason(reason) for session, reason in ended.items()}, with_mail, newest


def _user(db: sqlite3.Connection, session: str) -> int:
    row = db.execute("SELECT user, ended FROM sessions WHERE id = ?", (session,)).fetchone()
    if row is None:  # its server was thought lost
        raise SessionOver(EndedReason.IDLE)
    user, ended = row
    if ended is not None:
        raise SessionOver(EndedReason(ended))
    return int(user)


def _check_room(db: sqlite3.Connection, recipient: int, sender: int) -> None:
    (stored,) = db.execute("SELECT COUNT(*) FROM mail WHERE recipient = ?", (recipient,)).fetchone()
    (from_one,) = db.execute(
        "SELECT COUNT(*) FROM mail WHERE sender = ? AND recipient = ?", (sender, recipient)
    ).fetchone()
    if stored >= MAX_STORED or from_one >= MAX_FROM_ONE:
        raise MailboxFull
