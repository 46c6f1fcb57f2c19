"""What each program is told: one frozen dataclass per role, filled from four sources.

    command line  >  environment (TOR_NETWORK_NAME)  >  TOML file (--config)  >  default

The table in `options` says which options there are. Everything wrong is a `ConfigError` that names source, option,
value and what would be right; an unknown option is wrong too. Paths in a file are relative to the file's folder.
A client without --config reads $TOR_NETWORK_CONFIG, or `.network/client.toml` beside the scripts if it is there.
"""

import argparse
import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, overload

from common.crypto.handshake import Suite
from common.directory.addresses import Address
from common.errors import ConfigError
from common.ops.options import OPTIONS, GatewayPin, Option, to_toml

PROJECT = Path(__file__).resolve().parents[2]  # where the scripts are
PREFIX = "TOR_NETWORK_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
COMMAND_LINE = "command line"
_UNSPECIFIED = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What a gateway is told."""

    listen: Address
    state: Path
    network: str
    log_level: str


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What a relay is told; it advertises the address it listens on when `advertise` is None."""

    listen: Address
    advertise: Address | None
    gateways: tuple[GatewayPin, ...]
    nickname: str
    state: Path
    exit_policy: str
    network: str
    log_level: str


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client is told; `hops` is the fewest and the most relays of a path."""

    gateways: tuple[GatewayPin, ...]
    network: str
    state: Path
    hops: tuple[int, int]
    suite: Suite
    socks_listen: Address
    browser: str
    github_api: str
    log_level: str


@dataclass(frozen=True, slots=True)
class ClientCommand:
    """What the client is to do: "" is the prompt, else web, git, path, status or socks."""

    name: str = ""
    argument: str = ""  # the URL of web and path, the user of git
    as_json: bool = False
    as_text: bool = False  # web: in the terminal
    save: Path | None = None  # web: into this file
    repositories: bool = False  # git: all of them
    targets: bool = False  # status: where streams go


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value as it was given, and where."""

    raw: Any
    source: str
    label: str  # the option as that source calls it


_CLASSES: dict[str, type[GatewayConfig | RelayConfig | ClientConfig]] = {
    "gateway": GatewayConfig,
    "relay": RelayConfig,
    "client": ClientConfig,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{COMMAND_LINE}: {message}; --help lists what there is")


def build_parser(role: str) -> argparse.ArgumentParser:
    """The command line of a role; what is not given is not in the namespace."""
    shared = _Parser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    shared.add_argument("--config", metavar="FILE", help="TOML file with these options")
    for option in OPTIONS[role]:
        if option.name == "gateways":
            shared.add_argument("--gateway", metavar="H:P", action="append", help=option.help + "; repeatable")
            shared.add_argument("--gateway-key", metavar="HEX", action="append", help="the key of each --gateway")
        else:
            text = option.help.replace("%", "%%") + f" [{option.default}]" * bool(option.default)
            shared.add_argument(option.flag, metavar=option.metavar, dest=option.name, help=text)
    shared.add_argument("--show-config", action="store_true", help="print each value with its source, and end")
    script = "client_tor.py" if role == "client" else f"{role}.py"
    parser = _Parser(prog=script, parents=[shared], allow_abbrev=False, argument_default=argparse.SUPPRESS)
    if role == "client":
        _add_commands(parser, shared)
    return parser


def _add_commands(parser: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
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
    for command in (web, git, path, status):
        add_json(command)
    socks = add("socks", "open the proxy port")
    socks.add_argument("--listen", metavar="H:P", dest="socks_listen", help="address of the proxy port")


@overload
def load(role: Literal["gateway"], argv: Sequence[str], environ: Mapping[str, str] = ...) -> GatewayConfig: ...
@overload
def load(role: Literal["relay"], argv: Sequence[str], environ: Mapping[str, str] = ...) -> RelayConfig: ...
@overload
def load(role: Literal["client"], argv: Sequence[str], environ: Mapping[str, str] = ...) -> ClientConfig: ...
def load(
    role: str, argv: Sequence[str], environ: Mapping[str, str] = os.environ
) -> GatewayConfig | RelayConfig | ClientConfig:
    """The configuration of a role from all its sources; raises `ConfigError`, or `SystemExit(0)` after --help."""
    return _load(role, argv, environ, PROJECT)[0]


def load_client(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ, home: Path = PROJECT
) -> tuple[ClientConfig, ClientCommand]:
    """As `load("client", ...)`, with the command that was given."""
    config, given = _load("client", argv, environ, home)
    assert isinstance(config, ClientConfig)
    fields = {field.name: given[field.name] for field in dataclasses.fields(ClientCommand) if field.name in given}
    command = ClientCommand(given.get("command") or "", **fields)
    return config, command


def _load(
    role: str, argv: Sequence[str], environ: Mapping[str, str], home: Path
) -> tuple[GatewayConfig | RelayConfig | ClientConfig, dict[str, Any]]:
    parser = build_parser(role)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigError(f"{COMMAND_LINE}: {unknown[0]}: {_unknown(unknown[0].partition('=')[0], known)}")
    given = vars(namespace)
    settings = {option.name: _Setting(option.default, "default", option.name) for option in OPTIONS[role]}
    path = _config_path(role, given.get("config"), environ, home)
    if path is not None:
        settings |= _from_file(role, path)
    settings |= _from_environment(role, environ)
    settings |= _from_command_line(role, given)
    values = {option.name: _value(option, settings[option.name]) for option in OPTIONS[role]}
    if given.get("show_config"):
        print(_shown(settings))
        raise SystemExit(0)
    config = _CLASSES[role](**values)
    _check(role, config)
    return config, given


def _config_path(role: str, given: str | None, environ: Mapping[str, str], home: Path) -> Path | None:
    if given is not None:
        return Path(given)
    if role != "client":
        return None
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE])
    path = home / ".network" / "client.toml"
    return path if path.is_file() else None


