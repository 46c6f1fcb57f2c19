"""Every option of every role, once: this table drives TOML file, command line, environment and help.

A parser takes what TOML or the command line gave and returns the value, or raises `ValueError` with what would
be right, as in "host:port"; who calls it knows the source and the option's name. Adding an option is one line
in the table and one field in the role's dataclass in `config`.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from common.crypto.handshake import Suite
from common.crypto.layers import MAX_HOPS
from common.crypto.scram import MAX_ITERATIONS, MIN_ITERATIONS
from common.directory import addresses
from common.directory.addresses import Address
from common.directory.descriptor import NETWORK, NICKNAME
from common.directory.exit_policy import ExitPolicy
from common.errors import Malformed
from common.wire.socks import MAX_FIELD, Credentials, Isolate

KEY_SIZE = 32  # an Ed25519 public key
_IDENTITY = re.compile(rf"[0-9A-Fa-f]{{{2 * KEY_SIZE}}}")
_NUMBER = re.compile(r"[0-9]{1,9}")
MAX_USERS = 1_000_000  # of a login server: beyond it, looking the file through at the start takes many seconds
LOG_LEVELS = ("debug", "info", "warning", "error")
NETWORK_FILE = ".toml"
MOST_WORKERS = 64  # as many as a large machine has cores; each takes 35 MB
SUITES = {"fernet": Suite.FERNET, "aes-gcm": Suite.AES_GCM}


class GatewayPin(NamedTuple):
    """A gateway that is believed: where it is and the Ed25519 key (32 bytes) that it must prove."""

    address: Address
    key: bytes


class LoginServer(NamedTuple):
    """The login server: its address as a target, and its Ed25519 key (32 bytes), None to take it at first use."""

    address: Address
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `default` is in the form of the file; `parse` makes the value that the program uses."""

    name: str
    default: Any
    parse: Callable[[Any], Any]
    metavar: str
    help: str
    required: bool = False
    many: bool = False  # a list: a flag that may be repeated
    switch: bool = False  # on or off: a flag without a value
    secret: bool = False  # never shown
    live: bool = False  # SIGHUP reads it again and the program does as it says; see who makes a `Reload`

    @property
    def flag(self) -> str:
        """How the command line calls it."""
        return "--" + self.name.replace("_", "-")


def parse_address(raw: Any) -> Address:
    """The address that others dial."""
    return _address(raw, addresses.parse_address, "host:port (port 1 to 65535)")


def parse_listen(raw: Any) -> Address:
    """The address to listen on; port 0 takes any free one."""
    return _address(raw, addresses.parse_listen, "host:port (port 0 to 65535)")


def parse_listens(raw: Any) -> tuple[Address, ...]:
    """One address to listen on or several: a list, or a text with commas."""
    texts = raw if isinstance(raw, list) else [raw]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("host:port (port 0 to 65535), or a list of them")
    found = tuple(parse_listen(part.strip()) for text in texts for part in text.split(","))
    fixed = [address for address in found if address.port]
    if len(set(fixed)) != len(fixed):
        raise ValueError("a list in which each address stands once")
    return found


def parse_proxy_auth(raw: Any) -> Credentials | None:
    """The user and password that programs must give; None when they need none."""
    if raw == "":
        return None
    user, colon, password = raw.partition(":") if isinstance(raw, str) else ("", "", "")
    if not colon or not all(0 < len(os.fsencode(part)) <= MAX_FIELD for part in (user, password)):
        raise ValueError("user:password, each of 1 to 255 bytes")
    return user, password


def parse_isolate(raw: Any) -> frozenset[Isolate]:
    """What keeps requests apart."""
    words = [word.strip() for word in raw.split(",")] if isinstance(raw, str) else [""]
    if words == ["none"]:
        return frozenset()
    try:
        return frozenset(map(Isolate, words))
    except ValueError:
        raise ValueError("a list of credentials, target, port, listener with commas, or none") from None


def parse_iterations(raw: Any) -> int:
    """How often a password is hashed: no fewer than is safe, no more than a client accepts."""
    return _number(raw, MIN_ITERATIONS, MAX_ITERATIONS)


def parse_max_users(raw: Any) -> int:
    """How many users a login server takes."""
    return _number(raw, 1, MAX_USERS)


def _number(raw: Any, lowest: int, highest: int) -> int:
    value = raw if type(raw) is int else int(raw) if isinstance(raw, str) and _NUMBER.fullmatch(raw) else -1
    if not lowest <= value <= highest:
        raise ValueError(f"a number from {lowest} to {highest}")
    return value


