"""A gateway that is killed, whose disk is full, or whose database is not what it should be: no relay is lost."""

import contextlib
import os
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.net.deadline import Deadline
from common.roles.client.bootstrap import DirectoryClient
from common.roles.relay.registration import RegistrationState
from tests.net.gateway_process import GatewayProcess, gateway_process, refuses_to_start
from tests.net.registering import NETWORK, PATIENCE, RegisteringRelay, registered

LIVES = 5


def listed(gateway: GatewayProcess) -> set[str]:
    """The nicknames in a document that is asked for now."""
    client = DirectoryClient([(gateway.address, gateway.identity)], NETWORK)
    return {entry.descriptor.nickname for entry in client.fetch(Deadline(PATIENCE)).relays}


def join(stack: contextlib.ExitStack, folder: Path, name: str, gateway: GatewayProcess) -> RegisteringRelay:
    relay = stack.enter_context(registered(folder / name, name, gateway.address, gateway.identity))
    relay.wait_for(RegistrationState.LISTED)
    return relay


def wait_until_listed(gateway: GatewayProcess, names: set[str]) -> None:
    deadline = Deadline(PATIENCE)
    while (found := listed(gateway)) != names:
        assert not deadline.expired, found


def test_no_listed_relay_is_lost_when_the_gateway_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Each life is ended the moment a relay has heard that it is listed, while others register again."""
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_process(tmp_path))
        expected: set[str] = set()
        serials: list[int] = []
        for life in range(LIVES):
            name = f"relay{life}"
            join(stack, tmp_path, name, gateway)
            expected.add(name)
            gateway.kill()
            gateway.start()
            client = DirectoryClient([(gateway.address, gateway.identity)], NETWORK)
            document = client.fetch(Deadline(PATIENCE))  # at once: hardly any has come back
            assert {entry.descriptor.nickname for entry in document.relays} == expected
            serials.append(document.serial)
        assert serials == sorted(set(serials))
        assert "damaged" not in gateway.said()
        assert "Traceback" not in gateway.said()


def test_a_damaged_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_process(tmp_path))
        join(stack, tmp_path, "relay", gateway)
        gateway.kill()
    database = gateway.state / "gateway.sqlite"
    with contextlib.closing(sqlite3.connect(database)) as whole:
        whole.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    first_page = database.read_bytes()[:4_096]
    for damage in (b"no database", os.urandom(20_000), first_page + os.urandom(database.stat().st_size - 4_096)):
        database.write_bytes(damage)
        said = refuses_to_start(gateway.state, tmp_path / "refused.log")
        assert f"{database}: " in said
        assert "damaged" in said


def test_a_database_of_a_newer_gateway_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with gateway_process(tmp_path) as gateway:
        gateway.kill()
    with contextlib.closing(sqlite3.connect(gateway.state / "gateway.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
    assert "newer gateway" in refuses_to_start(gateway.state, tmp_path / "refused.log")


def test_a_second_gateway_on_the_same_folder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with gateway_process(tmp_path) as gateway:
        assert "in use" in refuses_to_start(gateway.state, tmp_path / "refused.log")


# ---- a full disk ----


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system of its own with so many kB; None where this process may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Callable[[], None]:
    """Leaves no byte free; what is returned gives them back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1_024))
    return filler.unlink


def limit_files(gateway: GatewayProcess) -> Callable[[], None]:
    """Where there is no small disk: no file of the gateway may grow any more, which looks the same to SQLite."""
    assert gateway.process is not None
    pid, database = gateway.process.pid, gateway.state / "gateway.sqlite"
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    wal = database.with_name(database.name + "-wal")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, before[1]))
    return lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before) and None


def test_a_full_disk_at_the_start_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32) as disk:
        if disk is None:
            disk = Path("/proc")  # where nothing can be written either
        said = refuses_to_start(disk / "state", tmp_path / "refused.log")
        assert str(disk) in said


def test_a_disk_that_becomes_full_costs_no_relay_its_place(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 1_024))
        gateway = stack.enter_context(gateway_process(tmp_path, (disk or tmp_path) / "state"))
        join(stack, tmp_path, "before", gateway)
        free = fill(disk) if disk is not None else limit_files(gateway)
        names = {"before"} | {f"later{number}" for number in range(4)}
        for name in sorted(names - {"before"}):
            join(stack, tmp_path, name, gateway)
        assert listed(gateway) == names
        gateway.wait_until_said("going on from memory")
        assert gateway.said().count("going on from memory") == 1
        free()
        gateway.wait_until_said("what waited is stored")
        gateway.kill()
        gateway.start()
        assert listed(gateway) == names
        assert "Traceback" not in gateway.said()


def test_a_relay_that_does_not_come_back_after_a_restart_leaves_when_the_grace_is_over(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_process(tmp_path))
        join(stack, tmp_path, "stays", gateway)
        gone = join(stack, tmp_path, "goes", gateway)
        gateway.kill()
        gone.stop()
        start = time.monotonic()
        gateway.start()
        assert listed(gateway) == {"stays", "goes"}
        wait_until_listed(gateway, {"stays"})
        assert time.monotonic() - start > 9  # two heartbeats
