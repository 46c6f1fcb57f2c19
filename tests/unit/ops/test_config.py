"""Configuration: one table drives four sources, and whatever is wrong is said in one sentence."""

import tomllib
from pathlib import Path

import pytest

from common.crypto.handshake import Suite
from common.directory.addresses import Address
from common.errors import ConfigError
from common.ops.config import PROJECT, load, load_client
from common.ops.launcher_commands import hide_secrets
from common.ops.toml_writer import network_toml
from common.ops.values import GatewayPin, LoginServer
from tests.unit.ops.arguments import GATEWAY, KEY, LOGIN, PIN, RELAY, client_error, relay_error, toml


def test_defaults() -> None:
    gateway = load("gateway", [], {})
    assert (gateway.listen, gateway.state, gateway.log_level) == (
        Address("127.0.0.1", 9000),
        Path("gateway-state"),
        "info",
    )
    assert not gateway.allow_private
    relay = load("relay", RELAY, {})
    assert relay.advertise is None
    assert relay.exit_policy == "default"
    server = load("auth_server", [], {})
    assert (server.listen, server.database, server.iterations) == (Address("127.0.0.1", 9100), None, 600_000)
    assert not server.closed
    client = load("client", GATEWAY, {})
    assert client.hops == (3, 5)
    assert client.suite is Suite.FERNET
    assert client.gateways == (PIN,)
    assert client.socks_listen == (Address("127.0.0.1", 9050),)


def test_command_line_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = toml(tmp_path, 'listen = "127.0.0.1:1"\nnickname = "file"\nlog_level = "error"\nstate = "keys"')
    environ = {"TOR_NETWORK_NICKNAME": "environment", "TOR_NETWORK_LOG_LEVEL": "warning"}
    config = load("relay", ["--config", path, "--log-level", "debug", *GATEWAY], environ)
    assert config.listen == Address("127.0.0.1", 1)
    assert config.nickname == "environment"
    assert config.log_level == "debug"
    assert config.network == "private"
    assert config.state == tmp_path / "keys", "paths in a file are relative to it"


