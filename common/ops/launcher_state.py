"""A network on this machine as a folder, and the processes that belong to it.

    network.toml     all that a new relay or client needs: the network's name, its gateways and their keys, and
                     the login server and its key
    NAME.toml        what a daemon is told (gateway, gateway2, ..., relay1, relay2, ..., auth), and client.toml
    NAME/            a daemon's own state: keys, `pid` and `ready` while it runs
    logs/NAME.log    what it said
    run/NAME.json    the process that the launcher started: pid and start time
    network.json     what the network was started with

A process is only ever signalled when its pid *and* its start time are those recorded: pids are used again.
Daemons run in sessions of their own, so ctrl-c in a terminal does not reach them.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import ConfigError, OnionError
from common.net.deadline import Deadline
from common.ops.config import PREFIX
from common.ops.files import private, private_folder, read_private, write_private
from common.ops.lifecycle import PID_FILE, READY_FILE
from common.ops.toml_writer import network_toml, to_toml
from common.ops.values import GatewayPin, LoginServer

GATEWAY, RELAY = "gateway", "relay"  # what the names of daemons begin with, and of their scripts
AUTH = "auth"  # the login server's name
MOST_RELAYS = 100  # on one machine; each is a process
MOST_GATEWAYS = 9
NETWORK_FILE = "network.toml"
_SCRIPTS = ("gateway.py", "relay.py", "auth_server.py")  # in the order that their daemons are shown in
PATIENCE = 10.0  # seconds a daemon has to end by itself: it drains its circuits for a few


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started here; `started` is in clock ticks since the machine's start."""

    name: str
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What the network was started with: `add` starts more of the same."""

    base_port: int | None
    exit_policy: str
    gateways: int = 1
    workers: int = 1  # processes of each relay

    def port(self, name: str) -> int:
        """Where a daemon listens: gateways from the base port on, relays after them; 0 without a base port.

        The login server is behind all that a start can have, so that its port is the same whatever there is;
        relays that were added until they reach it go around it.
        """
        if self.base_port is None:
            return 0
        auth = self.base_port + MOST_GATEWAYS + MOST_RELAYS
        if name == AUTH:
            return auth
        if is_gateway(name):
            return self.base_port + int(name.removeprefix(GATEWAY) or 1) - 1
        port = self.base_port + self.gateways - 1 + int(name.removeprefix(RELAY))
        return port + (port >= auth)

    @property
    def ports(self) -> range:
        """Those from the base port on: none of them is free for anything else."""
        first = self.base_port or 0
        return range(first, first + MOST_GATEWAYS + MOST_RELAYS + 1) if first else range(0)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a daemon says of itself once it can be dialled."""

    address: str
    identity: str
    http: str  # address of the status page, empty without one


