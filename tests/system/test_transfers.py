"""Real processes, curl and sockets: every byte arrives, in both directions, and nothing piles up."""

import hashlib
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.net.in_process import receive_all, receive_exactly
from tests.system.network import PATIENCE, Network, Process, ProxyProcess, environment, wait_until
from tests.system.targets import (
    BLOCK,
    VALUES,
    Target,
    WebTarget,
    checksum,
    digest_of,
    echo,
    finish_then_read,
    flood,
    pieces,
)

pytestmark = pytest.mark.system
MB = 1_000_000


def _download(proxy: ProxyProcess, url: str, seconds: float = PATIENCE) -> tuple[int, str]:
    """Count and SHA-256 of what curl gets."""
    command = ["curl", "--silent", "--show-error", "--socks5-hostname", proxy.address, url]
    digest, count = hashlib.sha256(), 0
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        while data := curl.stdout.read(262_144):
            digest.update(data)
            count += len(data)
        assert curl.wait(seconds) == 0
    return count, digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, 65_537, 200 * MB, pytest.param(1_000 * MB, marks=pytest.mark.soak)])
def test_downloads_are_exact(proxy: ProxyProcess, web: WebTarget, size: int) -> None:
    assert _download(proxy, f"{web.url}/bytes/{size}") == (size, digest_of(size))


@pytest.mark.parametrize("size", [0, 1, 200 * MB, pytest.param(1_000 * MB, marks=pytest.mark.soak)])
def test_uploads_are_exact(proxy: ProxyProcess, web: WebTarget, tmp_path: Path, size: int) -> None:
    file = tmp_path / "upload"
    with file.open("wb") as upload:
        for piece in pieces(size):
            upload.write(piece)
    done = proxy.curl(web.url, "--upload-file", str(file), "--header", "Expect:", seconds=max(PATIENCE, size / MB))
    assert (done.returncode, done.stdout.decode()) == (0, digest_of(size))


def test_every_value_of_a_byte_and_zeros_at_the_end_arrive(proxy: ProxyProcess, web: WebTarget) -> None:
    assert proxy.curl(f"{web.url}/values").stdout == VALUES


def test_half_close_works_in_both_directions(proxy: ProxyProcess) -> None:
    with Target(checksum) as target, proxy.socks(target.port) as sock:
        for piece in pieces(10 * MB):
            sock.sendall(piece)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock).decode() == f"{10 * MB} {digest_of(10 * MB)}"
    finish_then_read.heard.clear()  # type: ignore[attr-defined]
    with Target(finish_then_read) as target, proxy.socks(target.port) as sock:
        assert receive_all(sock) == b"first"
        sock.sendall(b"second")
        sock.shutdown(socket.SHUT_WR)
        assert finish_then_read.heard.wait(PATIENCE)  # type: ignore[attr-defined]


def test_only_first_hops_ever_see_the_client(network: Network, proxy: ProxyProcess, web: WebTarget) -> None:
    """Every path has all five relays, and there are three circuits at most that may begin at different ones."""
    assert proxy.curl(f"{web.url}/bytes/1").returncode == 0
    dialled = {theirs for _, theirs in proxy.connections()} - {network.gateway.address}
    assert 1 <= len(dialled & {relay.address for relay in network.relays}) <= 3
    assert dialled <= {relay.address for relay in network.relays}
    own = {ours for ours, _ in proxy.connections()}
    seeing = [relay for relay in network.relays if own & {theirs for _, theirs in relay.connections()}]
    assert {relay.address for relay in seeing} == dialled


def test_a_thousand_requests_use_a_constant_number_of_links(
    network: Network, proxy: ProxyProcess, web: WebTarget
) -> None:
    ports = {relay.address for relay in network.relays}

    def links() -> int:
        members = [*network.relays, proxy]
        return sum(theirs in ports for member in members for _, theirs in member.connections())

    assert proxy.curl(f"{web.url}/bytes/1").returncode == 0
    before = links()
    files = proxy.descriptors(), [relay.descriptors() for relay in network.relays]
    requests = web.requests
    command = [
        "xargs",
        "-P",
        "8",
        "-n",
        "50",
        "curl",
        "-sS",
        "--socks5-hostname",
        proxy.address,
        "-H",
        "Connection: close",
    ]
    urls = "\n".join([f"{web.url}/bytes/1"] * 1_000)
    done = subprocess.run(
        command, input=urls.encode(), env=environment(), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, len(done.stdout)) == (0, 1_000)
    assert web.requests - requests == 1_000
    # A spare circuit that is built meanwhile may bring a few links; a link for each request would be 1,000.
    assert links() <= before + 10
    wait_until(lambda: proxy.descriptors() <= files[0] + 10)
    wait_until(lambda: all(relay.descriptors() <= count + 10 for relay, count in zip(network.relays, files[1], strict=True)))


