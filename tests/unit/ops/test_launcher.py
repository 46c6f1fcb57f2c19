"""The launcher with real processes: small daemons that load their configuration and say ready as the real ones do."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.errors import ConfigError, OnionError
from common.ops import launcher_commands
from common.ops.config import PROJECT, load
from common.ops.free_ports import FreePorts
from common.ops.launcher import run
from common.ops.launcher_commands import Launcher
from common.ops.launcher_state import Folder, Process, Settings, start_time
from common.ops.values import LoginServer

DAEMON = """
import hashlib, os, sys, threading
from pathlib import Path
from common.ops.config import load
from common.ops.lifecycle import Signals, main, ready
def run():
    config = load(Path(sys.argv[0]).stem, sys.argv[1:])
    with Signals() as signals:
        with ready(config.state, f"127.0.0.1:{config.listen.port or 9}", hashlib.sha256(str(config.state).encode()).digest()):
            print("up", *[name for name in os.environ if name.startswith("TOR_NETWORK_")], flush=True)
            signals.stop.wait()
main(run)
"""
DIES = "import sys\nprint('no luck today')\nsys.exit(3)\n"
NEVER_READY = "import threading\nthreading.Event().wait()\n"
IGNORES_TERM = DAEMON.replace("signals.stop.wait()", "threading.Event().wait()")
FREE = Settings(None, "local")
EVERY = {f"relay{number}" for number in range(1, 10)}


class Network:
    """A state folder, a folder of scripts, and the launcher over them."""

    def __init__(
        self, root: Path, gateway: str = DAEMON, relay: str = DAEMON, auth: str = DAEMON
    ) -> None:
        self.state, self.scripts, self.stop = root / "state", root / "scripts", threading.Event()
        self.scripts.mkdir(parents=True)
        (self.scripts / "gateway.py").write_text(gateway)
        (self.scripts / "relay.py").write_text(relay)
        (self.scripts / "auth_server.py").write_text(auth)
        self.launcher = Launcher(self.state, self.stop, self.scripts, lambda config: EVERY)
        self.folder = Folder(self.state, self.scripts)

    def names(self) -> list[str]:
        return [process.name for process in self.folder.running()]


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Network]]:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    made: list[Network] = []
    yield made
    for network in made:
        network.folder.end(network.folder.recorded(), patience=0)


@pytest.fixture
def network(tmp_path: Path, networks: list[Network]) -> Network:
    networks.append(Network(tmp_path))
    return networks[0]


def test_start_status_and_stop(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    network.launcher.start(3, FREE)
    out = capsys.readouterr().out
    assert network.names() == ["gateway", "relay1", "relay2", "relay3", "auth"]
    assert f"prompt: ./launch_network.sh --state {network.state} client" in out
    assert network.launcher.status() == 0
    assert capsys.readouterr().out.count("listed") == 3
    processes = network.folder.recorded()
    network.launcher.stop()
    assert [start_time(process.pid) for process in processes] == [None] * 5
    assert capsys.readouterr().out == "stopped gateway, relay1, relay2, relay3, auth\n"
    left = {path.name for path in network.state.rglob("*") if path.is_file()} - {"lock", "network.json"}
    assert not {name for name in left if not name.endswith((".toml", ".log"))}, "pid and ready files are gone"
    network.launcher.stop()
    assert capsys.readouterr().out == "nothing is running\n"
    assert network.launcher.status() == 1


def test_what_the_daemons_are_told(network: Network) -> None:
    network.launcher.start(2, Settings(None, "accept 192.0.2.0/24:80", workers=3))
    network.launcher.add(1)
    assert load("relay", ["--config", str(network.folder.config("relay3"))], {}).workers == 3
    relay = load("relay", ["--config", str(network.folder.config("relay2"))], {})
    client = load("client", ["--config", str(network.folder.config("client"))], {})
    assert relay.nickname == "relay2"
    assert relay.workers == 3
    assert relay.exit_policy == "accept 192.0.2.0/24:80"
    assert relay.listen.host == "127.0.0.1"
    assert relay.state == network.state / "relay2"
    assert relay.gateways == client.gateways
    assert client.gateways[0].key == sha256(str(network.state / "gateway").encode()).digest()
    assert client.socks_listen[0].port != 9050, "only the usual folder takes the usual port"
    gateway = load("gateway", ["--config", str(network.folder.config("gateway"))], {})
    kept = {relay.listen.port, gateway.listen.port, client.socks_listen[0].port}
    assert len(kept) == 3
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(10_000 <= port < first_given for port in kept), "the system gives these to no connection"


def test_ports_from_a_base_port(network: Network) -> None:
    network.launcher.start(2, Settings(20_000, "local"))
    network.launcher.add(1)
    ports = [load("gateway", ["--config", str(network.folder.config("gateway"))], {}).listen.port]
    for number in (1, 2, 3):
        ports.append(load("relay", ["--config", str(network.folder.config(f"relay{number}"))], {}).listen.port)
    assert ports == [20_000, 20_001, 20_002, 20_003]
    assert not set(ports) - set(Settings(20_000, "local").ports)


def test_three_gateways_that_relays_and_clients_know_from_one_file(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.launcher.start(2, Settings(30_000, "local", 3))
    gateways = ["gateway", "gateway2", "gateway3"]
    assert network.names() == [*gateways, "relay1", "relay2", "auth"]
    file = network.state / "network.toml"
    joining = load("relay", ["--network", str(file), "--nickname", "x"], {})
    relay = load("relay", ["--config", str(network.folder.config("relay2"))], {})
    client = load("client", ["--config", str(network.folder.config("client"))], {})
    assert joining.gateways == relay.gateways == client.gateways
    assert [str(pin.address) for pin in client.gateways] == [
        f"127.0.0.1:{port}" for port in (30_000, 30_001, 30_002)
    ]
    assert relay.listen.port == 30_004
    assert f"join:   ./relay.py --network {file} --nickname NAME" in capsys.readouterr().out
    network.launcher.stop()
    assert capsys.readouterr().out == "stopped gateway, gateway2, gateway3, relay1, relay2, auth\n"


def test_the_login_server_is_one_of_the_network(network: Network) -> None:
    network.launcher.start(1, Settings(20_000, "local"))
    client = load("client", ["--config", str(network.folder.config("client"))], {})
    key = sha256(str(network.state / "auth").encode()).digest()
    assert client.login == LoginServer(Address("127.0.0.1", 20_109), key)
    joining = load("client", ["--network", str(network.state / "network.toml")], {})
    assert joining.login == client.login
    network.launcher.kill("auth")
    assert network.names() == ["gateway", "relay1"]
    before = network.folder.config("auth").read_bytes()
    network.launcher.restart("auth")
    assert network.names() == ["gateway", "relay1", "auth"]
    assert network.folder.config("auth").read_bytes() == before


def test_relays_go_around_the_login_servers_port() -> None:
    for gateways in (1, 9):
        settings = Settings(20_000, "local", gateways)
        names = ["auth", *(f"relay{number}" for number in range(1, 201)), "gateway"]
        names += [f"gateway{number}" for number in range(2, gateways + 1)]
        assert len({settings.port(name) for name in names}) == len(names)


def test_a_gateway_that_was_killed_is_started_again_as_it_was(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    network.launcher.start(1, Settings(None, "local", 3))
    network.launcher.kill("gateway2")
    assert "restart gateway2 starts it again" in capsys.readouterr().out
    before = network.folder.config("gateway2").read_bytes()
    network.launcher.add(1)
    network.launcher.kill("gateway3")
    with pytest.raises(OnionError, match="only 1 of 3 gateways run here"):
        network.launcher.add(1)
    network.launcher.restart("gateway2")
    network.launcher.restart("relay1")
    assert network.folder.config("gateway2").read_bytes() == before
    assert network.names() == ["gateway", "gateway2", "relay1", "relay2", "auth"]
    for name in ("client", "gateway9", "../gateway"):
        with pytest.raises(OnionError, match="was not started here"):
            network.launcher.restart(name)


def test_the_environment_of_the_client_does_not_reach_daemons(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOR_NETWORK_STATE", "elsewhere")
    network.launcher.start(1, FREE)
    assert network.folder.last_lines("gateway", 5) == ["up"]


def test_a_second_start_says_what_runs_and_what_to_do(network: Network) -> None:
    network.launcher.start(1, FREE)
    with pytest.raises(OnionError) as caught:
        network.launcher.start(1, FREE)
    for words in ("already running here: gateway, relay1, auth", "client", "add 1", "stop"):
        assert words in str(caught.value)
    assert network.names() == ["gateway", "relay1", "auth"]


def test_a_start_after_a_crash_of_all(network: Network) -> None:
    network.launcher.start(1, FREE)
    before = network.folder.recorded()
    for process in before:
        os.kill(process.pid, signal.SIGKILL)
    for process in before:
        os.waitpid(process.pid, 0)
    assert network.launcher.status() == 1
    network.launcher.start(2, FREE)
    assert network.names() == ["gateway", "relay1", "relay2", "auth"]


def test_add_and_kill(network: Network) -> None:
    network.launcher.start(2, FREE)
    network.launcher.kill("relay1")
    assert network.names() == ["gateway", "relay2", "auth"]
    network.launcher.add(2)
    assert network.names() == ["gateway", "relay1", "relay2", "relay3", "auth"]
    with pytest.raises(OnionError, match="relay9 is not running here"):
        network.launcher.kill("relay9")
    network.launcher.kill("gateway")
    with pytest.raises(OnionError, match="no gateway is running here"):
        network.launcher.add(1)


@pytest.mark.parametrize("which", ["gateway", "relay", "auth"])
def test_a_daemon_that_dies_shows_its_last_lines_and_the_rest_is_stopped(
    tmp_path: Path, networks: list[Network], which: str
) -> None:
    network = Network(tmp_path, **{which: DIES})
    networks.append(network)
    (network.state / "logs").mkdir(parents=True)
    for name in ("gateway", "relay1", "relay2", "auth"):
        network.folder.log(name).write_text("all went well yesterday\n")
    with pytest.raises(OnionError, match=rf"(?s){which}\d? ended at its start.*no luck today") as caught:
        network.launcher.start(2, FREE)
    assert "yesterday" not in str(caught.value)
    assert network.folder.recorded() == []


def test_ctrl_c_during_start_stops_what_was_started(tmp_path: Path, networks: list[Network]) -> None:
    network = Network(tmp_path, relay=NEVER_READY)
    networks.append(network)

    class Interrupted(threading.Event):
        started: list[Process] = []  # noqa: RUF012

        def wait(self, timeout: float | None = None) -> bool:
            self.started = network.folder.recorded()
            return len(self.started) == 4 or super().wait(timeout)

    stop = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        Launcher(network.state, stop, network.scripts, lambda config: EVERY).start(2, FREE)
    assert [process.name for process in stop.started] == ["gateway", "relay1", "relay2", "auth"]
    assert [start_time(process.pid) for process in stop.started] == [None] * 4
    assert network.folder.recorded() == []


def test_stop_ends_by_force_what_does_not_listen(tmp_path: Path, networks: list[Network]) -> None:
    network = Network(tmp_path, relay=IGNORES_TERM)
    networks.append(network)
    network.launcher.start(1, FREE)
    processes = network.folder.recorded()
    network.folder.end(processes, patience=0.2)
    assert [start_time(process.pid) for process in processes] == [None] * 3


def test_stop_ends_only_what_it_started(network: Network) -> None:
    """A pid that is used again by somebody else's process is left alone."""
    network.launcher.start(1, FREE)
    with subprocess.Popen([sys.executable, "-c", NEVER_READY]) as stranger:
        try:
            record = network.state / "run" / "relay7.json"
            started = start_time(stranger.pid)
            assert started is not None
            record.write_text(json.dumps({"name": "relay7", "pid": stranger.pid, "started": started - 1}))
            assert "relay7" not in network.names()
            network.launcher.stop()
            assert stranger.poll() is None
            assert not record.exists()
        finally:
            stranger.kill()


