"""The values that options may have, as each source gives them; what is wrong is said in one sentence."""

from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.errors import ConfigError
from common.ops.config import load, load_client
from common.ops.toml_writer import login_table, to_toml
from common.wire.socks import Isolate
from tests.unit.ops.arguments import GATEWAY, KEY, LOGIN, RELAY, client_error, relay_error, toml


@pytest.mark.parametrize("text", ["0", "65", "1000", "-1", "", "two", "1.5", "\u0663", "2 "])
def test_silly_numbers_of_workers_are_refused(text: str) -> None:
    sentence = f"command line: --workers: {text!r} is not a number of processes from 1 to 64"
    assert relay_error([f"--workers={text}", *RELAY]) == sentence


@pytest.mark.parametrize("value", ["true", "2.0", "[2]"])
def test_a_number_of_workers_in_a_file_is_a_number(tmp_path: Path, value: str) -> None:
    path = toml(tmp_path, f"workers = {value}")
    assert "is not a number of processes from 1 to 64" in relay_error(["--config", path, *RELAY])


@pytest.mark.parametrize(("text", "hops"), [("1", (1, 1)), ("3-5", (3, 5)), ("8", (8, 8)), ("1-8", (1, 8))])
def test_hops(text: str, hops: tuple[int, int]) -> None:
    assert load("client", ["--hops", text, *GATEWAY], {}).hops == hops


@pytest.mark.parametrize("text", ["0", "9", "5-3", "3-9", "3-", "-3", "three", "", "3 - 5", "\u0663"])
def test_hops_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number of relays from 1 to 8, or a range like 3-5"):
        load("client", [f"--hops={text}", *GATEWAY], {})


def test_hops_as_a_number_in_a_file(tmp_path: Path) -> None:
    assert load("client", ["--config", toml(tmp_path, "hops = 4"), *GATEWAY], {}).hops == (4, 4)
    with pytest.raises(ConfigError):
        load("client", ["--config", toml(tmp_path, "hops = true"), *GATEWAY], {})


@pytest.mark.parametrize(("name", "words"), [("suite", "fernet, aes-gcm"), ("log_level", "debug, info, warning, error")])
def test_a_list_in_a_file_is_none_of_the_words(tmp_path: Path, name: str, words: str) -> None:
    path = toml(tmp_path, f"{name} = []", "client.toml")
    assert client_error(["--config", path]) == f"{path}: {name}: [] is not one of {words}"


def test_what_the_proxy_port_is_told(tmp_path: Path) -> None:
    path = toml(tmp_path, 'socks_listen = ["127.0.0.1:1", "[::1]:2"]\nproxy_auth = "a:b:c"\nsafe_socks = true', "client.toml")
    config = load("client", ["--config", path, *GATEWAY, "--isolate", "target, port"], {})
    assert config.socks_listen == (Address("127.0.0.1", 1), Address("::1", 2))
    assert config.proxy_auth == ("a", "b:c")
    assert config.isolate == {Isolate.TARGET, Isolate.PORT}
    assert config.safe_socks
    plain = load("client", GATEWAY, {"TOR_NETWORK_SOCKS_LISTEN": "127.0.0.1:1,127.0.0.1:0,127.0.0.1:0"})
    assert len(plain.socks_listen) == 3
    assert (plain.proxy_auth, plain.isolate, plain.safe_socks) == (None, frozenset({Isolate.CREDENTIALS}), False)
    assert load("client", [*GATEWAY, "--safe-socks", "--isolate", "none"], {}).isolate == frozenset()
    given, _ = load_client([*GATEWAY, "socks", "--listen", "127.0.0.1:1", "--listen", "[::1]:0", "--safe-socks"], {})
    assert given.socks_listen == (Address("127.0.0.1", 1), Address("::1", 0))
    assert given.safe_socks


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("socks-listen", "127.0.0.1", "host:port"),
        ("socks-listen", "", "host:port"),
        ("socks-listen", "127.0.0.1:5,127.0.0.1:5", "each address stands once"),
        ("isolate", "", "credentials, target, port, listener"),
        ("isolate", "target,everything", "credentials, target, port, listener"),
        ("isolate", "none,target", "or none"),
    ],
)
def test_wrong_values_for_the_proxy_port(option: str, value: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option}: .* is not .*{right}"):
        load("client", [*GATEWAY, f"--{option}={value}"], {})


@pytest.mark.parametrize("value", ["sesame", ":sesame", "sesame:", "sesame:" + "p" * 256, "é" * 128 + ":sesame"])
def test_a_wrong_password_option_is_told_without_the_password(value: str) -> None:
    with pytest.raises(ConfigError, match="environment: TOR_NETWORK_PROXY_AUTH: the value is not user:password") as caught:
        load("client", GATEWAY, {"TOR_NETWORK_PROXY_AUTH": value})
    assert "sesame" not in str(caught.value)


def test_relays_are_named_by_nickname_or_identity() -> None:
    config = load("client", [*GATEWAY, "--exclude", f"r1, {KEY}", "--exit", "r2"], {})
    assert config.exclude == ("r1", KEY)
    assert config.exit == "r2"
    assert load("client", GATEWAY, {}).exclude == ()


@pytest.mark.parametrize("text", ["a b", "r1,,r2", ",", "x" * 20, KEY + "a", "ä"])
def test_a_name_that_no_relay_can_have_is_refused(text: str) -> None:
    assert "command line: --exclude: " in client_error(["--exclude", text])
    assert "command line: --exit: " in client_error(["--exit", text])


@pytest.mark.parametrize("api", ["https://api.github.com", "http://127.0.0.1:8080/base", "https://[::1]:1"])
def test_bases_of_web_apis(api: str) -> None:
    assert load("client", [*GATEWAY, "--github-api", api], {}).github_api == api


@pytest.mark.parametrize("api", ["api.github.com", "ftp://x", "https://", "https://x:99999", "https://x/?q", "https://["])
def test_what_is_no_base_of_a_web_api_is_a_sentence(api: str) -> None:
    with pytest.raises(ConfigError, match="is not a web address like https"):
        load("client", [*GATEWAY], {"TOR_NETWORK_GITHUB_API": api})


@pytest.mark.parametrize(
    "raw",
    [
        "login.example",
        "login.example:0",
        "127.0.0.1:1=ab",
        {"address": "127.0.0.1:1", "key": "x" * 64},
        {"address": 1},
        {"key": "ab" * 32},
        {**login_table(LOGIN), "more": 1},
        [login_table(LOGIN)],
        1,
    ],
)
def test_what_is_no_login_server_is_a_sentence(tmp_path: Path, raw: object) -> None:
    path = toml(tmp_path, f"login = {to_toml(raw)}", "client.toml")
    with pytest.raises(ConfigError, match=r"client\.toml: login: .* is not (a table|a key: 64|host:port)"):
        load("client", [*GATEWAY, "--config", path], {})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--iterations", "599999"], "--iterations: '599999' is not a number from 600000 to 10000000"),
        (["--iterations", "1e6"], "--iterations: '1e6' is not a number from 600000 to 10000000"),
        (["--max-users", "0"], "--max-users: '0' is not a number from 1 to 1000000"),
        (["--gateway", "127.0.0.1:1"], "--gateway: unknown option"),
    ],
)
def test_a_login_servers_options_have_bounds(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("auth_server", argv, {})
    assert said in str(caught.value)
