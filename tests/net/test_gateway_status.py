"""The status page of a real gateway over real HTTP: what it shows, whom it refuses, and that it disturbs nobody."""

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis.strategies import text
from prometheus_client.parser import text_string_to_metric_families

from common.directory.addresses import Address
from common.errors import ConfigError
from common.net.deadline import Deadline
from common.roles import status_http
from common.roles.client.bootstrap import DirectoryClient
from common.roles.gateway.gateway import Gateway
from common.roles.gateway.snapshot import GatewaySnapshot
from common.roles.gateway.status_pages import PAGES
from common.roles.relay.registration import RegistrationState
from common.roles.status_http import MAX_HEAD, MAX_REQUESTS, REST, Page, StatusServer, is_host_allowed
from tests.net.registering import NETWORK, PATIENCE, registered
from tests.net.test_gateway import running

LOOPBACK = Address("127.0.0.1", 0)


class Site:
    """A gateway and its status page."""

    def __init__(self, gateway: Gateway, server: StatusServer) -> None:
        self.gateway = gateway
        self.address = server.address

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response, response.read()

    def connect(self) -> socket.socket:
        return socket.create_connection((self.address.host, self.address.port), PATIENCE)

    def say(self, request: bytes) -> bytes:
        """The whole answer to bytes that need be no request."""
        with self.connect() as sock:
            sock.sendall(request)
            return b"".join(iter(lambda: sock.recv(65_536), b""))

    def wait_for_relays(self, count: int) -> None:
        deadline = Deadline(PATIENCE)
        while len(json.loads(self.ask("/status.json")[1])["relays"]) != count:
            assert not deadline.expired


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    before = set(threading.enumerate())
    with running(tmp_path / "gateway") as gateway:
        with StatusServer(LOOPBACK, PAGES, gateway.snapshot) as server:
            yield Site(gateway, server)
    assert set(threading.enumerate()) <= before


def test_the_pages_show_a_relay_that_registers(site: Site, tmp_path: Path) -> None:
    with registered(tmp_path / "keys", "gazelle", site.gateway.address, site.gateway.identity) as relay:
        relay.wait_for(RegistrationState.LISTED)
        site.wait_for_relays(1)
        response, page = site.ask("/")
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        shown = page.decode()
        identity = relay.identity.public.hex()
        for word in ("gazelle", str(relay.port.address), identity[:16], "running", site.gateway.identity.hex()):
            assert word in shown
        told = json.loads(site.ask("/status.json?pretty")[1])
        assert told["relays"][0]["identity"] == identity
        assert told["document"]["signatures"] == [site.gateway.identity.hex()]
        response, metrics = site.ask("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(metrics.decode())
            for sample in family.samples
        }
        assert samples["onion_gateway_relays"] == 1


def test_head_is_get_without_the_body(site: Site) -> None:
    response, body = site.ask("/status.json", "HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 100


@pytest.mark.parametrize("path", ["/x", "x", "/status.json/", "/../etc/passwd", "http://x/", "/%2e", "/metrics%00"])
def test_other_paths_are_not_found(site: Site, path: str) -> None:
    answer = site.say(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\n404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "GARBAGE"])
