"""What the launcher can do: a whole network on this machine, and nothing left behind when it stops.

Everything listens on loopback, and because of that the exits may reach loopback. The gateways and the login
server start first; the relays start together and the launcher waits until more than half of the gateways list them
all. What fails to start shows why, and the rest is stopped; so does ctrl-c.
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from common.directory.quorum import majority
from common.errors import DirectoryError, OnionError
from common.net.deadline import Deadline
from common.ops.config import PREFIX, PROJECT, load
from common.ops.free_ports import FreePorts
from common.ops.launcher_state import (
    AUTH,
    GATEWAY,
    NETWORK_FILE,
    RELAY,
    Folder,
    Process,
    Ready,
    Settings,
    is_gateway,
)
from common.ops.lifecycle import FAILED
from common.ops.options import OPTIONS
from common.ops.toml_writer import login_table
from common.ops.values import GatewayPin, LoginServer, parse_address

SCRIPT = "./launch_network.sh"
DEFAULT_STATE = PROJECT / ".network"
START_TIME = 30.0  # seconds until a daemon is ready, and until all are listed: slow machines need some
_HOST = "127.0.0.1"
_PROXY_PORT = 9050  # where programs look for such a proxy
_LOOK = 0.02  # seconds between looks at what a daemon has written
_ASK = 0.1  # seconds between questions to the gateway: each is a connection
_SHOWN_LINES = 15  # of the log of a daemon that died


def hide_secrets(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The client's arguments without secret options, and these as environment: others see a command line."""
    left = list(arguments)
    hidden: dict[str, str] = {}
    for option in OPTIONS["client"]:
        for at, word in reversed(list(enumerate(left))):
            flag, equals, value = word.partition("=")
            if not option.secret or flag != option.flag or not (equals or left[at + 1 :]):
                continue
            hidden.setdefault(PREFIX + option.name.upper(), value if equals else left[at + 1])
            del left[at : at + (1 if equals else 2)]
    return left, hidden


def ask_gateway(client_config: Path) -> set[str]:
    """The nicknames that more than half of the gateways list; none when no more than half answer."""
    from common.roles.client.bootstrap import DirectoryClient  # noqa: PLC0415  stop and logs need not load it

    config = load("client", ["--config", str(client_config)], {})
    try:
        document = DirectoryClient(config.gateways, config.network, None).fetch(Deadline(2.0))
    except DirectoryError:
        return set()
    return {entry.descriptor.nickname for entry in document.relays}


