"""Where programs find each other: by IPv6 addresses, and by names that move."""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.system.dns_server import DnsServer
from tests.system.programs import PATIENCE, ROOT, Programs, echoed, environment, wait_listed
from tests.system.targets import Target, echo

pytestmark = pytest.mark.system
RELAYS = ["relay1", "relay2", "relay3"]
NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]


def cannot(reason: str) -> NoReturn:
    """Skips the test; where all must run it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def test_a_whole_network_on_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        cannot(f"[::1] cannot be used here: {error}")
    with Programs(tmp_path, "::1") as programs, Target(echo, socket.AF_INET6) as target:
        pins = [programs.gateway("gateway")]
        for name in RELAYS:
            programs.relay(name, pins)
        entries = wait_listed(pins, set(RELAYS))
        assert {entry.descriptor.address.host for entry in entries.values()} == {"::1"}
        with programs.proxy(pins) as proxy:
            echoed(proxy, target.host, target.port)


def test_relays_and_clients_follow_a_gateway_s_name_whose_address_changes(tmp_path: Path) -> None:
    try:
        subprocess.run(
            [*NAMESPACES, "mount", "--bind", "/etc/hosts", "/etc/hosts"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        cannot(f"needs root, unshare and mount: {error}")
    command = [*NAMESPACES, sys.executable, "-m", "tests.system.moving_name", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "moved to 127.0.0.3\nmoved to ::1\n"), done.stderr


def test_the_dns_server_of_these_tests() -> None:
    def ask(server: DnsServer, name: str, kind: int) -> tuple[int, list[bytes]]:
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        question = labels + struct.pack("!BHH", 0, kind, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question, server.address)
            reply = sock.recv(512)
        number, flags, _, count, _, _ = struct.unpack_from("!6H", reply)
        assert (number, flags & 0x8500) == (7, 0x8500)
        assert reply[12 : 12 + len(question)] == question
        answers, at = [], 12 + len(question)
        for _ in range(count):
            size = struct.unpack_from("!H", reply, at + 10)[0]
            answers.append(reply[at + 12 : at + 12 + size])
            at += 12 + size
        assert at == len(reply)
        return flags & 15, answers

    with DnsServer("127.0.0.1", 0, {"a.test": ["192.0.2.1", "192.0.2.2", "::1"]}) as server:
        assert ask(server, "A.test", 1) == (0, [b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"])
        assert ask(server, "a.test", 28) == (0, [bytes(15) + b"\1"])
        assert ask(server, "a.test", 15) == (0, [])
        assert ask(server, "b.test", 1) == (3, [])
        server.change("a.test", "192.0.2.9")
        assert ask(server, "a.test", 1) == (0, [b"\xc0\x00\x02\x09"])
        assert server.asked("a.test") == 4
