"""The exit: dials targets for streams, looks names up, and refuses what its policy does not allow.

The policy is checked on the address that is really dialled, after the look-up, so a name cannot point around it.
The network's own ports, as far as this relay knows them (its own and its gateways'), are refused always.
"""

import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from common.directory.addresses import Address, ip_of
from common.directory.exit_policy import WEB_PORTS, ExitPolicy
from common.errors import EndReason, Malformed
from common.net.plug import Plug
from common.net.pump import Pump
from common.roles.circuit_end import Attachment, CircuitEnd
from common.roles.relay.look_ups import LookUps
from common.roles.relay.own_ports import OwnPorts, addresses_of
from common.wire.codec import pack_short_string
from common.wire.messages import MAX_ANSWERS, BeginFlags, IPAddress

CONNECT_TIMEOUT = 10.0  # seconds for each address of a target; a client waits about 30 in all
MAX_ADDRESSES = 3  # of a name are tried: more would outlast the client's patience
TTL = 60  # seconds a client may remember an answer; getaddrinfo does not tell the real one
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})  # another exit may have some
_FAMILIES = {
    BeginFlags.ANY: socket.AF_UNSPEC,
    BeginFlags.IPV4_ONLY: socket.AF_INET,
    BeginFlags.IPV6_ONLY: socket.AF_INET6,
}


def reason_of(error: OSError) -> EndReason:
    """What a failed dial is called in an END."""
    if isinstance(error, TimeoutError):
        return EndReason.TIMEOUT
    if isinstance(error, ConnectionRefusedError):
        return EndReason.REFUSED
    if error.errno in _EXHAUSTED:
        return EndReason.LIMIT
    return EndReason.UNREACHABLE


class Exit:
    """What all circuits of a relay share when they leave it."""

    def __init__(self, pump: Pump, policy: ExitPolicy, own_addresses: Iterable[Address]) -> None:
        """`own_addresses`: the network's ports that this relay knows, which no policy opens."""
        self.pump = pump
        self.policy = policy
        self.streams_opened = 0
        self.streams_refused: Counter[EndReason] = Counter()
        self._dialling: list[ExitStream] = []  # and those that were at the last look
        self.own_ports = OwnPorts(pump, own_addresses)
        self._look_ups = LookUps(pump)

    def close(self) -> None:
        """Starts no more look-ups."""
        self._look_ups.close()

    def dials_for(self, stream: "ExitStream") -> None:
        """What comes for it before its target is reached counts in `early`; the pump's thread."""
        self._dialling.append(stream)

    def early(self) -> int:
        """Bytes of memory, about, that wait for targets which are not reached yet; the pump's thread."""
        self._dialling = [stream for stream in self._dialling if stream.wanted()]
        return sum(stream.held for stream in self._dialling)

    def allows(self, address: IPAddress, port: int) -> bool:
        """Whether this very address may be dialled, by what is known of the network's own ports."""
        return not self.own_ports.hold(address, port) and self.policy.allows(address, port)

    @property
    def is_exit(self) -> bool:
        """Whether the policy lets anything out that browses: others look no name up either."""
        return any(map(self.policy.may_allow_port, WEB_PORTS))

    def answerable(self, addresses: list[IPAddress]) -> list[IPAddress]:
        """Those a client may be told: an exit says nothing about hosts that it would not let a client reach."""
        return [address for address in addresses if any(self.policy.allows(address, port) for port in WEB_PORTS)]

    def look_up(
        self,
        circuit: object,
        wanted: Callable[[], bool],
        host: str,
        flags: BeginFlags,
        done: Callable[[list[IPAddress], EndReason], None],
    ) -> None:
        """Calls `done` with the addresses of a name or a literal address, and why there are none.

        On the caller's thread for a literal or a refusal, else on the pump's; never both, and not at all when it
        is not `wanted` any more. Never waits. The names of one `circuit` wait for each other.
        """
        literal = ip_of(host.strip("[]").partition("%")[0])  # a zone would make it differ from what is dialled
        if literal is not None:
            done([literal], EndReason.DONE)
            return
        work = partial(self._resolve, host, flags, done)
        self._look_ups.submit(circuit, wanted, work, lambda reason: done([], reason))

    def _resolve(self, host: str, flags: BeginFlags, done: Callable[[list[IPAddress], EndReason], None]) -> None:
        addresses: list[IPAddress] = []
        failure = EndReason.NOT_FOUND
        try:
            addresses = addresses_of(host, _FAMILIES[flags])
        except (socket.gaierror, UnicodeError, ValueError):
            pass  # whatever the resolver says, the client is told "not found"
        except OSError:
            failure = EndReason.LIMIT  # it could not even ask: no descriptor left, for instance
        reason = EndReason.DONE if addresses else failure
        self.pump.call(lambda: done(addresses[:MAX_ANSWERS], reason))

    def look_up_name(
        self,
        circuit: object,
        wanted: Callable[[], bool],
        address: IPAddress,
        done: Callable[[str, EndReason], None],
    ) -> None:
        """Calls `done` with the name of an address, or "" and why there is none; as `look_up`."""
        if not self.answerable([address]):
            done("", EndReason.POLICY)
            return
        work = partial(self._resolve_name, address, done)
        self._look_ups.submit(circuit, wanted, work, lambda reason: done("", reason))

    def _resolve_name(self, address: IPAddress, done: Callable[[str, EndReason], None]) -> None:
        name = ""
        try:
            found = socket.gethostbyaddr(str(address))[0]
            pack_short_string(found)
            name = found
        except (OSError, UnicodeError, Malformed):
            pass  # whatever the resolver says, the client is told "not found"
        self.pump.call(lambda: done(name, EndReason.DONE if name else EndReason.NOT_FOUND))


