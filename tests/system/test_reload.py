"""SIGHUP to real processes whose configuration files have changed."""

import os
import signal
from collections.abc import Iterator

import pytest

from common.ops import lifecycle
from common.roles.client.control import ask_all
from tests.net.in_process import echoes, receive_exactly
from tests.system.network import Network, Process, options_text, proxy_port, run_script, socks, wait_until
from tests.system.targets import Target, WebTarget, echo

pytestmark = pytest.mark.system
LISTEN: dict[str, object] = {"listen": "127.0.0.1:0"}
LISTEN_CLIENT: dict[str, object] = {"socks_listen": "127.0.0.1:0", "relay_listen": "127.0.0.1:0"}


class Configured:
    """A process that has its options from a file."""

    def __init__(self, network: Network, name: str, script: str, *words: str, options: dict[str, object]) -> None:
        self._options = options
        self._file = network.folder / f"{name}.toml"
        self.write()
        self.process = network.start(name, script, *words, "--config", self._file)

    def write(self, **changes: object) -> None:
        """The file again, with other values."""
        self._options |= changes
        self._file.write_text(options_text(self._options))

    def hang_up(self, answer: str) -> None:
        """SIGHUP, and until the log says what came of it."""
        said = len(self.process.said())
        self.process.signal(signal.SIGHUP)
        wait_until(lambda: answer in self.process.said()[said:])


@pytest.fixture(params=[1, 2], ids=["one process", "workers"])
def relay(request: pytest.FixtureRequest, network: Network) -> Iterator[Configured]:
    """One relay more than others' tests have."""
    name = f"changing{request.param}"
    own = {"nickname": name, "workers": request.param, "exit_policy": "local"}
    relay = Configured(network, name, "relay.py", options=LISTEN | network.joined | own)
    relay.process.wait_ready()
    wait_until(lambda: relay.process.identity in network.listed())
    yield relay
    assert relay.process.stop() == 0


def policy(network: Network, relay: Process) -> str:
    """As the gateway tells clients."""
    return next(str(e.descriptor.exit_policy) for e in network.entries() if e.descriptor.identity == relay.identity)


def test_a_relays_new_exit_policy_counts_at_once_is_listed_and_breaks_no_stream(
    network: Network, relay: Configured, web: WebTarget
) -> None:
    proxy = network.proxy("--hops", "1", "--exit", relay.process.name)
    with Target(echo) as target, proxy.socks(target.port) as sock:
        relay.write(exit_policy="none", nickname="other")
        relay.hang_up("these need a restart to change: nickname")
        # The client, which may not have heard yet, asks for a stream or does not: there is none either way.
        assert proxy.curl(f"{web.url}/bytes/1").returncode == 97
        token = os.urandom(64)
        sock.sendall(token)
        assert receive_exactly(sock, 64) == token
        wait_until(lambda: policy(network, relay.process) == "none")
    relay.write(exit_policy="local", nickname=relay.process.name)
    relay.hang_up("changed: exit_policy")
    wait_until(lambda: proxy.curl(f"{web.url}/bytes/1").returncode == 0)
    assert proxy.stop() == 0


def test_a_mistake_in_the_file_is_told_and_changes_nothing(network: Network, relay: Configured) -> None:
    relay.write(exit_policy="nonsense", log_level="error")
    relay.hang_up("not reloaded: ")
    assert "exit_policy: 'nonsense' is not an exit policy" in relay.process.said()
    assert policy(network, relay.process) == "local"
    relay.write(exit_policy="local", log_level="warning", nickname="other")
    relay.hang_up("these need a restart to change: nickname")  # at level error nothing would be said
    relay.write(nickname=relay.process.name)
    assert "Traceback" not in relay.process.said()


@pytest.mark.parametrize("script", ["relay.py", "gateway.py", "auth_server.py"])
def test_a_hang_up_while_starting_ends_nothing_and_is_not_forgotten(network: Network, script: str) -> None:
    """The file is a pipe, at which the program waits until it is written."""
    file = network.folder / f"pipe of {script}"
    os.mkfifo(file)
    own = {"nickname": "early"} | network.joined if script == "relay.py" else {}

    def written(level: str) -> str:
        return options_text(LISTEN | own | {"log_level": level})

    process = network.start(f"early {script}", script, "--config", file)
    with file.open("w") as pipe:  # once the program has opened it to read
        process.signal(signal.SIGHUP)
        pipe.write(written("info"))
        file.unlink()
        file.write_text(written("debug"))
    wait_until(lambda: "changed: log_level" in process.said())
    process.wait_ready()
    assert process.stop() == 0


