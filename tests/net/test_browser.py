"""A real browser through the network: it loads what only the exit can name, and has no other way out."""

import http.server
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.roles.client.client import Client
from common.roles.prompt import browser
from common.roles.prompt.browser import Browser, BrowserError, Program, find
from common.roles.prompt.status_page import StatusPage
from tests.net.in_process import InProcess, wait_until
from tests.system.targets import PATIENCE

NAME = "only-the-exit-knows.example"
PAGE = b"""<!doctype html><title>waiting</title><body><img src="/object"><p id="p">hello through relays</p><script>
const found = [], peer = new RTCPeerConnection({iceServers: [{urls: "stun:127.0.0.1:9"}]})
peer.createDataChannel("x")
peer.onicecandidate = event => { if (event.candidate) found.push(event.candidate.candidate) }
peer.createOffer().then(offer => peer.setLocalDescription(offer))
setTimeout(() => { document.title = "candidates " + found.length }, 1500)
</script>"""


class Site(http.server.ThreadingHTTPServer):
    """One page with an object; remembers what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []  # host and path


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/" else "image/png")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.05,), name="site")
        thread.start()
        yield site
        site.shutdown()
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network, network.client(3) as client:
        yield client


@pytest.fixture
def asked_names(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Makes one name known, to exits only: which thread asked for which name."""
    real, asked = socket.getaddrinfo, []

    def known(host: str, *args: object, **more: object) -> object:
        asked.append((threading.current_thread().name, host))
        return real("127.0.0.1" if host == NAME else host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    return asked


@pytest.fixture
def chromium() -> Program:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        assert os.environ.get("CI") != "true", "CI must have a Chromium"
        pytest.skip("no Chromium on this machine")
    return Program(path, firefox=False)


HEADLESS = ["--headless=new", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
HEADLESS += ["--no-sandbox"] if os.geteuid() == 0 else []


def dump(client: Client, program: Program, url: str, local: Address | None = None) -> str:
    """The page as a headless run sees it; its profile is gone afterwards."""
    with Browser(client, program, url, local=local, extra=HEADLESS, output=subprocess.PIPE) as opened:
        profile = opened.profile
        assert profile.stat().st_mode & 0o777 == 0o700
        text, _ = opened.process.communicate(timeout=PATIENCE)
    assert not profile.exists()
    assert isinstance(text, bytes)
    return text.decode()


def test_a_browser_loads_what_only_the_exit_can_name_and_webrtc_has_no_way_out(
    client: Client, site: Site, chromium: Program, asked_names: list[tuple[str, str]]
) -> None:
    shown = dump(client, chromium, f"http://{NAME}:{site.server_port}/")
    assert "hello through relays" in shown
    assert "<title>candidates 0</title>" in shown
    assert {path for _, path in site.asked} >= {"/", "/object"}
    assert {host for host, _ in site.asked} == {f"{NAME}:{site.server_port}"}
    assert all(thread.startswith("resolver") for thread, host in asked_names if host == NAME)
    strangers = {host for _, host in asked_names} - {NAME, "127.0.0.1"}
    assert not strangers, "the browser asked for more than the page"


def running(group: int) -> list[str]:
    """The processes of a group that are not only waiting to be forgotten."""
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    fields = [line.split() for line in listed.splitlines()]
    return [state for pgid, state in fields if int(pgid) == group and not state.startswith("Z")]


def test_this_machines_own_servers_are_reached_by_the_exit_only(client: Client, site: Site, chromium: Program) -> None:
    before = {view.number: view.bytes_out for view in client.circuits()}
    assert "hello through relays" in dump(client, chromium, f"http://127.0.0.1:{site.server_port}/")
    after = {view.number: view.bytes_out for view in client.circuits()}
    assert any(after[number] > before.get(number, 0) for number in after), "loopback went around the network"


def test_the_networks_own_page_opens_without_the_network(client: Client, chromium: Program) -> None:
    with StatusPage(client) as page:
        shown = dump(client, chromium, page.url, page.address)
    assert "<title>Network test</title>" in shown
    assert all(entry.descriptor.nickname in shown for entry in client.relays())


def test_a_running_browser_and_its_helpers_end_with_close(client: Client, site: Site, chromium: Program) -> None:
    extra = [flag for flag in HEADLESS if "dump" not in flag and "virtual" not in flag]
    opened = Browser(client, chromium, f"http://127.0.0.1:{site.server_port}/", extra=extra)
    group = opened.process.pid
    assert opened.wait(0.5) is None
    opened.close()
    opened.close()
    assert not opened.profile.exists()
    wait_until(lambda: not running(group))
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((opened.proxy_address.host, opened.proxy_address.port)).close()


def test_every_way_around_the_proxy_is_closed_in_what_browsers_are_told(tmp_path: Path) -> None:
    proxy, own = Address("127.0.0.1", 4_321), Address("127.0.0.1", 99)
    command = Program("chromium", firefox=False).command(tmp_path, proxy, "http://x/", None)
    assert "--proxy-server=socks5://127.0.0.1:4321" in command
    assert "--proxy-bypass-list=<-loopback>" in command
    assert {"--disable-quic", "--force-webrtc-ip-handling-policy=disable_non_proxied_udp"} <= set(command)
    assert any(flag.startswith("--host-resolver-rules=MAP * ~NOTFOUND") for flag in command)
    assert f"--user-data-dir={tmp_path}" in command
    Program("firefox", firefox=True).command(tmp_path, proxy, "http://x/", own)
    prefs = (tmp_path / "user.js").read_text()
    for pref in (
        'user_pref("network.proxy.type", 1);',
        'user_pref("network.proxy.socks_port", 4321);',
        'user_pref("network.proxy.socks_remote_dns", true);',
        'user_pref("network.proxy.no_proxies_on", "127.0.0.1:99");',
        'user_pref("network.http.http3.enable", false);',
        'user_pref("media.peerconnection.enabled", false);',
        'user_pref("network.trr.mode", 5);',
    ):
        assert pref in prefs


def test_a_browser_is_found_only_where_it_can_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "firefox"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert find() is None
    monkeypatch.setenv("DISPLAY", ":0")
    assert find() == Program(str(program), firefox=True)
    assert find(browser.NONE) is None
    assert find(str(program)) == Program(str(program), firefox=True)
    with pytest.raises(BrowserError, match="there is no browser netscape"):
        find("netscape")


def test_a_browser_that_cannot_start_leaves_nothing(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("not a program")
    before = set(Path(os.environ.get("TMPDIR", "/tmp")).glob("onion-network-browser-*"))
    with pytest.raises(BrowserError, match="cannot be started"):
        Browser(client, Program(str(broken), firefox=False), "http://x/")
    assert set(Path(os.environ.get("TMPDIR", "/tmp")).glob("onion-network-browser-*")) <= before
