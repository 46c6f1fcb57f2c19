"""A machine within the machine: processes with a network of their own (loopback alone) and their own /etc/hosts.

Made of Linux namespaces, so it needs root. Two `PrivateHost`s may share a network and differ in the names they know:
so a test has names that only the exit can resolve, and a resolver that sees every query the others make.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.system.namespaces import T, made_in

PATIENCE = 30.0  # seconds after which a test that hangs fails
RESOLVER = "127.0.0.53"  # the only one that a host beside another knows
_NOBODY = "127.0.0.54"  # that of a host with a network of its own: nothing is there
ADDRESS = "198.18.0.1"  # on loopback there; no program takes it for this machine itself, as it does 127.0.0.1
_NAME_ERROR = b"\x81\x83"  # flags of a DNS answer: there is no such name
_SETUP = """
set -e
if [ "$1" = new ]; then ip link set lo up; ip addr add "$2/32" dev lo; fi
for name in hosts resolv.conf nsswitch.conf; do mount --bind "$3/$name" "/etc/$name"; done
echo ready
exec cat
"""


def need(*programs: str) -> list[str]:
    """Where the programs are; skips the test when one is missing, and fails it in CI."""
    where = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = {program: shutil.which(program, path=where) for program in programs}
    missing = [program for program, path in found.items() if path is None]
    if missing:
        text = f"not installed: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return [path for path in found.values() if path is not None]


def need_namespaces() -> None:
    """Skips the test where this user may not make namespaces."""
    need("unshare", "nsenter", "ip")
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    if os.geteuid() or probe.returncode:
        pytest.skip("needs root and Linux namespaces")


class PrivateHost:
    """Use `with`. `beside`: shares that host's network. Ends when its `with` does, or this process."""

    def __init__(self, folder: Path, names: Mapping[str, str], beside: Self | None = None) -> None:
        """`names`: what its /etc/hosts says of an address, names separated by spaces."""
        self.pid = 0  # of a process there
        self._beside = beside
        self._folder = folder
        folder.mkdir()
        lines = [f"{address} {known}" for address, known in names.items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", "::1 localhost", *lines, ""]))
        (folder / "resolv.conf").write_text(
            f"nameserver {RESOLVER if beside else _NOBODY}\noptions timeout:1 attempts:1\n"
        )
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")

    def __enter__(self) -> Self:
        new = self._beside is None
        command = ["unshare", "--mount", "--propagation", "private", *(["--net"] if new else [])]
        command += ["sh", "-c", _SETUP, "sh", "new" if new else "beside", ADDRESS, str(self._folder)]
        if self._beside is not None:
            command = ["nsenter", f"--target={self._beside.pid}", "--net", *command]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._holder.pid
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate(timeout=PATIENCE)

    def command(self, *arguments: object) -> list[str]:
        """A command line that runs these arguments there, in the current folder."""
        entering = ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wd={Path.cwd()}"]
        return [*entering, *map(str, arguments)]

    def run(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        send: bytes | None = None,
        seconds: float = PATIENCE,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a program there to its end, with a small environment of its own."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "LANG": "C.UTF-8", **(env or {})}
        return subprocess.run(
            self.command(*arguments),
            env=environment,
            capture_output=True,
            timeout=seconds,
            check=False,
            input=send or b"",
        )

    def make(self, factory: Callable[[], T]) -> T:
        """What `factory` makes there."""
        return made_in(self.pid, factory)


class Resolver:
    """The DNS server that a host beside another is told of: keeps what is asked, and knows no name."""

    def __init__(self, host: PrivateHost) -> None:
        self.asked: list[str] = []
        self._sock = host.make(self._bind)
        self._thread = threading.Thread(target=self._serve, name="resolver")

    @staticmethod
    def _bind() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((RESOLVER, 53))
        return sock

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.sendto(b"", self._sock.getsockname())  # ends the thread
        self._thread.join(PATIENCE)
        self._sock.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._sock.recvfrom(4_096)
            if not query:
                return
            self.asked.append(_question(query))
            self._sock.sendto(query[:2] + _NAME_ERROR + query[4:], sender)


def _question(query: bytes) -> str:
    """The name in a DNS query."""
    labels, at = [], 12
    while at < len(query) and query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    return ".".join(labels)
