"""Which program of this machine is at the other end of a connection to us, and what it is told once.

Over TCP a program has no name. On Linux the kernel lists the sockets of this machine (`/proc/net/tcp`) and each
process's descriptors (`/proc/PID/fd`), those of other users only to root. So a program is known by the short name
of its process, and one of another user or another machine, or one that has ended already, not at all.
"""

import logging
import os
import re
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from time import monotonic

from common.net.pump import Pump
from common.net.timers import Timer

Ends = tuple[tuple[str, int], tuple[str, int]]  # addresses of a connection: the other side's, ours

PAUSE = 1.0  # seconds between two looks through all processes: each costs some ten thousand system calls at most
REST = 50  # a look is followed by so many times its own length without one: it takes 2 % of the time at most
_MAX_WAITING = 256  # connections looked for at once; a program that is missed will come again
_MAX_TOLD = 1_024  # programs remembered
_MAPPED = bytes(10) + b"\xff\xff"  # before an IPv4 address in IPv6 form

_logger = logging.getLogger(__name__)


def programs_of(connections: Collection[Ends], proc: Path = Path("/proc")) -> dict[Ends, str]:
    """The names of the programs at the other ends, of those that can be found."""
    wanted = {row: ends for ends in connections for row in _rows(ends)}
    inodes = {f"socket:[{inode}]": wanted[row] for row, inode in _sockets(proc) if row in wanted}
    found: dict[Ends, str] = {}
    if not inodes:
        return found
    processes = map(int, filter(str.isdecimal, os.listdir(proc)))
    for process in sorted(processes, reverse=True):  # the newest first: they end soonest
        if len(found) == len(inodes):
            break
        folder = proc / str(process)
        for ends in filter(None, map(inodes.get, _descriptors(folder))):
            try:
                found[ends] = _printable((folder / "comm").read_text(errors="replace"))
            except OSError:
                pass  # it has ended
    return found


def _descriptors(process: Path) -> Iterator[str]:
    """What a process has open; nothing for one of another user, or one that has ended."""
    try:
        names = os.listdir(process / "fd")
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(f"{process}/fd/{name}")
        except OSError:
            pass  # closed while we looked


def _sockets(proc: Path) -> Iterator[tuple[str, str]]:
    """Of each TCP socket: its two addresses as the kernel writes them, and its inode."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue  # no Linux, or no IPv6
        for line in lines:
            fields = line.split()
            yield f"{fields[1]} {fields[2]}", fields[9]


def _rows(ends: Ends) -> list[str]:
    """A connection as the other side's rows may show it: an IPv6 socket may speak IPv4."""
    forms = [_written(address) for address in ends]
    return [f"{theirs} {ours}" for theirs, ours in zip(*forms, strict=False)]


def _written(address: tuple[str, int]) -> list[str]:
    packed = ip_address(address[0].partition("%")[0]).packed
    forms = [packed] if len(packed) == 16 else [packed, _MAPPED + packed]
    words = [struct.iter_unpack("=I", form) for form in forms]
    return ["".join(f"{word:08X}" for (word,) in form) + f":{address[1]:04X}" for form in words]


def _printable(name: str) -> str:
    return re.sub(r"[^\x21-\x7e]", "?", name.strip())


class AddressNotices:
    """Warns once per program that asks for targets by address. `note` is for the pump's thread, and never waits.

    Who asks is found on a short-lived thread, for all that wait at once, and at most every `PAUSE` seconds; where
    a look takes long, because there are many connections, less often.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._lock = threading.Lock()  # guards all below
        self._waiting: dict[Ends, tuple[str, ...]] = {}
        self._told: set[tuple[str, ...]] = set()
        self._thread: threading.Thread | None = None
        self._timer: Timer | None = None
        self._busy = False  # a look is under way, or one was a moment ago
        self._closed = False

    def note(self, ends: Callable[[], Ends], otherwise: tuple[str, ...], then: Callable[[], None]) -> None:
        """A program asked for an address. `otherwise` stands for it when it cannot be found; it is not shown.

        `ends` is called only when it is looked for, and raises `OSError` when the connection is gone.
        `then` goes on with the request: at once, or after a look that begins now, on the pump's thread. Served at
        once, a program may have ended before it is found.
        """
        with self._lock:
            look = not self._busy and not self._closed and len(self._told) < _MAX_TOLD
            if look or len(self._waiting) < _MAX_WAITING:
                with suppress(OSError):
                    self._waiting[ends()] = otherwise
            self._busy |= look
        if look:
            self._begin(then)
        else:
            then()

    def close(self) -> None:
        """Nothing more is said; waits for a look under way, which takes milliseconds."""
        with self._lock:
            self._closed = True
            thread, timer = self._thread, self._timer
        if timer is not None:
            timer.cancel()
        if thread is not None:
            thread.join(PAUSE)

    def _begin(self, then: Callable[[], None] | None = None) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            look = bool(waiting) and not self._closed
            self._busy = look
            if look:
                run = partial(self._look, waiting, then)
                self._thread = threading.Thread(target=run, name="program look-up", daemon=True)
                self._thread.start()
        if not look and then is not None:
            then()

    def _look(self, waiting: dict[Ends, tuple[str, ...]], then: Callable[[], None] | None) -> None:
        begun = monotonic()
        try:
            names = programs_of(waiting)
        finally:
            if then is not None:
                self._pump.call(then)
        for ends, otherwise in waiting.items():
            name = names.get(ends)
            unnamed = ("", *otherwise)
            key = unnamed if name is None else (name,)
            with self._lock:
                known = key in self._told
                self._told |= {key, unnamed}  # a program that could be named may be gone too soon the next time
            if not known:
                _logger.warning(
                    "%s asks for addresses instead of names: if it looks names up by itself, your own network "
                    "sees them; let the proxy do it (socks5h, SOCKS4a, HTTP), or refuse this with --safe-socks",
                    name or "a program that could not be identified",
                )
        with self._lock:
            self._timer = self._pump.call_later(max(PAUSE, REST * (monotonic() - begun)), self._begin)
