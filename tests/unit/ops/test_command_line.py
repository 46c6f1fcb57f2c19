"""How the programs are called: what the help says, and the client's commands."""

from pathlib import Path

import pytest

from common.crypto.handshake import Suite
from common.errors import ConfigError
from common.ops.command_line import ClientCommand, build_parser
from common.ops.config import load_client
from common.ops.login_words import LoginCommand
from common.ops.options import OPTIONS
from tests.unit.ops.arguments import GATEWAY, KEY


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([], ClientCommand()),
        (["web", "https://example.org/"], ClientCommand("web", "https://example.org/")),
        (["socks"], ClientCommand("socks")),
        (["web", "x", "--print", "--json"], ClientCommand("web", "x", as_json=True, as_text=True)),
        (["web", "x", "--save", "file"], ClientCommand("web", "x", save=Path("file"))),
        (["git", "octocat", "--list"], ClientCommand("git", "octocat", repositories=True)),
        (["path"], ClientCommand("path")),
        (["path", "x", "--json"], ClientCommand("path", "x", as_json=True)),
        (["status", "--targets"], ClientCommand("status", targets=True)),
        (["server"], ClientCommand("server")),
        (["server", "signup", "a"], ClientCommand("server", login=LoginCommand("signup", "a"))),
        (
            ["server", "--hops", "8", "login", "a", "--password-fd", "0", "--command", "whoami", "--command", "inbox"],
            ClientCommand("server", login=LoginCommand("login", "a", 0, ("whoami", "inbox"))),
        ),
        (
            ["server", "login", "a", "--accept-key", KEY, "--direct"],
            ClientCommand("server", login=LoginCommand("login", "a", accept_key=bytes.fromhex(KEY), direct=True)),
        ),
    ],
)
def test_client_commands(argv: list[str], command: ClientCommand) -> None:
    assert load_client([*GATEWAY, *argv], {})[1] == command


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["login", "a", "--json"], "--json: a prompt has no JSON; give --command too"),
        (["login", "a", "--password-fd", "-1"], "not the number of a file descriptor"),
        (["login", "a", "--password-fd", "x"], "not the number of a file descriptor"),
        (["login", "a", "--accept-key", "x"], "'x' is not a key: 64 hex digits"),
        (["login", "a", "--password", "x"], "--password: unknown option"),
        (["login"], "required: NAME"),
        (["signup", "a", "--command", "whoami"], "--command: unknown option"),
    ],
)
def test_a_wrong_login_command_is_a_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_client([*GATEWAY, "server", *argv], {}, script="auth_client.py")
    assert sentence in str(caught.value)


def test_the_login_clients_help_calls_it_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_client(["server", "login", "--help"], {}, script="auth_client.py")
    assert capsys.readouterr().out.startswith("usage: auth_client.py login ")


def test_client_options_before_and_after_the_command() -> None:
    config, command = load_client(
        [*GATEWAY, "--hops", "2", "socks", "--listen", "127.0.0.1:0", "--suite", "aes-gcm"], {}
    )
    assert (config.hops, config.suite, config.socks_listen[0].port) == ((2, 2), Suite.AES_GCM, 0)
    assert command == ClientCommand("socks")
    with pytest.raises(ConfigError, match="invalid choice: 'wbe'"):
        load_client(["wbe"], {})


@pytest.mark.parametrize("role", ["gateway", "relay", "auth_server", "client"])
def test_help_names_every_option(role: str) -> None:
    text = build_parser(role).format_help()
    assert all(option.flag.removesuffix("s") in text for option in OPTIONS[role])


def test_what_choosing_relays_costs_stands_in_the_help() -> None:
    text = " ".join(build_parser("client").format_help().split())
    for cost in ("that relay knows you and your target", "tells you apart", "sees all your targets in one place"):
        assert cost in text
