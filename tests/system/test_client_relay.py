"""A client that is a relay too, as a person starts it: one process, two roles that meet nowhere."""

from pathlib import Path

import pytest

from common.directory.descriptor import Descriptor
from common.directory.family import family_proof
from common.ops.keystore import load_or_create_family_key
from tests.system.network import Network, ProxyProcess, run_script, wait_until
from tests.system.targets import WebTarget, unused_port

pytestmark = pytest.mark.system


def _descriptor(network: Network, nickname: str) -> Descriptor | None:
    relays = network.entries()
    return next((each.descriptor for each in relays if each.descriptor.nickname == nickname), None)


def test_a_client_is_used_while_it_serves_as_a_relay(tmp_path: Path) -> None:
    with WebTarget() as web, Network(tmp_path, relays=4) as network:
        port = unused_port()
        options = [*network.gateway_options, "--socks-listen", f"127.0.0.1:{port}", "relay", "--nickname", "own"]
        options += ["--listen", "127.0.0.1:0", "--exit-policy", "local", "--family-key", str(tmp_path / "family.pem")]
        own = ProxyProcess("own", network.folder, "client_tor.py", *options)
        network._processes.append(own)
        own.wait_ready()
        wait_until(lambda: _descriptor(network, "own"))
        descriptor = _descriptor(network, "own")
        assert descriptor is not None
        address = str(descriptor.address)
        family, _ = family_proof(load_or_create_family_key(tmp_path / "family.pem"), "", descriptor.identity)
        assert descriptor.family == family
        other = network.proxy("--exit", "own", "--hops", "3")
        for number in range(10):
            user = ("--proxy-user", f"{number}:x")
            assert own.curl(f"{web.url}/bytes/1000", *user).returncode == 0
            assert other.curl(f"{web.url}/bytes/1000", *user).returncode == 0
        refused = other.curl(f"http://127.0.0.1:{port}/")
        assert (refused.returncode, b"(2)" in refused.stderr) == (97, True), "others do not reach its proxy port through it"
        ends = own.connections()
        assert any(near == address for near, _ in ends), "others' links come in"
        assert not any(far == address for _, far in ends), "its own circuits never pass through itself"
        other.stop()
        assert own.stop() == 0
        network.wait_listed(4)


def test_a_relay_without_a_name_is_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    pin = ["--gateway", "127.0.0.1:1", "--gateway-key", "ab" * 32]
    done = run_script("client_tor.py", *pin, "--state", tmp_path, "relay", "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "client: relay_nickname: not set; give --relay-nickname NAME, or --nickname NAME after relay\n"


def test_an_exit_that_is_not_listed_is_a_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with Network(tmp_path, relays=2) as network:
        arguments = [*network.gateway_options, "--state", tmp_path / "c", "--exit", "nobody", "web", "http://localhost:1/"]
        done = run_script("client_tor.py", *arguments)
        assert done.returncode == 1
        assert "the relay asked for as exit, nobody, is not listed" in done.stderr.splitlines()[-1]
