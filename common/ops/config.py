"""What each program is told: one frozen dataclass per role, filled from four sources.

    command line  >  environment (TOR_NETWORK_NAME)  >  TOML file (--config)  >  network.toml  >  default

The option `network` is a name, or the path of a file that ends in .toml. Such a file, which the launcher writes,
says the network's name, its gateways and, if it has one, its login server; gateways or a login server that
another source names are used instead of the file's.

The table in `options` says which options there are. Everything wrong is a `ConfigError` that names source, option,
value and what would be right; an unknown option is wrong too. Paths in a file are relative to the file's folder.
A client without --config reads $TOR_NETWORK_CONFIG, or `.network/client.toml` beside the scripts if it is there.
"""

import difflib
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from common.crypto.handshake import Suite
from common.directory.addresses import Address
from common.errors import ConfigError
from common.ops.command_line import COMMAND_LINE, ClientCommand, build_parser, client_command
from common.ops.options import OPTIONS, Option
from common.ops.toml_writer import to_toml
from common.ops.values import GatewayPin, LoginServer, is_network_file
from common.wire.socks import Credentials, Isolate

PROJECT = Path(__file__).resolve().parents[2]  # where the scripts are
PREFIX = "TOR_NETWORK_"
CONFIG_VARIABLE = PREFIX + "CONFIG"
DEFAULT = "default"
_PATHS = ("state", "family_key", "relay_family_key", "database")  # relative to the file they stand in
_UNSPECIFIED = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What a gateway is told; it has no status page when `http` is None."""

    listen: Address
    state: Path
    network: str
    log_level: str
    http: Address | None
    allow_private: bool


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What a relay is told; it advertises the address it listens on when `advertise` is None.

    It has no status page when `http` is None.
    """

    listen: Address
    advertise: Address | None
    gateways: tuple[GatewayPin, ...]
    nickname: str
    state: Path
    exit_policy: str
    network: str
    log_level: str
    family_key: Path | None
    workers: int
    stop_wait: float
    http: Address | None


@dataclass(frozen=True, slots=True)
class AuthServerConfig:
    """What a login server is told; the users are in the state folder when `database` is None."""

    listen: Address
    state: Path
    database: Path | None
    iterations: int
    max_users: int
    closed: bool
    log_level: str


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client is told; `hops` is the fewest and the most relays of a path."""

    gateways: tuple[GatewayPin, ...]
    network: str
    state: Path
    hops: tuple[int, int]
    exclude: tuple[str, ...]
    exit: str
    suite: Suite
    socks_listen: tuple[Address, ...]
    proxy_auth: Credentials | None = field(repr=False)
    isolate: frozenset[Isolate]
    safe_socks: bool
    relay: bool
    relay_listen: Address
    relay_advertise: Address | None
    relay_nickname: str
    relay_exit_policy: str
    relay_family_key: Path | None
    browser: str
    login: LoginServer | None
    github_api: str
    log_level: str


@dataclass(frozen=True, slots=True)
class _Setting:
    """A value as it was given, and where."""

    raw: Any
    source: str
    label: str  # the option as that source calls it


Config = GatewayConfig | RelayConfig | AuthServerConfig | ClientConfig

_CLASSES: dict[str, type[Config]] = {
    "gateway": GatewayConfig,
    "relay": RelayConfig,
    "auth_server": AuthServerConfig,
    "client": ClientConfig,
}


@overload
def load(role: Literal["gateway"], argv: Sequence[str], environ: Mapping[str, str] = ...) -> GatewayConfig: ...
@overload
def load(role: Literal["relay"], argv: Sequence[str], environ: Mapping[str, str] = ...) -> RelayConfig: ...
@overload
def load(
    role: Literal["auth_server"], argv: Sequence[str], environ: Mapping[str, str] = ...
) -> AuthServerConfig: ...
@overload
def load(role: Literal["client"], argv: Sequence[str], environ: Mapping[str, str] = ...) -> ClientConfig: ...
def load(role: str, argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of a role from all its sources; raises `ConfigError`, or `SystemExit(0)` after --help."""
    return _load(role, argv, environ, PROJECT)[0]


def load_client(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ, home: Path = PROJECT, script: str = ""
) -> tuple[ClientConfig, ClientCommand]:
    """As `load("client", ...)`, with the command that was given; `script` is how the program is called."""
    config, given = _load("client", argv, environ, home, script)
    assert isinstance(config, ClientConfig)
    return config, client_command(given)


