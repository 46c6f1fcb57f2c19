"""A login server as a process of its own, for tests that kill it; it takes quick passwords.

Run as `python -m tests.net.auth_process FOLDER DATABASE H:P`.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common.directory.addresses import Address, parse_address, parse_listen
from common.net.deadline import Deadline
from common.ops import lifecycle, logs
from common.ops.keystore import load_or_create_identity
from tests.net.login_peer import PATIENCE, serving

ROOT = Path(__file__).parents[2]


class AuthProcess:
    """One server over many lives: the same state folder and database, after the first life on the same address."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        self.database = database
        self.log = folder / "auth.log"
        self.address = Address("127.0.0.1", 0)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it can be dialled."""
        (self.folder / "ready").unlink(missing_ok=True)  # who is killed leaves it behind
        command = [sys.executable, "-m", __name__, str(self.folder), str(self.database), str(self.address)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """For its file, which also says where it is."""
        assert self.process is not None
        ready, deadline = self.folder / "ready", Deadline(PATIENCE)
        while not ready.exists():
            assert self.process.poll() is None and not deadline.expired, self.log.read_text()
            time.sleep(0.01)
        self.address = parse_address(json.loads(ready.read_text())["address"])

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def stop(self) -> int:
        """SIGTERM: its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        self.process = None
        return code


@contextlib.contextmanager
def auth_process(folder: Path, database: Path | None = None) -> Iterator[AuthProcess]:
    """A running server, killed at the end."""
    folder.mkdir(exist_ok=True)
    server = AuthProcess(folder, database or folder / "users.sqlite")
    try:
        server.start()
        yield server
    finally:
        server.kill()


def main() -> int:
    """The process."""
    folder, database, listen = Path(sys.argv[1]), Path(sys.argv[2]), parse_listen(sys.argv[3])
    logs.set_up("auth_server", "debug")
    identity = load_or_create_identity(folder / "keys")
    with lifecycle.Signals() as signals, serving(folder, database, listen=listen) as server:
        with lifecycle.ready(folder, str(server.address), identity.public):
            signals.stop.wait()
    return signals.exit_code


if __name__ == "__main__":
    lifecycle.main(main)
