"""The client's choices, one function each: what the prompt and the command line do alike.

Each shows what it does on `errors` (a spinner, on a terminal only), and its answer on `console`. Ctrl-c leaves it
as `KeyboardInterrupt` with its streams ended.

What only one of them needs (HTTP above all) is loaded when it is asked for: the prompt is there sooner.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from time import sleep
from typing import Any

from rich.console import Console
from rich.markup import escape

from common.errors import ConfigError, OnionError
from common.net.deadline import Deadline
from common.roles.client.client import Client
from common.roles.client.control import ask_all
from common.roles.client.views import status
from common.roles.prompt import browser, shown
from common.roles.prompt.browser import Browser, Program
from common.roles.prompt.status_page import StatusPage

ASK_AGAIN = 0.2  # seconds, while a circuit is waited for
_LOOK_FOR_END = 1.0  # seconds in which a browser that cannot run ends by itself

Tell = Callable[[str], None]


class Answers:
    """What can be asked of a started client. `close` ends the browsers that were opened."""

    def __init__(
        self, client: Client, console: Console, errors: Console, wanted_browser: str, github_api: str
    ) -> None:
        self.client = client
        self.console = console
        self.errors = errors
        self._wanted = wanted_browser
        self._api = github_api
        self._browsers: list[Browser] = []
        self._stack = ExitStack()
        self._page: StatusPage | None = None

    def close(self) -> None:
        """Ends what was left running."""
        for each in self._browsers:
            each.close()
        self._stack.close()

    # ---- web

    def open_page(self, url: str) -> Browser | None:
        """In the user's browser, which goes on by itself; None when there is none, or it does not run here."""
        from common.roles.prompt.web import complete_url  # noqa: PLC0415  see the module

        url = complete_url(url)
        program = browser.find(self._wanted)
        return self._open(program, url) if program is not None else None

    def print_page(self, url: str, most_lines: int | None = None, *, as_json: bool = False) -> None:
        """Its text, here."""
        from common.roles.prompt.web import fetch  # noqa: PLC0415  see the module

        with self.busy() as tell:
            page = fetch(self.client, url, tell=tell)
        if as_json:
            shown.show_json(self.console, asdict(page))
        else:
            shown.show_page(self.console, page, most_lines)

    def save_page(self, url: str, path: Path, *, as_json: bool = False) -> None:
        """Into a file, with a bar."""
        from rich import progress  # noqa: PLC0415  see the module

        from common.roles.prompt.download import Download  # noqa: PLC0415  see the module

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        quiet = not self.errors.is_terminal
        bar = progress.Progress(*columns, console=self.errors, transient=True, disable=quiet)
        with bar:
            task = bar.add_task(escape(path.name), total=None)
            download = Download(
                self.client, url, path, lambda have, size: bar.update(task, completed=have, total=size)
            )
            try:
                saved = download.run()
            except KeyboardInterrupt:
                bar.stop()
                self.errors.print(f"\nwhat came is in {escape(str(download.part))}", soft_wrap=True)
                raise
        if as_json:
            shown.show_json(self.console, asdict(saved))
            return
        resumed = f", {saved.resumed:,} of them from before" if saved.resumed else ""
        self.console.print(f"{escape(saved.path)}: {saved.size:,} bytes{resumed}", highlight=False, soft_wrap=True)

    def network_page(self) -> None:
        """The network's own page: in the browser, else here."""
        program = browser.find(self._wanted)
        if program is not None:
            if self._page is None:
                self._page = self._stack.enter_context(StatusPage(self.client))
            if self._open(program, self._page.url, self._page) is not None:
                return
        shown.show_network(self.console, self.client)

    def _open(self, program: Program, url: str, local: StatusPage | None = None) -> Browser | None:
        with self.busy() as tell:
            tell(f"starting {program.name}")
            opened = Browser(self.client, program, url, local=local.address if local is not None else None)
            code = opened.wait(_LOOK_FOR_END)
        if code:
            opened.close()
            self.errors.print(f"{program.name} does not run here (it ended with code {code}): here is the text")
            return None
        opened.tidy_when_closed()
        self._browsers.append(opened)
        self.console.print(f"opened in {program.name}: its only way out is the network, its profile is temporary")
        return opened

    # ---- the others

    def git(self, user: str, *, repositories: bool = False, as_json: bool = False) -> None:
        """A user's public repositories."""
        from common.roles.prompt import github  # noqa: PLC0415  see the module

        with self.busy() as tell:
            account = github.ask(self.client, user, repositories=repositories, api=self._api, tell=tell)
        if as_json:
            shown.show_json(self.console, asdict(account))
        else:
            shown.show_account(self.console, account)

    def path(self, what: str, *, as_json: bool = False) -> None:
        """A traced request and its circuit."""
        from common.roles.prompt.path_report import draw, trace_request  # noqa: PLC0415  see the module

        with self.busy() as tell:
            report = trace_request(self.client, what, tell)
        if as_json:
            shown.show_json(self.console, report.to_json())
        else:
            draw(self.console, report)

    def status(self, *, targets: bool = False) -> None:
        """This client's own circuits."""
        shown.show_status(self.console, status(self.client, targets=targets), targets=targets)

    @contextmanager
    def busy(self) -> Iterator[Tell]:
        """A spinner that shows what is told, and how far a circuit is that is being built."""
        with self.errors.status("") as spinner:
            text = ""

            def tell(line: str) -> None:
                nonlocal text
                text = line
                spinner.update(escape(line))

            def on_hop(done: int, of: int) -> None:
                spinner.update(escape(f"{text} · a circuit is built: relay {done} of {of} answered"))

            self.client.on_hop = on_hop
            try:
                yield tell
            finally:
                self.client.on_hop = lambda _done, _of: None


