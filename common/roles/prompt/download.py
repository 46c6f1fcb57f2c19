"""`web --save FILE`: a download through the network that goes on where it was left.

What has come is in `FILE.part`, and beside it `FILE.part.json` names the address and the server's mark of this
version of the file (a strong ETag, or Last-Modified). With both, the rest is asked for with Range and If-Range
(RFC 9110, sections 14.2 and 13.1.5): a server whose file has changed sends all of it, and so begins anew one that
cannot send parts. `FILE` appears when it is whole, and one that is there already is never overwritten.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests

from common.roles.client.client import Client
from common.roles.client.http import CHUNK, FAILURES, NetworkSession, explain
from common.roles.prompt.web import ISOLATION, PageError, complete_url

STALL = 60.0  # seconds without a byte after which a download is given up
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")

Show = Callable[[int, int | None], None]  # bytes there are, and bytes there will be if that is known


@dataclass(frozen=True, slots=True)
class Saved:
    """A download that is whole: `resumed` bytes of `size` were there before."""

    url: str
    path: str
    size: int
    resumed: int


class Download:
    """One file; what has come stays on the disk whatever happens."""

    def __init__(self, client: Client, url: str, path: Path, show: Show = lambda _have, _size: None) -> None:
        """Raises `PageError` when there is such a file already."""
        self._client = client
        self._url = complete_url(url)
        self._path = path
        if path.exists() or not path.name:
            raise PageError(f"{path} exists already: choose another name, or remove it")
        self.part = path.with_name(path.name + ".part")  # what has come so far
        self._note = path.with_name(path.name + ".part.json")
        self._show = show

    def run(self) -> Saved:
        """Downloads; raises `PageError` with a sentence. Left by ctrl-c, it ends its streams at once."""
        have, mark = self._before()
        headers = {"Accept-Encoding": "identity"}  # what is counted in a range is what is written
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": mark}
        with NetworkSession(self._client, ISOLATION) as session:
            try:
                with session.get(self._url, headers=headers, stream=True, timeout=STALL) as answer:
                    have = self._first(answer, have)
                    size = self._write(answer, have)
                    if session.cut_off(answer):
                        raise PageError(self._broken(f"{self._url}: the connection broke"))
            except FAILURES as error:
                session.abort()
                raise PageError(self._broken(explain(self._url, error))) from None
            except BaseException:
                session.abort()
                raise
        os.replace(self.part, self._path)
        self._note.unlink(missing_ok=True)
        return Saved(self._url, str(self._path), size, have)

    def _before(self) -> tuple[int, str]:
        """How much of the same file is here, and its mark; nothing when the two do not belong together."""
        try:
            note = json.loads(self._note.read_bytes())
            if note["url"] == self._url and isinstance(note["mark"], str):
                return self.part.stat().st_size, note["mark"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return 0, ""

    def _first(self, answer: requests.Response, have: int) -> int:
        """How much of what is here the answer goes on from; the file and its note are brought in line."""
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status_code == 206 and have and found is not None and int(found[1]) == have:
            return have
        if answer.status_code == 416:
            self._note.unlink(missing_ok=True)
            raise PageError(f"{self._url} is shorter than what is here already: the same command starts anew")
        if answer.status_code != 200:
            said = f"{answer.status_code} {answer.reason}"
            raise PageError(f"{self._url}: the server says {said}; nothing was saved")
        try:
            self.part.write_bytes(b"")
            mark = _mark(answer)
            if mark:
                self._note.write_text(json.dumps({"url": self._url, "mark": mark}))
            else:
                self._note.unlink(missing_ok=True)
        except OSError as error:
            raise PageError(f"{self.part}: cannot be written: {error.strerror}") from None
        return 0

    def _write(self, answer: requests.Response, have: int) -> int:
        """Appends all that comes; returns how much there is at the end."""
        length = _LENGTH.fullmatch(answer.headers.get("Content-Length", ""))
        size = have + int(length[0]) if length else None
        self._show(have, size)
        with self._open() as file:
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                self._append(file, chunk)
                have += len(chunk)
                self._show(have, size)
        return have

    def _open(self) -> BinaryIO:
        try:
            return open(self.part, "ab")
        except OSError as error:
            raise PageError(f"{self.part}: cannot be written: {error.strerror}") from None

    def _append(self, file: BinaryIO, chunk: bytes) -> None:
        try:
            file.write(chunk)
            file.flush()
        except OSError as error:
            raise PageError(f"{self.part}: cannot be written: {error.strerror}") from None

    def _broken(self, why: str) -> str:
        if self._note.exists():
            return f"{why}; what came is in {self.part}, and the same command goes on from there"
        return f"{why}; the server lets nobody go on where it broke, so the same command starts anew"


def _mark(answer: requests.Response) -> str:
    """What tells this version of the file from another; a weak ETag cannot (RFC 9110, section 13.1.5)."""
    etag = answer.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return answer.headers.get("Last-Modified", "")


