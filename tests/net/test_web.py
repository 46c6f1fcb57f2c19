"""`web` over a whole network: pages as text, downloads that resume, and what servers may do without harm."""

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.roles.client.client import Client
from common.roles.prompt.download import Download
from common.roles.prompt.web import MAX_PAGE, PageError, complete_url, fetch
from tests.net.in_process import InProcess, wait_until
from tests.system.targets import BLOCK, PATIENCE, Target, pieces, unused_port, wait_reset

SIZE = 3_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network, network.client(3) as client:
        yield client


def streams(client: Client) -> int:
    return sum(len(view.streams) for view in client.circuits())


# ---- addresses


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("example.org", "http://example.org"),
        (" https://example.org/a ", "https://example.org/a"),
        ("host:8080/x", "http://host:8080/x"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_addresses_as_people_type_them(typed: str, url: str) -> None:
    assert complete_url(typed) == url


@pytest.mark.parametrize(
    "typed",
    ["ftp://x/", "file:///etc/passwd", "javascript:alert(1)", "mailto:a@b", "about:blank", "http://", "http://x:99999/", "http://[::1", ""],
)
def test_what_is_no_web_address_is_a_sentence(typed: str) -> None:
    with pytest.raises(PageError, match=r"use http:// or https://|names no host|is not a web address"):
        complete_url(typed)


# ---- pages


def answer(text: bytes) -> Target:
    """A server that says this to everybody."""

    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        sock.recv(65_536)
        sock.sendall(text)

    return Target(serve)


def test_a_page_is_shown_as_text_that_cannot_drive_the_terminal(client: Client) -> None:
    body = b"<title>T\x1b[2J</title><script>x</script><h1>Head</h1><p>caf\xe9 &amp; \x07more"
    with answer(b"HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=latin-1\r\n\r\n" + body) as target:
        page = fetch(client, f"http://127.0.0.1:{target.port}/")
    assert (page.title, page.text, page.size, page.cut) == ("T[2J", "Head\n\ncafé & more", len(body), False)


@pytest.mark.parametrize("charset", ["no-such", "base64", "idna", "a b"])
def test_a_strange_charset_is_read_as_text(client: Client, charset: str) -> None:
    head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain; charset={charset}\r\n\r\n".encode()
    with answer(head + b"plain") as target:
        assert fetch(client, f"http://127.0.0.1:{target.port}/").text == "plain"


@pytest.mark.parametrize(
    "text",
    [b"\x00\xff" * 5_000, b"", b"HTTP/1.1 999999 X\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"],
    ids=["noise", "nothing", "code", "headers", "short", "gzip", "chunks", "redirect", "bad-redirect"],
)  # fmt: skip
def test_a_server_that_answers_garbage_is_a_sentence(client: Client, text: bytes) -> None:
    with answer(text) as target, pytest.raises(PageError) as caught:
        fetch(client, f"http://127.0.0.1:{target.port}/")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_redirections_without_end_are_a_sentence(client: Client) -> None:
    with answer(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n") as target:
        with pytest.raises(PageError, match="without end"):
            fetch(client, f"http://127.0.0.1:{target.port}/")


def test_a_page_that_never_ends_is_cut(client: Client) -> None:
    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n")
        while True:
            sock.sendall(BLOCK)

    with Target(serve) as target:
        page = fetch(client, f"http://127.0.0.1:{target.port}/")
        assert (page.size, page.cut, page.text) == (MAX_PAGE, True, "")
        wait_until(lambda: not streams(client))


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n"], ids=["header", "body"])
def test_a_server_that_drips_bytes_for_ever_is_given_up_in_time(client: Client, head: bytes) -> None:
    def serve(sock: socket.socket, ending: threading.Event) -> None:
        sock.sendall(head)
        while not ending.wait(0.02):
            sock.sendall(b"x")

    start = time.monotonic()
    with Target(serve) as target:
        with pytest.raises(PageError, match="was not there within"):
            fetch(client, f"http://127.0.0.1:{target.port}/", timeout=0.5)
        wait_until(lambda: not streams(client))
    assert time.monotonic() - start < 5


def test_a_request_left_by_ctrl_c_ends_its_stream_at_the_target(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        try:
            sock.recv(4_096)
        except ConnectionResetError:  # the reset overtook the request
            ended.set()
            return
        if wait_reset(sock):
            ended.set()

    def interrupt(text: str) -> None:
        if "200" in text:
            raise KeyboardInterrupt

    with Target(serve) as target:
        with pytest.raises(KeyboardInterrupt):
            fetch(client, f"http://127.0.0.1:{target.port}/", tell=interrupt)
        assert ended.wait(PATIENCE), "the target still believes that somebody listens"
    assert not streams(client)


# ---- downloads


class Files(ThreadingHTTPServer):
    """One file with ranges and an ETag; may break after some bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b"".join(pieces(SIZE))
        self.etag = '"one"'
        self.ranges = True
        self.break_after: int | None = None
        self.length = True
        self.status = 200
        self.asked: list[tuple[str | None, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request: object, client_address: object) -> None:
        """It broke as it should."""


class _Handler(BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        site = self.server
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        site.asked.append((wanted, condition))
        if site.status != 200:
            self.send_error(site.status)
            return
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if match and site.ranges and condition == site.etag:
            start = int(match[1])
        body = site.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        if site.length:
            self.send_header("Content-Length", str(len(body)))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        self.wfile.write(body[: site.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def files() -> Iterator[Files]:
    with Files() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="files")
        thread.start()
        yield server
        server.shutdown()
        thread.join(PATIENCE)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_saved_whole_with_its_progress_told(client: Client, files: Files, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    path = tmp_path / "file.bin"
    saved = Download(client, files.url, path, lambda have, size: told.append((have, size))).run()
    assert (saved.size, saved.resumed) == (SIZE, 0)
    assert path.read_bytes() == files.content
    assert told[0] == (0, SIZE)
    assert told[-1] == (SIZE, SIZE)
    assert leftovers(tmp_path) == ["file.bin"]


def test_a_download_that_broke_goes_on_where_it_was(client: Client, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    files.break_after = 1_000_000
    with pytest.raises(PageError, match=r"the connection broke.*the same command goes on from there"):
        Download(client, files.url, path).run()
    assert not path.exists()
    have = (tmp_path / "file.bin.part").stat().st_size
    assert 0 < have <= 1_000_000
    files.break_after = None
    saved = Download(client, files.url, path).run()
    assert saved.resumed == have
    assert path.read_bytes() == files.content
    assert files.asked[1] == (f"bytes={have}-", '"one"')
    assert leftovers(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("change", ["content", "no ranges", "other address", "weak", "damaged note", "deep note"])
def test_a_download_never_joins_two_different_files(
    client: Client, files: Files, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "file.bin"
    files.break_after = 500_000
    if change == "weak":
        files.etag = 'W/"weak"'
    with pytest.raises(PageError, match="broke"):
        Download(client, files.url, path).run()
    files.break_after, url = None, files.url
    match change:
        case "content":
            files.content, files.etag = files.content[::-1], '"two"'
        case "no ranges":
            files.ranges = False
        case "other address":
            url += "?other"
        case "damaged note":
            (tmp_path / "file.bin.part.json").write_text("[1")
        case "deep note":
            (tmp_path / "file.bin.part.json").write_text(100_000 * "[")
    saved = Download(client, url, path).run()
    assert saved.resumed == 0
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(files.content).digest()


def test_a_stream_that_breaks_in_an_answer_of_unknown_length_is_no_whole_file(
    client: Client, tmp_path: Path
) -> None:
    def serve(sock: socket.socket, _ending: threading.Event) -> None:
        sock.recv(4_096)
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100)
        for circuit in client.pool.circuits:
            circuit.end()

    with Target(serve) as target, pytest.raises(PageError):
        Download(client, f"http://127.0.0.1:{target.port}/", tmp_path / "file").run()
    assert "file" not in leftovers(tmp_path)


def test_an_error_page_is_not_saved(client: Client, files: Files, tmp_path: Path) -> None:
    files.status = 404
    with pytest.raises(PageError, match="the server says 404 Not Found; nothing was saved"):
        Download(client, files.url, tmp_path / "x").run()
    assert leftovers(tmp_path) == []


def test_a_file_that_exists_is_not_overwritten(client: Client, files: Files, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(PageError, match="exists already"):
        Download(client, files.url, tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_a_folder_that_is_not_there_is_a_sentence(client: Client, files: Files, tmp_path: Path) -> None:
    with pytest.raises(PageError, match="cannot be written: No such file"):
        Download(client, files.url, tmp_path / "none" / "x").run()


def test_a_cancelled_download_keeps_what_came_and_ends_its_stream(
    client: Client, files: Files, tmp_path: Path
) -> None:
    def interrupt(have: int, _size: int | None) -> None:
        if have:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Download(client, files.url, tmp_path / "x", interrupt).run()
    assert (tmp_path / "x.part").stat().st_size > 0
    assert json.loads((tmp_path / "x.part.json").read_text())["mark"] == '"one"'
    wait_until(lambda: not streams(client))


def test_no_server_is_a_sentence(client: Client, tmp_path: Path) -> None:
    with pytest.raises(PageError, match="refuses connections"):
        Download(client, f"http://127.0.0.1:{unused_port()}/", tmp_path / "x").run()
