"""How each program is called: the options of its role, and the commands of the client.

Here is the parser, whose namespace holds what was given as it was given. What options say is judged in `config`,
the same for all sources.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from common.errors import ConfigError
from common.ops.login_words import LoginCommand, add_login_words, login_command, login_options
from common.ops.options import OPTIONS, Option

COMMAND_LINE = "command line"  # as a source of options
_LONGEST = 5  # digits of a time in seconds: a day


@dataclass(frozen=True, slots=True)
class ClientCommand:
    """What the client is to do: "" is the prompt, else web, git, server, path, status, socks or relay."""

    name: str = ""
    argument: str = ""  # the URL of web and path, the user of git
    as_json: bool = False
    as_text: bool = False  # web: in the terminal
    save: Path | None = None  # web: into this file
    repositories: bool = False  # git: all of them
    targets: bool = False  # status: where streams go
    wait: float = 0.0  # status: seconds for a client to have a circuit
    login: LoginCommand = field(default_factory=LoginCommand)  # server: what of it


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{COMMAND_LINE}: {message}; --help lists what there is")


def _seconds(raw: str) -> float:
    if not raw.isascii() or not raw.isdigit() or len(raw) > _LONGEST:
        raise argparse.ArgumentTypeError(f"{raw!r} is not a number of whole seconds")
    return float(raw)


def build_parser(role: str, script: str = "") -> argparse.ArgumentParser:
    """The command line of a role; what is not given is not in the namespace. `script` is how it is called."""
    shared = _Parser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    shared.add_argument("--config", metavar="FILE", help="TOML file with these options")
    for option in OPTIONS[role]:
        if option.name == "gateways":
            shared.add_argument("--gateway", metavar="H:P", action="append", help=option.help + "; repeatable")
            shared.add_argument("--gateway-key", metavar="HEX", action="append", help="the key of each --gateway")
        else:
            text = option.help.replace("%", "%%") + f" [{option.default}]" * bool(option.default)
            _add_option(shared, option, text)
    shared.add_argument("--show-config", action="store_true", help="print each value with its source, and end")
    server = script or "client_tor.py server"
    script = script or ("client_tor.py" if role == "client" else f"{role}.py")
    parser = _Parser(prog=script, parents=[shared], allow_abbrev=False, argument_default=argparse.SUPPRESS)
    if role == "client":
        _add_commands(parser, shared, server)
    return parser


def client_command(given: Mapping[str, Any]) -> ClientCommand:
    """What the client is to do, from its namespace; raises `ConfigError` for what does not go together."""
    login = login_command(given if given.get("command") == "server" else {})
    fields = {each.name: given[each.name] for each in dataclasses.fields(ClientCommand) if each.name in given}
    fields["login"] = login  # in the namespace that is the login server's option
    return ClientCommand(given.get("command") or "", **fields)


def _add_option(parser: argparse.ArgumentParser, option: Option, text: str) -> None:
    if option.switch:
        parser.add_argument(option.flag, dest=option.name, action="store_true", help=text)
        return
    action = "append" if option.many else "store"
    parser.add_argument(option.flag, metavar=option.metavar, dest=option.name, action=action, help=text)


def _add_commands(parser: argparse.ArgumentParser, shared: argparse.ArgumentParser, server_script: str) -> None:
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", description="without one: the prompt")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, parents=[shared], allow_abbrev=False, argument_default=argparse.SUPPRESS
        )

    def add_json(command: argparse.ArgumentParser) -> None:
        command.add_argument("--json", action="store_true", dest="as_json", help="the answer as JSON")

    web = add("web", "open a web page through the network, in a browser or as text")
    web.add_argument("argument", metavar="URL")
    web.add_argument("--print", action="store_true", dest="as_text", help="as text in the terminal")
    web.add_argument("--save", metavar="FILE", type=Path, help="into a file; goes on with one that was left")
    git = add("git", "ask GitHub through the network how many public repositories a user has")
    git.add_argument("argument", metavar="USER")
    git.add_argument("--list", action="store_true", dest="repositories", help="and which")
    path = add("path", "trace a request and draw its circuit: who knows what, and the real sizes")
    path.add_argument("argument", metavar="URL", nargs="?", default="", help="what to ask for [a look-up]")
    status = add("status", "circuits and streams of the clients that run with this state folder")
    status.add_argument("--targets", action="store_true", help="also where streams go")
    text = "until one of them has a circuit, so long at most"
    status.add_argument("--wait", metavar="SECONDS", type=_seconds, help=text)
    for command in (web, git, path, status):
        add_json(command)
    parents = [shared, login_options()]
    server = commands.add_parser(
        "server",
        prog=server_script,
        help="sign up with the login server, or log in, through the network",
        parents=parents,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_login_words(server, parents)
    socks = add("socks", "open the proxy port")
    text = "address of the proxy port; repeatable"
    socks.add_argument("--listen", metavar="H:P", dest="socks_listen", action="append", help=text)
    relay = add("relay", "be a relay too: the prompt on a terminal, else the proxy port")
    for option in OPTIONS["client"]:
        name = option.name.removeprefix("relay_")
        if name != option.name:
            flag = "--" + name.replace("_", "-")
            relay.add_argument(flag, metavar=option.metavar, dest=option.name, help=option.help)