def test_gateways_from_each_source(tmp_path: Path) -> None:
    path = toml(tmp_path, f'gateways = [{{ address = "127.0.0.1:9000", key = "{KEY}" }}]', "client.toml")
    assert load("client", ["--config", path], {}).gateways == (PIN,)
    other = GatewayPin(Address("::1", 9), bytes.fromhex("cd" * 32))
    environ = {"TOR_NETWORK_GATEWAYS": f"127.0.0.1:9000={KEY}, [::1]:9={'cd' * 32}"}
    assert load("client", [], environ).gateways == (PIN, other)
    argv = [*GATEWAY, "--gateway", "[::1]:9", "--gateway-key", "cd" * 32]
    assert load("client", argv, environ).gateways == (PIN, other)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('listen = "x:70000"', "relay.toml: listen: 'x:70000' is not host:port (port 0 to 65535)"),
        ("listen = 5", "relay.toml: listen: 5 is not host:port (port 0 to 65535)"),
        ('advertise = "x:0"', "relay.toml: advertise: 'x:0' is not host:port (port 1 to 65535)"),
        ('lissten = "x:1"', "relay.toml: lissten: unknown option; did you mean listen?"),
        ("qqq = 1", "relay.toml: qqq: unknown option; known are advertise, exit_policy"),
        ('nickname = "a b"', "relay.toml: nickname: 'a b' is not a name of 1 to 19 letters"),
        ('log_level = "loud"', "relay.toml: log_level: 'loud' is not one of debug, info, warning, error"),
        ("network = true", "relay.toml: network: True is not a name of"),
        ('state = ""', "relay.toml: state: '' is not the path of a folder"),
        ('exit_policy = "maybe"', "relay.toml: exit_policy: 'maybe' is not an exit policy: "),
        ("exit_policy = []", "relay.toml: exit_policy: [] is not a text of rules"),
        ("gateways = 1", "relay.toml: gateways: 1 is not a list like [{"),
        ('gateways = [{ address = "a:1" }]', "is not a list like [{"),
        ('gateways = [{ address = "a:1", key = "12" }]', "is not a key: 64 hex digits"),
        ("listen =", "relay.toml: not a TOML file: "),
        ("\udcff", "relay.toml: not a TOML file: "),
        pytest.param("listen = " + 100_000 * "[", "relay.toml: its tables and lists are nested too deeply", id="deep"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "relay.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert sentence in relay_error(["--config", str(path)])


def test_what_is_wrong_elsewhere_is_named(tmp_path: Path) -> None:
    assert relay_error(["--listen", "x", *RELAY]).startswith("command line: --listen: 'x' is not host:port")
    assert "command line: --lissten: unknown option; did you mean --listen?" in relay_error(["--lissten", "x"])
    assert relay_error(["--listen"]).startswith("command line: argument --listen: expected one argument")
    assert "--gateway: 1 given with 0 --gateway-key" in relay_error(["--gateway", "a:1"])
    assert "TOR_NETWORK_LISTEN: 'x' is not host:port" in relay_error(RELAY, {"TOR_NETWORK_LISTEN": "x"})
    assert "did you mean TOR_NETWORK_LISTEN?" in relay_error(RELAY, {"TOR_NETWORK_LISTN": "a:1"})
    assert "cannot be read: No such file" in relay_error(["--config", str(tmp_path / "none.toml")])
    assert "each key stands once" in relay_error([*RELAY, *GATEWAY])


def test_what_must_be_set_is_asked_for() -> None:
    assert relay_error(GATEWAY) == "relay: nickname: not set; give --nickname NAME, or --config FILE with it"
    assert relay_error([]).startswith("relay: gateways: not set; give --gateway H:P with --gateway-key HEX")
    assert relay_error(["--listen", "0.0.0.0:9001", *RELAY]).startswith(
        "relay: advertise: not set, and nobody can dial"
    )
    argv = ["--listen", "0.0.0.0:9001", "--advertise", "relay.example.org:9001", *RELAY]
    assert load("relay", argv, {}).advertise == Address("relay.example.org", 9001)


def test_options_of_other_roles_in_the_environment_are_not_errors() -> None:
    assert load("gateway", [], {"TOR_NETWORK_HOPS": "4", "TOR_NETWORK_CONFIG": "/nowhere"}).network == "private"


@pytest.mark.parametrize("workers", ["1", "2", "64"])
def test_workers_from_command_line_environment_and_file(tmp_path: Path, workers: str) -> None:
    assert load("relay", RELAY, {}).workers == 1
    assert load("relay", ["--workers", workers, *RELAY], {}).workers == int(workers)
    assert load("relay", RELAY, {"TOR_NETWORK_WORKERS": workers}).workers == int(workers)
    assert load("relay", ["--config", toml(tmp_path, f"workers = {workers}"), *RELAY], {}).workers == int(workers)


def test_how_long_a_relay_waits_when_it_is_to_end(tmp_path: Path) -> None:
    assert load("relay", RELAY, {}).stop_wait == 0
    assert load("relay", ["--stop-wait", "86400", *RELAY], {}).stop_wait == 86_400
    assert load("relay", ["--config", toml(tmp_path, "stop_wait = 5"), *RELAY], {}).stop_wait == 5
    for wrong in ("-1", "1.5", "86401", "999999", "soon"):
        with pytest.raises(ConfigError, match="from 0 to 86,400"):
            load("relay", [f"--stop-wait={wrong}", *RELAY], {})


def test_where_a_client_finds_its_file(tmp_path: Path) -> None:
    def network(argv: list[str], environ: dict[str, str]) -> str:
        return load_client(argv, environ, home)[0].network

    def file(folder: Path, name: str) -> str:
        return toml(folder, network_toml(name.partition(".")[0], [PIN]), name)

    home = tmp_path / "home"
    assert network([*GATEWAY], {}) == "private"
    (home / ".network").mkdir(parents=True)
    file(home / ".network", "client.toml")
    variable = {"TOR_NETWORK_CONFIG": file(tmp_path, "variable.toml")}
    option = ["--config", file(tmp_path, "option.toml")]
    assert network([], {}) == "client"
    assert network([], variable) == "variable"
    assert network(option, variable) == "option"


def test_a_login_without_the_network_needs_no_gateway() -> None:
    config, command = load_client(["server", "--direct", "--login", "h:1", "login", "a"], {}, PROJECT / "tests")
    assert command.login.direct
    assert config.gateways == ()
    with pytest.raises(ConfigError, match="gateways: not set"):
        load_client(["server", "--login", "h:1", "login", "a"], {}, PROJECT / "tests")


def test_show_config_names_the_source_of_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = toml(tmp_path, 'log_level = "error"')
    with pytest.raises(SystemExit) as caught:
        load("relay", ["--show-config", "--config", path, *GATEWAY], {"TOR_NETWORK_NICKNAME": "relay1"})
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert tomllib.loads(out)["gateways"] == [{"address": "127.0.0.1:9000", "key": KEY}]
    sources = {line.split()[0]: line.rpartition("# ")[2] for line in out.splitlines()}
    assert sources["log_level"] == path
    assert sources["gateways"] == "command line"
    assert sources["nickname"] == "environment"
    assert sources["listen"] == "default"


# ---- network.toml ----

OTHER = GatewayPin(Address("gateway2.example.org", 9000), bytes.fromhex("cd" * 32))


def network_file(folder: Path, name: str = "network.toml") -> str:
    return toml(folder, network_toml("home", [PIN, OTHER]), name)


def sources_of(argv: list[str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    with pytest.raises(SystemExit):
        load("relay", ["--show-config", *argv], environ)
    return {line.split()[0]: line.rpartition("# ")[2] for line in capsys.readouterr().out.splitlines()}


def test_a_network_file_is_all_a_relay_or_client_needs(tmp_path: Path) -> None:
    path = network_file(tmp_path)
    relay = load("relay", ["--network", path, "--nickname", "relay1"], {})
    assert (relay.network, relay.gateways) == ("home", (PIN, OTHER))
    client, _ = load_client([], {"TOR_NETWORK_NETWORK": path}, tmp_path)
    assert (client.network, client.gateways) == ("home", (PIN, OTHER))
    assert load("gateway", ["--network", path], {}).network == "home"


def test_a_network_file_named_in_a_file_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    network_file(tmp_path / "shared")
    path = toml(tmp_path, 'network = "shared/network.toml"\nnickname = "relay1"')
    assert load("relay", ["--config", path], {}).gateways == (PIN, OTHER)


def test_a_network_file_yields_to_every_source_but_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = network_file(tmp_path)
    path = toml(
        tmp_path, f'network = "network.toml"\ngateways = [{{ address = "127.0.0.1:9000", key = "{KEY}" }}]'
    )
    plain = toml(tmp_path, 'network = "network.toml"', "plain.toml")
    assert load("relay", ["--config", path, "--nickname", "x"], {}).gateways == (PIN,)
    assert load("relay", ["--network", shared, *GATEWAY, "--nickname", "x"], {}).gateways == (PIN,)
    assert load("relay", ["--config", plain, "--network", "other", *RELAY], {}).network == "other"
    assert sources_of(["--config", plain], {}, capsys)["gateways"] == f"{shared} ({plain})"
    assert sources_of(["--config", path], {}, capsys)["gateways"] == path
    shown = sources_of(["--network", shared], {"TOR_NETWORK_NETWORK": "other"}, capsys)
    assert shown["network"] == shown["gateways"] == f"{shared} (command line)"
    assert sources_of([], {"TOR_NETWORK_NETWORK": shared}, capsys)["network"] == f"{shared} (environment)"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "network.toml: network: not set"),
        ('network = "home"', "network.toml: gateways: not set; a network's file says its name and its gateways"),
        ('network = "home"\nnickname = "x"', "network.toml: nickname: unknown option"),
        ("network =", "network.toml: not a TOML file"),
        (network_toml("other.toml", [PIN]), "network.toml (command line): network: 'other.toml' is not a name of"),
        ('network = "home"\ngateways = [1]', "network.toml (command line): gateways: [1] is not a list like [{"),
    ],
)
def test_what_is_wrong_in_a_network_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in relay_error(["--network", toml(tmp_path, text, "network.toml"), "--nickname", "x"])


