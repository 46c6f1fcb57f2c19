"""The scripts as a person meets them: exit codes, one sentence for each mistake, and signals."""

import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.net.in_process import receive_all
from tests.system.network import NETWORK, PATIENCE, Network, Process, run_script, wait_until
from tests.system.targets import Target, WebTarget, flood, unused_port

pytestmark = pytest.mark.system
SCRIPTS = ["gateway.py", "relay.py", "client_tor.py", "auth_server.py", "auth_client.py"]
KEY = "ab" * 32


def _pinned(port: int, key: str = KEY) -> list[str]:
    return ["--gateway", f"127.0.0.1:{port}", "--gateway-key", key, "--network", NETWORK]


def _one_sentence(text: str) -> str:
    """What was said on standard error without the log and the progress: one line."""
    lines = [line for line in text.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT| *\d+ %", line)]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


# ---- mistakes


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_option_is_a_sentence_and_exit_code_2(script: str) -> None:
    done = run_script(script, "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in _one_sentence(done.stderr)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_exit_code_0(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    assert "--state" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[[", "not a TOML file"),
        ("no_such_setting = 1", "no_such_setting"),
        ('log_level = "loud"', "log_level"),
        ('network = "a b"', "network"),
        ("\udcff", "not a TOML file"),
    ],
)
def test_a_broken_configuration_names_file_and_setting(
    tmp_path: Path, script: str, content: str, named: str
) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(content, errors="surrogateescape")
    done = run_script(script, "--config", file)
    assert done.returncode == 2
    assert str(file) in _one_sentence(done.stderr)
    assert named in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_configuration_that_is_not_there_is_a_sentence(tmp_path: Path, script: str) -> None:
    done = run_script(script, "--config", tmp_path / "missing.toml")
    assert done.returncode == 2
    assert "missing.toml" in _one_sentence(done.stderr)


@pytest.mark.parametrize("hops", ["9", "0", "5-3", "three", "1-9", "-1", ""])
def test_more_than_eight_hops_and_other_nonsense_are_refused(tmp_path: Path, hops: str) -> None:
    done = run_script("client_tor.py", *_pinned(1), "--state", tmp_path, f"--hops={hops}", "web", "http://x")
    assert done.returncode == 2
    assert "from 1 to 8" in _one_sentence(done.stderr)


def test_a_relay_that_tells_nobody_where_it_is_is_refused(tmp_path: Path) -> None:
    done = run_script("relay.py", *_pinned(1), "--nickname", "x", "--state", tmp_path, "--listen", "0.0.0.0:0")
    assert done.returncode == 2
    assert "advertise" in _one_sentence(done.stderr)


def test_a_taken_port_is_a_sentence_for_every_script(network: Network, tmp_path: Path) -> None:
    taken = network.relays[0].address
    gateway = run_script("gateway.py", "--listen", taken, "--state", tmp_path / "g")
    relay = run_script(
        "relay.py", "--listen", taken, *network.gateway_options, "--nickname", "x", "--state", tmp_path / "r"
    )
    client = run_script(
        "client_tor.py", *network.gateway_options, "--state", tmp_path / "c", "socks", "--listen", taken
    )
    for done in (gateway, relay, client):
        assert done.returncode == 2
        sentence = _one_sentence(done.stderr).lower()
        assert taken in sentence
        assert "already in use" in sentence


def test_a_state_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_script("gateway.py", "--listen", "127.0.0.1:0", "--state", tmp_path / "file" / "state")
    assert done.returncode == 2
    assert str(tmp_path / "file") in _one_sentence(done.stderr)


