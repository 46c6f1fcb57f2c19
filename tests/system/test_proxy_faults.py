"""The proxy port while relays die and new ones come: nothing is lost that had not begun to answer."""

import asyncio
import hashlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.net.in_process import receive_exactly, wait_until
from tests.system.launched import Launched
from tests.system.targets import WebTarget, pieces

pytestmark = pytest.mark.system
REQUESTS = 500  # at once
KEYS = 10  # isolation keys of them, so that many circuits carry them
SIZES = (0, 1, 700, 5_003, 70_001, 300_007, 1_000_003)  # bytes
PATIENCE = 35.0  # seconds for all


@dataclass
class Tally:
    """What became of the requests."""

    refused: list[int] = field(default_factory=list)  # SOCKS codes: requests lost before an answer began
    broken: int = 0  # streams that a killed relay carried
    wrong: list[str] = field(default_factory=list)
    done: int = 0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with Launched(tmp_path_factory.mktemp("faults") / "network", 6) as network:
        yield network


async def fetch(address: str, web: WebTarget, number: int, size: int, tally: Tally) -> bool:
    """One request; False when its stream broke, which must never look like an end or other bytes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        user = str(number % KEYS).encode()
        name = b"localhost"
        writer.write(b"\x05\x01\x02\x01" + bytes([len(user)]) + user + b"\x01x")
        writer.write(bytes([5, 1, 0, 3, len(name)]) + name + web.port.to_bytes(2, "big"))
        answer = await reader.readexactly(14)
        if answer[5]:
            tally.refused.append(answer[5])
            return True
        writer.write(f"GET /bytes/{size} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
    if not head.startswith(b"HTTP/1.1 200 ") or hashlib.sha256(body).digest() != _DIGESTS[size]:
        tally.wrong.append(f"{len(body)} of {size} bytes")
    return True


_DIGESTS = {size: hashlib.sha256(b"".join(pieces(size))).digest() for size in SIZES}


async def until_whole(address: str, web: WebTarget, number: int, size: int, tally: Tally) -> None:
    """As a program does whose stream was reset: it asks again."""
    while not await fetch(address, web, number, size, tally):
        tally.broken += 1
    tally.done += 1


async def all_at_once(address: str, web: WebTarget, network: Launched, tally: Tally) -> None:
    """The requests, and the faults while they run."""
    sizes = random.Random(5).choices(SIZES, k=REQUESTS)
    requests = [until_whole(address, web, number, size, tally) for number, size in enumerate(sizes)]
    running = asyncio.gather(*requests)
    for faults in (("kill", "relay2"), ("add", "1"), ("kill", "relay5"), ("add", "1")):
        await asyncio.to_thread(network.tell, *faults)
    await running


def test_a_password_given_to_the_launcher_is_in_no_command_line(network: Launched, tmp_path: Path) -> None:
    log = tmp_path / "client.log"
    with network.proxy(log, "--proxy-auth", "alice:open-sesame", "--listen", "127.0.0.1:0") as address:
        wait_until(lambda: log.read_text().count("ctrl-c ends it") == 2)  # two ports
        shown = Path(f"/proc/{network.client}/cmdline").read_bytes()
        assert b"client_tor.py" in shown
        assert b"sesame" not in shown
        host, _, port = address.rpartition(":")
        for password, answer in ((b"wrong", b"\x05\x02\x01\x01"), (b"open-sesame", b"\x05\x02\x01\x00")):
            with socket.create_connection((host, int(port)), PATIENCE) as sock:
                sock.sendall(b"\x05\x01\x02\x01\x05alice" + bytes([len(password)]) + password)
                assert receive_exactly(sock, 4) == answer
    assert "sesame" not in log.read_text()


def test_500_requests_are_byte_exact_while_relays_are_killed_and_added(network: Launched, tmp_path: Path) -> None:
    tally = Tally()
    with WebTarget() as web, network.proxy(tmp_path / "client.log", "--hops", "3") as address:
        asyncio.run(asyncio.wait_for(all_at_once(address, web, network, tally), PATIENCE))
        assert not tally.refused
        assert not tally.wrong
        assert tally.done == REQUESTS
        assert tally.broken, "no stream was on a relay that was killed: this shows nothing"
        wait_until(lambda: asyncio.run(fetch(address, web, 0, 700, tally)))
