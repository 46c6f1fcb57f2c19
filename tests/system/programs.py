"""The real programs as processes on loopback, in one folder: gateways, relays, clients. `with` ends all of them.

A gateway keeps its port and keys when it is started again. The port is bound here all the time without listening, so
that no other process gets it while its gateway is away.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from common.directory.addresses import Address, parse_address
from common.directory.document import RelayEntry
from common.errors import DirectoryError
from common.net.deadline import Deadline
from common.roles.client.bootstrap import DirectoryClient

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "private"  # the programs' default
PATIENCE = 40.0  # seconds after which a test that hangs fails
_LOOK = 0.02  # seconds between two looks where nothing tells of a change

Pin = tuple[Address, bytes]


class Programs:
    """Processes by name; each has a state folder and a log of that name."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self._folder = folder
        self._host = host
        self._stack = ExitStack()
        self._addresses: dict[str, Address] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.pins: dict[str, Pin] = {}  # of gateways

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(PATIENCE)
        self._stack.close()

    # ---- daemons

    def gateway(self, name: str, lie: str = "", listen: str = "") -> Pin:
        """Starts a gateway, or starts it again; `lie` is one of `lying_gateway`."""
        address = parse_address(listen) if listen else self._kept_address(name)
        script = ["-m", "tests.system.lying_gateway", lie] if lie else [str(ROOT / "gateway.py")]
        self._start(name, [*script, "--listen", str(address)])
        self.pins[name] = address, self._wait_ready(name)
        return self.pins[name]

    def relay(self, name: str, gateways: list[Pin] | list[str], nickname: str = "") -> bytes:
        """Starts a relay that exits to loopback; returns its identity. `gateways` are pins or options."""
        options = [
            "--listen",
            str(Address(self._host, 0)),
            "--nickname",
            nickname or name,
            "--exit-policy",
            "local",
        ]
        self._start(name, [str(ROOT / "relay.py"), *options, *options_of(gateways)])
        return self._wait_ready(name)

    def kill(self, *names: str) -> None:
        """Ends processes as a crash would."""
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes.pop(name).wait(PATIENCE)

    def stop(self, name: str) -> int:
        """Asks a process to end; its exit code."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)

    def log(self, name: str) -> str:
        """All that a process said."""
        return (self._folder / f"{name}.log").read_text()

    def _kept_address(self, name: str) -> Address:
        if name not in self._addresses:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            sock = self._stack.enter_context(socket.socket(family))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._host, 0))
            self._addresses[name] = Address(self._host, sock.getsockname()[1])
        return self._addresses[name]

    def _start(self, name: str, arguments: list[str]) -> None:
        assert name not in self._processes, f"{name} runs already"
        (self._folder / name / "ready").unlink(missing_ok=True)
        command = [sys.executable, *arguments, "--state", str(self._folder / name)]
        with open(self._folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environment()
            )
        self._processes[name] = process

    def _wait_ready(self, name: str) -> bytes:
        """The identity of a daemon that can be dialled."""
        path = self._folder / name / "ready"

        def ready() -> bool:
            assert self._processes[name].poll() is None, self.log(name)
            return path.exists()

        wait_until(ready, lambda: self.log(name))
        return bytes.fromhex(json.loads(path.read_text())["identity"])

    # ---- clients

    def client(self, gateways: list[Pin] | list[str], *command: str, state: str = "") -> subprocess.Popen[str]:
        """Begins to run a client with paths of three relays."""
        folder = self._folder / (state or f"client{time.monotonic_ns()}")
        options = ["--hops", "3", "--state", str(folder), *options_of(gateways)]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "client_tor.py"), *options, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    @contextmanager
    def proxy(self, gateways: list[Pin] | list[str], state: str = "") -> Iterator[Address]:
        """The address of the proxy port of a client that runs."""
        listen = ["--listen", str(Address(self._host, 0))]
        with self.client(gateways, "socks", *listen, state=state) as process:
            try:
                assert process.stdout is not None and process.stderr is not None
                line = process.stdout.readline()
                assert line.startswith("proxy port "), process.stderr.read()
                yield parse_address(line.removeprefix("proxy port ").split(": ")[0])
            finally:
                process.terminate()
                process.communicate(timeout=PATIENCE)


def environment() -> dict[str, str]:
    """The present one, without what would configure the programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOR_NETWORK_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def options_of(gateways: list[Pin] | list[str]) -> list[str]:
    """Pins as options of the command line; options as they are."""
    options: list[str] = []
    for pin in gateways:
        options += [pin] if isinstance(pin, str) else ["--gateway", str(pin[0]), "--gateway-key", pin[1].hex()]
    return options


def wait_until(test: Callable[[], object], what: Callable[[], object]) -> None:
    """Looks until `test` holds; a failure says `what`."""
    deadline = Deadline(PATIENCE)
    while not test():
        assert not deadline.expired, what()
        time.sleep(_LOOK)


def wait_listed(gateways: list[Pin], wanted: set[str]) -> dict[str, RelayEntry]:
    """Asks afresh until exactly these nicknames are in a client's list; the entries by nickname."""
    found: dict[str, RelayEntry] = {}
    failure: list[str] = []

    def listed() -> bool:
        try:
            document = DirectoryClient(gateways, NETWORK).fetch(Deadline(PATIENCE))
        except DirectoryError as error:
            failure.append(str(error))
            return False
        found.clear()
        found.update({entry.descriptor.nickname: entry for entry in document.relays})
        return found.keys() == wanted

    wait_until(listed, lambda: (set(found), failure[-1:]))
    return found


def echoed(proxy: Address, host: str, port: int, user: str = "") -> None:
    """Goes through a proxy port to a target that echoes; another `user` takes another circuit."""
    text = os.urandom(2_000)
    with socket.create_connection((proxy.host, proxy.port), PATIENCE) as sock:
        sock.sendall(b"\5\1\2" + b"\1" + _short(user.encode() or b"-") + _short(b"-"))
        assert _receive(sock, 4) == b"\5\2\1\0"
        ip = ip_address(host).packed
        sock.sendall(b"\5\1\0" + (b"\1" if len(ip) == 4 else b"\4") + ip + port.to_bytes(2, "big"))
        reply = _receive(sock, 4)
        assert reply[1] == 0, f"the proxy answers {reply[1]}"
        _receive(sock, 6 if reply[3] == 1 else 18)
        sock.sendall(text)
        assert _receive(sock, len(text)) == text


def _short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the proxy closed after {data!r}"
        data += more
    return data