def test_a_damaged_key_is_a_sentence_and_is_not_replaced(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    file = keys / "identity.pem"
    file.write_text("nonsense")
    file.chmod(0o600)
    done = run_script("gateway.py", "--listen", "127.0.0.1:0", "--state", tmp_path)
    assert done.returncode == 2
    assert str(file) in _one_sentence(done.stderr)
    assert file.read_text() == "nonsense"


def test_a_page_that_cannot_be_fetched_is_a_sentence_and_exit_code_1(network: Network, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{unused_port()}/"
    done = run_script("client_tor.py", *network.gateway_options, "--state", tmp_path, "web", url)
    assert done.returncode == 1
    assert "refuses connections" in _one_sentence(done.stderr)


def test_a_page_is_fetched_and_shown(network: Network, web: WebTarget, tmp_path: Path) -> None:
    done = run_script("client_tor.py", *network.gateway_options, "--state", tmp_path, "web", f"{web.url}/bytes/77")
    assert done.returncode == 0, done.stderr
    assert "200 OK, 77 bytes" in done.stdout


def test_a_gateway_that_does_not_answer_is_a_sentence_and_exit_code_1(network: Network, tmp_path: Path) -> None:
    """All at once, since each waits as long as a person would."""
    dead = _pinned(unused_port())
    wrong = ["--gateway", network.gateway.address, "--gateway-key", KEY, "--network", NETWORK]
    other = [*network.gateway_options[:-1], "other"]
    with ThreadPoolExecutor(3) as pool:
        runs = [
            pool.submit(
                run_script, "client_tor.py", *pins, "--state", tmp_path / name, "web", "http://x", seconds=90.0
            )
            for name, pins in (("dead", dead), ("wrong", wrong), ("other", other))
        ]
        done = [run.result() for run in runs]
    assert [run.returncode for run in done] == [1, 1, 1]
    assert "does not answer" in _one_sentence(done[0].stderr)
    assert "its key is another one" in _one_sentence(done[1].stderr)
    assert "serves the network test" in _one_sentence(done[2].stderr)


# ---- signals


@pytest.fixture
def loaded(network: Network) -> Iterator[Process]:
    """A client through which streams flow at full speed, which are read until they end."""
    proxy = network.proxy("--hops", "5")
    with Target(flood) as target, ThreadPoolExecutor(4) as pool:
        socks = [proxy.socks(target.port) for _ in range(4)]
        assert all(sock.recv(1) for sock in socks)
        readers = [pool.submit(_read_to_the_end, sock) for sock in socks]
        yield proxy
        if proxy.alive:
            assert proxy.stop() == 0
        for reader in readers:
            reader.result(PATIENCE)


def _read_to_the_end(sock: socket.socket) -> None:
    with sock:
        try:
            while sock.recv(262_144):
                pass
        except ConnectionResetError:
            pass


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_client_under_load_ends_by_a_signal(loaded: Process, number: signal.Signals, code: int) -> None:
    start = monotonic()
    loaded.signal(number)
    assert loaded.wait() == code
    assert monotonic() - start < 7
    assert "Traceback" not in loaded.said()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_relay_under_load_leaves_the_list_at_once_and_ends(
    network: Network, loaded: Process, number: signal.Signals, code: int
) -> None:
    relay = network.relays[0]
    relay.signal(number)
    wait_until(lambda: relay.identity not in network.listed(), 1.0)
    assert relay.wait(8) == code
    assert "Traceback" not in relay.said()
    network.restart(relay)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_gateway_ends_by_a_signal(network: Network, number: signal.Signals, code: int) -> None:
    start = monotonic()
    network.gateway.signal(number)
    assert network.gateway.wait() == code
    assert monotonic() - start < 5
    assert not (network.gateway.state / "ready").exists()
    assert "Traceback" not in network.gateway.said()
    network.restart_gateway()
    network.wait_listed(len(network.relays))


def test_a_second_signal_ends_a_relay_at_once(network: Network, loaded: Process) -> None:
    relay = network.relays[1]
    # Registered, not only listed: a gateway that was restarted lists its relays before they are back.
    wait_until(lambda: any(theirs == network.gateway.address for _, theirs in relay.connections()))
    network.gateway.signal(signal.SIGSTOP)  # so that the good-bye alone takes a second
    try:
        start = monotonic()
        while relay.alive and monotonic() - start < PATIENCE:
            relay.signal(signal.SIGTERM)
            sleep(0.05)  # two signals at the same moment are one
        assert monotonic() - start < 0.9
        # By its own exit, or by the signal that came when Python had let go of its handlers already; 0 if it was
        # registering in that moment and so had nobody to say good-bye to.
        assert relay.wait() in (128 + signal.SIGTERM, -signal.SIGTERM, 0)
    finally:
        network.gateway.signal(signal.SIGCONT)
    network.restart(relay)


def test_a_hang_up_does_not_end_a_daemon(network: Network, web: WebTarget) -> None:
    proxy = network.proxy()
    daemons = [network.gateway, *network.relays, proxy]
    for process in daemons:
        process.signal(signal.SIGHUP)
    assert proxy.curl(f"{web.url}/bytes/1").returncode == 0
    assert all(process.alive for process in daemons)
    assert proxy.stop() == 0


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, (0, -signal.SIGTERM)), (signal.SIGINT, (130,))])
def test_a_client_that_is_still_starting_ends_by_a_signal(
    tmp_path: Path, number: signal.Signals, codes: tuple[int, ...]
) -> None:
    process = Process(
        "client", tmp_path, "client_tor.py", *_pinned(unused_port()), "socks", "--listen", "127.0.0.1:0"
    )
    try:
        wait_until(lambda: "%" in process.said())
        start = monotonic()
        process.signal(number)
        assert process.wait(10) in codes
        assert monotonic() - start < 5
        assert "Traceback" not in process.said()
    finally:
        if process.alive:
            process.kill()


def test_a_client_whose_relay_dies_in_the_end_still_ends(network: Network, web: WebTarget) -> None:
    """The first hop is frozen, so that nothing it is sent is taken."""
    proxy = network.proxy("--hops", "5")
    with Target(flood) as target:
        socks = [proxy.socks(target.port)]
        for relay in network.relays:
            relay.signal(signal.SIGSTOP)
        try:
            start = monotonic()
            assert proxy.stop() == 0
            assert monotonic() - start < 7
        finally:
            for relay in network.relays:
                relay.signal(signal.SIGCONT)
        for sock in socks:
            with sock:
                try:
                    receive_all(sock)
                except ConnectionResetError:
                    pass
    network.wait_listed(len(network.relays))