def _from_file(role: str, path: Path) -> dict[str, _Setting]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    names = [option.name for option in OPTIONS[role]]
    for name in table:
        if name not in names:
            raise ConfigError(f"{path}: {name}: {_unknown(name, names)}")
    state = table.get("state")
    if isinstance(state, str) and state:
        table["state"] = str(path.parent / state)
    return {name: _Setting(raw, str(path), name) for name, raw in table.items()}


def _from_environment(role: str, environ: Mapping[str, str]) -> dict[str, _Setting]:
    every = [option.name for options in OPTIONS.values() for option in options]
    names = {PREFIX + name.upper() for name in every} | {CONFIG_VARIABLE}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in names:
            raise ConfigError(f"environment: {variable}: {_unknown(variable, names)}")
    variables = {option.name: PREFIX + option.name.upper() for option in OPTIONS[role]}
    return {
        name: _Setting(environ[variable], "environment", variable)
        for name, variable in variables.items()
        if variable in environ
    }


def _from_command_line(role: str, given: dict[str, Any]) -> dict[str, _Setting]:
    options = {option.name: option for option in OPTIONS[role]}
    settings = {
        name: _Setting(raw, COMMAND_LINE, options[name].flag) for name, raw in given.items() if name in options
    }
    addresses, keys = given.get("gateway", []), given.get("gateway_key", [])
    if len(addresses) != len(keys):
        text = f"{len(addresses)} given with {len(keys)} --gateway-key: each needs one"
        raise ConfigError(f"{COMMAND_LINE}: --gateway: {text}")
    if addresses:
        pairs = [{"address": address, "key": key} for address, key in zip(addresses, keys, strict=True)]
        settings["gateways"] = _Setting(pairs, COMMAND_LINE, "--gateway")
    return settings


def _value(option: Option, setting: _Setting) -> Any:
    try:
        value = option.parse(setting.raw)
    except ValueError as error:
        raise ConfigError(f"{setting.source}: {setting.label}: {setting.raw!r} is not {error}") from None
    return Path(value) if option.name == "state" else value


def _check(role: str, config: GatewayConfig | RelayConfig | ClientConfig) -> None:
    """What only the whole can tell."""
    for option in OPTIONS[role]:
        if option.required and not getattr(config, option.name):
            flags = f"{option.flag} {option.metavar}"
            if option.name == "gateways":
                flags = "--gateway H:P with --gateway-key HEX"
            raise ConfigError(f"{role}: {option.name}: not set; give {flags}, or --config FILE with it")
    if isinstance(config, RelayConfig) and config.advertise is None and config.listen.host in _UNSPECIFIED:
        text = "not set, and nobody can dial the address listened on; give the one that others dial as host:port"
        raise ConfigError(f"{role}: advertise: {text}")


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return "unknown option; " + (f"did you mean {near[0]}?" if near else "known are " + ", ".join(sorted(known)))


def _shown(settings: Mapping[str, _Setting]) -> str:
    width = max(len(name) for name in settings)
    return "\n".join(f"{name:{width}} = {to_toml(s.raw)}  # {s.source}" for name, s in settings.items())
