"""A circuit as a relay sees it: the link it came from, and the link or streams it goes on by."""

import logging
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from time import monotonic

from common.circuit.actions import Action, ExtendTo, LookUp, OpenTarget, PassOn
from common.circuit.hop import Hop
from common.errors import DestroyReason, EndReason, Unexpected
from common.net.link import Link
from common.net.turn import TURN
from common.roles.circuit_end import Attachment, CircuitEnd
from common.roles.links import Links
from common.roles.relay.exit import TTL, Exit, ExitStream
from common.wire.cells import Bytes, Command
from common.wire.messages import BeginFlags, IPAddress, Sought

_logger = logging.getLogger(__name__)


class RelayCircuit(CircuitEnd):
    """The `CircuitSide` of the link that the circuit came from; `_Next` is the other."""

    def __init__(self, hop: Hop, link: Link, circuit_id: int, links: Links, exit_: Exit) -> None:
        super().__init__(hop, link, circuit_id, exit_.pump)
        self.hop = hop
        self._links = links
        self._exit = exit_
        self._next: tuple[Link, int] | None = None
        self.dial: Callable[[RelayCircuit, ExtendTo], None] = _no_dial
        self.may_begin: Callable[[], bool] = lambda: True

    @property
    def held(self) -> int:
        """See `CircuitEnd.held`; on both links."""
        following = self._next
        return super().held + (following[0].backlog(following[1]) if following is not None else 0)

    # ---- from the client's side

    def cells(self, bodies: Sequence[Bytes]) -> None:
        """One layer comes off each."""
        now = monotonic()
        claimed: list[tuple[Action, Attachment | None]] = []
        with self.lock:
            if self.closed:
                return
            for action in self.hop.receive_forward(bodies, now):
                if isinstance(action, PassOn):
                    assert self._next is not None
                    link, circuit_id = self._next
                    link.queue(circuit_id, Command.RELAY, *action.bodies)
                    TURN.flush(link)
                    return  # a relay in the middle is spoken to no more
                claimed.append((action, self.claim(action)))
        TURN.settle(self)
        for action, attachment in claimed:
            self._perform(action, attachment)

    def created(self, body: Bytes) -> None:
        """Not from this side."""
        raise Unexpected("CREATED from the client's side")

    def failed(self, reason: DestroyReason) -> None:
        """The client's side is over: so is the rest."""
        self.close_streams(EndReason.CIRCUIT_CLOSED)
        following = self._next
        if following is not None:
            self._links.destroy(*following, reason)

    def attach(self, action: OpenTarget) -> ExitStream:
        """See `CircuitEnd.attach`."""
        return ExitStream(self, action.stream_id, self._exit, action.port)

    def _perform(self, action: Action, attachment: Attachment | None) -> None:
        match action:
            case ExtendTo():
                self.dial(self, action)
            case OpenTarget(host=host, flags=flags):
                assert isinstance(attachment, ExitStream)
                self._open(attachment, host, flags)
            case LookUp(stream_id, host, sought):
                self._look_up(stream_id, host, sought)
            case _:
                self.perform(action, attachment)

    def _open(self, stream: ExitStream, host: str, flags: BeginFlags) -> None:
        if not self.may_begin():
            stream.refuse(EndReason.LIMIT)
        elif not self._exit.policy.may_allow_port(stream.port):
            stream.refuse(EndReason.POLICY)
        else:
            self._exit.look_up(self, stream.wanted, host, flags, stream.dial)

    def _look_up(self, stream_id: int, host: str, sought: Sought) -> None:
        if not self.may_begin():
            self._resolved(stream_id, [], EndReason.LIMIT)
        elif not self._exit.is_exit:
            self._resolved(stream_id, [], EndReason.POLICY)
        elif sought is Sought.NAME:
            address = ip_address(host)
            self._exit.look_up_name(
                self, self._is_open, address, lambda name, reason: self._resolved(stream_id, [], reason, name)
            )
        else:
            self._exit.look_up(
                self, self._is_open, host, BeginFlags.ANY,
                lambda found, reason: self._resolved(stream_id, found, reason),
            )  # fmt: skip

    def _is_open(self) -> bool:
        return not self.closed

    def _resolved(self, stream_id: int, found: list[IPAddress], reason: EndReason, name: str = "") -> None:
        told = tuple(self._exit.answerable(found))
        if found and not told:
            reason = EndReason.NOT_FOUND
        with self.lock:
            if self.closed:
                return
            self.endpoint.resolved(stream_id, reason, told, TTL, name)
        TURN.settle(self)

    # ---- to the next relay

    def extend_by(self, link: Link, create: bytes) -> None:
        """Asks the next relay, over a link to it that is up; raises `Closed` or `TooLarge`."""
        circuit_id = self._links.register(link, _Next(self))
        with self.lock:
            self._next = (link, circuit_id)
            gone = self.closed
            if not gone:
                link.queue(circuit_id, Command.CREATE, create)
        if gone:
            self._links.destroy(link, circuit_id, DestroyReason.FINISHED)
        else:
            TURN.flush(link)

    def end(self, reason: DestroyReason) -> None:
        """Ends the circuit in both directions; any thread."""
        self.failed(reason)
        self._links.destroy(self.link, self.circuit_id, reason)


class _Next:
    """The `CircuitSide` of the link that the circuit goes on by."""

    def __init__(self, circuit: RelayCircuit) -> None:
        self._circuit = circuit

    def cells(self, bodies: Sequence[Bytes]) -> None:
        """Each gets one layer more."""
        circuit = self._circuit
        with circuit.lock:
            if circuit.closed:
                return
            layers = circuit.hop.receive_backward(bodies)
            circuit.link.queue(circuit.circuit_id, Command.RELAY, *layers)
        TURN.flush(circuit.link)

    def created(self, body: Bytes) -> None:
        """The circuit is longer by a hop."""
        circuit = self._circuit
        with circuit.lock:
            if circuit.closed:
                return
            circuit.hop.extended(body)
        TURN.settle(circuit)

    def failed(self, reason: DestroyReason) -> None:
        """The far side is over: tell the client's."""
        circuit = self._circuit
        circuit.close_streams(EndReason.CIRCUIT_CLOSED)
        circuit._links.destroy(circuit.link, circuit.circuit_id, reason)

    def drained(self) -> None:
        """What is passed on is bounded by the circuit's window; there is no source here to stop."""


def _no_dial(_circuit: RelayCircuit, _action: ExtendTo) -> None:
    raise AssertionError("the relay sets this")
