"""The prompt: what a person types and sees. Errors are sentences; ctrl-c ends a request, not the client.

Lines are edited and remembered by readline where input is a terminal. The history is a file of the client's state
folder, mode 0600. A line that begins with a space, or that holds a password, is not kept.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from common.errors import ConfigError, OnionError
from common.ops.files import read_private, write_private
from common.ops.login_words import LOG_IN, SIGN_UP, LoginCommand
from common.ops.values import parse_key
from common.roles.client.starting import NotStarted, Starting
from common.roles.prompt import shown
from common.roles.prompt.answers import Answers
from common.roles.prompt.line_editor import line_editor
from common.roles.prompt.login_screen import LoginScreen

QUESTION = "[web/git/server] "
MAX_HISTORY = 1_000  # lines
_SECRET = re.compile(r"//[^/\s]*@|^server(\s+\S+){3}")  # a password in an address, or behind a user's name
_HELP = """[bold]web[/] ADDRESS [--print] [--save FILE]   a page: in your browser, as text here, or into a file
[bold]git[/] USER [--list]                     how many public repositories a GitHub user has, and which
[bold]server[/] [signup|login] [NAME]          sign up with the login server, or log in, and talk
[bold]path[/] [ADDRESS]                        trace a request: who on its circuit knows what, with real sizes
                                      (without ADDRESS: the last page again, or a look-up)
[bold]status[/] [--targets]                    circuits and streams of this client
[bold]new[/]                                   new identity: from now on other circuits
[bold]help[/]                                  this text
[bold]quit[/]                                  leave (or ctrl-d)
an empty line                         the network's own page
ctrl-c ends what runs, not the client. A line that begins with a space is not remembered."""


class Usage(OnionError):
    """A choice was given what it does not know; the text says what it takes."""


class Prompt:
    """Reads choices until quit, ctrl-d or the input's end."""

    def __init__(
        self,
        answers: Answers,
        login: LoginScreen,
        ask: Callable[[str], str] = input,
        starting: Starting | None = None,
    ) -> None:
        """`ask` shows its argument and returns a line; raises `EOFError` at the end.

        What needs the network waits until `starting` is over.
        """
        self._answers = answers
        self._starting = starting
        self._console = answers.console
        self._ask = ask
        self._login = login
        self._last_page = ""  # that path asks for again
        self._choices: dict[str, Callable[[list[str]], None]] = {
            "web": self._web,
            "git": self._git,
            "server": self._server,
            "path": self._path,
            "status": self._status,
            "new": self._new,
            "help": self._help,
        }

    def run(self) -> None:
        """The loop; raises `NotStarted` when something was asked for and the client could not start."""
        self._console.print("path, status, new, help and quit are known too; an empty line shows the network")
        while True:
            try:
                if not self._turn(self._ask(QUESTION)):
                    return
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print("\ncancelled; quit or ctrl-d leaves")
            except NotStarted:
                raise
            except OnionError as error:
                self._console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True, highlight=False)

    def _turn(self, line: str) -> bool:
        """Does what a line says; False when it says quit."""
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()  # a lone quotation mark
        if not words:
            self._wait()
            self._answers.network_page()
            return True
        choice, rest = words[0].lower(), words[1:]
        if choice in ("quit", "exit"):
            return False
        action = self._choices.get(choice)
        if action is None:
            known = ", ".join([*self._choices, "quit"])
            raise Usage(f"{choice} is none of {known}")
        if choice != "help":
            self._wait()
        action(rest)
        return True

    def _wait(self) -> None:
        """Until the client is ready; then what it had to warn of meanwhile."""
        if self._starting is None:
            return
        with self._answers.busy() as tell:
            self._starting.wait(tell)
        for text in self._starting.warnings():
            self._answers.errors.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)

    def _web(self, words: list[str]) -> None:
        as_text, words = _flag(words, "--print")
        path = None
        if "--save" in words:
            at = words.index("--save")
            if at + 1 == len(words):
                raise Usage("--save needs the name of a file")
            path = Path(words[at + 1]).expanduser()
            words = words[:at] + words[at + 2 :]
        url = _one(words, "web ADDRESS [--print] [--save FILE]") or self._ask("address: ").strip()
        if not url:
            self._answers.network_page()
        elif path is not None:
            self._answers.save_page(url, path)
        elif as_text or self._answers.open_page(url) is None:
            self._last_page = url
            self._answers.print_page(url, shown.MOST_LINES)

    def _git(self, words: list[str]) -> None:
        repositories, words = _flag(words, "--list")
        user = _one(words, "git USER [--list]") or self._ask("user: ").strip()
        if user:
            self._answers.git(user, repositories=repositories)

    def _server(self, words: list[str]) -> None:
        key = None
        if words[-2:-1] == ["--accept-key"]:
            try:
                key = parse_key(words[-1])
            except ValueError as error:
                raise Usage(f"--accept-key: not {error}") from None
            words = words[:-2]
        action = words[0].lower() if words else ""
        if len(words) > 2 or action not in ("", SIGN_UP, LOG_IN):
            usage = f"usage: server [{SIGN_UP}|{LOG_IN}] [NAME] [--accept-key HEX]"
            raise Usage(f"{usage}; you are asked for the password")
        name = words[1] if len(words) > 1 else ""
        self._login.run(LoginCommand(action, name, accept_key=key), self._ask, stay=True)

    def _path(self, words: list[str]) -> None:
        self._answers.path(_one(words, "path [ADDRESS]") or self._last_page)

    def _status(self, words: list[str]) -> None:
        targets, words = _flag(words, "--targets")
        _one([*words, ""], "status [--targets]")
        self._answers.status(targets=targets)

    def _new(self, words: list[str]) -> None:
        _one([*words, ""], "new")
        self._answers.client.new_identity()
        self._console.print("new identity: what you do from now on uses other circuits")

    def _help(self, _words: list[str]) -> None:
        self._console.print(_HELP, highlight=False)