def test_a_network_file_that_is_not_there() -> None:
    assert relay_error(["--network", "none.toml"]) == "none.toml: cannot be read: No such file or directory"


def test_who_names_a_network_is_not_led_to_the_one_launched_here(tmp_path: Path) -> None:
    launched = tmp_path / ".network"
    launched.mkdir()
    toml(launched, network_toml("here", [OTHER]), "client.toml")
    path = network_file(tmp_path, "elsewhere.toml")
    assert load_client([], {}, tmp_path)[0].network == "here"
    assert load_client(["--network", path], {}, tmp_path)[0].gateways == (PIN, OTHER)
    assert load_client([], {"TOR_NETWORK_NETWORK": path}, tmp_path)[0].gateways == (PIN, OTHER)


def test_the_family_key_of_a_file_is_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(
        'nickname = "r"\nfamily_key = "family.pem"\n'
        f'gateways = [{{ address = "127.0.0.1:9000", key = "{"00" * 32}" }}]\n'
    )
    assert load("relay", ["--config", str(path)], {}).family_key == tmp_path / "family.pem"
    assert load("relay", ["--config", str(path), "--family-key", "f.pem"], {}).family_key == Path("f.pem")
    assert load("relay", ["--config", str(path), "--family-key", ""], {}).family_key is None


def test_a_client_s_relay_has_a_family_key_like_any_relay(tmp_path: Path) -> None:
    path = toml(tmp_path, 'relay_family_key = "family.pem"', "client.toml")
    assert load("client", ["--config", path, *GATEWAY], {}).relay_family_key == tmp_path / "family.pem"
    assert load("client", GATEWAY, {}).relay_family_key is None
    config, _ = load_client([*GATEWAY, "relay", "--nickname", "r", "--family-key", "f.pem"], {})
    assert config.relay_family_key == Path("f.pem")


# ---- the proxy port


