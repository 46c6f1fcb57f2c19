"""`git`: the REST API over real HTTPS through the network, and each way it can fail in a sentence."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.roles.client.client import Client
from common.roles.prompt import github
from common.roles.prompt.github import GitHubError, ask
from tests.net.in_process import InProcess, wait_until
from tests.system.targets import PATIENCE, Target, unused_port

MANY = 250  # repositories of the user many: three pages


def make_authority(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate of it for localhost: paths of both, and of the latter's key."""
    now = datetime.now(UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("test authority", "localhost")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]

    def certificate(at: int) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(names[at]).issuer_name(names[0])
        builder = builder.public_key(keys[at].public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))

    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    key = x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key())
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key)  # Python 3.13 wants to see it
    authority = certificate(0).add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
    authority = authority.add_extension(key, False)
    server = certificate(1).add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    server = server.add_extension(issued_by, False)
    paths = folder / "authority.pem", folder / "server.pem", folder / "server.key"
    for path, builder in zip(paths, (authority, server), strict=False):
        path.write_bytes(builder.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM))
    paths[2].write_bytes(keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


class Api(ThreadingHTTPServer):
    """Behaves like api.github.com; some users' answers are bad."""

    daemon_threads = True

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_port}"
        self.asked: list[str] = []
        self.agents: set[str] = set()

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked has gone."""


class _Handler(BaseHTTPRequestHandler):
    server: Api
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(self.path)
        self.server.agents.add(self.headers.get("User-Agent", ""))
        _, _, user, *more = parts.path.split("/")
        if more:
            self._page(user, int(parse_qs(parts.query).get("page", ["1"])[0]))
            return
        match user:
            case "octocat" | "many" | "strange" | "elsewhere":
                name = "Mona\x1b[31m" if user == "octocat" else None
                count = MANY if user == "many" else 8
                self._json(200, {"login": user, "name": name, "public_repos": count, "extra": [1]})
            case "limited":
                reset = str(int(time.time()) + 1_500)
                self._json(403, {}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})
            case "slow-down":
                self._json(429, {}, {"Retry-After": "61"})
            case "forbidden":
                self._json(403, {})
            case "broken":
                self._json(502, {})
            case "nonsense":
                self._send(200, b"<html>hello</html>")
            case "deep":
                self._send(200, b"[" * 100_000)
            case "untyped":
                self._json(200, {"login": "untyped", "public_repos": "8"})
            case "endless":
                self._endless()
            case "drip":
                self._drip()
            case _:
                self._json(404, {"message": "Not Found"})

    def _page(self, user: str, page: int) -> None:
        count = MANY if user == "many" else 8
        start = (page - 1) * 100
        repositories = [
            {
                "name": f"{user}-{number}",
                "description": "d\x07" if number else None,
                "language": "C",
                "stargazers_count": number,
                "fork": False,
                "html_url": f"https://github.com/{user}/{number}",
            }
            for number in range(start, min(count, start + 100))
        ]
        if user == "strange":
            self._json(200, {"message": "no list"})
            return
        host = "https://evil.example" if user == "elsewhere" else self.server.url
        more = start + 100 < count or user == "elsewhere"
        link = {"Link": f'<{host}/users/{user}/repos?page={page + 1}>; rel="next"'} if more else {}
        self._json(200, repositories, link)

    def _json(self, code: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(code, json.dumps(value).encode(), headers)

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while True:
            self.wfile.write(b"[" * 65_536)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while True:
            self.wfile.write(b" ")
            time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network, network.client(3) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def api(files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    authority, certificate, key = files
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with Api(certificate, key) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="api")
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE)


def sentence(client: Client, api: str, user: str, *, repositories: bool = False, timeout: float = 20.0) -> str:
    with pytest.raises(GitHubError) as caught:
        ask(client, user, api=api, repositories=repositories, timeout=timeout)
    text = str(caught.value)
    assert text and "\n" not in text and "Traceback" not in text
    return text


def test_the_number_of_repositories_of_a_user(client: Client, api: Api) -> None:
    account = ask(client, "octocat", api=api.url + "/")
    assert (account.login, account.public_repos, account.repositories) == ("octocat", 8, None)
    assert account.name == "Mona [31m", "names do not drive the terminal"
    assert api.asked == ["/users/octocat"]
    assert api.agents == {"onion-network"}


def test_all_pages_of_repositories_are_followed(client: Client, api: Api) -> None:
    told: list[str] = []
    account = ask(client, "many", api=api.url, repositories=True, tell=told.append)
    assert account.repositories is not None
    assert len({repository.name for repository in account.repositories}) == MANY == account.public_repos
    assert account.repositories[3].stars == 3
    assert account.repositories[3].description == "d "
    assert len(api.asked) == 4
    assert any("200 of 250" in text for text in told)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("nobody", "GitHub knows no user nobody: check the spelling"),
        ("slow-down", "in 2 minutes"),
        ("limited", "in 25 minutes"),
        ("forbidden", "refuses to answer (403)"),
        ("broken", "answers 502"),
        ("nonsense", "makes no sense: it is no JSON"),
        ("deep", "makes no sense: it is no JSON"),
        ("untyped", "number of repositories are missing"),
        ("endless", "more than 8 MiB in one answer"),
        ("no user", "is no GitHub user name"),
        ("../admin", "is no GitHub user name"),
        ("-x", "is no GitHub user name"),
        ("", "is no GitHub user name"),
    ],
)
def test_each_failure_has_its_sentence(client: Client, api: Api, user: str, words: str) -> None:
    assert words in sentence(client, api.url, user)


def test_the_rate_limit_says_when_it_ends(client: Client, api: Api) -> None:
    text = sentence(client, api.url, "limited")
    clocks = [time.strftime("%H:%M:%S", time.localtime(time.time() + 1_500 + late)) for late in range(-5, 2)]
    assert any(f"until at {clock}" in text or f"until {clock}" in text for clock in clocks), text


def test_a_next_page_on_another_host_is_not_followed(client: Client, api: Api) -> None:
    assert "its next page is on another host" in sentence(client, api.url, "elsewhere", repositories=True)


def test_something_else_than_a_list_of_repositories_is_said_so(client: Client, api: Api) -> None:
    assert "a list of repositories was expected" in sentence(client, api.url, "strange", repositories=True)


def test_pages_without_end_end(client: Client, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github, "MAX_PAGES", 2)
    account = ask(client, "many", api=api.url, repositories=True)
    assert account.repositories is not None
    assert len(account.repositories) == 200


def test_an_answer_that_drips_ends_in_time_and_its_stream_too(client: Client, api: Api) -> None:
    start = time.monotonic()
    assert "had not answered after" in sentence(client, api.url, "drip", timeout=0.5)
    assert time.monotonic() - start < 5
    wait_until(lambda: not [stream for view in client.circuits() for stream in view.streams])


def test_a_server_without_a_valid_certificate_is_refused(
    client: Client, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate is not valid" in sentence(client, api.url, "octocat")
    assert not api.asked, "nothing may be said to a server that has not proved itself"


def test_a_certificate_for_another_name_is_refused(client: Client, api: Api) -> None:
    text = sentence(client, api.url.replace("localhost", "127.0.0.1"), "octocat")
    assert "certificate is not valid" in text


def test_no_network_is_a_sentence(client: Client) -> None:
    text = sentence(client, "https://no-such-name.invalid", "octocat")
    assert text == "GitHub could not be asked: no address is known for no-such-name.invalid: check the name"
    assert "refuses connections" in sentence(client, f"http://127.0.0.1:{unused_port()}", "octocat")


def test_garbage_is_a_sentence(client: Client) -> None:
    with Target(lambda sock, _ending: sock.sendall(b"\x00\xff" * 40_000)) as target:
        assert "could not be" in sentence(client, f"http://127.0.0.1:{target.port}", "octocat")