class Launcher:
    """The commands, until `stop` is set.

    `scripts` is the folder of gateway.py, relay.py, auth_server.py and client_tor.py; `listed` takes client.toml
    and returns the nicknames of the relays that the gateways list.
    """

    def __init__(
        self,
        state: Path,
        stop: threading.Event | None = None,
        scripts: Path = PROJECT,
        listed: Callable[[Path], set[str]] = ask_gateway,
    ) -> None:
        self._folder = Folder(state, scripts)
        self._stop = stop or threading.Event()
        self._scripts = scripts
        self._ask = listed
        self._state = state
        self._ports = FreePorts(_HOST)
        self._console = Console(highlight=False)

    def start(self, count: int, settings: Settings) -> None:
        """Starts gateways, `count` relays and the login server; `OnionError` when something runs here already."""
        with self._folder.locked():
            running = self._folder.running()
            if running:
                names = ", ".join(process.name for process in running)
                raise OnionError(
                    f"already running here: {names}\n"
                    f"use it: {self._command('client')} · more relays: {self._command('add 1')} · "
                    f"end it: {self._command('stop')}"
                )
            self._folder.end(self._folder.recorded())  # what has died since
            self._folder.write_settings(settings)
            try:
                self._start_servers(settings)
                self._start_relays([f"{RELAY}{number}" for number in range(1, count + 1)], settings)
            except BaseException:
                self._folder.end(self._folder.recorded())
                raise
        self._show_table()
        self._show_use(count)

    def add(self, count: int) -> None:
        """Starts `count` more relays, with the lowest free numbers."""
        with self._folder.locked():
            running = {process.name for process in self._folder.running()}
            if not any(is_gateway(name) for name in running):
                raise OnionError(f"no gateway is running here; start a network: {self._command('5')}")
            settings = self._folder.settings()
            gateways = [name for name in _gateways(settings) if name in running]
            if len(gateways) < majority(settings.gateways):
                text = (
                    f"only {len(gateways)} of {settings.gateways} gateways run here: nobody would use a new relay"
                )
                raise OnionError(f"{text}; {self._command('restart NAME')} starts one again")
            free = (f"{RELAY}{number}" for number in itertools.count(1) if f"{RELAY}{number}" not in running)
            names = list(itertools.islice(free, count))
            try:
                self._start_relays(names, settings)
            except BaseException:
                self._folder.end(process for process in self._folder.recorded() if process.name in names)
                raise
        self._show_table()

    def stop(self) -> None:
        """Ends all that was started here; nothing to do is fine."""
        if not self._folder.recorded():
            print("nothing is running")
            return
        with self._folder.locked():
            processes = self._folder.recorded()
            self._folder.end(processes)
        print("stopped " + ", ".join(process.name for process in processes))

    def kill(self, name: str) -> None:
        """Ends one daemon at once, as a crash would."""
        with self._folder.locked():
            processes = [process for process in self._folder.running() if process.name == name]
            if not processes:
                raise OnionError(f"{name} is not running here; {self._command('status')} lists what is")
            self._folder.end(processes, patience=0)
        print(f"{name} is gone; {self._command('restart ' + name)} starts it again")

    def restart(self, name: str) -> None:
        """Ends one daemon if it runs, and starts it with the keys, port and file it had."""
        with self._folder.locked():
            running = self._folder.running()
            known = (name == AUTH or name.startswith((GATEWAY, RELAY))) and self._folder.config(name).is_file()
            if not known or not self._folder.recorded():
                raise OnionError(f"{name} was not started here; {self._command('status')} lists what is")
            self._folder.end(process for process in running if process.name == name)
            processes = [self._folder.start(name)]
            self._wait_ready(processes)
            if name.startswith(RELAY):
                self._wait_listed(processes)
        self._show_table()

    def status(self) -> int:
        """Shows what runs; 0 when all that was started does, else 1."""
        recorded = self._folder.recorded()
        if not recorded:
            print(f"nothing is running; start a network: {self._command('5')}")
            return FAILED
        self._show_table()
        return 0 if len(self._folder.running()) == len(recorded) else FAILED

    def logs(self, name: str | None, follow: bool) -> None:
        """Shows the ends of the logs, and goes on showing them until ctrl-c with `follow`."""
        names = [name] if name else sorted(path.stem for path in (self._state / "logs").glob("*.log"))
        if not names or not all(self._folder.log(each).is_file() for each in names):
            raise OnionError(f"no log of {name or 'anything'} in {self._state / 'logs'}")
        ends = {each: self._folder.log(each).stat().st_size for each in names}
        for each in names:
            self._print_lines(each, self._folder.last_lines(each, 40 if name else 10), len(names) > 1)
        while follow and not self._stop.wait(10 * _LOOK):
            for each in names:
                with open(self._folder.log(each), "rb") as file:
                    file.seek(ends[each])
                    new = file.read()
                whole = new[: new.rfind(b"\n") + 1]
                ends[each] += len(whole)
                self._print_lines(each, whole.decode("utf-8", "replace").splitlines(), len(names) > 1)

    def client(self, arguments: Sequence[str]) -> NoReturn:
        """Becomes the client of this network."""
        config = self._folder.config("client")
        if not config.is_file():
            raise OnionError(f"no network here yet; start one: {self._command('5')}")
        script = str(self._scripts / "client_tor.py")
        arguments, secrets = hide_secrets(arguments)
        environ = os.environ | secrets
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, script, "--config", str(config), *arguments], environ)  # noqa: S606

    def _start_servers(self, settings: Settings) -> None:
        """Starts the gateways and the login server; then their addresses and keys are known, and stay."""
        names = [*_gateways(settings), AUTH]
        for name in names:
            page = f"{_HOST}:{self._ports.take(settings.ports)}" if is_gateway(name) else ""
            self._write_server(name, Ready(self._address(name, settings), "", page))
        ready = self._wait_ready([self._folder.start(name) for name in names])
        pins = []
        for name, server in zip(names, ready, strict=True):
            self._write_server(name, server)
            pins.append(GatewayPin(parse_address(server.address), bytes.fromhex(server.identity)))
        network = load("gateway", ["--config", str(self._folder.config(GATEWAY))], {}).network
        login = LoginServer(*pins.pop())
        self._folder.write_network(network, pins, login)
        proxy = f"{_HOST}:{self._proxy_port(settings)}"
        values = {"network": NETWORK_FILE, "state": "client", "socks_listen": proxy}
        self._folder.write_config("client", values | {"login": login_table(login)})

    def _write_server(self, name: str, server: Ready) -> None:
        """What a gateway or the login server is told."""
        values = {"listen": server.address, "state": name}
        self._folder.write_config(name, values | ({"http": server.http} if server.http else {}))

    def _start_relays(self, names: Sequence[str], settings: Settings) -> None:
        for name in names:
            values = {
                "listen": self._address(name, settings),
                "network": NETWORK_FILE,
                "nickname": name,
                "state": name,
                "exit_policy": settings.exit_policy,
                "workers": settings.workers,
            }
            self._folder.write_config(name, values)
        processes = [self._folder.start(name) for name in names]
        self._wait_ready(processes)
        self._wait_listed(processes)

    def _wait_ready(self, processes: Sequence[Process]) -> list[Ready]:
        deadline = Deadline(START_TIME)
        while True:
            ready = [self._folder.ready(process) for process in processes]
            done = [each for each in ready if each is not None]
            if len(done) == len(processes):
                return done
            late = processes[ready.index(None)].name
            self._look(processes, deadline, f"{late} was not ready within {START_TIME:.0f} seconds")

    def _wait_listed(self, processes: Sequence[Process]) -> None:
        deadline = Deadline(START_TIME)
        wanted = {process.name for process in processes}
        while missing := wanted - self._listed():
            text = f"{', '.join(sorted(missing))} not listed within {START_TIME:.0f} seconds"
            self._look(processes, deadline, text, _ASK)

    def _look(self, processes: Sequence[Process], deadline: Deadline, late: str, pause: float = _LOOK) -> None:
        """Waits a moment; raises when a daemon died, time is up, or somebody wants to stop."""
        if self._stop.wait(pause):
            raise KeyboardInterrupt
        for process in processes:
            if self._folder.exit_code(process.name) is not None:
                raise OnionError(self._with_log(f"{process.name} ended at its start", process.name))
        if deadline.expired:
            raise OnionError(self._with_log(late, processes[0].name))

    def _with_log(self, text: str, name: str) -> str:
        lines = self._folder.last_lines(name, _SHOWN_LINES)
        return "\n".join([f"{text}; the end of {self._folder.log(name)}:", *(f"    {line}" for line in lines)])

    def _listed(self) -> set[str]:
        return self._ask(self._folder.config("client"))

    def _address(self, name: str, settings: Settings) -> str:
        """Where a daemon listens now, and when it is started again."""
        return f"{_HOST}:{settings.port(name) or self._ports.take(settings.ports)}"

    def _proxy_port(self, settings: Settings) -> int:
        """The usual port for the usual folder if it is free, else any free one."""
        usual = self._state == DEFAULT_STATE and self._ports.is_free(_PROXY_PORT)
        return _PROXY_PORT if usual else self._ports.take(settings.ports)

    def _show_table(self) -> None:
        recorded, running, listed = self._folder.recorded(), self._folder.running(), self._listed()
        table = Table("name", "address", "pid", "state", "status page", box=None)
        for process in recorded:
            ready = self._folder.ready(process)
            state = "running" if process in running else "gone"
            if state == "running" and process.name in listed:
                state = "listed"
            page = f"http://{ready.http}/" if ready and ready.http else ""
            table.add_row(process.name, ready.address if ready else "", str(process.pid), state, page)
        self._console.print(table)

    def _show_use(self, count: int) -> None:
        config = load("client", ["--config", str(self._folder.config("client"))], {})
        if count < config.hops[0]:
            print(f"too few relays for paths of {config.hops[0]}: they will be shorter")
        print(f"prompt: {self._command('client')}")
        print(f"login:  {self._command('client server signup NAME')}")
        print(f"proxy:  {self._command('client socks')}")
        print(f"        curl --proxy socks5h://{config.socks_listen[0]} https://example.org/")
        print(f"join:   ./relay.py --network {self._state / NETWORK_FILE} --nickname NAME")
        print(f"stop:   {self._command('stop')}")

    def _command(self, words: str) -> str:
        state = "" if self._state == DEFAULT_STATE else f"--state {self._state} "
        return f"{SCRIPT} {state}{words}"

    @staticmethod
    def _print_lines(name: str, lines: Sequence[str], several: bool) -> None:
        for line in lines:
            print(f"{name}: {line}" if several else line, flush=True)


def _gateways(settings: Settings) -> list[str]:
    """The names; the first has no number, whatever comes after it, and so keeps its keys."""
    return [GATEWAY, *(f"{GATEWAY}{number}" for number in range(2, settings.gateways + 1))]
