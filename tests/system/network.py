"""A network of real processes on loopback: what a user starts by hand, started, watched and ended by a test.

`Network` ends only what it started, and its end asserts that nothing of it is left running. Every process writes
what it says to a file of its own in the network's folder.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from common.directory.addresses import Address, parse_address
from common.directory.document import RelayEntry
from common.net.deadline import Deadline
from common.ops.toml_writer import to_toml
from common.roles.client.bootstrap import DirectoryClient
from common.roles.client.client import Client
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.pool import PathWishes
from tests.net.in_process import receive_exactly

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "test"
START_TIME = 60.0  # seconds for a process to be ready: a start takes half of one on an idle machine, workers as long again
PATIENCE = 30.0  # seconds after which a test that hangs fails
_LOOK = 0.02  # seconds between two looks at what another process does

_PORT = re.compile(r"proxy port (127\.0\.0\.1:\d+)")


def wait_until(test: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Looks until `test` holds, and returns how long that took."""
    start = monotonic()
    while not test():
        assert monotonic() - start < seconds, "it did not come about in time"
        sleep(_LOOK)
    return monotonic() - start


def environment() -> dict[str, str]:
    """This process's, without what would configure or proxy a program under test."""
    names = [name for name in os.environ if not name.startswith("TOR_NETWORK") and "proxy" not in name.lower()]
    return {name: os.environ[name] for name in names} | {"PYTHONUNBUFFERED": "1"}


def run_script(
    *arguments: object, seconds: float = PATIENCE, text: str = ""
) -> "subprocess.CompletedProcess[str]":
    """A script, run to its end, with `text` on its standard input."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), input=text, capture_output=True, text=True, timeout=seconds, check=False
    )


def options_text(options: Mapping[str, object]) -> str:
    """A configuration file with these."""
    return "".join(f"{name} = {to_toml(raw)}\n" for name, raw in options.items())


class Process:
    """A script that runs; `log` is the file with all it says."""

    def __init__(self, name: str, folder: Path, *arguments: object) -> None:
        self.name = name
        self.state = folder / name
        self.log = folder / f"{name}.log"
        self.address = ""
        self.identity = b""
        self.http = ""  # where its status page is, if it has one
        command = [sys.executable, *map(str, arguments), "--state", str(self.state)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def wait_ready(self) -> None:
        """Until its `ready` file is there, what that says is then known."""
        ready = self.state / "ready"
        wait_until(lambda: self._read(ready) or self._process.poll() is not None, START_TIME)
        assert self._process.poll() is None, f"{self.name} did not start: {self.said()}"

    def _read(self, ready: Path) -> bool:
        try:
            content = json.loads(ready.read_text())
        except (OSError, ValueError):
            return False
        self.address, self.identity = content["address"], bytes.fromhex(content["identity"])
        self.http = content["http"]
        return bool(content["pid"] == self.pid)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def said(self) -> str:
        """All it has written."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, when it runs."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and its end."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self._process.terminate()
        return self.wait()

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def threads(self) -> int:
        """How many it has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connections(self) -> list[tuple[str, str]]:
        """Its established TCP connections: own address and the other's."""
        own = set()
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                own.add(os.readlink(entry))
            except OSError:
                pass  # closed while we looked
        rows = [row.split() for row in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return [(_spell(row[1]), _spell(row[2])) for row in rows if row[3] == "01" and f"socket:[{row[9]}]" in own]


def _spell(raw: str) -> str:
    """An address of /proc/net/tcp as host:port."""
    host, _, port = raw.partition(":")
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(host))) + f":{int(port, 16)}"


