"""What no log at info ever tells: targets, credentials, client addresses, keys. All processes, good days and bad."""

import base64
import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.helpers import say_no_more
from tests.net.in_process import receive_exactly
from tests.system.network import Network, environment, wait_until
from tests.system.targets import Target, WebTarget, flood, unused_port

pytestmark = pytest.mark.system
USER, PASSWORD, NAME = "zebra-user", "zebra-password", "zebra-name.invalid"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, web: WebTarget) -> tuple[dict[str, str], set[str], list[int]]:
    """The logs of a network after much has happened, the addresses that may be in them, and the targets' ports."""
    folder = tmp_path_factory.mktemp("network")
    with Network(folder, relays=4) as network, Target(flood) as target:
        proxy = network.proxy("--hops", "3")
        closed = unused_port()
        user = f"{USER}:{PASSWORD}"
        assert proxy.curl(f"{web.url}/values", "--proxy-user", user).returncode == 0
        for url in (
            f"http://127.0.0.1:{closed}/",
            f"http://{NAME}/",
            "http://169.254.169.254/",
            "http://10.1.2.3/",
        ):
            assert proxy.curl(url).returncode != 0
        with proxy.socks(target.port) as sock:
            receive_exactly(sock, 100_000)
            for relay in network.relays[:2]:  # at least one of them is on the path
                relay.kill()
            _drain(sock)
        address = (network.relays[2].address.partition(":")[0], int(network.relays[2].address.partition(":")[2]))
        for garbage in (b"GET /zebra-page HTTP/1.1\r\n\r\n", b"\x16\x03\x01zebra", b"zebra"):
            with socket.create_connection(address) as sock:
                sock.sendall(garbage)
                say_no_more(sock)
                _drain(sock)
        command = ["curl", "-s", "--socks5-hostname", proxy.address, "--proxy-user", user, f"{web.url}/bytes/1"]
        assert subprocess.run(command, env=environment(), check=False, capture_output=True).returncode == 0
        network.relays[3].signal(signal.SIGHUP)
        assert proxy.stop() == 0
        assert network.relays[3].stop() == 0
        wait_until(lambda: len(network.listed()) == 1)
        known = {network.gateway.address, proxy.address, *(relay.address for relay in network.relays)}
        logs = network.logs()
    return logs | network.logs(), known, [web.port, target.port, closed]


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(262_144):
            pass
    except OSError:
        pass  # broken, as it should be


Busy = tuple[dict[str, str], set[str], list[int]]


def test_every_process_logs_something(busy: Busy) -> None:
    logs, _, _ = busy
    assert len(logs) == 6
    assert all(" INFO " in text for name, text in logs.items() if not name.startswith("client"))


def test_no_log_names_a_target(busy: Busy) -> None:
    logs, _, ports = busy
    for name, text in logs.items():
        words = set(re.findall(r"[0-9]+", re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "", text)))
        assert not words & {str(port) for port in ports}, name
        assert "zebra" not in text, name
        assert "localhost" not in text, name
        assert "169.254" not in text, name
        assert "10.1.2.3" not in text, name


def test_no_log_names_a_clients_address(busy: Busy) -> None:
    logs, known, _ = busy
    for name, text in logs.items():
        assert set(re.findall(r"\d+\.\d+\.\d+\.\d+:\d+", text)) <= known, name


def test_no_log_holds_credentials_or_keys(
    busy: Busy, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    logs, _, _ = busy
    folder = next(
        path for path in Path(tmp_path_factory.getbasetemp()).glob("network*") if (path / "r3.log").exists()
    )
    secrets = set(_private_keys(folder))
    assert len(secrets) >= 9, "four relays have two private keys each, the gateway one"
    text = "\n".join(logs.values())
    for secret in secrets:
        for spelled in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert spelled not in text
            assert spelled[:24] not in text
    assert USER not in text
    assert PASSWORD not in text


def _private_keys(folder: Path) -> list[bytes]:
    found = []
    for file in folder.rglob("identity.pem"):
        found.append(load_pem_private_key(file.read_bytes(), None).private_bytes_raw())  # type: ignore[union-attr]
    for file in folder.rglob("onion_keys.json"):
        found += [bytes.fromhex(item["private"]) for item in json.loads(file.read_text())]
    return found


def test_no_log_holds_a_traceback(busy: Busy) -> None:
    for name, text in busy[0].items():
        assert "Traceback" not in text, (name, text)
