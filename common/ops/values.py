"""What the values of options may be.

A parser takes what TOML or the command line gave and returns the value, or raises `ValueError` with what would
be right, as in "host:port"; who calls it knows the source and the option's name.
"""

import os
import re
from collections.abc import Callable
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
LONGEST_STOP = 86_400  # seconds: who wants to wait for longer need not stop
SUITES = {"fernet": Suite.FERNET, "aes-gcm": Suite.AES_GCM}


class GatewayPin(NamedTuple):
    """A gateway that is believed: where it is and the Ed25519 key (32 bytes) that it must prove."""

    address: Address
    key: bytes


class LoginServer(NamedTuple):
    """The login server: its address as a target, and its Ed25519 key (32 bytes), None to take it at first use."""

    address: Address
    key: bytes | None


def parse_address(raw: Any) -> Address:
    """The address that others dial."""
    return _address(raw, addresses.parse_address, "host:port (port 1 to 65535)")


def parse_listen(raw: Any) -> Address:
    """The address to listen on; port 0 takes any free one."""
    return _address(raw, addresses.parse_listen, "host:port (port 0 to 65535)")


def parse_advertise(raw: Any) -> Address | None:
    """The address that others dial; None where that is the one listened on."""
    return None if raw == "" else parse_address(raw)


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


def parse_http(raw: Any) -> Address | None:
    """The address of a status page; None where there is none."""
    return None if raw == "" else parse_listen(raw)


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


def parse_switch(raw: Any) -> bool:
    """On or off."""
    known = {"true": True, "false": False}
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw not in known:
        raise ValueError("true or false")
    return known[raw]


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


def parse_stop_wait(raw: Any) -> float:
    """How long a relay that is to end carries on with what is up, in seconds."""
    if isinstance(raw, bool) or not re.fullmatch(r"[0-9]{1,5}", str(raw)) or int(raw) > LONGEST_STOP:
        raise ValueError(f"whole seconds, from 0 to {LONGEST_STOP:,}")
    return float(raw)


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


def parse_browser(raw: Any) -> str:
    """The browser that pages are opened in."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("auto, none, or a browser's name or path")
    return raw


def parse_nickname(raw: Any) -> str:
    """The name of a relay; empty for none."""
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


def parse_network(raw: Any) -> str:
    """The name of a network; a file that says it was read before."""
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


def parse_folder(raw: Any) -> str:
    """The path of a folder."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("the path of a folder")
    return raw


def parse_file(raw: Any) -> Path | None:
    """The path of a file; None for none."""
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError("the path of a file")
    return Path(raw) if raw else None


def parse_log_level(raw: Any) -> str:
    """How much is logged."""
    return _one_of(raw, LOG_LEVELS)


def parse_suite(raw: Any) -> Suite:
    """The cipher of the layers."""
    return SUITES[_one_of(raw, tuple(SUITES))]


def _address(raw: Any, parse: Callable[[str], Address], right: str) -> Address:
    try:
        return parse(raw if isinstance(raw, str) else "")
    except Malformed:
        raise ValueError(right) from None


def _number(raw: Any, lowest: int, highest: int) -> int:
    value = raw if type(raw) is int else int(raw) if isinstance(raw, str) and _NUMBER.fullmatch(raw) else -1
    if not lowest <= value <= highest:
        raise ValueError(f"a number from {lowest} to {highest}")
    return value


def _one_of(raw: Any, known: tuple[str, ...]) -> str:
    if raw not in known:
        raise ValueError("one of " + ", ".join(known))
    return str(raw)
