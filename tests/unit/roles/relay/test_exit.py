"""What an exit dials: what its policy allows, and never the network's own ports, however they are spelled."""

import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from common.directory.addresses import IpAddress, parse_address
from common.directory.exit_policy import ExitPolicy
from common.errors import EndReason
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.relay.exit import Exit
from common.wire.messages import BeginFlags

ALL = ExitPolicy.parse("accept 0.0.0.0/0:*, accept [::]/0:*")
OWN = [
    parse_address(text)
    for text in (
        "10.0.0.1:9001", "0.0.0.0:9002", "[::]:9003", "[2001:db8::1]:9004", "127.0.0.1:9005", "[::1]:9006",
        "[64:ff9b::10.0.0.1]:9007",
    )
]  # fmt: skip


@pytest.fixture
def exit_() -> Iterator[Exit]:
    pump = Pump()
    exit_ = Exit(pump, ALL, OWN)
    yield exit_
    exit_.close()
    pump.stop(Deadline(0))


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("10.0.0.1", 9001), ("::ffff:10.0.0.1", 9001), ("127.0.0.1", 9002), ("127.9.9.9", 9002), ("::1", 9002),
        ("::ffff:127.0.0.1", 9002), ("0.0.0.0", 9002), ("127.0.0.1", 9003), ("::1", 9003), ("2001:db8::1", 9004),
        ("64:ff9b::10.0.0.1", 9001), ("0.0.0.0", 9005), ("::ffff:0.0.0.0", 9005), ("::", 9006), ("10.0.0.1", 9007),
        ("64:ff9b::10.0.0.1", 9007),
    ],
)  # fmt: skip
def test_the_networks_own_ports_are_refused(exit_: Exit, text: str, port: int) -> None:
    assert not exit_.allows(ip_address(text), port)
    assert exit_.allows(ip_address(text), 80), "another port of the same host"


@pytest.mark.parametrize(("text", "port"), [("10.0.0.2", 9001), ("127.0.0.1", 9001), ("10.0.0.1", 9002), ("::1", 9004)])
def test_the_same_ports_of_other_hosts_are_allowed(exit_: Exit, text: str, port: int) -> None:
    assert exit_.allows(ip_address(text), port)


def test_a_zone_hides_no_port_of_the_network(exit_: Exit) -> None:
    found: list[IpAddress] = []
    exit_.look_up(None, lambda: True, "[2001:db8::1%1]", BeginFlags.ANY, lambda addresses, _: found.extend(addresses))
    assert [exit_.allows(address, 9004) for address in found] == [False]


def test_no_name_is_told_of_a_host_that_clients_cannot_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Security: the names of an exit's own network would be a map of it."""
    pump = Pump()
    asked: list[str] = []
    told: list[tuple[str, EndReason]] = []
    monkeypatch.setattr(socket, "gethostbyaddr", asked.append)
    exit_ = Exit(pump, ExitPolicy.parse("default"), OWN)
    pump.start()
    exit_.look_up_name(None, lambda: True, ip_address("10.0.0.7"), lambda *answer: told.append(answer))
    exit_.close()
    pump.stop(Deadline(10.0))
    assert (told, asked) == ([("", EndReason.POLICY)], [])
