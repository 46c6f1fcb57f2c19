"""What real programs talk to in tests: a web site of 50 hosts, git over https and its own protocol, ssh."""

import os
import ssl
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.system.targets import Serve, pieces

PATIENCE = 30.0  # seconds after which a test that hangs fails
OBJECTS = 50  # on the page
EVERYWHERE = ("0.0.0.0", 0)


class Server(ThreadingHTTPServer):
    """On every address, until the end of its `with`."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(EVERYWHERE, handler)
        self.port = int(self.server_address[1])
        self.seen: list[str] = []  # Host and path of each request
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(PATIENCE)
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A program that hung up."""


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class PageHandler(_Quiet):
    """`/` is a page of 50 pictures on 50 hosts that tells at `/loaded/N` how many came; `/bytes/N` a download."""

    def do_GET(self) -> None:
        """See above."""
        host = self.headers["Host"].partition(":")[0]
        self.server.seen.append(f"{host}{self.path}")
        kind, _, number = self.path.strip("/").partition("/")
        if kind == "picture":
            self.answer("image/png", picture(int(number)))
        elif kind == "bytes":
            self.answer("application/octet-stream", b"".join(pieces(int(number))))
        elif kind == "":
            self.answer("text/html", self._page().encode())
        else:
            self.answer("text/plain", b"")

    def _page(self) -> str:
        port = self.server.port
        pictures = "".join(f'<img src="http://a{n}.test:{port}/picture/{n}" width=40 height=40>' for n in range(OBJECTS))
        return (
            f"<!doctype html><title>page</title><body style='margin:0'>{pictures}<script>onload = () => "
            "fetch('/loaded/' + [...document.images].filter(image => image.naturalWidth == 8).length)</script>"
        )


def picture(number: int) -> bytes:
    """A PNG of 8 by 8 pixels of a colour of its own."""
    row = b"\0" + bytes([5 * number, 255 - 5 * number, 37 * number % 256]) * 8

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")


# ---- https and git


def certificates(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A fresh authority's certificate as a file, and a server's side of TLS for `name` that it vouches for."""
    now, keys = datetime.now(UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer, subject = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("test CA", name))

    def build(owner: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(issuer, owner, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = build(issuer, keys[0]).add_extension(x509.BasicConstraints(True, 0), critical=True)
    leaf = build(subject, keys[1]).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    files = [folder / "ca.pem", folder / "server.pem"]
    files[0].write_bytes(ca.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM))
    private = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files[1].write_bytes(leaf.sign(keys[0], hashes.SHA256()).public_bytes(Encoding.PEM) + private)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files[1])
    return files[0], context


class GitServer(Server):
    """`git http-backend` over https."""

    def __init__(self, root: Path, context: ssl.SSLContext) -> None:
        super().__init__(_GitHandler)
        self.root = root
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


class _GitHandler(_Quiet):
    server: GitServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        env = os.environ | {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        done = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.answer(fields["Content-Type"], content)

    do_POST = do_GET


def repository(folder: Path, payload: bytes) -> Path:
    """A bare repository `r.git` with one commit that holds `payload`; the folder above it."""
    work = folder / "work"
    author = ["-c", "user.name=a", "-c", "user.email=a@b.test"]
    subprocess.run(["git", "init", "-q", work], check=True)
    (work / "payload").write_bytes(payload)
    subprocess.run(["git", "-C", work, "add", "."], check=True)
    subprocess.run(["git", "-C", work, *author, "commit", "-qm", "one"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, folder / "served" / "r.git"], check=True)
    return folder / "served"


def inetd(*command: object) -> Serve:
    """A target that hands its connection to a program, as inetd does."""

    def serve(sock: socket, ending: threading.Event) -> None:
        plain, number = list(map(str, command)), sock.fileno()
        program = subprocess.Popen(plain, stdin=number, stdout=number, stderr=subprocess.DEVNULL)
        while program.poll() is None:
            if ending.wait(0.01):
                program.kill()
        program.wait()

    return serve


# ---- ssh


def sshd(folder: Path, program: str) -> tuple[Serve, Callable[..., list[str]]]:
    """An ssh server with keys of its own that uses nothing of this machine's, and the command line to reach it."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
    )
    (folder / "known").write_text("* " + (folder / "host.pub").read_text())
    own_run = 'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$@"'  # where it wants an empty folder
    serve = inetd("unshare", "--mount", "sh", "-c", own_run, "sh", program, "-i", "-f", folder / "config")

    def command(port: int, helper: str, *remote: str) -> list[str]:
        options = {"ProxyCommand": helper, "UserKnownHostsFile": str(folder / "known"), "BatchMode": "yes"}
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", *words, "-i", str(folder / "user"), "-p", str(port), "root@ssh.test", *remote]

    return serve, command
