"""How answers look in the terminal. Whatever came from outside is escaped: it must not drive the terminal."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.roles.client.client import READY, Client
from common.roles.prompt.status_page import CIRCUITS, RELAYS, circuit_rows, duration, heading, relay_rows

if TYPE_CHECKING:
    from common.roles.prompt.github import Account
    from common.roles.prompt.web import Page

MOST_LINES = 60  # of a page at the prompt; the rest is counted
_WIDE = 200  # columns where output is no terminal: lines for other programs are not folded
_NUMBERS = frozenset({"number", "streams", "bytes in", "bytes out", "stars", "age", "runs for", "round trip"})


def show_json(console: Console, value: Any) -> None:
    """For other programs: one document, never wrapped or coloured.

    Letters of all scripts stay readable. What would drive a terminal is escaped, beyond what JSON asks for.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    console.file.write("".join(map(_escaped, text)) + "\n")


def _escaped(char: str) -> str:
    """Behind `dumps` only strings have characters that cannot be printed, but for the ends of lines."""
    return char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1]


def plain(text: str) -> str:
    """Text of others without what would drive the terminal; lines and tabs stay."""
    return "".join(each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)


def one_line(text: str) -> str:
    """A name from others, on one line: what follows it on the screen is ours."""
    return plain(text).replace("\n", "\ufffd").replace("\t", "\ufffd")


def show_page(console: Console, page: "Page", most_lines: int | None = MOST_LINES) -> None:
    """Title, status, size, and the readable text."""
    if page.title:
        console.print(f"[bold]{escape(page.title)}[/]", soft_wrap=True)
    cut = ", cut here" if page.cut else ""
    kind = escape(page.kind or "no type")
    console.print(f"{page.status} {escape(page.reason)}, {page.size:,} bytes{cut}, {kind}", highlight=False)
    if not page.text:
        console.print("no readable text; --save FILE keeps it as it is" if page.size else "nothing in it")
        return
    lines = page.text.split("\n")
    shown = lines[:most_lines]
    console.print(escape("\n".join(shown)), soft_wrap=True, highlight=False)
    if len(lines) > len(shown):
        console.print(f"… {len(lines) - len(shown)} more lines")


def show_account(console: Console, account: "Account") -> None:
    """The number of public repositories, and those that were asked for."""
    name = f" ({account.name})" if account.name else ""
    many = "y" if account.public_repos == 1 else "ies"
    console.print(
        f"[bold]{escape(account.login)}[/]{escape(name)} has {account.public_repos:,} public repositor{many}",
        highlight=False,
    )
    if account.repositories:
        rows = [
            [repository.name, repository.language, f"{repository.stars:,}", repository.description]
            for repository in account.repositories
        ]
        _table(console, ("name", "language", "stars", "description"), rows)


def show_status(console: Console, answer: dict[str, Any], *, targets: bool = False) -> None:
    """What one client told of itself."""
    client, directory = answer.get("client"), answer["directory"]
    if client:
        console.print(f"[bold]{client['program']}[/], pid {client['pid']}, for {duration(client['age'])}")
    start = answer["start"]
    if start["percent"] < READY:
        console.print(f"starting: {start['percent']} %  {escape(start['step'])}", highlight=False)
    if directory is None:
        console.print("no directory document: no gateway has answered")
    else:
        console.print(
            f"network {escape(directory['network'])}: {directory['relays']} relays, document "
            f"{duration(directory['age'])} old, valid for {duration(directory['valid_for'])}",
            highlight=False,
        )
    _table(console, CIRCUITS, circuit_rows(answer["circuits"]))
    streams = [(circuit["number"], stream) for circuit in answer["circuits"] for stream in circuit["streams"]]
    if streams and targets:
        _table(
            console,
            ("circuit", "stream", "state", "bytes in", "bytes out", "target"),
            [
                [
                    str(number),
                    str(stream["number"]),
                    stream["state"],
                    f"{stream['bytes_in']:,}",
                    f"{stream['bytes_out']:,}",
                    stream.get("target", ""),
                ]
                for number, stream in streams
            ],
        )
    _show_history(console, answer)


def _show_history(console: Console, answer: dict[str, Any]) -> None:
    parts = [f"{answer['links']} link{'s' * (answer['links'] != 1)}"]
    if answer["guards"]:
        parts.append("guards: " + ", ".join(_guard(guard) for guard in answer["guards"]))
    if answer["built"]:
        median, most = answer["build_seconds_median"] * 1_000, answer["build_seconds_most"] * 1_000
        parts.append(f"last {answer['built']} circuits took {median:.0f} ms to build (median), {most:.0f} at most")
    if answer["close_reasons"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(answer["close_reasons"].items()))
        parts.append(f"circuits ended: {reasons}")
    console.print(" · ".join(parts), highlight=False, soft_wrap=True)


def _guard(guard: dict[str, Any]) -> str:
    if not guard["listed"]:
        return f"{guard['relay']} (not listed)"
    return f"{guard['relay']} (failed {guard['failures']} x)" if guard["failures"] else str(guard["relay"])


def show_network(console: Console, client: Client) -> None:
    """The network's own page, for a terminal."""
    name, sentence = heading(client)
    console.print(f"[bold]Network {escape(name)}[/]\n{escape(sentence)}", highlight=False)
    _table(console, RELAYS, relay_rows(client))


def _table(console: Console, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, highlight=False, width=None if console.is_terminal else _WIDE)