def test_clients_that_flood_each_other_through_the_same_relays_never_stall(
    network: Network, web: WebTarget, tmp_path: Path
) -> None:
    file = tmp_path / "upload"
    file.write_bytes(BLOCK * 20)
    proxies = [network.proxy("--hops", "2") for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            downloads = [pool.submit(_download, proxy, f"{web.url}/bytes/{20 * MB}") for proxy in proxies]
            uploads = [
                pool.submit(proxy.curl, web.url, "--upload-file", str(file), "--header", "Expect:")
                for proxy in proxies
            ]
            assert all(future.result(PATIENCE) == (20 * MB, digest_of(20 * MB)) for future in downloads)
            assert all(future.result(PATIENCE).returncode == 0 for future in uploads)
    assert [proxy.stop() for proxy in proxies] == [0, 0]


def test_a_stalled_reader_costs_no_process_more_than_its_windows(network: Network, web: WebTarget) -> None:
    """Sixteen streams whose reader has stopped hold what their windows allow; others go on at speed."""
    proxy = network.proxy("--hops", "3")
    with Target(flood) as target:
        before = {process.name: process.memory() for process in (proxy, *network.relays)}
        socks = [proxy.socks(target.port) for _ in range(16)]
        assert all(sock.recv(1) for sock in socks)
        for _ in range(3):
            assert _download(proxy, f"{web.url}/bytes/{20 * MB}")[0] == 20 * MB
        for process in (proxy, *network.relays):
            grown = process.memory() - before[process.name]
            assert grown < 20 * MB, f"{process.name} has grown by {grown / MB:.0f} MB"
        for sock in socks:
            sock.close()
    assert proxy.stop() == 0


def test_ten_clients_at_once(network: Network, web: WebTarget) -> None:
    with ThreadPoolExecutor(10) as pool:
        proxies = list(pool.map(lambda _: network.proxy("--suite", "aes-gcm"), range(10)))
        answers = list(pool.map(lambda proxy: proxy.curl(f"{web.url}/values").stdout, proxies))
        assert answers == [VALUES] * 10
        assert list(pool.map(lambda proxy: proxy.stop(), proxies)) == [0] * 10


def test_a_client_that_is_killed_leaves_nothing_at_the_relays_and_may_come_back(
    network: Network, web: WebTarget
) -> None:
    counts = [(relay.descriptors(), relay.threads()) for relay in network.relays]
    first = network.proxy("--hops", "5")
    with Target(flood) as target:
        with first.socks(target.port) as sock:
            receive_exactly(sock, MB)
            first.kill()
        wait_until(lambda: all(_few(relay, count) for relay, count in zip(network.relays, counts, strict=True)))
    second = network.proxy("--hops", "5")
    assert _download(second, f"{web.url}/bytes/{MB}") == (MB, digest_of(MB))
    assert second.stop() == 0


def _few(relay: Process, counts: tuple[int, int]) -> bool:
    """Not more than before; links between relays stay, and each has two threads and a descriptor."""
    return relay.descriptors() <= counts[0] + 8 and relay.threads() <= counts[1] + 16


def test_the_echo_of_a_byte_is_quick_while_others_download(proxy: ProxyProcess, web: WebTarget) -> None:
    with Target(echo) as target, proxy.socks(target.port) as sock, ThreadPoolExecutor(1) as pool:
        download = pool.submit(_download, proxy, f"{web.url}/bytes/{50 * MB}")
        while not download.done():
            token = os.urandom(64)
            sock.sendall(token)
            assert receive_exactly(sock, 64) == token
        assert download.result() == (50 * MB, digest_of(50 * MB))
