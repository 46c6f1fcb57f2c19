"""Every option of every role, once: this table drives TOML file, command line, environment and help.

Adding an option is one line in the table and one field in the role's dataclass in `config`; what its value may be
is said in `values`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.crypto.layers import MAX_HOPS
from common.crypto.scram import MIN_ITERATIONS
from common.ops.values import (
    MOST_WORKERS,
    parse_advertise,
    parse_api,
    parse_browser,
    parse_file,
    parse_folder,
    parse_gateways,
    parse_hops,
    parse_http,
    parse_isolate,
    parse_iterations,
    parse_listen,
    parse_listens,
    parse_log_level,
    parse_login,
    parse_max_users,
    parse_network,
    parse_nickname,
    parse_policy,
    parse_proxy_auth,
    parse_relay,
    parse_relays,
    parse_stop_wait,
    parse_suite,
    parse_switch,
    parse_workers,
)


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


def _state(default: str) -> Option:
    return Option("state", default, parse_folder, "DIR", "folder for keys and what is kept; made if missing")


def _log_level(default: str) -> Option:
    return Option("log_level", default, parse_log_level, "LEVEL", "debug, info, warning or error", live=True)


_NETWORK_HELP = "name of the network that is joined, or a file network.toml that says its name and gateways"
_NETWORK = Option("network", "private", parse_network, "NAME|FILE", _NETWORK_HELP)
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
_SUITE = "cipher of the layers: fernet, or aes-gcm for speed"
_LOGIN = "the login server that server asks; without its key that is remembered at first use [network.toml's]"
_FAMILY_KEY = "key that your relays share, so that no path uses two"
_ADVERTISE = "address that others dial; empty: the one listened on"
_OTHERS = "where others' streams may go from here"

_STOP_WAIT = "when told to end, how long it carries on with circuits that are up; 0 ends them at once"
_DATABASE = (
    "file of the users, which several servers on one host may share; empty: users.sqlite in the state folder"
)

OPTIONS: dict[str, tuple[Option, ...]] = {
    "gateway": (
        Option("listen", "127.0.0.1:9000", parse_listen, "H:P", "address to listen on; port 0 takes any free one"),
        _state("gateway-state"),
        _NETWORK,
        _log_level("info"),
        Option("http", "", parse_http, "H:P", _HTTP_HELP),
        Option("allow_private", False, parse_switch, "", _ALLOW_PRIVATE, switch=True),
    ),
    "relay": (
        Option("listen", "127.0.0.1:9001", parse_listen, "H:P", "address to listen on; port 0 takes any free one"),
        Option("advertise", "", parse_advertise, "H:P", _ADVERTISE),
        _GATEWAYS,
        Option("nickname", "", parse_nickname, "NAME", "name of this relay in the network", required=True),
        _state("relay-state"),
        Option("exit_policy", "default", parse_policy, "RULES", "where streams may go from here", live=True),
        _NETWORK,
        _log_level("info"),
        Option("family_key", "", parse_file, "FILE", _FAMILY_KEY),
        Option(
            "workers", 1, parse_workers, "N", f"processes that share the port, 1 to {MOST_WORKERS}: one per core"
        ),
        Option("stop_wait", 0, parse_stop_wait, "SECONDS", _STOP_WAIT, live=True),
        Option("http", "", parse_http, "H:P", _HTTP_HELP),
    ),
    "auth_server": (
        Option("listen", "127.0.0.1:9100", parse_listen, "H:P", "address to listen on; port 0 takes any free one"),
        _state("auth-state"),
        Option("database", "", parse_file, "FILE", _DATABASE),
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
        Option("hops", "3-5", parse_hops, "N|MIN-MAX", _HOPS, live=True),
        Option("exclude", "", parse_relays, "NAME,...", _EXCLUDE, live=True),
        Option("exit", "", parse_relay, "NAME", _EXIT, live=True),
        Option("suite", "fernet", parse_suite, "NAME", _SUITE, live=True),
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
        Option("relay_advertise", "", parse_advertise, "H:P", _ADVERTISE),
        Option("relay_nickname", "", parse_nickname, "NAME", "name of the relay in the network"),
        Option("relay_exit_policy", "none", parse_policy, "RULES", _OTHERS, live=True),
        Option("relay_family_key", "", parse_file, "FILE", _FAMILY_KEY),
        Option("browser", "auto", parse_browser, "NAME", "browser that web uses: auto, none, a name or a path"),
        Option("login", "", parse_login, "H:P[=HEX]", _LOGIN),
        Option("github_api", "https://api.github.com", parse_api, "URL", "where git asks"),
        _log_level("warning"),
    ),
}