def start_time(pid: int) -> int | None:
    """When the process began (field 22 of /proc/PID/stat); None when it has ended, reaped or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in ("Z", "X") else int(fields[19])


class Folder:
    """The state folder of one network. `scripts` is where gateway.py, relay.py and auth_server.py are."""

    def __init__(self, root: Path, scripts: Path) -> None:
        self.root = root
        self._scripts = scripts
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._log_starts: dict[str, int] = {}  # where the logs of those children begin in the files

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One launcher at a time changes the network; raises `OnionError` when another does."""
        private_folder(self.root)
        with open(self.root / "lock", "wb", opener=private) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OnionError(f"another launcher is at work in {self.root}: wait for it") from None
            yield

    def config(self, name: str) -> Path:
        """The TOML file of a daemon, or of the client."""
        return self.root / f"{name}.toml"

    def log(self, name: str) -> Path:
        """What a daemon said."""
        return self.root / "logs" / f"{name}.log"

    def write_config(self, name: str, values: dict[str, Any]) -> None:
        """Writes a TOML file; the next start writes it again."""
        lines = ["# Written by the launcher at each start: changes made here are lost."]
        lines += [f"{key} = {to_toml(value)}" for key, value in values.items()]
        write_private(self.config(name), "\n".join(lines).encode() + b"\n")

    def write_network(self, network: str, gateways: Sequence[GatewayPin], login: LoginServer) -> None:
        """Writes network.toml."""
        lines = "# All that a relay or a client of this network needs: give it as --network FILE.\n"
        write_private(self.root / NETWORK_FILE, (lines + network_toml(network, gateways, login)).encode())

    def write_settings(self, settings: Settings) -> None:
        """Remembers what the network was started with."""
        write_private(self.root / "network.json", json.dumps(asdict(settings)).encode())

    def settings(self) -> Settings:
        """What the network was started with; raises `ConfigError` when that is damaged or missing."""
        return Settings(**_json(self.root / "network.json", {"base_port", "exit_policy", "gateways", "workers"}))

    def recorded(self) -> list[Process]:
        """All that was started and not stopped, running or not: gateways, relays by number, the login server."""
        paths = (self.root / "run").glob("*.json")
        processes = [Process(**_json(path, {"name", "pid", "started"})) for path in paths]
        return sorted(
            processes, key=lambda each: (_SCRIPTS.index(script_of(each.name)), len(each.name), each.name)
        )

    def running(self) -> list[Process]:
        """Those that still run."""
        return [process for process in self.recorded() if start_time(process.pid) == process.started]

    def ready(self, process: Process) -> Ready | None:
        """What the daemon says of itself, None before it can be dialled."""
        path = self.root / process.name / READY_FILE
        if read_private(path) is None:
            return None
        values = _json(path, {"pid", "address", "identity", "http"})
        return Ready(**values) if values.pop("pid") == process.pid else None

    def start(self, name: str) -> Process:
        """Starts a daemon by its file and records it; raises `ConfigError` when it cannot be started at all."""
        for folder in ("logs", "run", name):
            private_folder(self.root / folder)
        for left in (READY_FILE, PID_FILE):
            (self.root / name / left).unlink(missing_ok=True)
        command = [sys.executable, str(self._scripts / script_of(name)), "--config", str(self.config(name))]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        try:
            with open(self.log(name), "ab", opener=private) as log:
                self._log_starts[name] = log.tell()
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise ConfigError(f"{name}: cannot be started: {error.strerror}") from None
        self._children[name] = child
        process = Process(name, child.pid, start_time(child.pid) or 0)
        write_private(self.root / "run" / f"{name}.json", json.dumps(asdict(process)).encode())
        return process

    def exit_code(self, name: str) -> int | None:
        """How a daemon started by this object ended; None while it runs."""
        return self._children[name].poll()

    def end(self, processes: Iterable[Process], patience: float = PATIENCE) -> None:
        """Ends these and no others: asks, waits up to `patience` seconds, ends by force; then forgets them."""
        processes = list(processes)
        handles = {handle: process for process in processes if (handle := _handle(process)) is not None}
        try:
            if patience > 0:
                _signal(handles, signal.SIGTERM)
                left = _wait(handles, Deadline(patience))
            else:
                left = set(handles)
            _signal(left, signal.SIGKILL)
            _wait(left, Deadline(PATIENCE))
        finally:
            for handle in handles:
                os.close(handle)
        for process in processes:
            self._forget(process.name)

    def last_lines(self, name: str, count: int) -> list[str]:
        """The end of a daemon's log; of one started by this object, not what earlier ones said."""
        data = read_private(self.log(name)) or b""
        return data[self._log_starts.get(name, 0) :].decode("utf-8", "replace").splitlines()[-count:]

    def _forget(self, name: str) -> None:
        state = self.root / name
        for path in (state / READY_FILE, state / PID_FILE, self.root / "run" / f"{name}.json"):
            path.unlink(missing_ok=True)
        if name in self._children:
            self._children.pop(name).wait()


def is_gateway(name: str) -> bool:
    """Whether that is the name of a gateway's process."""
    return name.startswith(GATEWAY)


def script_of(name: str) -> str:
    """The file name of a daemon's script."""
    return "auth_server.py" if name == AUTH else f"{GATEWAY if is_gateway(name) else RELAY}.py"


def _json(path: Path, keys: set[str]) -> dict[str, Any]:
    try:
        values = json.loads(read_private(path) or b"")
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or set(values) != keys:
        raise ConfigError(f"{path}: is missing or damaged; stop the network's processes by hand and remove it")
    return values


def _handle(process: Process) -> int | None:
    """A file descriptor that stays this process even when its pid is used again; None when it has ended."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if start_time(process.pid) != process.started:
        os.close(handle)
        return None
    return handle


def _signal(handles: Iterable[int], number: signal.Signals) -> None:
    for handle in handles:
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass  # it ended just now


def _wait(handles: Iterable[int], deadline: Deadline) -> set[int]:
    """Waits for the ends of processes; those that have not ended in time are returned."""
    left = set(handles)
    poll = select.poll()
    for handle in left:
        poll.register(handle, select.POLLIN)
    while left and not deadline.expired:
        for handle, _ in poll.poll(1000 * deadline.left()):
            poll.unregister(handle)
            left.discard(handle)
    return left
