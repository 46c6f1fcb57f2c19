"""What the kernel says about other processes and their sockets (Linux)."""

import os
from pathlib import Path

LISTEN, ESTABLISHED = "0A", "01"


def children(pid: int) -> set[int]:
    """The processes that one has started and that run; those that ended and were not waited for are not among them."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        if int(parent) == pid and state not in ("Z", "X"):
            found.add(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def sockets(pid: int, state: str) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Its TCP sockets over IPv4 in that state: own address and the other's. None when it has ended."""
    own = set()
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return []  # the process ended while we looked
    for entry in entries:
        try:
            own.add(os.readlink(entry))
        except OSError:
            pass  # closed while we looked
    return [
        (_address(row[1]), _address(row[2])) for row in rows if row[3] == state and f"socket:[{row[9]}]" in own
    ]


def listeners(port: int, pids: set[int]) -> set[int]:
    """Those of the processes that listen on a port."""
    return {pid for pid in pids if any(own[1] == port for own, _ in sockets(pid, LISTEN))}


def peer_of(address: tuple[str, int], pids: set[int]) -> int:
    """The process at the other end of the connection whose end here has that address."""
    (found,) = [pid for pid in pids if any(other == address for _, other in sockets(pid, ESTABLISHED))]
    return found


def _address(raw: str) -> tuple[str, int]:
    host, _, port = raw.partition(":")
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(host))), int(port, 16)
