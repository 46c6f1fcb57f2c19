"""The network's own page: the relays of the directory document and the client's circuits, made by the client.

It needs no internet. The server listens on loopback, and its address holds a secret, so that other users of the
machine, and pages in a browser, cannot read where the circuits go.
"""

import hmac
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from common.directory.addresses import Address
from common.roles.client.client import Client

_STOP = 5.0  # seconds
_TIMEOUT = 10.0  # seconds for a request
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.2rem .8rem .2rem 0;"
    "border-bottom:1px solid #ddd}td.number{text-align:right}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}}"
)


CIRCUITS = ("number", "state", "path", "age", "streams", "bytes in", "bytes out")
RELAYS = ("name", "address", "runs for", "round trip", "exit policy", "identity")


def relay_rows(client: Client) -> list[list[str]]:
    """The listed relays, as `RELAYS` says."""
    now = time.time()
    return [
        [
            entry.descriptor.nickname,
            str(entry.descriptor.address),
            duration(now - entry.running_since),
            f"{entry.round_trip_ms:.1f} ms" if entry.round_trip_ms else "",  # just listed: not measured yet
            entry.descriptor.exit_policy,
            entry.descriptor.identity.hex()[:16],
        ]
        for entry in sorted(client.relays(), key=lambda entry: entry.descriptor.nickname)
    ]


def circuit_rows(circuits: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Circuits, given as the fields of `CircuitView`, as `CIRCUITS` says."""
    return [
        [
            str(circuit["number"]),
            circuit["state"],
            " > ".join(circuit["path"]),
            duration(circuit["age"]),
            str(len(circuit["streams"])),
            f"{circuit['bytes_in']:,}",
            f"{circuit['bytes_out']:,}",
        ]
        for circuit in circuits
    ]


def heading(client: Client) -> tuple[str, str]:
    """The network's name, and a sentence about it."""
    document = client.directory.document
    if document is None:
        return "no network", "There is no directory document: no gateway has answered."
    age = duration(time.time() - document.valid_after)
    return document.network, f"{len(document.relays)} relays are listed; the document is {age} old."


def render(client: Client) -> str:
    """The page, as of now."""
    name, sentence = heading(client)
    parts = [
        f"<h1>Network {escape(name)}</h1><p>{escape(sentence)}</p>",
        "<h2>Your circuits</h2>",
        _table(CIRCUITS, circuit_rows(map(asdict, client.circuits()))),
        "<h2>Relays</h2>",
        _table(RELAYS, relay_rows(client)),
        "<p>This page was made by your own client; nobody else was asked.</p>",
    ]
    head = f'<meta charset="utf-8"><title>Network {escape(name)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _table(names: Sequence[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 6_000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h"


class StatusPage:
    """Serves the page while entered."""

    def __init__(self, client: Client) -> None:
        self._server = _Server(client)
        host, port = self._server.server_address[:2]
        self.address = Address(str(host), int(port))
        self.url = f"http://{self.address}/{self._server.secret}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="status page", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(_STOP)
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    timeout = _TIMEOUT
    server_version, sys_version = "status", ""

    def do_GET(self) -> None:
        """The page, for who knows the secret."""
        wanted = f"/{self.server.secret}/"
        if not hmac.compare_digest(self.path.encode(), wanted.encode()):
            self.send_error(404)
            return
        body = render(self.server.client).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Who reads the page is nobody's business."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, client: Client) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.client = client
        self.secret = secrets.token_urlsafe(16)

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone."""
