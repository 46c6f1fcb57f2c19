"""C tor's control port as the benchmark reads it, and ports for programs that are not started yet."""

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.builds import close_circuits, relays_known
from tests.benchmarks.processes import free_ports

BLOCK = "250+circuit-status=\r\n7 BUILT $A PURPOSE=GENERAL\r\n250 EXTENDED $B\r\n.\r\n250 OK\r\n"
SINGLE = "250-circuit-status=9 BUILT $A PURPOSE=GENERAL\r\n250 OK\r\n"
NONE = "250-circuit-status=\r\n250 OK\r\n"
RELAY = "r x 5EIoDjJywMGGj9NXFP0TeLtDWcE 2038-01-01 00:00:00 127.0.0.1 1 0\r\ns Exit\r\n"


@contextmanager
def control_port(answers: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """A port that answers one client, "250 OK" where nothing else is told, and what it was asked."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            sock, _ = server.accept()
            with sock, sock.makefile("rwb") as file:
                for line in file:
                    asked.append(line.decode().strip())
                    file.write(answers.get(asked[-1], "250 OK\r\n").encode())
                    file.flush()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join()


def test_all_circuits_are_closed_whatever_their_ids_look_like() -> None:
    for answer, ids in ((BLOCK, ["7", "250"]), (SINGLE, ["9"]), (NONE, [])):
        with control_port({"GETINFO circuit-status": answer}) as (port, asked):
            close_circuits(port)
        assert [line for line in asked if line.startswith("CLOSE")] == [f"CLOSECIRCUIT {each}" for each in ids]


def test_a_circuit_that_ended_by_itself_is_no_failure() -> None:
    with control_port({"GETINFO circuit-status": BLOCK, "CLOSECIRCUIT 7": "552 Unknown circuit\r\n"}) as (port, asked):
        close_circuits(port)
    assert asked[-1] == "CLOSECIRCUIT 250"


def test_relays_are_counted() -> None:
    with control_port({"GETINFO ns/all": f"250+ns/all=\r\n{RELAY}{RELAY}.\r\n250 OK\r\n"}) as (port, _):
        assert relays_known(port) == 2


def test_free_ports_differ_and_no_outgoing_connection_can_take_them() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert first <= 10_000 or max(ports) < first
