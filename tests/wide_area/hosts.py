"""Hosts in network namespaces of their own, joined by the forwarder. All is gone when the `with` ends, or we do.

Addresses look public and differ in their first 16 bits, or most gateways would not list relays there, and no path would
have two. Nothing leads out of the namespaces.
"""

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.system.namespaces import T, made_in

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds for what takes a moment
_PROGRAMS = ("unshare", "nsenter", "ip")
_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 1, 0x1000
_DEVICE = "wide0"
_HOLD = "ip link set lo up && echo ready && exec cat"


def missing() -> str:
    """What this machine lacks for a wide area, "" when nothing."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "needs Linux and root"
    absent = [program for program in _PROGRAMS if not shutil.which(program)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"no {_TUN}"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "network namespaces are not allowed" if probe.returncode else ""


class Host:
    """One namespace."""

    def __init__(self, address: str, mtu: int, tcp: str) -> None:
        self.address = address
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.device = self.make(_open_tun)
        for words in (
            f"addr add {self.address}/8 dev {_DEVICE}",
            f"link set {_DEVICE} mtu {mtu} txqueuelen 10000 up",
        ):
            subprocess.run(self.command("ip", *words.split()), check=True)
        if tcp:  # Linux lets a namespace have only what is allowed in the first one
            subprocess.run(self.command("sysctl", "-q", f"net.ipv4.tcp_congestion_control={tcp}"), check=True)

    def command(self, *words: object) -> list[str]:
        """A command line that runs these words there."""
        return ["nsenter", f"--target={self._holder.pid}", "--net", *map(str, words)]

    def make(self, factory: Callable[[], T]) -> T:
        """What `factory` makes there."""
        return made_in(self._holder.pid, factory)

    def close(self) -> None:
        """Ends the namespace with its last process."""
        os.close(self.device)
        self._holder.communicate(timeout=PATIENCE)


class WideArea:
    """Use `with`. Hosts count from 1; see `forwarder.Uplink` for the settings.

    `tcp`: the hosts' congestion control, one of `net.ipv4.tcp_allowed_congestion_control`; "" is the machine's own.
    """

    ADDRESSES = "11.{}.0.1"  # with each host's number; in one /8

    def __init__(self, hosts: int, mtu: int = 1_500, tcp: str = "", **settings: float) -> None:
        self.hosts: dict[int, Host] = {}
        self._count = hosts
        self._mtu = mtu
        self._tcp = tcp
        self._settings = settings

    def __enter__(self) -> Self:
        try:
            for number in range(1, self._count + 1):
                self.hosts[number] = Host(self.ADDRESSES.format(number), self._mtu, self._tcp)
            words = [f"{number}:{host.device}:{host.address}" for number, host in self.hosts.items()]
            self._forwarder = subprocess.Popen(
                [sys.executable, "-m", "tests.wide_area.forwarder", *words],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[host.device for host in self.hosts.values()],
                start_new_session=True,
            )
        except BaseException:
            self._close_hosts()
            raise
        self.set(**self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._forwarder.communicate(timeout=PATIENCE)
        self._close_hosts()

    @property
    def forwarder_pid(self) -> int:
        """To see what the emulation itself costs."""
        return self._forwarder.pid

    def set(self, *numbers: int, **settings: float) -> None:
        """Changes settings of these hosts, or of all."""
        self._ask({number: settings for number in numbers or self.hosts})

    def counters(self) -> dict[int, dict[str, int]]:
        """What each host's uplink has carried and lost."""
        return {int(number): counted for number, counted in self._ask({}).items()}

    def _ask(self, command: dict[int, dict[str, float]]) -> dict[str, dict[str, int]]:
        assert self._forwarder.stdin is not None and self._forwarder.stdout is not None
        self._forwarder.stdin.write(json.dumps(command).encode() + b"\n")
        self._forwarder.stdin.flush()
        answer: dict[str, dict[str, int]] = json.loads(self._forwarder.stdout.readline())
        return answer

    def _close_hosts(self) -> None:
        for host in self.hosts.values():
            host.close()
        self.hosts.clear()


def _open_tun() -> int:
    device = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def listening(host: Host, port: int = 0) -> socket.socket:
    """A socket that listens there."""
    return host.make(lambda: socket.create_server((host.address, port), backlog=256))
