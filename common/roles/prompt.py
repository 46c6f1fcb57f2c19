"""The prompt: what a person types and sees. Errors are sentences; ctrl-c ends a request, not the client."""

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from common.errors import OnionError
from common.roles.client import Client
from common.roles.web import Page, fetch

_HELP = """[bold]web[/]     fetch a web page through the network and show it as text
[bold]new[/]     new identity: from now on other circuits
[bold]help[/]    this text
[bold]quit[/]    leave (or ctrl-d)"""
_MOST_LINES = 60  # of a page in the terminal; the rest is counted


class Prompt:
    """Reads choices from standard input until quit, ctrl-d or the input's end."""

    def __init__(self, client: Client, console: Console, ask: Callable[[str], str] = input) -> None:
        """`ask` shows its argument and returns a line; raises `EOFError` at the end."""
        self._client = client
        self._console = console
        self._ask = ask
        self._choices = {"web": self._web, "new": self._new, "help": self._help}

    def run(self) -> None:
        """The loop."""
        while True:
            try:
                words = self._ask("[web/new/help/quit] ").split(maxsplit=1)
                if not words:
                    continue
                choice, argument = words[0].lower(), words[1] if len(words) > 1 else ""
                if choice in ("quit", "exit"):
                    return
                action = self._choices.get(choice)
                if action is None:
                    self._console.print(f"{escape(choice)} is none of web, new, help, quit")
                else:
                    action(argument)
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print("\ncancelled; quit or ctrl-d leaves")
            except OnionError as error:
                self._console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)

    def _web(self, argument: str) -> None:
        url = argument or self._ask("address: ").strip()
        if not url:
            return
        with self._console.status("fetching the page through the network"):
            page = fetch(self._client, url)
        show_page(self._console, page)

    def _new(self, _argument: str) -> None:
        self._client.new_identity()
        self._console.print("new identity: what you do from now on uses other circuits")

    def _help(self, _argument: str) -> None:
        self._console.print(_HELP)


def show_page(console: Console, page: Page, most_lines: int | None = _MOST_LINES) -> None:
    """Title, status, size, and the readable text."""
    if page.title:
        console.print(f"[bold]{escape(page.title)}[/]", soft_wrap=True)
    cut = ", cut here" if page.cut else ""
    kind = escape(page.kind or "no type")
    console.print(f"{page.status} {escape(page.reason)}, {page.size:,} bytes{cut}, {kind}", highlight=False)
    if not page.text:
        console.print("no readable text")
        return
    lines = page.text.split("\n")
    shown = lines[:most_lines]
    console.print(escape("\n".join(shown)), soft_wrap=True, highlight=False)
    if len(lines) > len(shown):
        console.print(f"… {len(lines) - len(shown)} more lines")
