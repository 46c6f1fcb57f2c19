"""Real programs through the proxy port, on a private host where only the exits can resolve the targets' names."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.launched import Launched
from tests.system.private_host import ADDRESS, PrivateHost, Resolver, need, need_namespaces
from tests.system.programs_servers import (
    OBJECTS,
    GitServer,
    PageHandler,
    Server,
    certificates,
    inetd,
    repository,
    sshd,
)
from tests.system.targets import Target, digest_of

pytestmark = pytest.mark.system
PAYLOAD = random.Random(7).randbytes(1_000_003)
LONGEST_NAME = ".".join(["n" * 63] * 4)  # 255 bytes
LONG_NAME = LONGEST_NAME[5:]  # curl takes no longer one in SOCKS4a
NAMES = ["origin.test", "git.test", "ssh.test", LONGEST_NAME, LONG_NAME, *(f"a{number}.test" for number in range(OBJECTS))]
POLICY = f"accept 127.0.0.0/8:*, accept {ADDRESS}/32:*"


@dataclass(frozen=True)
class Port:
    """A proxy port, and where its users are: a host that knows no name of a target."""

    host: PrivateHost
    beyond: PrivateHost  # where the relays are
    resolver: Resolver
    address: str
    log: Path

    @property
    def number(self) -> str:
        """The port alone."""
        return self.address.rpartition(":")[2]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    """Three relays and a client as real processes."""
    need_namespaces()
    folder = tmp_path_factory.mktemp("programs")
    with ExitStack() as stack:
        beyond = stack.enter_context(PrivateHost(folder / "beyond", {ADDRESS: " ".join(NAMES)}))
        host = stack.enter_context(PrivateHost(folder / "here", {}, beside=beyond))
        resolver = stack.enter_context(Resolver(beyond))
        policy = ("--exit-policy", POLICY)
        network = stack.enter_context(Launched(folder / "network", 3, *policy, where=beyond.command))
        log = folder / "client.log"
        address = stack.enter_context(network.proxy(log, "--hops", "3", where=host.command))
        yield Port(host, beyond, resolver, address, log)


@pytest.fixture(scope="module")
def site(port: Port) -> Iterator[Server]:
    with port.beyond.make(lambda: Server(PageHandler)) as site:
        yield site


def test_a_query_of_this_host_would_be_seen(port: Port) -> None:
    """Without this the proof below would prove nothing."""
    assert port.host.run("getent", "hosts", "control.test").returncode == 2
    assert "control.test" in port.resolver.asked
    port.resolver.asked.clear()
    assert port.beyond.run("getent", "hosts", "origin.test").stdout.split()[:2] == [ADDRESS.encode(), b"origin.test"]
    assert port.host.run("getent", "hosts", "localhost").returncode == 0
    assert not port.resolver.asked


@pytest.fixture(autouse=True)
def no_query_leaves(port: Port) -> Iterator[None]:
    """No DNS query leaves the client process, nor a program that leaves names to it."""
    port.resolver.asked.clear()
    yield
    assert not port.resolver.asked


# ---- curl


def curl(port: Port, url: str, *options: str) -> bytes:
    [program] = need("curl")
    done = port.host.run(program, "-sSf", "--max-time", "20", *options, url)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("user", [None, "alice:sesame", "u" * 255 + ":" + "p" * 255], ids=["nobody", "user", "longest"])
@pytest.mark.parametrize("form", ["socks5h", "socks4a", "http"])
def test_curl_by_name(port: Port, site: Server, form: str, user: str | None) -> None:
    if form == "socks4a" and user is not None:
        user = user.partition(":")[0]  # it has no password
    options = ["--proxy", f"{form}://{port.address}", *(["--proxytunnel"] if form == "http" else [])]
    options += ["--proxy-user", user] if user is not None else []
    body = curl(port, f"http://origin.test:{site.port}/bytes/1000003", *options)
    assert hashlib.sha256(body).hexdigest() == digest_of(1_000_003)


@pytest.mark.parametrize("form", ["socks5", "socks4"])
def test_curl_by_address(port: Port, site: Server, form: str) -> None:
    url = f"http://{ADDRESS}:{site.port}/bytes/100003"
    body = curl(port, url, "--proxy", f"{form}://{port.address}")
    assert hashlib.sha256(body).hexdigest() == digest_of(100_003)
    assert "curl asks for addresses" in port.log.read_text()
    assert port.log.read_text().count("asks for addresses") == 1, "once per program"
    assert ADDRESS not in port.log.read_text()


@pytest.mark.parametrize(("form", "name"), [("socks5h", LONGEST_NAME), ("socks4a", LONG_NAME), ("http", LONGEST_NAME)])
def test_curl_with_the_longest_name(port: Port, site: Server, form: str, name: str) -> None:
    options = ["--proxytunnel"] if form == "http" else []
    url = f"http://{name}:{site.port}/bytes/1"
    assert len(curl(port, url, "--proxy", f"{form}://{port.address}", *options)) == 1


# ---- git


def cloned(port: Port, folder: Path, url: str, *options: str) -> bytes:
    """What the repository at `url` holds."""
    known = {"GIT_COMMITTER_EMAIL": "a@b.test", "GIT_AUTHOR_EMAIL": "a@b.test"}  # else it looks its own host up
    done = port.host.run("git", *options, "clone", "-q", url, folder / "clone", env=known)
    assert done.returncode == 0, done.stderr
    return (folder / "clone" / "payload").read_bytes()


@pytest.mark.parametrize("form", ["socks5h", "http"])
def test_git_over_https(port: Port, tmp_path: Path, form: str) -> None:
    need("git")
    authority, context = certificates(tmp_path, "git.test")
    root = repository(tmp_path, PAYLOAD)
    with port.beyond.make(lambda: GitServer(root, context)) as server:
        options = ["-c", f"http.proxy={form}://{port.address}", "-c", f"http.sslCAInfo={authority}"]
        assert cloned(port, tmp_path, f"https://git.test:{server.port}/r.git", *options) == PAYLOAD


def test_the_git_protocol_with_a_half_closing_helper(port: Port, tmp_path: Path) -> None:
    """`nc -N` ends its sending when git does; what comes back must not be lost."""
    need("git", "nc")
    helper = tmp_path / "helper"
    helper.write_text(f'#!/bin/sh\nexec nc -N -X 5 -x {port.address} "$1" "$2"\n')
    helper.chmod(0o700)
    root = repository(tmp_path, PAYLOAD)
    daemon = inetd("git", "daemon", "--inetd", "--export-all", f"--base-path={root}", root)
    with port.beyond.make(lambda: Target(daemon, host="0.0.0.0")) as target:
        url = f"git://git.test:{target.port}/r.git"
        assert cloned(port, tmp_path, url, "-c", f"core.gitProxy={helper}") == PAYLOAD


# ---- ssh


def test_openssh_with_nc(port: Port, tmp_path: Path) -> None:
    *_, program = need("ssh", "ssh-keygen", "nc", "sshd")
    serve, command = sshd(tmp_path, program)
    with port.beyond.make(lambda: Target(serve, host="0.0.0.0")) as target:
        helper = f"nc -N -X 5 -x {port.address} %h %p"
        done = port.host.run(*command(target.port, helper, "sha256sum; echo enough >&2; exit 7"), send=PAYLOAD)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split()[0].decode() == hashlib.sha256(PAYLOAD).hexdigest()
    assert done.stderr == b"enough\n"


# ---- programs made for Tor


def test_torsocks(port: Port, site: Server) -> None:
    torsocks, program = need("torsocks", "curl")
    url = f"http://origin.test:{site.port}/bytes/100003"
    done = port.host.run(torsocks, "--address", "127.0.0.1", "--port", port.number, program, "-sSf", url)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == digest_of(100_003)


def test_tor_resolve(port: Port) -> None:
    [program] = need("tor-resolve")
    for options, answer in (
        (["-5", "origin.test"], ADDRESS),
        (["-4", "origin.test"], ADDRESS),
        (["-x", ADDRESS], "origin.test"),
    ):
        done = port.host.run(program, *options, port.address)
        assert done.stdout.decode().strip() == answer, done.stderr
    assert port.host.run(program, "no-such-name.test", port.address).returncode


def test_proxychains(port: Port, site: Server, tmp_path: Path) -> None:
    proxychains, program = need("proxychains4", "curl")
    config = tmp_path / "proxychains.conf"
    config.write_text(f"strict_chain\nproxy_dns\n[ProxyList]\nsocks5 127.0.0.1 {port.number}\n")
    url = f"http://origin.test:{site.port}/bytes/100003"
    done = port.host.run(proxychains, "-q", "-f", config, program, "-sSf", url)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == digest_of(100_003)


# ---- a browser

NO_NAMES = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=800,400"),
)


def browsed(host: PrivateHost, site: Server, folder: Path, *options: str) -> bytes:
    """A screenshot of the page, all of whose pictures came, each from its own host."""
    [program] = need("chromium")
    site.seen.clear()
    picture = folder / "screenshot.png"
    url = f"http://origin.test:{site.port}/"
    profile = f"--user-data-dir={folder / 'profile'}"
    done = host.run(program, *BROWSER, profile, f"--screenshot={picture}", *options, url, seconds=60.0)
    assert picture.is_file(), done.stderr
    assert f"origin.test/loaded/{OBJECTS}" in site.seen
    assert {f"a{number}.test/picture/{number}" for number in range(OBJECTS)} <= set(site.seen)
    return picture.read_bytes()


def test_a_browser_loads_fifty_objects_by_names_that_only_the_exit_resolves(
    port: Port, site: Server, tmp_path: Path
) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    proxied = browsed(port.host, site, tmp_path / "with", f"--proxy-server=socks5://{port.address}", NO_NAMES)
    assert proxied == browsed(port.beyond, site, tmp_path / "without")


def test_a_browser_that_opens_the_port_gets_the_page(port: Port, tmp_path: Path) -> None:
    [program] = need("chromium")
    url = f"http://{port.address}/"
    done = port.host.run(program, *BROWSER, NO_NAMES, f"--user-data-dir={tmp_path}", "--dump-dom", url, seconds=60.0)
    assert b"<h1>This is a proxy port" in done.stdout
