"""The public Python API: what `from common import Client` gives, and the README's example as it stands there."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from common import Client
from common.ops.toml_writer import to_toml
from common.roles.client.client_circuit import ClientCircuit
from tests.net.in_process import NETWORK, InProcess, wait_until
from tests.system.targets import VALUES, Target, WebTarget, echo, silent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network:
        yield network


@pytest.fixture(scope="module")
def client(network: InProcess) -> Iterator[Client]:
    with network.client(3) as client:
        yield client


def test_the_readmes_example_runs(network: InProcess, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / ".network").mkdir()
    address, key = network.pin
    pins = to_toml([{"address": str(address), "key": key.hex()}])
    (tmp_path / ".network" / "client.toml").write_text(f'gateways = {pins}\nnetwork = "{NETWORK}"\n')
    with WebTarget() as web:
        places = f'PAGE, HOST, PORT = "{web.url}/values", "127.0.0.1", {web.port}'
        code, count = re.subn(r"^PAGE, HOST, PORT = .*$", places, example, flags=re.MULTILINE)
        assert count == 1
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "200"
    assert lines[1].startswith("HTTP/1.1 501")  # this server knows no HEAD
    assert any(re.fullmatch(r"\d+ in use (r\d > )+r\d \d+ streams", line) for line in lines[2:])


def test_session_is_a_requests_session_whose_connections_go_through_the_network(client: Client) -> None:
    with WebTarget() as web, client.session(("mine",)) as session:
        assert isinstance(session, requests.Session)
        assert session.get(f"{web.url}/values", timeout=30).content == VALUES
        assert [circuit.isolation for circuit in client.pool.circuits].count(("mine",)) == 1
        assert session.get(f"{web.url}/bytes/10", timeout=30).ok
    wait_until(lambda: not any(circuit.streams for circuit in client.circuits()))


def test_circuits_are_frozen_views_and_not_the_circuits_themselves(client: Client) -> None:
    with Target(echo) as target, client.connect(target.host, target.port, ("view",)) as sock:
        sock.sendall(b"four")
        assert sock.recv(4) == b"four"
        views = client.circuits()
        view = next(view for view in views if view.streams)
        assert (view.state, view.bytes_in, view.bytes_out, len(view.path)) == ("in use", 4, 4, 3)
        assert not isinstance(view, ClientCircuit)
        with pytest.raises(dataclasses.FrozenInstanceError):
            view.number = 0  # type: ignore[misc]
        assert target.host not in repr(views), "a view that is printed does not tell where streams go"


def test_a_retired_circuit_is_shown_until_its_last_stream_ends(client: Client) -> None:
    with Target(echo) as target:
        with client.connect(target.host, target.port, ("old",)) as sock:
            number = next(view.number for view in client.circuits() if view.streams)
            client.new_identity()
            assert [view.state for view in client.circuits() if view.number == number] == ["retired"]
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        wait_until(lambda: not next((v.streams for v in client.circuits() if v.number == number), ()))


def test_an_aborted_stream_is_over_on_both_sides(network: InProcess, client: Client) -> None:
    with Target(silent) as target, client.connect(target.host, target.port, ("abort",)) as sock:
        assert sock.opening is not None
        assert sock.opening.live
        sock.abort()
        assert not sock.opening.live
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        wait_until(lambda: not any(view.streams for view in client.circuits()))
