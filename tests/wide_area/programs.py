"""Our programs on the hosts of a wide area: relays on 1 to 3, the gateway on 1, a client with a proxy port on 4."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from tests.wide_area.hosts import ROOT, Host, WideArea

START_TIME = 60.0  # seconds for all to be ready
_LOOK = 0.05  # seconds between two looks at files
_PROXY, _GATEWAY, _RELAY = 9_050, 9_000, 9_001  # ports: each host has all of them for itself
_NETWORK = ("--network", "wide")


class Failed(Exception):
    """A program did not do what it was to do."""


class WidePrograms:
    """Use `with`; a stream can be opened as soon as it begins."""

    RELAYS = (1, 2, 3)
    CLIENT, TARGET = 4, 5

    def __init__(
        self, area: WideArea, folder: Path, suite: str, exit_policy: str = "accept *:*", gateway: Sequence[str] = ()
    ) -> None:
        """`gateway`: more options of it."""
        self._area = area
        self._folder = folder
        self._suite = suite
        self._exit_policy = exit_policy
        self._gateway = gateway
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait()

    @property
    def pids(self) -> list[int]:
        """Of all programs, the gateway first."""
        return [process.pid for process in self._running]

    def open(self, target: tuple[str, int], user: str = "") -> socket.socket:
        """A stream to the target; those of one `user` share a circuit. Raises `OSError` or `Failed`."""
        return open_through(self._area.hosts[self.CLIENT], _PROXY, target, user)

    def _start_all(self) -> None:
        deadline = monotonic() + START_TIME
        hosts = self._area.hosts
        self._start(1, "gateway", "gateway.py", "--listen", f"{hosts[1].address}:{_GATEWAY}", *self._gateway)
        ready = json.loads(self._wait("gateway/ready", deadline))
        gateway = ["--gateway", ready["address"], "--gateway-key", ready["identity"]]
        for number in self.RELAYS:
            options = ["--listen", f"{hosts[number].address}:{_RELAY}", "--exit-policy", self._exit_policy]
            self._start(number, f"relay{number}", "relay.py", "--nickname", f"relay{number}", *options, *gateway)
        log = self._folder / "gateway.log"
        while log.read_text().count("is listed") < len(self.RELAYS):
            self._look(deadline)
        # The exit is one whose uplink is fast: what goes on from a slow one is the target's plain TCP, not ours.
        options = ["--exit", "relay3", "--hops", "3", "--suite", self._suite, "--listen", f"127.0.0.1:{_PROXY}"]
        self._start(4, "client", "client_tor.py", "socks", "--config", os.devnull, *options, *gateway)
        log = self._folder / "client.log"
        while "proxy port" not in log.read_text():
            self._look(deadline)

    def _start(self, number: int, name: str, script: str, *words: str) -> None:
        command = [sys.executable, ROOT / script, *words, *_NETWORK, "--state", self._folder / name]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TOR_NETWORK_")}
        with open(self._folder / f"{name}.log", "wb") as log:
            self._running.append(
                subprocess.Popen(
                    self._area.hosts[number].command(*command),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _wait(self, file: str, deadline: float) -> str:
        path = self._folder / file
        while not path.is_file():
            self._look(deadline)
        return path.read_text()

    def _look(self, deadline: float) -> None:
        if monotonic() > deadline or any(process.poll() is not None for process in self._running):
            logs = [path.read_text(errors="replace")[-2_000:] for path in sorted(self._folder.glob("*.log"))]
            raise Failed("the network did not start:\n" + "".join(logs))
        sleep(_LOOK)


def open_through(host: Host, port: int, target: tuple[str, int], user: str) -> socket.socket:
    """A stream through a SOCKS5 port on that host's loopback; a `user` is an isolation key."""
    sock = host.make(lambda: socket.create_connection(("127.0.0.1", port), START_TIME))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = (user or "nobody").encode()
        sock.sendall(b"\x05\x01\x02")
        _expect(sock, b"\x05\x02")
        sock.sendall(bytes([1, len(name)]) + name + b"\x01x")
        _expect(sock, b"\x01\0")
        sock.sendall(b"\x05\x01\0\x01" + socket.inet_aton(target[0]) + target[1].to_bytes(2, "big"))
        _expect(sock, b"\x05\0\0\x01")
        receive_exactly(sock, 6)
    except BaseException:
        sock.close()
        raise
    return sock


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """So many bytes; raises `Failed` when it ends before."""
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise Failed("a stream ended early")
        data += piece
    return data


def _expect(sock: socket.socket, expected: Sequence[int]) -> None:
    got = receive_exactly(sock, len(expected))
    if got != bytes(expected):
        raise Failed(f"the proxy answered {got.hex()}")