def test_a_hang_up_does_not_end_a_client_that_is_only_starting(network: Network) -> None:
    """The key of its relay's family is a pipe, from which no key comes in the end."""
    folder = network.folder / "family"
    folder.mkdir(mode=0o700)
    key = folder / "key"
    os.mkfifo(key, 0o600)
    options = LISTEN_CLIENT | network.joined | {"relay_nickname": "starting", "relay_family_key": str(key)}
    client = Configured(network, "starting", "client_tor.py", "relay", options=options)
    with key.open("w"):
        client.process.signal(signal.SIGHUP)
    assert client.process.wait() == lifecycle.USAGE


def test_a_login_server_closes_and_opens_again(network: Network) -> None:
    server = Configured(network, "login", "auth_server.py", options=LISTEN | {"closed": False})
    server.process.wait_ready()
    at = f"{server.process.address}={server.process.identity.hex()}"

    def signs_up(name: str) -> bool:
        options = ["--direct", "--login", at, "--state", network.folder / "user", "--password-fd", "0"]
        done = run_script("auth_client.py", *options, "signup", name, text="zebra-in-the-attic\n")
        assert "takes no new" in done.stderr or done.returncode == 0
        return done.returncode == 0

    assert signs_up("early")
    server.write(closed=True)
    server.hang_up("changed: closed")
    assert not signs_up("late")
    server.write(closed=False)
    server.hang_up("changed: closed")
    assert signs_up("late")
    assert server.process.stop() == 0


def test_the_relay_of_a_client_has_a_new_exit_policy(network: Network) -> None:
    """And its proxy's password, which came by the environment, is not taken for a change."""
    options = LISTEN_CLIENT | {"relay_nickname": "guest", "log_level": "info"}
    client = Configured(network, "guest", "client_tor.py", "relay", options=options | network.joined)
    proxy_port(client.process)

    def policies() -> list[str]:
        found = [entry.descriptor for entry in network.entries() if entry.descriptor.nickname == "guest"]
        return [str(descriptor.exit_policy) for descriptor in found]

    wait_until(lambda: policies() == ["none"])
    client.write(relay_exit_policy="local")
    client.hang_up("changed: relay_exit_policy")
    wait_until(lambda: policies() == ["local"])
    assert "restart" not in client.process.said()
    assert client.process.stop() == 0


def test_a_client_builds_as_it_is_told_now_and_breaks_no_stream(network: Network) -> None:
    options = {"socks_listen": "127.0.0.1:0", "log_level": "info", "hops": "3", "exit": "r0"} | network.joined
    client = Configured(network, "choosing", "client_tor.py", "socks", options=options)
    proxy = proxy_port(client.process)

    def paths(target: Target) -> list[tuple[int, str, str]]:
        """Hops, exit and suite of the circuits that may carry new streams, once one was asked for."""
        with socks(proxy, target.port) as sock:
            echoes(sock, 1)
            (answer,) = ask_all(client.process.state, {"command": "status"})
        live = [circuit for circuit in answer["circuits"] if circuit["state"] != "retired"]
        return sorted({(len(circuit["path"]), circuit["path"][-1], circuit["suite"]) for circuit in live})

    with Target(echo) as target, socks(proxy, target.port) as sock:
        echoes(sock, 1)
        assert paths(target) == [(3, "r0", "fernet")]
        client.write(hops="2", exit="r1", suite="aes-gcm", exclude="r2")
        client.hang_up("changed: hops, exclude, exit, suite")
        assert paths(target) == [(2, "r1", "aes-gcm")]
        client.write(exit="nobody")
        client.hang_up("not reloaded: the relay asked for as exit, nobody, is not listed")
        assert paths(target) == [(2, "r1", "aes-gcm")]
        echoes(sock)
    assert client.process.stop() == 0


def test_a_gateway_and_a_client_log_as_they_are_told_now(network: Network) -> None:
    quiet = {"log_level": "error"}
    gateway = Configured(network, "second", "gateway.py", options=LISTEN | quiet)
    gateway.process.wait_ready()
    options = {"socks_listen": "127.0.0.1:0"} | network.joined | quiet
    client = Configured(network, "quiet", "client_tor.py", "socks", options=options)
    proxy_port(client.process)
    for each in (gateway, client):
        assert " INFO " not in each.process.said()
        each.write(log_level="info")
        each.hang_up("INFO ")
        assert "changed: log_level" in each.process.said()
        assert each.process.stop() == 0
