"""The network's own ports, as far as a relay knows them: its own and its gateways', which no exit policy opens.

They may be configured as names. What a name means is looked up on a thread, when a target at its port is asked for
and a minute has passed since the last look; targets at other ports never wait. What cannot be looked up means what
it meant before. All but the look itself belongs to the pump's thread.
"""

import math
import socket
import threading
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address
from time import monotonic

from common.directory.addresses import Address, IpAddress, unmap
from common.directory.exit_policy import inside_nat64
from common.net.pump import Pump
from common.net.timers import Timer

KEPT = 60.0  # seconds that a look is good for: names change their addresses, and a look for each target costs
PATIENCE = 2.0  # seconds that targets wait for a look; then what was known before decides until there is an answer
_LOOPBACK = {ip_address("0.0.0.0"): ip_address("127.0.0.1"), ip_address("::"): ip_address("::1")}  # as Linux dials
_EVERY_HOST = _LOOPBACK.keys()  # listened on, they are loopback too


def addresses_of(host: str, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[IpAddress]:
    """What the resolver says a name means (waits); raises `OSError`, `UnicodeError` or `ValueError`."""
    found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0]).split("%")[0]) for entry in found))


def _reached(address: IpAddress) -> IpAddress:
    """What is really reached there: one host's port is not to be had by another spelling."""
    return inside_nat64(unmap(address))


class _Port:
    """Who has one port."""

    def __init__(self) -> None:
        self.fixed: set[IpAddress] = set()  # configured as addresses
        self.names: dict[str, set[IpAddress]] = {}  # and as names, with what they last meant
        self.hosts: set[IpAddress] = set()  # both together
        self.until = math.inf  # a look is good; without end also while one is late
        self.waiting: list[Callable[[], object]] = []  # for the look that is under way
        self.late: Timer | None = None  # runs out when they have waited long enough

    def learn(self, found: dict[str, set[IpAddress]]) -> None:
        self.names.update(found)
        self.hosts = self.fixed.union(*self.names.values())


class OwnPorts:
    """See the module. The first look at names is at the pump's start, so that later there is a last meaning."""

    def __init__(self, pump: Pump, addresses: Iterable[Address]) -> None:
        self._pump = pump
        self._ports: dict[int, _Port] = {}  # of most targets no host need be looked at
        for address in addresses:
            port = self._ports.setdefault(address.port, _Port())
            if address.ip is not None:
                port.fixed.add(_reached(address.ip))
            else:
                port.names[address.host] = set()
                port.until = 0.0
        for port in self._ports.values():
            port.learn({})
            if port.names:
                pump.call(partial(self._begin_look, port))

    def hold(self, address: IpAddress, port: int) -> bool:
        """Whether this address and port are the network's."""
        own = self._ports.get(port)
        if own is None:
            return False
        address = _reached(address)
        address = _LOOPBACK.get(address, address)
        return address in own.hosts or (address.is_loopback and not own.hosts.isdisjoint(_EVERY_HOST))

    def when_known(self, port: int, then: Callable[[], object]) -> None:
        """Calls `then` once `hold` knows enough about this port: nearly always at once, else soon."""
        own = self._ports.get(port)
        if own is None or monotonic() < own.until:
            then()
            return
        own.waiting.append(then)
        self._begin_look(own)

    def _begin_look(self, own: _Port) -> None:
        if own.late is not None:
            return  # one is under way
        own.late = self._pump.call_later(PATIENCE, partial(self._go_on, own, math.inf))
        try:
            threading.Thread(target=self._look, args=(own, list(own.names)), name="resolver", daemon=True).start()
        except RuntimeError:  # no thread can be had
            self._looked(own, {})

    def _look(self, own: _Port, names: list[str]) -> None:
        """On a thread of its own: behind clients' look-ups, clients could make it late."""
        found: dict[str, set[IpAddress]] = {}
        try:
            for name in names:
                try:
                    found[name] = set(map(_reached, addresses_of(name)))
                except (OSError, UnicodeError, ValueError):
                    pass  # it means what it meant
        finally:
            self._pump.call(partial(self._looked, own, found))

    def _looked(self, own: _Port, found: dict[str, set[IpAddress]]) -> None:
        own.learn(found)
        if own.late is not None:
            own.late.cancel()
            own.late = None
        self._go_on(own, monotonic() + KEPT)

    def _go_on(self, own: _Port, until: float) -> None:
        own.until = until
        waiting, own.waiting = own.waiting, []
        for then in waiting:
            then()