def _load(
    role: str, argv: Sequence[str], environ: Mapping[str, str], home: Path, script: str = ""
) -> tuple[Config, dict[str, Any]]:
    parser = build_parser(role, script)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        name = unknown[0].partition("=")[0]  # the value may be a secret
        raise ConfigError(f"{COMMAND_LINE}: {name}: {_unknown(name, known)}")
    given = vars(namespace)
    settings = {option.name: _Setting(option.default, DEFAULT, option.name) for option in OPTIONS[role]}
    stronger = _from_environment(role, environ) | _from_command_line(role, given)
    path = _config_path(role, given.get("config"), environ)
    if path is None and role == "client" and not {"network", "gateways"} & stronger.keys():
        path = _launched(home)
    if path is not None:
        settings |= _from_file(role, path)
    settings |= stronger
    settings |= _from_network_file(role, settings)
    if given.get("command") == "relay":
        settings["relay"] = _Setting(True, COMMAND_LINE, "relay")
    values = {option.name: _value(option, settings[option.name]) for option in OPTIONS[role]}
    if given.get("show_config"):
        print(_shown(role, settings))
        raise SystemExit(0)
    config = _CLASSES[role](**values)
    _check(role, config, without=("gateways",) if given.get("direct") else ())
    return config, given


def _config_path(role: str, given: str | None, environ: Mapping[str, str]) -> Path | None:
    if given is not None:
        return Path(given)
    named = environ.get(CONFIG_VARIABLE) if role == "client" else None
    return Path(named) if named else None


def _launched(home: Path) -> Path | None:
    """The client of the network that the launcher started here: for who names no other network."""
    path = home / ".network" / "client.toml"
    return path if path.is_file() else None


def _from_file(role: str, path: Path) -> dict[str, _Setting]:
    table = _read_toml(path, [option.name for option in OPTIONS[role]])
    for name in _PATHS:
        given = table.get(name)
        if isinstance(given, str) and given:
            table[name] = str(path.parent / given)
    network = table.get("network")
    if isinstance(network, str) and is_network_file(network):
        table["network"] = str(path.parent / network)
    return {name: _Setting(raw, str(path), name) for name, raw in table.items()}


def _from_network_file(role: str, settings: Mapping[str, _Setting]) -> dict[str, _Setting]:
    """The network's name in place of the file's, and its gateways unless another source named some."""
    given = settings.get("network")
    if given is None or not is_network_file(given.raw):
        return {}
    path = Path(given.raw)
    table = _read_toml(path, ["network", "gateways", "login"])
    for name in ("network", "gateways"):
        if not table.get(name):
            raise ConfigError(f"{path}: {name}: not set; a network's file says its name and its gateways")
    source = f"{path} ({given.source})"
    found = {"network": _Setting(table["network"], source, "network")}
    if "gateways" in settings and settings["gateways"].source == DEFAULT:
        found["gateways"] = _Setting(table["gateways"], source, "gateways")
    if "login" in table and "login" in settings and settings["login"].source == DEFAULT:
        found["login"] = _Setting(table["login"], source, "login")
    return found


def _read_toml(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The table in a file, in which nothing but `names` may stand."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: its tables and lists are nested too deeply") from None
    for name in table:
        if name not in names:
            raise ConfigError(f"{path}: {name}: {_unknown(name, names)}")
    return table


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
        shown = "the value" if option.secret else repr(setting.raw)
        raise ConfigError(f"{setting.source}: {setting.label}: {shown} is not {error}") from None
    return Path(value) if option.name == "state" else value


def _check(role: str, config: Config, without: Collection[str]) -> None:
    """What only the whole can tell; options `without` which it can be done need not be there."""
    for option in OPTIONS[role]:
        if option.required and option.name not in without and not getattr(config, option.name):
            flags = f"{option.flag} {option.metavar}"
            if option.name == "gateways":
                flags = "--gateway H:P with --gateway-key HEX, or --network FILE"
            raise ConfigError(f"{role}: {option.name}: not set; give {flags}, or --config FILE with it")
    if isinstance(config, RelayConfig):
        _check_dialled("relay: advertise", config.listen, config.advertise)
    if isinstance(config, ClientConfig):
        _check_client(config)


def _check_dialled(option: str, listen: Address, advertise: Address | None) -> None:
    if advertise is None and listen.host in _UNSPECIFIED:
        text = "not set, and nobody can dial the address listened on; give the one that others dial as host:port"
        raise ConfigError(f"{option}: {text}")


def _check_client(config: ClientConfig) -> None:
    if config.exit and config.exit.lower() in [name.lower() for name in config.exclude]:
        raise ConfigError(f"client: exit: {config.exit} is excluded; take it out of exclude, or choose another")
    if config.relay:
        if not config.relay_nickname:
            text = "not set; give --relay-nickname NAME, or --nickname NAME after relay"
            raise ConfigError(f"client: relay_nickname: {text}")
        _check_dialled("client: relay_advertise", config.relay_listen, config.relay_advertise)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return "unknown option; " + (f"did you mean {near[0]}?" if near else "known are " + ", ".join(sorted(known)))


def _shown(role: str, settings: Mapping[str, _Setting]) -> str:
    width = max(len(name) for name in settings)
    hidden = {option.name for option in OPTIONS[role] if option.secret and settings[option.name].raw}
    raws = {name: "(hidden)" if name in hidden else setting.raw for name, setting in settings.items()}
    return "\n".join(f"{name:{width}} = {to_toml(raws[name])}  # {s.source}" for name, s in settings.items())