class ExitStream(Attachment):
    """A stream whose target this relay dials, trying a name's addresses in turn."""

    def __init__(self, circuit: CircuitEnd, stream_id: int, exit_: Exit, port: int) -> None:
        super().__init__(circuit, stream_id)
        self._exit = exit_
        self.port = port
        self._candidates: list[IPAddress] = []  # not yet tried; the first is being dialled
        self._dialled: Plug | None = None
        exit_.dials_for(self)

    def wanted(self) -> bool:
        """Whether its target is not reached yet, and may still be."""
        return self._plug is None and self.live

    def refuse(self, reason: EndReason) -> None:
        """Its target cannot be reached from here, or may not."""
        if self.live:  # else nobody is told
            self._exit.streams_refused[reason] += 1
        self.circuit.reset(self.stream_id, reason)

    def dial(self, addresses: list[IPAddress], reason: EndReason) -> None:
        """The look-up is done: `addresses`, or why there are none."""
        self._exit.own_ports.when_known(self.port, partial(self._dial_allowed, addresses, reason))

    def _dial_allowed(self, addresses: list[IPAddress], reason: EndReason) -> None:
        allowed = [address for address in addresses if self._exit.allows(address, self.port)]
        if not allowed:
            self.refuse(EndReason.POLICY if addresses else reason)
            return
        self._candidates = allowed[:MAX_ADDRESSES]
        self._dial_first()

    def _dial_first(self) -> None:
        if self._broken:
            return
        address = self._candidates[0]
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._dialled = self._exit.pump.connect(family, (str(address), self.port), self, CONNECT_TIMEOUT)
        if self._broken:  # by another thread, which may not have seen `_dialled` yet
            self._dialled.abort()

    def plug_connected(self, plug: Plug) -> None:
        """The target answered: tell the client, then hand over what came early."""
        address = self._candidates[0]
        self._candidates.clear()
        if self.circuit.answered(self.stream_id, address, TTL):
            self._exit.streams_opened += 1
            self.adopt(plug)
        else:
            plug.abort()

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        """Not reached, or lost later."""
        if not self._candidates:
            super().plug_failed(plug, error)
            return
        del self._candidates[0]
        if self._candidates:
            self._dial_first()
        else:
            self.refuse(reason_of(error))

    def ended(self, reason: EndReason) -> None:
        """The client or the circuit gave the stream up."""
        super().ended(reason)
        if self._dialled is not None:
            self._dialled.abort()
