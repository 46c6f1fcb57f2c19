"""A gateway as a process of its own, for tests that kill it, starve it or feed it garbage."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common.directory.addresses import Address, parse_address
from common.net.deadline import Deadline
from tests.net.registering import NETWORK, PATIENCE

ROOT = Path(__file__).parents[2]


def start_gateway(state: Path, listen: Address, log: Path) -> subprocess.Popen[bytes]:
    """Starts `gateway.py`; what it says goes to the end of `log`."""
    command = [sys.executable, "gateway.py", "--listen", str(listen), "--state", str(state), "--network", NETWORK]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOR_NETWORK_")}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


class GatewayProcess:
    """One gateway over many lives: always the same state folder, and from the second life on the same address."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.state = state or folder / "state"
        self.log = folder / "gateway.log"
        self.address = Address("127.0.0.1", 0)
        self.identity = b""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it can be dialled."""
        ready = self.state / "ready"
        ready.unlink(missing_ok=True)  # who is killed leaves it behind
        self.process = start_gateway(self.state, self.address, self.log)
        deadline = Deadline(PATIENCE)
        while not ready.exists():
            assert self.process.poll() is None, self.said()
            assert not deadline.expired, self.said()
            time.sleep(0.01)
        told = json.loads(ready.read_text())
        self.address, self.identity = parse_address(told["address"]), bytes.fromhex(told["identity"])

    def kill(self) -> None:
        """As a power failure would, as far as the process can tell."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text()

    def wait_until_said(self, text: str) -> None:
        """Fails when it does not say so in time."""
        deadline = Deadline(PATIENCE)
        while text not in self.said():
            assert not deadline.expired, self.said()
            time.sleep(0.01)


@contextlib.contextmanager
def gateway_process(folder: Path, state: Path | None = None) -> Iterator[GatewayProcess]:
    """A running gateway; killed at the end."""
    gateway = GatewayProcess(folder, state)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.kill()


def refuses_to_start(state: Path, log: Path) -> str:
    """The sentence with which a gateway ends at once; it must end with exit code 2 and no traceback."""
    process = start_gateway(state, Address("127.0.0.1", 0), log)
    try:
        assert process.wait(PATIENCE) == 2, log.read_text()
    finally:
        process.kill()
        process.wait(PATIENCE)
    said = log.read_text()
    assert "Traceback" not in said
    return said