def parse_switch(raw: Any) -> bool:
    """On or off."""
    known = {"true": True, "false": False}
    if isinstance(raw, bool):
        return raw
    if raw not in known:
        raise ValueError("true or false")
    return known[raw]


def _address(raw: Any, parse: Callable[[str], Address], right: str) -> Address:
    try:
        return parse(raw if isinstance(raw, str) else "")
    except Malformed:
        raise ValueError(right) from None


def _parse_advertise(raw: Any) -> Address | None:
    return None if raw == "" else parse_address(raw)


def _parse_http(raw: Any) -> Address | None:
    return None if raw == "" else parse_listen(raw)


def parse_hops(raw: Any) -> tuple[int, int]:
    """The fewest and the most relays of a path."""
    right = f"a number of relays from 1 to {MAX_HOPS}, or a range like 3-5"
    match = re.fullmatch(r"([0-9]{1,3})(?:-([0-9]{1,3}))?", str(raw))
    if match is None or isinstance(raw, bool):
        raise ValueError(right)
    low = int(match[1])
    high = int(match[2] or low)
    if not 1 <= low <= high <= MAX_HOPS:
        raise ValueError(right)
    return low, high


def parse_workers(raw: Any) -> int:
    """How many processes a relay is."""
    if isinstance(raw, bool) or not re.fullmatch(r"[0-9]{1,2}", str(raw)) or not 1 <= int(raw) <= MOST_WORKERS:
        raise ValueError(f"a number of processes from 1 to {MOST_WORKERS}")
    return int(raw)


def parse_key(raw: Any) -> bytes:
    """The identity of a gateway or a login server."""
    if not isinstance(raw, str) or not _IDENTITY.fullmatch(raw):
        raise ValueError("a key: 64 hex digits, as the daemon shows at its start")
    return bytes.fromhex(raw)


def parse_gateways(raw: Any) -> tuple[GatewayPin, ...]:
    """A list of tables with address and key; in the environment HOST:PORT=KEY, separated by commas."""
    if isinstance(raw, str):
        pairs = [part.strip().rpartition("=") for part in raw.split(",") if part.strip()]
        raw = [{"address": address, "key": key} for address, _, key in pairs]
    tables = raw if isinstance(raw, list) else [raw]
    if not all(isinstance(table, dict) and set(table) == {"address", "key"} for table in tables):
        raise ValueError('a list like [{ address = "127.0.0.1:9000", key = "64 hex digits" }]')
    pins = tuple(GatewayPin(parse_address(table["address"]), parse_key(table["key"])) for table in tables)
    if len({pin.key for pin in pins}) != len(pins):
        raise ValueError("a list in which each key stands once")
    return pins


def parse_login(raw: Any) -> LoginServer | None:
    """A table with address and key, or HOST:PORT=KEY; the key may be left out. Empty: no login server."""
    if raw == "":
        return None
    if isinstance(raw, str):
        address, _, key = raw.partition("=")
        raw = {"address": address, "key": key} if key else {"address": address}
    if not isinstance(raw, dict) or "address" not in raw or not raw.keys() <= {"address", "key"}:
        raise ValueError('a table like { address = "127.0.0.1:9109", key = "64 hex digits" }, or host:port=key')
    return LoginServer(parse_address(raw["address"]), parse_key(raw["key"]) if "key" in raw else None)


def parse_api(raw: Any) -> str:
    """The base of a web API."""
    right = "a web address like https://api.github.com"
    try:
        parts = urlsplit(raw if isinstance(raw, str) else "")
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(right) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ValueError(right)
    return str(raw)


def _parse_browser(raw: Any) -> str:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("auto, none, or a browser's name or path")
    return raw


def _parse_nickname(raw: Any) -> str:
    if not isinstance(raw, str) or not (raw == "" or NICKNAME.fullmatch(raw)):
        raise ValueError("a name of 1 to 19 letters, digits, _ and -")
    return raw


def is_network_file(raw: Any) -> bool:
    """Whether the option network is given as a file instead of a name: what ends in .toml is one."""
    return isinstance(raw, str) and raw.endswith(NETWORK_FILE)


def parse_relay(raw: Any) -> str:
    """How a user calls a relay: its nickname or its identity; empty for none."""
    if not isinstance(raw, str) or not (raw == "" or NICKNAME.fullmatch(raw) or _IDENTITY.fullmatch(raw)):
        raise ValueError("a relay's nickname, or its identity as 64 hex digits")
    return raw


