"""The launcher's command line: launch_network.sh makes the virtual environment and runs this module."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from common.errors import ConfigError
from common.ops.launcher_commands import DEFAULT_STATE, SCRIPT, Launcher
from common.ops.launcher_state import MOST_GATEWAYS, MOST_RELAYS, Settings
from common.ops.lifecycle import Signals, main
from common.ops.values import MOST_WORKERS, parse_policy

_LAST_BASE_PORT = 65_535 - MOST_GATEWAYS - MOST_RELAYS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{SCRIPT}: {message}; --help shows how it is used")


def run(argv: Sequence[str]) -> int:
    """Carries one command out and returns the exit code; raises `OnionError` with a sentence for the user."""
    words = list(argv)
    at = 2 if words[:1] == ["--state"] else 0  # where the command stands
    if words[at : at + 1] == ["client"]:
        state = Path(words[1]).absolute() if at else DEFAULT_STATE
        Launcher(state).client(words[at + 1 :])
    arguments = _parse(words, at)
    state = Path(arguments.state).absolute() if "state" in arguments else DEFAULT_STATE
    with Signals() as signals:
        code = _carry_out(Launcher(state, signals.stop), arguments) or signals.exit_code
    if arguments.command == "start" and arguments.client and code == 0:
        Launcher(state).client([])
    return code


def _carry_out(launcher: Launcher, arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "start":
            given = arguments.base_port, arguments.exit_policy, arguments.gateways, arguments.workers
            launcher.start(arguments.count, Settings(*given))
        case "add":
            launcher.add(arguments.count)
        case "kill":
            launcher.kill(arguments.name)
        case "restart":
            launcher.restart(arguments.name)
        case "logs":
            launcher.logs(arguments.name, arguments.follow)
        case "stop":
            launcher.stop()
        case "status":
            return launcher.status()
    return 0


def _parse(words: list[str], at: int) -> argparse.Namespace:
    shared = _Parser(add_help=False)
    text = "folder of the network; two networks have two [.network beside the script]"
    shared.add_argument("--state", metavar="DIR", default=argparse.SUPPRESS, help=text)
    parser = _Parser(prog=SCRIPT, parents=[shared], allow_abbrev=False, epilog="client ARGS... opens the client.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)

    start = add("start", "start gateways, N relays and the login server; the word start may be left out")
    relays = _number(1, MOST_RELAYS)
    start.add_argument("count", metavar="N", type=relays, help=f"relays, 1 to {MOST_RELAYS}")
    start.add_argument("--client", action="store_true", help="then open the client's prompt")
    text = "directory gateways: relays register with all, clients believe more than half [1]"
    start.add_argument("--gateways", metavar="G", type=_number(1, MOST_GATEWAYS), default=1, help=text)
    login = MOST_GATEWAYS + MOST_RELAYS
    text = f"port of the first gateway, the others and then the relays follow, login is at P+{login} [free ports]"
    start.add_argument("--base-port", metavar="P", type=_number(1024, _LAST_BASE_PORT), help=text)
    text = "where exits may connect to [local: also this machine]"
    start.add_argument("--exit-policy", metavar="RULES", type=_policy, default="local", help=text)
    text = "processes of each relay, which share its port: to use more cores [1]"
    start.add_argument("--workers", metavar="W", type=_number(1, MOST_WORKERS), default=1, help=text)
    add("status", "show what runs; fails when something is gone")
    add("stop", "end all that was started here")
    logs = add("logs", "show what the daemons said")
    logs.add_argument("name", metavar="NAME", nargs="?", help="only this one")
    logs.add_argument("--follow", action="store_true", help="go on until ctrl-c")
    more = add("add", "start N more relays")
    more.add_argument("count", metavar="N", type=relays, nargs="?", default=1, help="how many [1]")
    kill = add("kill", "end one daemon at once, as a crash would")
    kill.add_argument("name", metavar="NAME", help="gateway, gateway2, ..., relay1, relay2, ..., auth")
    again = add("restart", "start one daemon again as it was, ending it first if it runs")
    again.add_argument("name", metavar="NAME", help="as for kill")
    if len(words) > at and words[at] not in (*commands.choices, "-h", "--help"):
        words = [*words[:at], "start", *words[at:]]
    return parser.parse_args(words)


def _number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text[:9]) <= highest):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest} to {highest}")
        return int(text)

    return parse


def _policy(text: str) -> str:
    try:
        return parse_policy(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None


if __name__ == "__main__":
    main(lambda: run(sys.argv[1:]))
