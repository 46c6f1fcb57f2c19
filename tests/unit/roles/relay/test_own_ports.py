"""The network's own ports that are configured as names: they are the addresses that the names mean now."""

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from time import monotonic

import pytest

from common.directory.addresses import Address
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.relay import own_ports as own_ports_module
from common.roles.relay.own_ports import OwnPorts

PATIENCE = 20.0
PORT, OTHER = 9001, 443
NAME = "relay.example.test"


class Resolver:
    """Stands in for the system's: knows what the test says, and waits while the test wants."""

    def __init__(self) -> None:
        self.means: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()

    def getaddrinfo(self, host: str, *_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        assert self.answers.wait(PATIENCE)
        if host not in self.means:
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")
        return [(None, None, None, "", (address, 0)) for address in self.means[host]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.answers.set()


@pytest.fixture
def pump() -> Iterator[Pump]:
    pump = Pump()
    pump.start()
    yield pump
    pump.stop(Deadline(PATIENCE))


def begin(pump: Pump, own: OwnPorts, port: int) -> threading.Event:
    """Asks on the pump's thread; set when the port is known."""
    known = threading.Event()
    pump.call(lambda: own.when_known(port, known.set))
    return known


def held(pump: Pump, own: OwnPorts, *hosts: str, port: int = PORT) -> list[bool]:
    """Which of the hosts hold the port, as a target there would be judged."""
    assert begin(pump, own, port).wait(PATIENCE)
    return [own.hold(ip_address(host), port) for host in hosts]


def at_once(pump: Pump, own: OwnPorts, port: int) -> bool:
    """Whether a target at this port is decided without waiting, on the pump's thread."""
    decided: list[bool] = []
    done = threading.Event()

    def ask() -> None:
        threads: list[int] = []
        own.when_known(port, lambda: threads.append(threading.get_ident()))
        decided.append(threads == [threading.get_ident()])
        done.set()

    pump.call(ask)
    assert done.wait(PATIENCE)
    return decided[0]


def test_a_name_holds_its_port_at_the_addresses_that_it_really_has(pump: Pump) -> None:
    own = OwnPorts(pump, [Address("localhost", PORT)])
    assert held(pump, own, "127.0.0.1", "127.0.0.2") == [True, False]
    assert held(pump, own, "127.0.0.1", port=OTHER) == [False]


def test_all_names_and_addresses_of_a_port_hold_it(pump: Pump, resolver: Resolver) -> None:
    resolver.means = {NAME: ["192.0.2.1", "::ffff:192.0.2.2"], "gateway.example.test": ["2001:db8::1"]}
    names = [NAME, "silent.example.test", "gateway.example.test"]
    own = OwnPorts(pump, [*(Address(name, PORT) for name in names), Address("::ffff:192.0.2.3", PORT)])
    hosts = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "192.0.2.4"]
    assert held(pump, own, *hosts) == [True, True, True, True, False]


def test_a_look_is_good_for_a_minute_and_then_the_name_is_followed(
    pump: Pump, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.means[NAME] = ["192.0.2.1"]
    own = OwnPorts(pump, [Address(NAME, PORT)])
    assert held(pump, own, "192.0.2.1") == [True]
    resolver.means[NAME] = ["192.0.2.2"]
    assert at_once(pump, own, PORT)
    assert resolver.asked == [NAME]
    later = monotonic() + own_ports_module.KEPT
    monkeypatch.setattr(own_ports_module, "monotonic", lambda: later)
    assert held(pump, own, "192.0.2.1", "192.0.2.2") == [False, True]


def test_a_name_that_cannot_be_looked_up_means_what_it_meant(
    pump: Pump, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_ports_module, "KEPT", 0.0)
    resolver.means[NAME] = ["192.0.2.1"]
    own = OwnPorts(pump, [Address(NAME, PORT)])
    assert held(pump, own, "192.0.2.1") == [True]
    resolver.means.clear()
    assert held(pump, own, "192.0.2.1", "192.0.2.2") == [True, False]


def test_a_name_that_could_not_be_looked_up_opens_no_port_for_ever_and_closes_none(
    pump: Pump, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_ports_module, "KEPT", 0.0)
    own = OwnPorts(pump, [Address(NAME, PORT)])
    assert held(pump, own, "192.0.2.1", "192.0.2.2") == [False, False]
    resolver.means[NAME] = ["192.0.2.1"]
    assert held(pump, own, "192.0.2.1", "192.0.2.2") == [True, False]


def test_targets_at_other_ports_wait_for_no_look(pump: Pump, resolver: Resolver) -> None:
    resolver.answers.clear()
    own = OwnPorts(pump, [Address(NAME, PORT), Address("192.0.2.9", OTHER)])
    assert at_once(pump, own, OTHER)
    assert at_once(pump, own, 80)
    known = begin(pump, own, PORT)
    assert not at_once(pump, own, PORT)
    assert not known.is_set()
    resolver.answers.set()
    assert known.wait(PATIENCE)


def test_a_look_that_hangs_holds_targets_up_for_a_moment_and_costs_one_thread(
    pump: Pump, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_ports_module, "PATIENCE", 0.05)
    resolver.answers.clear()
    resolver.means[NAME] = ["192.0.2.1"]
    own = OwnPorts(pump, [Address(NAME, PORT)])
    assert held(pump, own, "192.0.2.1") == [False]
    assert at_once(pump, own, PORT)
    assert resolver.asked == [NAME]
    resolver.answers.set()
    deadline = Deadline(PATIENCE)
    while held(pump, own, "192.0.2.1") != [True]:
        assert not deadline.expired
    assert resolver.asked == [NAME]


def test_without_a_thread_for_the_look_what_was_known_decides(
    pump: Pump, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(own_ports_module, "KEPT", 0.0)
    resolver.means[NAME] = ["192.0.2.1"]
    own = OwnPorts(pump, [Address(NAME, PORT)])
    assert held(pump, own, "192.0.2.1") == [True]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert held(pump, own, "192.0.2.1", "192.0.2.2") == [True, False]
    resolver.means[NAME] = ["192.0.2.2"]
    assert held(pump, own, "192.0.2.1", "192.0.2.2") == [False, True]