def parse_relays(raw: Any) -> tuple[str, ...]:
    """Relays with commas between them."""
    if not isinstance(raw, str):
        raise ValueError("a text of nicknames with commas between them")
    names = [part.strip() for part in raw.split(",")] if raw.strip() else []
    if "" in names:
        raise ValueError("nicknames, or identities as 64 hex digits, with commas between them")
    return tuple(parse_relay(name) for name in names)


def _parse_network(raw: Any) -> str:
    if not isinstance(raw, str) or not NETWORK.fullmatch(raw) or is_network_file(raw):
        raise ValueError(
            f"a name of 1 to 64 letters, digits, dots, _ and -, or a file that ends in {NETWORK_FILE}"
        )
    return raw


def parse_policy(raw: Any) -> str:
    """Rules of an exit policy, or a word for them, as they were written."""
    if not isinstance(raw, str):
        raise ValueError("a text of rules, or default, local or none")
    try:
        ExitPolicy.parse(raw)
    except Malformed as error:
        raise ValueError(f"an exit policy: {error}") from None
    return raw


def _parse_folder(raw: Any) -> str:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("the path of a folder")
    return raw


def _parse_file(raw: Any) -> Path | None:
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError("the path of a file")
    return Path(raw) if raw else None


def _one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    known = tuple(choices)

    def parse(raw: Any) -> str:
        if raw not in known:
            raise ValueError("one of " + ", ".join(known))
        return str(raw)

    return parse


def _parse_suite(raw: Any) -> Suite:
    return SUITES[_one_of(SUITES)(raw)]


def _state(default: str) -> Option:
    return Option("state", default, _parse_folder, "DIR", "folder for keys and what is kept; made if missing")


def _log_level(default: str) -> Option:
    return Option("log_level", default, _one_of(LOG_LEVELS), "LEVEL", "debug, info, warning or error", live=True)


_NETWORK_HELP = "name of the network that is joined, or a file network.toml that says its name and gateways"
_NETWORK = Option("network", "private", _parse_network, "NAME|FILE", _NETWORK_HELP)
_HTTP_HELP = "address of the status page, as 127.0.0.1:9080; others see it only if not on loopback; empty: none"
_ALLOW_PRIVATE = (
    "list relays on private addresses too, as 10.0.0.1, for a network of your own hosts: "
    "whoever can reach this gateway can then make it dial any port of its private network"
)
_GATEWAYS = Option("gateways", [], parse_gateways, "H:P", "the gateways believed, by majority", required=True)

# What a choice of relays costs is said where it is made.
_HOPS = (
    f"relays on a path, 1 to {MAX_HOPS}: with 1 that relay knows you and your target, "
    "with 2 the exit knows your guard, more than 3 add delay and little else"
)
_EXCLUDE = (
    "relays never used, by nickname or identity in hex: "
    "a choice that others do not make tells you apart, and few relays left are easier to watch"
)
_EXIT = (
    "the relay that all streams leave from, by nickname or identity in hex: "
    "it sees all your targets in one place, and few others share it with you"
)
_LOGIN = "the login server that server asks; without its key that is remembered at first use [network.toml's]"
_FAMILY_KEY = "key that your relays share, so that no path uses two"
_ADVERTISE = "address that others dial; empty: the one listened on"
_OTHERS = "where others' streams may go from here"

_DATABASE = (
    "file of the users, which several servers on one host may share; empty: users.sqlite in the state folder"
)

