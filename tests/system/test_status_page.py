"""The status pages of gateway.py, of relay.py and of a network that the launcher started."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from common.circuit.actions import StreamEnded
from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite
from common.directory.addresses import Address, parse_address
from common.errors import DestroyReason, EndReason
from common.ops.config import load
from common.ops.keystore import load_onion_keys, load_or_create_identity
from common.ops.launcher_commands import Launcher
from common.ops.launcher_state import Folder, Settings
from common.wire.cells import Command
from tests.net.processes import children
from tests.net.raw_client import RawClient
from tests.net.test_relay_status import begin
from tests.system.network import ROOT, Process, options_text, run_script, wait_until
from tests.system.test_scripts import _one_sentence

pytestmark = pytest.mark.system


def fetch(url: str) -> bytes:
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "20", url]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def test_the_launcher_shows_the_page_of_its_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Launcher(tmp_path / "network")
    try:
        launcher.start(1, Settings(None, "local"))
        started = capsys.readouterr().out
        found = re.search(r"http://127\.0\.0\.1:\d+/", started)
        assert found, started
        page = found[0]
        wait_until(lambda: b">relay1<" in fetch(page))  # it is a second behind at most
        assert json.loads(fetch(page + "status.json"))["relays"][0]["nickname"] == "relay1"
        assert b"onion_gateway_relays 1.0" in fetch(page + "metrics")
        launcher.restart("gateway")
        assert launcher.status() == 0
        assert page in capsys.readouterr().out, "a restart keeps the address"
    finally:
        folder = Folder(tmp_path / "network", ROOT)
        folder.end(folder.recorded())


def test_a_gateway_has_no_page_unless_told(tmp_path: Path) -> None:
    assert load("gateway", [], {}).http is None
    gateway = Process("gateway", tmp_path, "gateway.py", "--listen", "127.0.0.1:0")
    try:
        gateway.wait_ready()
        assert gateway.http == ""
        assert "status page" not in gateway.said()
        port = gateway.address
        done = run_script("gateway.py", "--listen", "127.0.0.1:0", "--http", port, "--state", tmp_path / "other")
        assert done.returncode == 2
        assert _one_sentence(done.stderr) == f"http: cannot listen on {port}: address already in use; choose another port"
    finally:
        assert gateway.stop() == 0


def relay_file(folder: Path, **options: object) -> Path:
    """The file of a relay whose gateway is away."""
    key = load_or_create_identity(folder / "gateway-keys").public.hex()
    path = folder / "relay.toml"
    own = {"listen": "127.0.0.1:0", "nickname": "told", "gateways": [{"address": "127.0.0.1:1", "key": key}]}
    path.write_text(options_text(own | options))
    return path


def hop_of(relay: Process) -> PathHop:
    """A relay, for a path."""
    address = parse_address(relay.address)
    return PathHop(relay.identity, load_onion_keys(relay.state / "keys").current.public, address.host, address.port)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_relay_serves_its_page_until_it_is_ended(tmp_path: Path, workers: int) -> None:
    file = relay_file(tmp_path, http="127.0.0.1:0", workers=workers)
    relay = Process("relay", tmp_path, "relay.py", "--config", file)
    try:
        relay.wait_ready()
        address = parse_address(relay.http)
        assert f"status page http://{address}/metrics" in relay.said()
        told = json.loads(fetch(f"http://{address}/status.json"))
        assert (told["nickname"], told["listed"]) == ("told", {"127.0.0.1:1": False})
        assert (told["now"]["processes"], told["now"]["silent_processes"]) == (workers, 0)
        assert f"onion_relay_processes {workers}.0".encode() in fetch(f"http://{address}/metrics")
        done = run_script("relay.py", "--config", file, "--http", str(address), "--state", tmp_path / "other")
        assert done.returncode == 2
        sentence = f"http: cannot listen on {address}: address already in use; choose another port"
        assert _one_sentence(done.stderr) == sentence
    finally:
        assert relay.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_no_exit_of_a_relay_reaches_its_page(tmp_path: Path, host: str, workers: int) -> None:
    """Security: it is for who reaches that port, and an exit stands behind what keeps others from it."""
    file = relay_file(tmp_path, http=f"{host}:0", workers=workers, exit_policy="local")
    relay = Process("relay", tmp_path, "relay.py", "--config", file)
    try:
        relay.wait_ready()
        page = parse_address(relay.http)
        with contextlib.closing(RawClient(parse_address(relay.address))) as raw:
            ended = begin(raw, hop_of(relay), host="127.0.0.1", port=page.port)
        assert isinstance(ended, StreamEnded)
        assert ended.reason is EndReason.POLICY
    finally:
        assert relay.stop() == 0


def test_a_relay_that_waits_to_end_shows_what_is_left(tmp_path: Path) -> None:
    file = relay_file(tmp_path, http="127.0.0.1:0", stop_wait=600)
    relay = Process("relay", tmp_path, "relay.py", "--config", file)
    try:
        relay.wait_ready()
        with contextlib.closing(RawClient(parse_address(relay.address))) as raw:
            raw.build(hop_of(relay))
            relay.signal(signal.SIGTERM)
            wait_until(lambda: "circuits that are up may go on for 600 s" in relay.said())
            assert json.loads(fetch(f"http://{relay.http}/status.json"))["now"]["circuits"] == 1
            raw.say(9, Command.CREATE, Origin([hop_of(relay)], Suite.FERNET).create)
            assert raw.destroyed(9) is DestroyReason.SHUTTING_DOWN
            page = fetch(f"http://{relay.http}/metrics")
            assert b'onion_relay_creates_refused_total{reason="shutting_down"} 1.0' in page
        assert relay.wait() == 0, "no circuit is left"
    finally:
        relay.stop()


def test_a_relay_that_ends_closes_its_page_first(tmp_path: Path) -> None:
    relay = Process("relay", tmp_path, "relay.py", "--config", relay_file(tmp_path, http="127.0.0.1:0", workers=2))
    try:
        relay.wait_ready()
        address = parse_address(relay.http)
        fetch(f"http://{address}/metrics")
        worker = min(children(relay.pid))
        os.kill(worker, signal.SIGSTOP)  # so that the relay's end waits for it
        try:
            relay.signal(signal.SIGTERM)
            wait_until(lambda: not listens(address))
            assert relay.alive
        finally:
            os.kill(worker, signal.SIGCONT)
        assert relay.wait() == 0
    finally:
        relay.kill()


def listens(address: Address) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((address.host, address.port)) == 0


def test_a_relay_without_a_page_loads_nothing_for_one(tmp_path: Path) -> None:
    relay = Process("relay", tmp_path, "-X", "importtime", "relay.py", "--config", relay_file(tmp_path))
    try:
        relay.wait_ready()
        assert relay.http == ""
        said = relay.said()
    finally:
        assert relay.stop() == 0
    assert "common.roles.relay.snapshot" in said
    for module in ("prometheus_client", "http.server", "common.roles.status_http", "common.roles.relay.status_pages"):
        assert module not in said