def _flag(words: list[str], flag: str) -> tuple[bool, list[str]]:
    """Whether it is there, and the words without it."""
    return flag in words, [word for word in words if word != flag]


def _one(words: list[str], usage: str) -> str:
    """The one argument there may be."""
    if len(words) > 1 or (words and words[0].startswith("--")):
        raise Usage(f"usage: {usage}")
    return words[0] if words else ""


@contextmanager
def history(path: Path, warn: Callable[[str], None]) -> Iterator[Callable[[str], str]]:
    """How to ask for a line: with editing and a history that is kept in the file, where input is a terminal."""
    readline = line_editor() if sys.stdin.isatty() else None
    if readline is None:
        yield input
        return
    readline.set_auto_history(False)
    readline.clear_history()
    try:
        before = (read_private(path) or b"").decode("utf-8", "replace").splitlines()[-MAX_HISTORY:]
    except ConfigError as error:
        warn(str(error))
        before = []
    for line in before:
        readline.add_history(line)
    lines: list[str] = []

    def ask(text: str) -> str:
        line = input(text)
        if text == QUESTION and worth_keeping(line):
            readline.add_history(line)
            lines.append(line)
        return line

    try:
        yield ask
    finally:
        _keep(path, lines, warn)


def worth_keeping(line: str) -> bool:
    """Whether a line may be written to the disk."""
    return bool(line.strip()) and not line.startswith(" ") and not _SECRET.search(line) and line.isprintable()


def _keep(path: Path, lines: list[str], warn: Callable[[str], None]) -> None:
    """Adds the lines to what the file has by now: another prompt may have written too."""
    if not lines:
        return
    try:
        kept = (read_private(path) or b"").decode("utf-8", "replace").splitlines()
        write_private(path, "".join(line + "\n" for line in [*kept, *lines][-MAX_HISTORY:]).encode())
    except ConfigError as error:
        warn(str(error))
