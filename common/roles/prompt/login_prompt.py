"""What a person, or a program, says after the login: a line each, and how the answers are shown.

Whatever comes from others is cleaned before it is shown: it must not drive the terminal.
"""

import shlex
from collections.abc import Callable
from datetime import datetime
from time import time
from typing import Any

from rich.console import Console

from common.errors import OnionError
from common.roles.auth_client.auth_client import AuthClient
from common.roles.prompt import shown
from common.roles.prompt.passwords import Passwords
from common.roles.prompt.status_page import duration
from common.wire.login import Mail

HELP = """whoami               the account, and this session
send USER TEXT       a text into another user's mailbox
inbox [--keep]       the texts for you; what was shown is deleted then, but for --keep
passwd               another password; ends your other sessions
sessions             where you are logged in
logout [SESSION]     end this session, or another of yours
delete               end the account and all that is stored of it
help                 this text
quit                 leave (or ctrl-d); the session ends"""


class Misused(OnionError):
    """A word was given what it does not take; the text says what it takes."""


class LoginPrompt:
    """Words of a user who is logged in. `over` is whether the session is."""

    def __init__(self, auth: AuthClient, passwords: Passwords, console: Console, *, as_json: bool = False) -> None:
        self.over = False
        self._auth = auth
        self._passwords = passwords
        self._console = console
        self._as_json = as_json
        self._words: dict[str, Callable[[list[str], str], None]] = {
            "whoami": self._who_am_i,
            "send": self._send,
            "inbox": self._inbox,
            "passwd": self._change_password,
            "sessions": self._sessions,
            "logout": self._log_out,
            "delete": self._delete,
            "help": self._help,
            "quit": self._quit,
        }

    def say(self, line: str) -> None:
        """Does what the line says, and shows the answer. Raises `OnionError` with a sentence."""
        words = line.split(maxsplit=1)
        if not words:
            return
        word, rest = words[0].lower(), words[1].strip() if len(words) > 1 else ""
        action = self._words.get("quit" if word == "exit" else word)
        if action is None:
            raise Misused(f"{shown.plain(word)} is none of {', '.join(self._words)}")
        action(_split(rest), rest)

    def _who_am_i(self, words: list[str], _rest: str) -> None:
        _at_most(words, 0, "whoami")
        you = self._auth.who_am_i()
        self._show(
            {"name": you.name, "since": you.since, "session": you.session},
            f"{shown.one_line(you.name)}, here since {_when(you.since)}; this session is {you.session}",
        )

    def _send(self, words: list[str], rest: str) -> None:
        parts = rest.split(maxsplit=1)
        if len(parts) < 2:
            raise Misused("usage: send USER TEXT")
        to, text = parts
        number = self._auth.send(to, text)
        self._show({"id": number, "to": to}, f"sent to {to}")

    def _inbox(self, words: list[str], _rest: str) -> None:
        keep = words == ["--keep"]
        _at_most(words, 1 if keep else 0, "inbox [--keep]")
        pages: list[Mail] = []
        for page in self._auth.mail():
            pages += page
            if not self._as_json:
                for mail in page:
                    self._print(f"{shown.one_line(mail.sender)}, {_when(mail.at)}:\n{_indented(mail.text)}")
        if self._as_json:
            self._show({"mail": [_as_dict(mail) for mail in pages]}, "")
        elif not pages:
            self._print("no mail")
        self._console.file.flush()  # shown first, deleted then
        if pages and not keep:
            self._auth.read(tuple(mail.id for mail in pages))

    def _change_password(self, words: list[str], _rest: str) -> None:
        _at_most(words, 0, "passwd (you are asked for both passwords)")
        old = self._passwords.current(self._auth.name)
        self._auth.change_password(old, self._passwords.new(self._auth.name))
        self._show({"changed": True}, "the password is changed; your other sessions are ended")

    def _sessions(self, words: list[str], _rest: str) -> None:
        _at_most(words, 0, "sessions")
        now = time()
        found = self._auth.sessions()
        lines = [
            f"{each.id}  since {_when(each.since)}, used {duration(now - each.seen)} ago{'  (here)' * each.here}"
            for each in found
        ]
        rows = [{"id": each.id, "since": each.since, "seen": each.seen, "here": each.here} for each in found]
        self._show({"sessions": rows}, "\n".join(lines))

    def _log_out(self, words: list[str], _rest: str) -> None:
        _at_most(words, 1, "logout [SESSION]")
        session = words[0] if words else ""
        here = session in ("", self._auth.session)
        self._auth.log_out(session)
        self.over = here
        text = "logged out" if here else f"{session} is logged out"
        self._show({"logged_out": session or self._auth.session}, text)

    def _delete(self, words: list[str], _rest: str) -> None:
        _at_most(words, 0, "delete (you are asked for the password)")
        self._auth.delete(self._passwords.current(self._auth.name))
        self.over = True
        self._show({"deleted": self._auth.name}, f"{self._auth.name} is deleted, with all that was stored of it")

    def _help(self, _words: list[str], _rest: str) -> None:
        self._show({"words": list(self._words)}, HELP)

    def _quit(self, _words: list[str], _rest: str) -> None:
        self.over = True

    def _show(self, value: dict[str, Any], text: str) -> None:
        if self._as_json:
            shown.show_json(self._console, value)
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(shown.plain(text), markup=False, highlight=False, soft_wrap=True, emoji=False)


def _as_dict(mail: Mail) -> dict[str, Any]:
    return {"id": mail.id, "from": mail.sender, "at": mail.at, "text": mail.text}


def _when(seconds: int) -> str:
    """A time of the server's clock as this computer's people write it; any number at all."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _split(rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError:
        return rest.split()  # a lone quotation mark


def _at_most(words: list[str], most: int, usage: str) -> None:
    if len(words) > most:
        raise Misused(f"usage: {usage}")
