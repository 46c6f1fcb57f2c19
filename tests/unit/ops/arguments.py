"""Command lines and files that the tests of options, of their values and of the configuration share."""

from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.errors import ConfigError
from common.ops.config import load
from common.ops.values import GatewayPin, LoginServer

KEY = "ab" * 32
PIN = GatewayPin(Address("127.0.0.1", 9000), bytes.fromhex(KEY))
LOGIN = LoginServer(Address("127.0.0.1", 9109), bytes.fromhex("ef" * 32))
GATEWAY = ["--gateway", "127.0.0.1:9000", "--gateway-key", KEY]
RELAY = [*GATEWAY, "--nickname", "relay1"]


def toml(folder: Path, text: str, name: str = "relay.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def relay_error(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load("relay", argv, environ or {})
    return str(caught.value)


def client_error(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load("client", [*GATEWAY, *argv], environ or {})
    return str(caught.value)
