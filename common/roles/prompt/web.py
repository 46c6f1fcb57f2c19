"""A page fetched through the network, as text: what `web --print` and a terminal without a browser show.

The exit opens nothing: it carries bytes. What is read is bounded in size and time, so a page that never ends does.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from common.circuit.trace import Trace
from common.errors import OnionError
from common.roles.client.client import Client
from common.roles.client.http import FAILURES, NetworkSession, explain
from common.roles.client.wish import Isolation
from common.roles.prompt.page import readable

MAX_PAGE = 10 * 2**20  # bytes read of a page: more than people read; for larger files there is --save
TIMEOUT = 60.0  # seconds for a whole page
ISOLATION: Isolation = ("web",)
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml")


class PageError(OnionError):
    """A page could not be fetched; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Page:
    """What came: `size` counts the body's bytes, `cut` says that more would have come."""

    url: str
    status: int
    reason: str
    kind: str
    size: int
    cut: bool
    title: str
    text: str


def complete_url(text: str) -> str:
    """An address as people type it, as a URL; raises `PageError`."""
    text = text.strip()
    if "://" not in text:
        scheme, colon, rest = text.partition(":")
        if colon and scheme.isalpha() and not rest.partition("/")[0].isdigit():  # as in mailto:, not in host:80
            raise PageError(f"{scheme}: is not a scheme that web knows: use http:// or https://")
        text = "http://" + text
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise PageError(f"{text} is not a web address: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise PageError(f"{parts.scheme}: is not a scheme that web knows: use http:// or https://")
    if not host:
        raise PageError(f"{text} names no host: try http://example.org/")
    return text


def fetch(
    client: Client,
    url: str,
    timeout: float = TIMEOUT,
    tell: Callable[[str], None] = lambda _text: None,
    trace: Trace | None = None,
) -> Page:
    """Fetches a page; raises `PageError` with a sentence. `tell` hears how far it is.

    Left by ctrl-c, it ends its streams at once.
    """
    url = complete_url(url)
    tell(f"asking {urlsplit(url).hostname} through the network")
    with NetworkSession(client, ISOLATION, trace) as session:
        try:
            with session.within(timeout), session.get(url, stream=True, timeout=timeout) as answer:
                tell(f"{answer.status_code} {answer.reason}, reading")
                body, cut = session.read(answer, MAX_PAGE)
        except FAILURES as error:
            if session.expired:
                raise PageError(f"{url} was not there within {timeout:.0f} seconds: try again") from None
            raise PageError(explain(url, error)) from None
    return _page(answer, body, cut)


def _page(answer: requests.Response, body: bytes, cut: bool) -> Page:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    title, text = "", ""
    if kind.startswith(_TEXT_TYPES):
        decoded = body.decode(_codec(answer.encoding), "replace")
        title, text = readable(decoded) if "html" in kind else ("", readable_plain(decoded))
    return Page(answer.url, answer.status_code, answer.reason or "", kind, len(body), cut, title, text)


def readable_plain(text: str) -> str:
    """Plain text without control characters, tabs and line ends kept."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())


def _codec(named: str | None) -> str:
    """The text encoding a server names, if there is such a one."""
    try:
        found = codecs.lookup(named or "utf-8")
        b"\xff".decode(found.name, "replace")  # base64 and the like are codecs too, but no text
        return found.name
    except (LookupError, ValueError):
        return "utf-8"
