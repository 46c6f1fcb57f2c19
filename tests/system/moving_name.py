"""`python -m tests.system.moving_name FOLDER`: a gateway whose name changes its address, and who follows.

To be run in namespaces of its own, as root (`unshare --mount --net --pid --fork`): it serves DNS on port 53 of
its own loopback, which its own /etc/resolv.conf names. Ends with 0 when relays and client have followed.
"""

import fcntl
import socket
import struct
import subprocess
import sys
from pathlib import Path

from common.directory.addresses import Address
from tests.system.dns_server import DnsServer
from tests.system.programs import Pin, Programs, echoed, wait_listed, wait_until
from tests.system.targets import Target, echo

NAME = "gateway.example.test"
PORT = 9000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    """What `ip link set lo up` does; a new network namespace begins with it down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", asked)[1] | _IFF_UP
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags))


def own_resolver(folder: Path) -> None:
    """From here on names are asked of 127.0.0.1, in this mount namespace only."""
    for name, text in (
        ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ):
        (folder / name).write_text(text)
        there = Path("/etc", name)
        if there.exists():
            subprocess.run(["mount", "--bind", str(folder / name), str(there.resolve())], check=True)


def main(folder: Path) -> None:
    """The gateway moves from IPv4 to another IPv4 address, and from there to IPv6."""
    loopback_up()
    own_resolver(folder)
    with (
        DnsServer("127.0.0.1", 53, {NAME: ["127.0.0.2"]}) as dns,
        Programs(folder) as programs,
        Target(echo) as target,
    ):
        assert dns.asked(NAME) == 0
        key = programs.gateway("gateway", listen=f"127.0.0.2:{PORT}")[1]
        by_name = ["--gateway", f"{NAME}:{PORT}", "--gateway-key", key.hex()]
        start_relays(programs, 1, by_name)
        wait_listed(list(programs.pins.values()), names(1))
        with programs.proxy(by_name) as proxy:
            echoed(proxy, target.host, target.port)
            assert dns.asked(NAME) >= 4, "three relays and a client ask before they dial"
            for generation, (host, listen) in enumerate([("127.0.0.3", "127.0.0.3"), ("::1", "[::1]")], 2):
                assert programs.stop("gateway") == 0
                dns.change(NAME, host)
                moved: Pin = programs.gateway("gateway", listen=f"{listen}:{PORT}")
                print(f"moved to {host}", flush=True)
                wait_listed([moved], names(generation - 1))  # the relays have followed
                start_relays(programs, generation, by_name)
                wait_listed([moved], names(generation - 1) | names(generation))
                programs.kill(*names(generation - 1))
                # A client that does not follow knows dead relays only.
                wait_until(lambda: reached(proxy, target), lambda: "the client has not followed")


def names(generation: int) -> set[str]:
    """Three relays that start together."""
    return {f"relay{generation}{letter}" for letter in "abc"}


def start_relays(programs: Programs, generation: int, by_name: list[str]) -> None:
    """All with the gateway's name and not its address."""
    for name in sorted(names(generation)):
        programs.relay(name, by_name)


def reached(proxy: Address, target: Target) -> bool:
    """Whether the target is reached through the proxy now."""
    try:
        echoed(proxy, target.host, target.port)
    except (AssertionError, OSError):
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
