"""Signing up and logging in as a person meets it: questions, passwords, then a prompt of its own.

The prompt's `server`, `client_tor.py server` and auth_client.py all come here. What is said at the login's prompt
is kept nowhere.
"""

import secrets
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from common.errors import ConfigError, OnionError
from common.net.deadline import Deadline
from common.net.handshake import connect, tune
from common.ops.config import ClientConfig
from common.ops.login_words import LOG_IN, SIGN_UP, LoginCommand
from common.ops.values import LoginServer
from common.roles.auth_client.auth_client import AuthClient, check_name
from common.roles.auth_client.connection import OPEN_TIME, Connect
from common.roles.auth_client.errors import LoginEnded, LoginRefused, ServerLost
from common.roles.auth_client.pins import Pins
from common.roles.client.client import Client
from common.roles.client.client_run import running_client
from common.roles.prompt import shown
from common.roles.prompt.line_editor import line_editor
from common.roles.prompt.login_prompt import LoginPrompt
from common.roles.prompt.passwords import TRIES, Passwords, ReadPasswords, TypedPasswords
from common.wire.login import ErrorCode, NewMail

NO_SERVER = 'no login server is known: give --login H:P=KEY, or a network.toml that has "login"'
_ACTIONS = {"": LOG_IN, "l": LOG_IN, "log in": LOG_IN, LOG_IN: LOG_IN} | {
    "s": SIGN_UP,
    "sign up": SIGN_UP,
    SIGN_UP: SIGN_UP,
}

Ask = Callable[[str], str]


def run_login(config: ClientConfig, command: LoginCommand) -> int:
    """What auth_client.py does: a login, through the network or without it; 0 when it was done."""
    console, errors, ask = Console(), Console(stderr=True), editing()
    if command.direct or config.login is None:
        LoginScreen(direct, config.login, config.state, console, errors).run(command, ask)
        return 0
    with running_client(config, "server") as client:
        LoginScreen(through(client), config.login, config.state, console, errors).run(command, ask)
    return 0


def through(client: Client) -> Connect:
    """Through the network, each time on a circuit that carries nothing else.

    So neither what else is done tells who logs in, nor one account of a person of another.
    """
    return lambda host, port: client.connect(host, port, ("login", secrets.token_hex(8)))


def direct(host: str, port: int) -> socket.socket:
    """Without the network. Raises `Closed`."""
    try:
        sock = connect((host, port), Deadline(OPEN_TIME))
    except OnionError as error:
        raise ServerLost(f"the login server {host}:{port} cannot be reached: {error}") from None
    tune(sock)
    return sock


def editing() -> Ask:
    """How to ask for a line: with editing where input is a terminal; nothing is kept in a file."""
    if sys.stdin.isatty():
        line_editor()
    return input