def test_two_networks_side_by_side(tmp_path: Path, networks: list[Network]) -> None:
    networks += [Network(tmp_path / "a"), Network(tmp_path / "b")]
    for network in networks:
        network.launcher.start(1, FREE)
    networks[0].launcher.stop()
    assert networks[0].names() == []
    assert networks[1].names() == ["gateway", "relay1", "auth"]


def test_daemons_have_a_session_of_their_own(network: Network) -> None:
    network.launcher.start(1, FREE)
    for process in network.folder.running():
        assert os.getsid(process.pid) == process.pid


def test_another_launcher_at_work_is_said(network: Network) -> None:
    with network.folder.locked():
        assert (network.state / "lock").stat().st_mode & 0o777 == 0o600, "who can read it can hold it"
    with network.folder.locked(), pytest.raises(OnionError, match="another launcher is at work"):
        network.launcher.start(1, FREE)


def test_logs(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OnionError, match="no log of anything"):
        network.launcher.logs(None, False)
    network.launcher.start(1, FREE)
    capsys.readouterr()
    network.launcher.logs("relay1", False)
    assert capsys.readouterr().out == "up\n"
    network.launcher.logs(None, False)
    assert capsys.readouterr().out == "auth: up\ngateway: up\nrelay1: up\n"
    with pytest.raises(OnionError, match="no log of relay7"):
        network.launcher.logs("relay7", False)


