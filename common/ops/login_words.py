"""The words of a login on a command line, the same for auth_client.py and for `client_tor.py server`."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import ConfigError
from common.ops.values import parse_key

SIGN_UP, LOG_IN = "signup", "login"


@dataclass(frozen=True, slots=True)
class LoginCommand:
    """What is to be done: sign up or log in; with an empty `action` or `user` the person is asked."""

    action: str = ""
    user: str = ""
    password_fd: int | None = None  # where passwords are read from, a line each; None: the terminal
    say: tuple[str, ...] = ()  # what to ask after the login, in place of a prompt
    as_json: bool = False
    accept_key: bytes | None = None
    direct: bool = False  # without the network


def login_options() -> argparse.ArgumentParser:
    """What may stand before or after signup and login: a parent for parsers."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    text = "read passwords from this file descriptor, a line each: the current one, then a new one"
    common.add_argument("--password-fd", metavar="FD", type=_descriptor, help=text)
    text = "believe this key of the login server, whichever was known before; ask its owner first"
    common.add_argument("--accept-key", metavar="HEX", type=_key, help=text)
    common.add_argument("--direct", action="store_true", help="without the network: the server sees your address")
    return common


def add_login_words(parser: argparse.ArgumentParser, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Adds signup and login to a parser."""
    actions = parser.add_subparsers(dest="action", metavar="signup|login", description="without one you are asked")
    about = {SIGN_UP: "make an account", LOG_IN: "log in, for a conversation or for one command"}
    for name, meaning in about.items():
        word = actions.add_parser(
            name,
            help=meaning,
            description=meaning,
            parents=parents,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        word.add_argument("user", metavar="NAME", help="of the account; the password is never given here")
        word.add_argument("--json", action="store_true", dest="as_json", help="the answer as JSON")
        if name == LOG_IN:
            text = 'ask this in place of a prompt, as in "whoami" or "send bob hello"; repeatable'
            word.add_argument("--command", metavar="WORDS", dest="say", action="append", help=text)


def login_command(given: Mapping[str, Any]) -> LoginCommand:
    """What was given; raises `ConfigError` for what does not go together."""
    names = ("action", "user", "password_fd", "as_json", "accept_key", "direct")
    known = {name: given[name] for name in names if given.get(name) is not None}
    command = LoginCommand(**known, say=tuple(given.get("say", ())))
    if command.as_json and command.action == LOG_IN and not command.say:
        raise ConfigError("command line: --json: a prompt has no JSON; give --command too")
    return command


def _descriptor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise argparse.ArgumentTypeError("not the number of a file descriptor; 0 is standard input")
    return int(text)


def _key(text: str) -> bytes:
    try:
        return parse_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None
