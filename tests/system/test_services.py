"""The units for systemd that are shipped: their very commands, with a service manager's socket and signals."""

import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser, SectionProxy
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.network import PATIENCE, ROOT, Network, environment, options_text, wait_until

pytestmark = pytest.mark.system
EXAMPLES = ROOT / "docs" / "examples"
DAEMON, PROXY = EXAMPLES / "onion-network@.service", EXAMPLES / "onion-network-proxy.service"


def service(unit: Path) -> SectionProxy:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser["Service"]


@contextmanager
def started(unit: Path, log: Path, places: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The unit's process, and the socket on which it speaks to its manager; `places` are put for what the unit has."""
    command = service(unit)["ExecStart"]
    for wanted, ours in places.items():
        assert wanted in command
        command = command.replace(wanted, ours)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel finds a name without a file
        manager.settimeout(0.1)
        name = "@" + manager.getsockname()[1:].decode()
        with log.open("wb") as output:
            process = subprocess.Popen(
                shlex.split(command),
                env=environment() | {"NOTIFY_SOCKET": name, "TOR_NETWORK_LOG_LEVEL": "info"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process, manager
        finally:
            process.kill()
            process.wait(PATIENCE)


def wait_started(process: subprocess.Popen[bytes], manager: socket.socket, log: Path) -> None:
    said: list[bytes] = []

    def told() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            said.append(manager.recv(100))
        except TimeoutError:
            return False
        return True

    wait_until(told)
    assert said == [b"READY=1"]


def reload_and_stop(unit: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    reload = service(unit)["ExecReload"].replace("$MAINPID", str(process.pid))
    subprocess.run(shlex.split(reload), check=True)
    wait_until(lambda: "configuration read again" in log.read_text())
    process.terminate()
    assert process.wait(PATIENCE) == 0, log.read_text()


def daemon_places(role: str, folder: Path) -> dict[str, str]:
    return {
        "/opt/onion-network/.venv/bin/python": sys.executable,
        "/opt/onion-network": str(ROOT),
        "/etc/onion-network": str(folder),
        "/var/lib/onion-network": str(folder / "state"),
        "%i": role,
    }


def proxy_places(folder: Path) -> dict[str, str]:
    return {
        "%h/onion-network/.venv/bin/python": sys.executable,
        "%h/onion-network": str(ROOT),
        "%h/.config/onion-network": str(folder),
        "socks --listen 127.0.0.1:9050": f"--state {folder / 'state'} socks --listen 127.0.0.1:0",
    }


@pytest.mark.parametrize("role", ["gateway", "relay", "auth_server"])
def test_the_unit_of_a_daemon_starts_reloads_and_stops_it(network: Network, tmp_path: Path, role: str) -> None:
    own = network.joined | {"nickname": "served"} if role == "relay" else {}
    (tmp_path / f"{role}.toml").write_text(options_text({"listen": "127.0.0.1:0"} | own))
    log = tmp_path / "log"
    with started(DAEMON, log, daemon_places(role, tmp_path)) as (process, manager):
        wait_started(process, manager, log)
        state = tmp_path / "state" / role
        assert (state / "ready").exists(), "it can be dialled when it says so"
        reload_and_stop(DAEMON, process, log)
        assert not (state / "ready").exists()


def test_the_unit_of_a_proxy_port_starts_reloads_and_stops_it(network: Network, tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text(options_text(network.joined))
    log = tmp_path / "log"
    with started(PROXY, log, proxy_places(tmp_path)) as (process, manager):
        wait_started(process, manager, log)
        assert "proxy port" in log.read_text()
        reload_and_stop(PROXY, process, log)


def test_a_wrong_configuration_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text("nonsense = 1\n")
    (tmp_path / "network.toml").write_text("nonsense = 1\n")
    for unit, places in (DAEMON, daemon_places("relay", tmp_path)), (PROXY, proxy_places(tmp_path)):
        with started(unit, tmp_path / "log", places) as (process, _):
            assert process.wait(PATIENCE) == int(service(unit)["RestartPreventExitStatus"])
