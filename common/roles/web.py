"""The prompt's and command line's `web`: a page fetched through the network, shown as text in the terminal.

The exit opens nothing: it carries bytes. What is read is bounded in size and time, so a page that never ends does.
"""

import codecs
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from common.errors import OnionError
from common.net.deadline import Deadline
from common.roles.client import Client
from common.roles.http import NetworkSession
from common.roles.page import readable

MAX_PAGE = 10 * 2**20  # bytes read of a page: more than people read; larger files go through the proxy
TIMEOUT = 60.0  # seconds for a whole page
_CHUNK = 65_536
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


def fetch(client: Client, url: str) -> Page:
    """Fetches a page; raises `PageError` with a sentence."""
    url = complete_url(url)
    deadline = Deadline(TIMEOUT)
    try:
        with NetworkSession(client, ("web",)) as session, session.get(url, stream=True, timeout=TIMEOUT) as answer:
            body, cut = _read(answer, deadline)
    except requests.RequestException as error:
        raise PageError(_sentence(url, error)) from None
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    title, text = "", ""
    if kind.startswith(_TEXT_TYPES):
        decoded = body.decode(_codec(answer.encoding), "replace")
        title, text = readable(decoded) if "html" in kind else ("", readable_plain(decoded))
    return Page(answer.url, answer.status_code, answer.reason or "", kind, len(body), cut, title, text)


def readable_plain(text: str) -> str:
    """Plain text without control characters, tabs and line ends kept."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())


def _read(answer: requests.Response, deadline: Deadline) -> tuple[bytes, bool]:
    body = bytearray()
    for chunk in answer.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_PAGE or deadline.expired:
            return bytes(body[:MAX_PAGE]), True
    return bytes(body), False


def _codec(named: str | None) -> str:
    """The encoding a server names, if there is such a one."""
    try:
        return codecs.lookup(named or "utf-8").name
    except LookupError:
        return "utf-8"


def _sentence(url: str, error: requests.RequestException) -> str:
    """The innermost cause, in words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OnionError):
            return str(cause)
        inner = cause.args[0] if cause.args and isinstance(cause.args[0], BaseException) else None
        inner = inner or getattr(cause, "reason", None)
        following = cause.__cause__ or (inner if isinstance(inner, BaseException) else None) or cause.__context__
        if following is None or following is cause:
            break
        cause = following
    if isinstance(error, requests.exceptions.SSLError):
        return f"{url}: the server's certificate is not valid: {cause}"
    if isinstance(error, requests.exceptions.Timeout):
        return f"{url} did not answer within {TIMEOUT:.0f} seconds: try again"
    return f"{url} could not be fetched: {cause}"