class Network:
    """Use `with`: a gateway and relays, all listed. `policy` is every relay's, and the options `of_relays`."""

    def __init__(
        self, folder: Path, relays: int = 3, policy: str = "local", of_relays: Sequence[object] = ()
    ) -> None:
        self.folder = folder
        self._of_relays = of_relays
        self.policy = policy
        self.relays: list[Process] = []
        self._count = relays
        self._processes: list[Process] = []
        self._clients = 0

    def __enter__(self) -> Self:
        try:
            self.gateway = self.start("gateway", "gateway.py", "--listen", "127.0.0.1:0", "--network", NETWORK)
            self.gateway.wait_ready()
            self.directory = DirectoryClient([self.pin], NETWORK)
            for number in range(self._count):
                self.relays.append(self._start_relay(f"r{number}", self.policy))
            for relay in self.relays:
                relay.wait_ready()
            self.wait_listed(self._count)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        left = self._left()
        assert not left, f"processes are left: {left}"

    def _end(self) -> None:
        for process in self._processes:
            if process.alive:
                process.signal(signal.SIGCONT)
                process.signal(signal.SIGTERM)
        deadline = Deadline(PATIENCE)  # one that is starting its workers listens to signals when it has
        for process in self._processes:
            try:
                process.wait(max(deadline.left(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{process.name} does not end by SIGTERM: {process.said()}") from None

    def _left(self) -> list[str]:
        """Processes whose command line names our folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(str(self.folder).encode() in part for part in command) and int(entry.name) != os.getpid():
                found.append(b" ".join(command).decode(errors="replace"))
        return found

    # ---- processes

    @property
    def pin(self) -> tuple[Address, bytes]:
        """The gateway's address and key."""
        return parse_address(self.gateway.address), self.gateway.identity

    @property
    def joined(self) -> dict[str, object]:
        """How a configuration file names the network."""
        gateway = {"address": self.gateway.address, "key": self.gateway.identity.hex()}
        return {"gateways": [gateway], "network": NETWORK}

    @property
    def gateway_options(self) -> list[str]:
        """How a script is told of the gateway."""
        return [
            "--gateway",
            self.gateway.address,
            "--gateway-key",
            self.gateway.identity.hex(),
            "--network",
            NETWORK,
        ]

    def start(self, name: str, script: str, *options: object) -> Process:
        """A script with a state folder of that name, which the network ends."""
        process = Process(name, self.folder, script, *options)
        self._processes.append(process)
        return process

    def login_server(self, *options: object) -> Process:
        """A login server, ready."""
        process = self.start("auth", "auth_server.py", "--listen", "127.0.0.1:0", *options)
        process.wait_ready()
        return process

    def login_server_again(self, ended: Process, *options: object) -> Process:
        """A login server that has ended comes back with its key and its users on its port."""
        assert not ended.alive
        process = self.start(ended.name, "auth_server.py", "--listen", ended.address, *options)
        process.wait_ready()
        return process

    def lying_exit(self, name: str, port: int, seen: Path) -> Process:
        """One more relay, listed, that stands in the middle of streams to `port`; what it sees goes to `seen`."""
        options = ["--listen", "127.0.0.1:0", *self.gateway_options, "--nickname", name, "--exit-policy", "local"]
        relay = self.start(name, "-m", "tests.system.lying_exit", port, seen, *options)
        relay.wait_ready()
        self.wait_listed(self._count + 1)
        return relay

    def _start_relay(self, name: str, policy: str, listen: str = "127.0.0.1:0") -> Process:
        options = ["--listen", listen, *self.gateway_options, "--nickname", name, "--exit-policy", policy]
        return self.start(name, "relay.py", *options, *self._of_relays)

    def restart(self, relay: Process, *, listed: bool = True) -> Process:
        """A relay that has ended comes back with its keys, on a new port, and is ready, and `listed`."""
        assert not relay.alive
        at = self.relays.index(relay)
        self.relays[at] = self._start_relay(relay.name, self.policy)
        self.relays[at].wait_ready()
        if listed:
            wait_until(lambda: any(str(e.descriptor.address) == self.relays[at].address for e in self.entries()))
        return self.relays[at]

    def restart_gateway(self) -> None:
        """The gateway, which has ended, comes back with its key on its port."""
        assert not self.gateway.alive
        address = self.gateway.address
        self.gateway = self.start("gateway", "gateway.py", "--listen", address, "--network", NETWORK)
        self.gateway.wait_ready()

    def listed(self) -> set[bytes]:
        """The identities of the relays that the gateway lists now."""
        return {entry.descriptor.identity for entry in self.entries()}

    def entries(self) -> tuple[RelayEntry, ...]:
        return self.directory.fetch(Deadline(PATIENCE)).relays

    def wait_listed(self, count: int) -> None:
        """Until exactly so many relays are listed."""
        wait_until(lambda: len(self.listed()) == count)

    def proxy(self, *options: object) -> "ProxyProcess":
        """A client that serves a proxy port, ready."""
        self._clients += 1
        return self._start_proxy(f"client{self._clients}", *options)

    def proxy_again(self, ended: "ProxyProcess", *options: object) -> "ProxyProcess":
        """A client with the state folder of one that has ended."""
        assert not ended.alive
        ended.log.rename(ended.log.with_suffix(".before.log"))
        return self._start_proxy(ended.name, *options)

    def _start_proxy(self, name: str, *options: object) -> "ProxyProcess":
        options = (*self.gateway_options, *options, "--log-level", "info", "socks", "--listen", "127.0.0.1:0")
        process = ProxyProcess(name, self.folder, "client_tor.py", *options)
        self._processes.append(process)
        process.wait_ready()
        return process

    @contextmanager
    def client(self, hops: int = 3) -> Iterator[Client]:
        """A client in this process, whose circuits a test can look at."""
        with Client([self.pin], NETWORK, wishes=PathWishes(hops, hops)) as client:
            yield client

    def path(self, circuit: ClientCircuit) -> list[Process]:
        """The relays of a circuit, first hop first."""
        by_identity = {relay.identity: relay for relay in self.relays}
        return [by_identity[entry.descriptor.identity] for entry in circuit.path]

    def logs(self) -> dict[str, str]:
        """All that every process has written, by file."""
        return {file.name: file.read_text(errors="replace") for file in self.folder.glob("*.log")}


def proxy_port(client: Process) -> str:
    """Where a client serves programs, once it has told."""
    wait_until(lambda: _PORT.search(client.said()) or not client.alive, START_TIME + PATIENCE)
    found = _PORT.search(client.said())
    assert found, f"{client.name} did not start: {client.said()}"
    return found[1]


def socks(address: str, port: int) -> socket.socket:
    """A stream through the proxy port at `address` to a port of this host, by name."""
    host, _, own = address.rpartition(":")
    sock = socket.create_connection((host, int(own)))
    sock.settimeout(PATIENCE)
    sock.sendall(b"\x05\x01\x00\x05\x01\x00\x03\x09localhost" + port.to_bytes(2, "big"))
    assert receive_exactly(sock, 12)[:4] == b"\x05\x00\x05\x00"
    return sock


class ProxyProcess(Process):
    """`client_tor.py socks`; `address` is the proxy port."""

    def wait_ready(self) -> None:
        """Until it has told its port."""
        self.address = proxy_port(self)

    def socks(self, port: int) -> socket.socket:
        """A stream to a port of this host, by name."""
        return socks(self.address, port)

    def curl(self, url: str, *options: str, seconds: float = PATIENCE) -> "subprocess.CompletedProcess[bytes]":
        """curl through the proxy port; names go to the exit."""
        command = ["curl", "--silent", "--show-error", "--socks5-hostname", self.address, *options, url]
        return subprocess.run(command, env=environment(), capture_output=True, timeout=seconds, check=False)
