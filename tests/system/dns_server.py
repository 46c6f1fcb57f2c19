"""A small authoritative DNS server over UDP (RFC 1035) whose answers a test may change while it runs.

It answers A and AAAA for the names it was given, and NXDOMAIN for all others; answers may not be kept (TTL 0).
"""

import socket
import struct
import threading
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Self

_TYPES = {1: 4, 28: 6}  # A, AAAA: the IP version
_RESPONSE, _AUTHORITATIVE, _RECURSION = 0x8000, 0x0400, 0x0100
_NO_ERROR, _NO_SUCH_NAME = 0, 3
_HEADER = struct.Struct("!6H")
_AT_QUESTION = 0xC00C  # a compressed name: the one at offset 12 (RFC 1035, section 4.1.4)


class DnsServer:
    """Serves while entered; `records` are names and their IP addresses."""

    def __init__(self, host: str, port: int, records: Mapping[str, list[str]]) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((host, port))
        self.address: tuple[str, int] = self._sock.getsockname()
        self._lock = threading.Lock()  # guards what follows
        self._records = dict(records)
        self._asked: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="dns")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.sendto(b"", self.address)  # wakes the thread, and ends it
        self._thread.join()
        self._sock.close()

    def change(self, name: str, *addresses: str) -> None:
        """From now on the name has these addresses."""
        with self._lock:
            self._records[name] = list(addresses)

    def asked(self, name: str) -> int:
        """How many questions about the name have been answered."""
        with self._lock:
            return self._asked.get(name, 0)

    def _run(self) -> None:
        while True:
            query, peer = self._sock.recvfrom(512)
            if not query:
                return
            self._sock.sendto(self.answer(query), peer)

    def answer(self, query: bytes) -> bytes:
        """The response to one question."""
        number, flags, *_ = _HEADER.unpack_from(query)
        name, end = _name(query)
        kind, _ = struct.unpack_from("!HH", query, end)
        with self._lock:
            known = name in self._records
            found = [ip_address(text) for text in self._records.get(name, [])]
            self._asked[name] = self._asked.get(name, 0) + 1
        records = [ip.packed for ip in found if ip.version == _TYPES.get(kind)]
        code = _NO_ERROR if known else _NO_SUCH_NAME
        reply = _RESPONSE | _AUTHORITATIVE | (flags & _RECURSION) | code
        body = b"".join(struct.pack("!HHHIH", _AT_QUESTION, kind, 1, 0, len(ip)) + ip for ip in records)
        return _HEADER.pack(number, reply, 1, len(records), 0, 0) + query[12 : end + 4] + body


def _name(query: bytes) -> tuple[str, int]:
    """The question's name in lower case, and where it ends."""
    labels, at = [], _HEADER.size
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode("ascii").lower())
        at += 1 + size
    return ".".join(labels), at + 1