class LoginScreen:
    """One login after another, by the same way to the same server."""

    def __init__(
        self, connect: Connect, server: LoginServer | None, folder: Path, console: Console, errors: Console
    ) -> None:
        """`folder` is the client's state folder. Answers go to `console`, all else to `errors`."""
        self._connect = connect
        self._server = server
        self._pins = Pins(folder)
        self._console = console
        self._errors = errors
        self._prompt = ""  # shown while a line is typed
        self._notices: deque[str] = deque(maxlen=1)  # what came while none was: the last says how many there are

    def run(self, command: LoginCommand, ask: Ask, *, stay: bool = False) -> None:
        """Does what the command says, and asks for what it does not; with `stay` who signs up is logged in too.

        Raises `OnionError` with a sentence.
        """
        if self._server is None:
            raise ConfigError(NO_SERVER)
        stay = stay or command.action != SIGN_UP
        command = self._completed(command, ask)
        command = replace(command, user=check_name(command.user))
        passwords = self._passwords(command)
        signing_up = command.action == SIGN_UP
        password = passwords.new(command.user) if signing_up else passwords.current(command.user)
        with self._open(command) as auth:
            if signing_up:
                with self._errors.status(f"signing up {escape(command.user)}"):
                    auth.sign_up(command.user, password)
                self._signed_up(command, auth.key)
            if stay:
                self._log_in(auth, command, password, passwords)
                self._talk(auth, command, passwords, ask)

    def _completed(self, command: LoginCommand, ask: Ask) -> LoginCommand:
        try:
            action = command.action or _ACTIONS.get(ask("sign up or log in? [log in] ").strip().lower(), "")
            if not action:
                raise OnionError("say sign up, or log in")
            return replace(command, action=action, user=command.user or ask("name: ").strip())
        except EOFError:
            raise OnionError(f"there is nobody to ask: say {SIGN_UP} NAME or {LOG_IN} NAME") from None

    def _passwords(self, command: LoginCommand) -> Passwords:
        if command.password_fd is not None:
            return ReadPasswords(command.password_fd)
        return TypedPasswords(self._say)

    @contextmanager
    def _open(self, command: LoginCommand) -> Iterator[AuthClient]:
        assert self._server is not None
        self._notices.clear()
        with self._errors.status(f"connecting to the login server {self._server.address}"):
            auth = AuthClient(
                direct if command.direct else self._connect,
                self._server,
                self._pins,
                accept=command.accept_key,
                tell=self._say,
                pushed=self._pushed,
            )
        with auth:
            yield auth

    def _signed_up(self, command: LoginCommand, key: bytes) -> None:
        if command.as_json:
            shown.show_json(self._console, {"name": command.user, "server_key": key.hex()})
        else:
            self._console.print(f"{shown.plain(command.user)} is signed up", markup=False, highlight=False)

    def _log_in(self, auth: AuthClient, command: LoginCommand, password: str, passwords: Passwords) -> None:
        """Asks again for a password that was wrong, where a person types it."""
        for tried in range(1, TRIES + 1):
            try:
                with self._errors.status(f"logging in as {escape(command.user)}"):
                    auth.log_in(command.user, password)
                return
            except LoginRefused as error:
                if error.code is not ErrorCode.WRONG or tried == TRIES or command.password_fd is not None:
                    raise
                self._say(str(error))
                password = passwords.current(command.user)

    def _talk(self, auth: AuthClient, command: LoginCommand, passwords: Passwords, ask: Ask) -> None:
        login_prompt = LoginPrompt(auth, passwords, self._console, as_json=command.as_json)
        if command.say:
            for line in command.say:
                login_prompt.say(line)
            return
        mail = f"; {auth.unread} unread: inbox shows them" if auth.unread else ""
        self._say(f"logged in as {shown.plain(auth.name)}{mail}. help lists what can be said")
        while not login_prompt.over:
            self._turn(login_prompt, f"{shown.plain(auth.name)}> ", ask)

    def _turn(self, login_prompt: LoginPrompt, prompt: str, ask: Ask) -> None:
        """A line and its answer; what goes wrong is said, and only what ends the session is raised."""
        try:
            self._prompt = prompt
            while self._notices:
                self._say(self._notices.popleft())
            try:
                line = ask(prompt)
            finally:
                self._prompt = ""
            login_prompt.say(line)
        except EOFError:
            self._errors.print()
            login_prompt.over = True
        except KeyboardInterrupt:
            self._say("\ncancelled; quit or ctrl-d leaves")
        except (LoginEnded, ServerLost):
            raise
        except OnionError as error:
            self._say(str(error))

    def _pushed(self, push: NewMail | OnionError) -> None:
        """Called by the thread that reads. What is being typed is shown again behind the notice."""
        if isinstance(push, OnionError):
            text = str(push)
        else:
            text = f"new mail from {shown.one_line(push.newest)}, {push.unread} in all: inbox shows it"
            if not self._prompt:
                self._notices.append(text)
        if not self._prompt:
            return  # a request is under way, which itself says how the session ended
        if not sys.stdin.isatty():
            self._say(text)
            return
        self._say(f"\r{text}")
        editor = line_editor()
        sys.stdout.write(self._prompt + (editor.get_line_buffer() if editor is not None else ""))
        sys.stdout.flush()

    def _say(self, text: str) -> None:
        self._errors.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)
