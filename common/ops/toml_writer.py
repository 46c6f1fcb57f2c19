"""Configuration as TOML: values as a file says them, the file of a network, and the shipped examples."""

from collections.abc import Iterable
from typing import Any

from common.ops.options import OPTIONS
from common.ops.values import GatewayPin, LoginServer


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


def example(role: str) -> str:
    """The shipped example file of a role: every option, commented, at its default."""
    lines = [f"# {role}.toml: every option at its default. Remove a # to change one.", ""]
    for option in OPTIONS[role]:
        lines += [f"# {option.help}", f"# {option.name} = {to_toml(option.default)}", ""]
        if option.name == "gateways":
            lines[-1:] = ['# as in: gateways = [{ address = "127.0.0.1:9000", key = "64 hex digits" }]', ""]
    return "\n".join(lines[:-1]) + "\n"
