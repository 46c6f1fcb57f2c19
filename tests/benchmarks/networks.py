"""What is compared: each contender is started here and says where its proxy port and its processes are."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

from common.directory.addresses import Address, parse_address
from common.errors import DirectoryError
from common.net.deadline import Deadline
from common.ops.lifecycle import READY_FILE
from common.roles.client.bootstrap import DirectoryClient
from common.roles.prompt.prompt import QUESTION
from tests.benchmarks import work
from tests.benchmarks.builds import Builds, build_ours
from tests.benchmarks.processes import PYTHON, ROOT, Child, Processes, free_ports, resident_mb
from tests.benchmarks.socks import Failed, Route

START_LIMIT = 60.0  # seconds a network may take to start
CLIENT_LIMIT = 20.0  # seconds a client may take from its start to a first byte
NETWORK = "benchmark"
_LOOK = 0.01  # seconds between looks at what a daemon has written
_ASK = 0.05  # seconds between questions to the gateway


class Contender(ABC):
    """Something that carries streams to the target."""

    has_circuits = False  # whether there are relays, circuits and a start worth measuring

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.target = target
        self.route = Route(target)
        self.client: Child | None = None
        self.relays: list[Child] = []
        self.start_seconds = 0.0
        self.idle_mb = 0.0  # memory of the largest relay right after the start

    @abstractmethod
    def start(self) -> None:
        """Starts all processes and returns when a byte has come through; raises `Failed`."""

    def children(self) -> list[Child]:
        """All its processes."""
        return [*self.relays, *([self.client] if self.client else [])]

    @property
    def carriers(self) -> list[int]:
        """The pids of client and relays: what carries the bytes."""
        return [child.pid for child in Contender.children(self)]

    def another(self, folder: Path) -> "Contender":
        """The same again beside it, not started: to measure a start."""
        raise NotImplementedError

    def client_command(self, folder: Path, port: int) -> Sequence[str | Path]:
        """The command of a client with no state yet."""
        raise NotImplementedError

    def build(self, count: int, at_once: int) -> Builds:
        """Builds circuits of three hops and ends them."""
        raise NotImplementedError

    def _started(self, begun: float) -> None:
        """The first byte has come."""
        self.start_seconds = monotonic() - begun
        self.idle_mb = max(resident_mb(relay.pid) for relay in self.relays)


class Direct(Contender):
    """No proxy at all."""

    def start(self) -> None:
        """Nothing to start."""


class Chain(Contender):
    """As many plain forwarders as a circuit has programs: a client and three relays."""

    LENGTH = 4

    def __init__(self, name: str, target: int, processes: Processes) -> None:
        super().__init__(name, target)
        self._processes = processes

    def start(self) -> None:
        """From the last to the first."""
        port = self.target
        for _ in range(self.LENGTH):
            child, port = self._processes.helper("forwarder", port)
            self.relays.append(child)
        self.route = Route(port)


class Ours(Contender):
    """A gateway, five relays and a client that opens a proxy port, as anyone would start them."""

    RELAYS = 5
    HOPS = 3
    has_circuits = True

    def __init__(
        self,
        suite: str,
        target: int,
        processes: Processes,
        folder: Path,
        *,
        name: str = "",
        checkout: Path = ROOT,
        python: Path = PYTHON,
    ) -> None:
        """`checkout`: whose programs these are; `python`: what runs them; `name`: where it is not the suite's."""
        super().__init__(name or suite, target)
        self._suite = suite
        self._checkout = checkout
        self._python = python
        self._processes = processes
        self._folder = folder
        self._gateway: Child | None = None
        self._pin: tuple[Address, bytes] = (Address("", 0), b"")

    def start(self) -> None:
        """The clock runs from the first process to the first byte; keys are made in that time."""
        begun = monotonic()
        deadline = Deadline(START_LIMIT)
        self._folder.mkdir(parents=True)
        common = ["--listen", "127.0.0.1:0", "--network", NETWORK, "--log-level", "warning"]
        self._gateway = self._start("gateway", "gateway.py", [*common])
        ready = self._ready("gateway", self._gateway, deadline)
        self._pin = parse_address(ready["address"]), bytes.fromhex(ready["identity"])
        for number in range(1, self.RELAYS + 1):
            name = f"relay{number}"
            words = [*common, *self._gateway_words(), "--nickname", name, "--exit-policy", "local"]
            self.relays.append(self._start(name, "relay.py", words))
        self._wait_listed(deadline)
        port = free_ports(1)[0]
        self.route = Route(port, self.target)
        child = self._processes.start(self.client_command(self.client_state, port), self._folder / "client.log")
        self.client = child
        work.until_first_byte(self.route, lambda: child.poll() is None, deadline.left())
        self._started(begun)

    def children(self) -> list[Child]:
        """The gateway too."""
        return super().children() + ([self._gateway] if self._gateway else [])

    def another(self, folder: Path) -> Contender:
        """As the first."""
        return Ours(
            self._suite,
            self.target,
            self._processes,
            folder,
            name=self.name,
            checkout=self._checkout,
            python=self._python,
        )

    def client_command(self, folder: Path, port: int) -> Sequence[str | Path]:
        """`client_tor.py socks`; the empty configuration keeps the user's own out."""
        return [*self._client("socks"), "--listen", f"127.0.0.1:{port}", "--state", folder]

    def prompt_command(self, folder: Path) -> Sequence[str | Path]:
        """The prompt of a client with no state yet."""
        return [*self._client(), "--state", folder]

    def _client(self, *command: str) -> list[str | Path]:
        words = [*command, "--config", os.devnull, "--network", NETWORK, *self._gateway_words()]
        options = ["--hops", str(self.HOPS), "--suite", self._suite]
        return [self._python, self._checkout / "client_tor.py", *words, *options]

    def build(self, count: int, at_once: int) -> Builds:
        """By a client inside this process."""
        return build_ours(self._pin, NETWORK, self._suite, self.HOPS, count, at_once)

    @property
    def client_state(self) -> Path:
        """The client's state folder."""
        return self._folder / "client"

    def relay_pid(self, nickname: str) -> int:
        """The process of a relay, called relay1, relay2, ..."""
        return self.relays[int(nickname.removeprefix("relay")) - 1].pid

    def _gateway_words(self) -> list[str]:
        address, key = self._pin
        return ["--gateway", str(address), "--gateway-key", key.hex()]

    def _start(self, name: str, script: str, words: Sequence[str]) -> Child:
        command: list[str | Path] = [self._python, self._checkout / script, *words]
        command += ["--state", self._folder / name]
        return self._processes.start(command, self._folder / f"{name}.log")

    def _ready(self, name: str, child: Child, deadline: Deadline) -> dict[str, str]:
        path = self._folder / name / READY_FILE
        while not path.is_file():
            self._check([child], deadline)
            sleep(_LOOK)
        ready: dict[str, str] = json.loads(path.read_text())
        return ready

    def _wait_listed(self, deadline: Deadline) -> None:
        while True:
            try:
                document = DirectoryClient([self._pin], NETWORK, None).fetch(Deadline(2.0))
                if len(document.relays) == self.RELAYS:
                    return
            except DirectoryError:
                pass  # none is listed yet
            self._check(self.relays, deadline)
            sleep(_ASK)

    def _check(self, children: Sequence[Child], deadline: Deadline) -> None:
        ended = [child for child in children if child.poll() is not None]
        if ended or deadline.expired:
            logs = [path.read_text(errors="replace")[-2_000:] for path in sorted(self._folder.glob("*.log"))]
            raise Failed("a daemon ended\n" * bool(ended) + "the network did not start:\n" + "".join(logs))


def time_client_start(contender: Contender, processes: Processes, folder: Path) -> float:
    """Seconds from starting a client with no state to its first byte; the network is up."""
    folder.mkdir(mode=0o700, parents=True)
    port = free_ports(1)[0]
    command = contender.client_command(folder, port)
    begun = monotonic()
    child = processes.start(command, folder.with_suffix(".log"))
    try:
        work.until_first_byte(Route(port, contender.target), lambda: child.poll() is None, CLIENT_LIMIT)
        return monotonic() - begun
    finally:
        processes.end([child])


def time_prompt(ours: Ours, processes: Processes, folder: Path) -> float:
    """Seconds from starting a client with no state to its first question; input and output are pipes."""
    folder.mkdir(mode=0o700, parents=True)
    begun = monotonic()
    child = processes.start(ours.prompt_command(folder), folder.with_suffix(".log"), pipe=True, commands=True)
    assert child.stdout is not None
    assert child.stdin is not None
    with child.stdin, child.stdout as output:
        shown = b""
        while not shown.endswith(QUESTION.encode()):
            piece = os.read(output.fileno(), 4_096)
            if not piece:
                raise Failed("the client ended before its prompt")
            shown += piece
        taken = monotonic() - begun
    processes.end([child])
    return taken
