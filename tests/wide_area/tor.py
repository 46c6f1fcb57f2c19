"""C tor on the hosts of a wide area: authorities that are relays and exits on 1 to 3, a client on 4."""

import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Self

from tests.benchmarks import tor
from tests.benchmarks.processes import Child, Processes
from tests.wide_area.hosts import WideArea
from tests.wide_area.programs import Failed, open_through

_OR, _DIRECTORY, _SOCKS = 9_001, 9_030, 9_050
_CLIENT = 4
START_TIME = 120.0  # seconds: an authority that misses a vote costs a minute
# "fast" lets the window outgrow the queue that C tor allows a circuit, and closes it then: allow a longer one.
_LONGER_QUEUE = " circ_max_cell_queue_size_out=50000\n"
# Quicker here than what loopback needs, where links are full both ways: a transfer here goes one way.
_FAST_SCHEDULER = "Schedulers KIST\nKISTSchedRunInterval 1 msec\n"
_HOME = "127.0.0.1"


class WideTor:
    """Use `with`, inside that of `processes`."""

    def __init__(
        self, area: WideArea, folder: Path, processes: Processes, keys: Sequence[tor.Keys], *, fast: bool
    ) -> None:
        self._area = area
        self._folder = folder
        self._processes = processes
        self._keys = keys
        self._fast = fast
        self._running: list[Child] = []

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        lines = "".join(
            f"DirAuthority a{number} orport={_OR} no-v2 v3ident={keys.authority} "
            f"{self._area.hosts[number].address}:{_DIRECTORY} {keys.relay}\n"
            for number, keys in enumerate(self._keys, 1)
        )
        files = {number: self._authority(number, keys, lines) for number, keys in enumerate(self._keys, 1)}
        files[_CLIENT] = self._client(lines)
        sleep((tor._START_AT - time.time()) % tor._VOTE_ROUND)
        deadline = monotonic() + START_TIME
        for number, file in files.items():
            command = self._area.hosts[number].command("tor", "-f", file, "--defaults-torrc", file.with_name("none"))
            self._running.append(self._processes.start(command, file.with_name("log")))
        log = files[_CLIENT].with_name("log")
        while tor._READY not in log.read_bytes():
            if monotonic() > deadline:
                self._processes.end(self._running)
                raise Failed(f"C tor did not start:\n{log.read_text(errors='replace')[-2_000:]}")
            sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.end(self._running)

    def open(self, target: tuple[str, int], user: str = "") -> socket.socket:
        """See `WidePrograms.open`."""
        return open_through(self._area.hosts[_CLIENT], _SOCKS, target, user)

    def _authority(self, number: int, keys: tor.Keys, lines: str) -> Path:
        folder = self._folder / f"a{number}"
        shutil.copytree(keys.folder, folder)
        address = self._area.hosts[number].address
        resolver = self._folder / "resolv.conf"
        resolver.write_text(f"nameserver {_HOME}\n")
        own = f"Nickname a{number}\nORPort {address}:{_OR}\nDirPort {address}:{_DIRECTORY}\n"
        own += f"ServerDNSResolvConfFile {resolver}\n"
        fast = tor._FAST_AUTHORITY.rstrip("\n") + _LONGER_QUEUE if self._fast else ""
        return self._write(folder, address, tor._RELAY.replace(_HOME, address) + tor._AUTHORITY + own + fast, lines)

    def _client(self, lines: str) -> Path:
        folder = self._folder / "client"
        folder.mkdir(mode=0o700)
        fast = tor._FAST_CLIENT if self._fast else ""
        return self._write(
            folder, self._area.hosts[_CLIENT].address, f"SocksPort {_HOME}:{_SOCKS}\nExitNodes a3\n" + tor._CLIENT + fast, lines
        )

    def _write(self, folder: Path, address: str, own: str, lines: str) -> Path:
        file = folder / "torrc"
        fast = _FAST_SCHEDULER + tor._FAST_EVERY if self._fast else ""
        file.write_text(f"DataDirectory {folder}\n" + tor._EVERY.replace(_HOME, address) + fast + lines + own)
        return file