def test_following_a_log_shows_what_is_added(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    (network.state / "logs").mkdir(parents=True)
    log = network.folder.log("relay1")
    log.write_text("old\n")
    following = threading.Thread(target=network.launcher.logs, args=("relay1", True))
    shown = ""
    following.start()
    try:
        for _ in range(1_000):
            shown += capsys.readouterr().out
            if "old" in shown and log.read_text() == "old\n":
                log.write_text("old\nnew\nhalf a li")
            if "new" in shown or network.stop.wait(0.01):
                break
    finally:
        network.stop.set()
        following.join(10)
    assert shown == "old\nnew\n"


@pytest.mark.parametrize("record", ["{}", 100_000 * "["], ids=["empty", "deep"])
def test_a_damaged_record_is_a_sentence(network: Network, record: str) -> None:
    (network.state / "run").mkdir(parents=True)
    (network.state / "run" / "relay1.json").write_text(record)
    with pytest.raises(ConfigError, match=r"relay1\.json: is missing or damaged"):
        network.launcher.stop()
    (network.state / "run" / "relay1.json").unlink()


def test_start_time_of_a_process() -> None:
    assert start_time(os.getpid()) is not None
    assert start_time(2**22 + 1) is None
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(child.pid) is None, "a process that has ended and was not waited for"
    child.wait()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "required: COMMAND"),
        (["0"], "'0' is not a number from 1 to 100"),
        (["101"], "'101' is not a number from 1 to 100"),
        (["5x"], "'5x' is not a number"),
        (["5", "--base-port", "80"], "'80' is not a number from 1024 to"),
        (["5", "--gateways", "10"], "'10' is not a number from 1 to 9"),
        (["5", "--workers", "65"], "'65' is not a number from 1 to 64"),
        (["5", "--exit-policy", "maybe"], "'maybe' is not an exit policy"),
        (["kill"], "required: NAME"),
        (["status", "--what"], "unrecognized arguments: --what"),
    ],
)
def test_usage(tmp_path: Path, argv: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(["--state", str(tmp_path), *argv])
    assert text in str(caught.value)


def test_the_client_is_opened_with_this_networks_file(network: Network) -> None:
    script = "import sys; print(sys.argv[1:])"
    (network.scripts / "client_tor.py").write_text(script)
    code = (
        "import sys; from pathlib import Path; from common.ops.launcher_commands import Launcher\n"
        "Launcher(Path(sys.argv[1]), scripts=Path(sys.argv[2])).client(sys.argv[3:])"
    )
    command = [sys.executable, "-c", code, str(network.state), str(network.scripts), "--hops", "2", "path"]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "no network here yet" in missing.stderr
    network.state.mkdir()
    network.folder.write_config("client", {"state": "client"})
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.strip() == str(["--config", str(network.folder.config("client")), "--hops", "2", "path"])


def test_the_usual_proxy_port_is_left_to_whom_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher_commands, "DEFAULT_STATE", tmp_path)
    port = FreePorts("127.0.0.1").take()
    monkeypatch.setattr(launcher_commands, "_PROXY_PORT", port)
    launcher, settings = Launcher(tmp_path), Settings(None, "local")
    assert launcher._proxy_port(settings) == port
    with socket.create_server(("127.0.0.1", port)):
        assert launcher._proxy_port(settings) != port