OPTIONS: dict[str, tuple[Option, ...]] = {
    "gateway": (
        Option("listen", "127.0.0.1:9000", parse_listen, "H:P", "address to listen on; port 0 takes any free one"),
        _state("gateway-state"),
        _NETWORK,
        _log_level("info"),
        Option("http", "", _parse_http, "H:P", _HTTP_HELP),
        Option("allow_private", False, parse_switch, "", _ALLOW_PRIVATE, switch=True),
    ),
    "relay": (
        Option("listen", "127.0.0.1:9001", parse_listen, "H:P", "address to listen on; port 0 takes any free one"),
        Option("advertise", "", _parse_advertise, "H:P", _ADVERTISE),
        _GATEWAYS,
        Option("nickname", "", _parse_nickname, "NAME", "name of this relay in the network", required=True),
        _state("relay-state"),
        Option("exit_policy", "default", parse_policy, "RULES", "where streams may go from here", live=True),
        _NETWORK,
        _log_level("info"),
        Option("family_key", "", _parse_file, "FILE", _FAMILY_KEY),
        Option(
            "workers", 1, parse_workers, "N", f"processes that share the port, 1 to {MOST_WORKERS}: one per core"
        ),
    ),
    "auth_server": (
        Option("listen", "127.0.0.1:9100", parse_listen, "H:P", "address to listen on; port 0 takes any free one"),
        _state("auth-state"),
        Option("database", "", _parse_file, "FILE", _DATABASE),
        Option(
            "iterations",
            MIN_ITERATIONS,
            parse_iterations,
            "N",
            "rounds of PBKDF2 for new passwords: more make guessing dearer for a thief, and logging in slower",
        ),
        Option("max_users", 100_000, parse_max_users, "N", "how many users there may be"),
        Option("closed", False, parse_switch, "", "take no new users", switch=True, live=True),
        _log_level("info"),
    ),
    "client": (
        _GATEWAYS,
        _NETWORK,
        _state("client-state"),
        Option("hops", "3-5", parse_hops, "N|MIN-MAX", _HOPS),
        Option("exclude", "", parse_relays, "NAME,...", _EXCLUDE),
        Option("exit", "", parse_relay, "NAME", _EXIT),
        Option("suite", "fernet", _parse_suite, "NAME", "cipher of the layers: fernet, or aes-gcm for speed"),
        Option(
            "socks_listen",
            "127.0.0.1:9050",
            parse_listens,
            "H:P",
            "address of the proxy port; several: a list",
            many=True,
        ),
        Option(
            "proxy_auth",
            "",
            parse_proxy_auth,
            "USER:PASSWORD",
            "what programs must give to the proxy port; others see a command line, so rather set it in a file",
            secret=True,
        ),
        Option(
            "isolate",
            "credentials",
            parse_isolate,
            "LIST",
            "what keeps requests on separate circuits: credentials, target, port, listener, or none",
        ),
        Option(
            "safe_socks",
            False,
            parse_switch,
            "",
            "refuse targets given to the proxy port by address, not by name",
            switch=True,
        ),
        Option("relay", False, parse_switch, "", "be a relay of the network too while this is used", switch=True),
        Option("relay_listen", "127.0.0.1:9001", parse_listen, "H:P", "address the relay listens on"),
        Option("relay_advertise", "", _parse_advertise, "H:P", _ADVERTISE),
        Option("relay_nickname", "", _parse_nickname, "NAME", "name of the relay in the network"),
        Option("relay_exit_policy", "none", parse_policy, "RULES", _OTHERS, live=True),
        Option("relay_family_key", "", _parse_file, "FILE", _FAMILY_KEY),
        Option("browser", "auto", _parse_browser, "NAME", "browser that web uses: auto, none, a name or a path"),
        Option("login", "", parse_login, "H:P[=HEX]", _LOGIN),
        Option("github_api", "https://api.github.com", parse_api, "URL", "where git asks"),
        _log_level("warning"),
    ),
}


def example(role: str) -> str:
    """The shipped example file of a role: every option, commented, at its default."""
    lines = [f"# {role}.toml: every option at its default. Remove a # to change one.", ""]
    for option in OPTIONS[role]:
        lines += [f"# {option.help}", f"# {option.name} = {to_toml(option.default)}", ""]
        if option is _GATEWAYS:
            lines[-1:] = ['# as in: gateways = [{ address = "127.0.0.1:9000", key = "64 hex digits" }]', ""]
    return "\n".join(lines[:-1]) + "\n"


def to_toml(raw: Any) -> str:
    """A text, a number, true or false, a table, or a list of them as TOML writes them."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, list):
        return "[" + ", ".join(to_toml(item) for item in raw) + "]"
    if isinstance(raw, dict):
        return "{ " + ", ".join(f"{key} = {to_toml(value)}" for key, value in raw.items()) + " }"
    if isinstance(raw, str):
        escaped = raw.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(raw)


def network_toml(network: str, gateways: Iterable[GatewayPin], login: LoginServer | None = None) -> str:
    """The file that is all a new relay or client needs; `--network FILE` reads it."""
    tables = [f"    {to_toml({'address': str(pin.address), 'key': pin.key.hex()})},\n" for pin in gateways]
    server = f"login = {to_toml(login_table(login))}\n" if login is not None else ""
    return f"network = {to_toml(network)}\ngateways = [\n{''.join(tables)}]\n{server}"


def login_table(login: LoginServer) -> dict[str, str]:
    """The login server as a table of the file."""
    table = {"address": str(login.address)}
    return table if login.key is None else table | {"key": login.key.hex()}