def test_other_methods_are_not_allowed(site: Site, method: str) -> None:
    response, body = site.ask("/", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert body == b"405 Method Not Allowed\n"


def test_a_post_with_a_body_hears_why(site: Site) -> None:
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000\r\n\r\n" + bytes(30_000)
    assert site.say(request).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/nowhere"])
def test_a_page_runs_loads_and_leaves_nothing_in_the_browser(site: Site, path: str) -> None:
    response, body = site.ask(path)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Server" not in response.headers
    assert b"<script" not in body


# ---- whom it refuses


def test_dns_rebinding_reads_nothing(site: Site) -> None:
    """A web site's name that points at this server."""
    for host in ("evil.example", f"evil.example:{site.address.port}", "127.0.0.1.evil.example", "localhost.evil"):
        response, body = site.ask("/status.json", Host=host)
        assert (response.status, body) == (421, b"421 Misdirected Request\n")
    assert site.ask("/", Host="localhost")[0].status == 200
    assert site.say(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert site.say(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("host", "listen", "allowed"),
    [
        ("127.0.0.1:80", "127.0.0.1", True),
        ("127.8.8.8", "127.0.0.1", True),
        ("[::1]:80", "127.0.0.1", True),
        ("LOCALHOST:", "::1", True),
        ("status.example.org:9080", "status.example.org", True),
        ("Status.Example.Org", "status.example.org", True),
        ("other.example.org", "status.example.org", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.8", "192.0.2.7", False),
        ("192.0.2.8", "0.0.0.0", True),
        ("[2001:db8::1]:9", "::", True),
        ("evil.example", "0.0.0.0", False),
        ("0.0.0.0", "127.0.0.1", False),
        ("", "127.0.0.1", False),
        (":80", "127.0.0.1", False),
        ("localhost:80:80", "127.0.0.1", False),
        ("localhost@evil.example", "127.0.0.1", False),
        ("[localhost]", "127.0.0.1", False),
        ("2130706433", "127.0.0.1", False),
        ("localhost\x00", "127.0.0.1", False),
    ],
)
def test_which_hosts_are_allowed(host: str, listen: str, allowed: bool) -> None:
    assert is_host_allowed(host, Address(listen, 9_080)) is allowed


@given(text())
def test_no_host_header_is_a_bug(given_host: str) -> None:
    assert is_host_allowed(given_host, LOOPBACK) in (True, False)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 30_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 3_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_an_oversized_request_is_refused(site: Site, request_head: bytes) -> None:
    assert site.say(request_head).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("request_head", [b"\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n"])
def test_what_is_no_http_is_refused_without_an_echo(site: Site, request_head: bytes) -> None:
    answer = site.say(request_head)
    assert b"\x16" not in answer and b"9.9" not in answer
    assert not answer.startswith(b"HTTP/1.1 200")
    assert site.ask()[0].status == 200


def test_a_slow_client_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not prolong it."""
    monkeypatch.setattr(status_http, "REQUEST_TIME", 0.5)
    start = time.monotonic()
    with site.connect() as sock:
        sock.settimeout(0.1)
        while True:
            try:
                sock.sendall(b"G")
                if sock.recv(1) == b"":
                    break
            except TimeoutError:
                assert time.monotonic() - start < PATIENCE
            except OSError:
                break
    assert time.monotonic() - start >= 0.4


def test_many_connections_at_once_do_not_disturb_the_gateway(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_http, "REQUEST_TIME", 2.0)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(site.connect()) for _ in range(200)]
        threads = [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]
        assert len(threads) <= MAX_REQUESTS
        client = DirectoryClient([(site.gateway.address, site.gateway.identity)], NETWORK)
        start = time.monotonic()
        client.fetch(Deadline(PATIENCE))
        assert time.monotonic() - start < 2
        for sock in silent:
            assert sock.recv(1) == b""  # too many, or too slow
    assert site.ask()[0].status == 200


def test_a_page_is_made_once_for_a_crowd() -> None:
    made: list[GatewaySnapshot] = []

    def render(snapshot: GatewaySnapshot, now: float) -> bytes:
        made.append(snapshot)
        return b"page"

    snapshot = GatewaySnapshot("n", bytes(32), (), 0, (), {}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, True)
    pages = status_http._Pages({"/": Page("x", render)}, lambda: snapshot)
    for _ in range(50):
        assert pages.get("/") == b"page"
    assert len(made) == 1


def test_a_snapshot_that_takes_long_rests_as_a_page_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def snapshot() -> int:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(status_http, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: 0.0))
    pages = status_http._Pages({"/": Page("x", lambda snapshot, _now: b"%d" % snapshot)}, snapshot)
    assert pages.get("/") == b"1"
    now += REST - 1
    assert pages.get("/") == b"1"
    now += 1
    assert pages.get("/") == b"%d" % (1 + REST + 1)


def test_no_client_address_appears(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A client of the gateway and one of the page, from an address that nobody else has."""
    caplog.set_level(logging.DEBUG)
    client = DirectoryClient([(site.gateway.address, site.gateway.identity)], NETWORK)
    client.fetch(Deadline(PATIENCE))
    source = "127.0.0.77"
    pages = []
    for path in ("/", "/status.json", "/metrics", "/nowhere"):
        with socket.create_connection((site.address.host, site.address.port), PATIENCE, (source, 0)) as sock:
            own_port = sock.getsockname()[1]
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            pages.append(b"".join(iter(lambda: sock.recv(65_536), b"")).decode())
            assert f":{own_port}" not in pages[-1]
    said = caplog.text + "".join(pages)
    assert source not in said
    assert "GET" not in caplog.text


def test_a_taken_port_is_a_sentence(site: Site) -> None:
    with pytest.raises(ConfigError) as caught:
        StatusServer(site.address, PAGES, site.gateway.snapshot)
    assert str(caught.value) == f"http: cannot listen on {site.address}: address already in use; choose another port"


def test_an_end_does_not_wait_for_a_silent_client(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(running(tmp_path / "gateway"))
        with StatusServer(LOOPBACK, PAGES, gateway.snapshot) as server:
            site = Site(gateway, server)
            stack.enter_context(site.connect())
            site.ask()  # so the silent one was accepted before
            start = time.monotonic()
        assert time.monotonic() - start < status_http.REQUEST_TIME / 2