def test_the_proxys_password_is_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"TOR_NETWORK_PROXY_AUTH": "alice:sesame"}
    config = load("client", GATEWAY, environ)
    assert config.proxy_auth == ("alice", "sesame")
    assert "sesame" not in repr(config)
    with pytest.raises(SystemExit):
        load("client", [*GATEWAY, "--show-config"], environ)
    assert "sesame" not in capsys.readouterr().out


@pytest.mark.parametrize("form", [["--proxy-auth", "alice:sesame"], ["--proxy-auth=alice:sesame"]])
def test_the_launcher_keeps_the_proxys_password_off_the_clients_command_line(form: list[str]) -> None:
    left, hidden = hide_secrets(["socks", *form, "--listen", "127.0.0.1:0"])
    assert left == ["socks", "--listen", "127.0.0.1:0"]
    assert hidden == {"TOR_NETWORK_PROXY_AUTH": "alice:sesame"}
    assert hide_secrets(["socks", "--proxy-auth"]) == (["socks", "--proxy-auth"], {})


def test_an_exit_that_is_excluded_is_a_sentence() -> None:
    assert client_error(["--exclude", "r1,R2", "--exit", "r2"]).startswith("client: exit: r2 is excluded")


def test_a_client_is_a_relay_by_command_by_option_and_by_file(tmp_path: Path) -> None:
    path = toml(tmp_path, 'relay = true\nrelay_nickname = "home"\nrelay_listen = "127.0.0.1:7"', "client.toml")
    assert load("client", ["--config", path, *GATEWAY], {}).relay_nickname == "home"
    argv = [*GATEWAY, "relay", "--nickname", "home", "--listen", "0.0.0.0:7", "--advertise", "a.example:7"]
    config, command = load_client([*argv, "--exit-policy", "default"], {}, tmp_path)
    assert (config.relay, command.name) == (True, "relay")
    assert config.relay_listen == Address("0.0.0.0", 7)
    assert config.relay_advertise == Address("a.example", 7)
    assert config.relay_exit_policy == "default"
    assert load("client", [*GATEWAY, "--relay", "--relay-nickname", "home"], {}).relay
    assert not load("client", GATEWAY, {}).relay
    assert load("client", GATEWAY, {"TOR_NETWORK_RELAY": "false"}).relay is False


def test_a_relay_of_a_client_needs_a_name_and_an_address() -> None:
    assert client_error(["--relay"]).startswith("client: relay_nickname: not set")
    assert client_error(["relay", "--nickname", "x", "--listen", "[::]:7"]).startswith("client: relay_advertise: not set")
    assert client_error([], {"TOR_NETWORK_RELAY": "yes"}) == "environment: TOR_NETWORK_RELAY: 'yes' is not true or false"


def test_gateways_and_relays_have_a_status_page_only_where_they_are_told() -> None:
    assert load("gateway", [], {}).http is None
    assert load("relay", RELAY, {}).http is None
    assert load("relay", [*RELAY, "--http", "127.0.0.1:0"], {}).http == Address("127.0.0.1", 0)
    assert load("gateway", ["--http", "127.0.0.1:0"], {}).http == Address("127.0.0.1", 0)
    assert load("gateway", [], {"TOR_NETWORK_HTTP": "[::1]:9080"}).http == Address("::1", 9_080)
    with pytest.raises(ConfigError, match="--http: '9080' is not host:port"):
        load("gateway", ["--http", "9080"], {})


# ---- the login server ----


@pytest.mark.parametrize("key", [LOGIN.key, None])
def test_the_login_server_is_read_as_it_is_written(tmp_path: Path, key: bytes | None) -> None:
    login = LOGIN._replace(key=key)
    path = toml(tmp_path, network_toml("home", [PIN], login), "network.toml")
    assert load("client", ["--network", path], {}).login == login
    assert load("relay", ["--network", path, "--nickname", "x"], {}).network == "home"
    word = str(login.address) + (f"={login.key.hex()}" if login.key else "")
    assert load("client", [*GATEWAY, "--login", word], {}).login == login
    assert load("client", GATEWAY, {"TOR_NETWORK_LOGIN": word}).login == login


def test_another_login_server_is_used_instead_of_the_networks(tmp_path: Path) -> None:
    path = toml(tmp_path, network_toml("home", [PIN], LOGIN), "network.toml")
    assert load("client", ["--network", path, "--login", "login.example:99"], {}).login == LoginServer(
        Address("login.example", 99), None
    )
    assert load("client", GATEWAY, {}).login is None


def test_a_login_servers_database_stands_beside_its_file(tmp_path: Path) -> None:
    path = toml(tmp_path, 'database = "users.sqlite"\niterations = 700000\nclosed = true\n', "auth_server.toml")
    server = load("auth_server", ["--config", path], {})
    assert (server.database, server.iterations, server.closed) == (tmp_path / "users.sqlite", 700_000, True)