def check_argument(choice: str, argument: str) -> None:
    """Raises `ConfigError` for what is wrong whatever the network says: it is a wrong use of the command line."""
    try:
        if choice == "web" or (choice == "path" and argument):
            from common.roles.prompt.web import complete_url  # noqa: PLC0415  see the module

            complete_url(argument)
        elif choice == "git":
            from common.roles.prompt.github import check_user  # noqa: PLC0415  see the module

            check_user(argument)
    except OnionError as error:
        raise ConfigError(str(error)) from None


def show_clients(
    folder: Path, console: Console, *, targets: bool, as_json: bool, wait: float = 0.0
) -> bool:
    """Shows what the clients that run with this state folder tell; False, and a sentence, when there are none.

    Waits up to `wait` seconds until one of them has a circuit; raises `OnionError` that says how far they are.
    """
    question = {"command": "status", "targets": targets}
    found = _ask_until_circuit(folder, question, wait) if wait else ask_all(folder, question)
    if as_json:
        shown.show_json(console, found)
    else:
        for number, each in enumerate(found):
            console.print("\n" * (number > 0), end="")
            shown.show_status(console, each, targets=targets)
    if not found:
        Console(stderr=True).print(_no_client(folder), markup=False, highlight=False, soft_wrap=True)
    return bool(found)


def _ask_until_circuit(folder: Path, question: dict[str, Any], wait: float) -> list[dict[str, Any]]:
    deadline = Deadline(wait)
    while True:
        found = ask_all(folder, question)
        if any(circuit["state"] != "retired" for each in found for circuit in each["circuits"]):
            return found
        if deadline.expired:
            clients = "; ".join(map(_how_far, found)) or _no_client(folder)
            raise OnionError(f"no circuit after {wait:.0f} s: {clients}")
        sleep(min(ASK_AGAIN, deadline.left()))


def _how_far(answer: dict[str, Any]) -> str:
    """A client, and how far its start is."""
    client, start = answer["client"], answer["start"]
    return f"{client['program']}, pid {client['pid']}: {start['percent']} %, {start['step']}"


def _no_client(folder: Path) -> str:
    return f"no client runs with the state folder {folder}: start the prompt, or socks"
