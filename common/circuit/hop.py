"""A relay's place on a circuit: opens forward layers, seals backward ones, and is the exit when addressed.

A hop starts FRESH. EXTEND makes it a middle for good; BEGIN or RESOLVE makes it the exit for good. What is not in
the table is `Unexpected`. DROP is legal always.

A relay cannot know its place, and a hostile client may build on for ever: A, B, A, B. So EXTENDED fills its cell,
which is a long one anyway. Each relay before it adds a layer, and with too many of them there is no room for one.
"""

from collections.abc import Sequence
from enum import auto

from common.circuit.actions import Action, ExtendTo, PassOn
from common.circuit.endpoint import Endpoint
from common.circuit.key import Key
from common.circuit.stream import Side
from common.crypto.handshake import HopKeys
from common.crypto.layers import PROOF, SUITES, Kind
from common.errors import Malformed, TooLarge, Unexpected
from common.wire.cells import MAX_BODY, Bytes
from common.wire.messages import CREATED_BODY, Drop, Extend, Extended, Message, decode_messages


class HopState(Key):
    """What a hop is."""

    FRESH = auto()
    EXTENDING = auto()  # EXTEND got, the next relay has not answered
    MIDDLE = auto()
    EXIT = auto()


class Got(Key):
    """What a client may send to a hop."""

    LAYER = auto()  # for the next hop
    EXTEND = auto()
    STREAM = auto()  # any message about streams, SENDME included


TABLE: dict[tuple[HopState, Got], HopState] = {
    (HopState.FRESH, Got.EXTEND): HopState.EXTENDING,
    (HopState.FRESH, Got.STREAM): HopState.EXIT,
    (HopState.EXIT, Got.STREAM): HopState.EXIT,
    (HopState.MIDDLE, Got.LAYER): HopState.MIDDLE,
}


class Hop:
    """Not thread-safe: its owner holds the circuit's lock."""

    def __init__(self, identity: bytes, keys: HopKeys) -> None:
        """`identity`: this relay's own, which it refuses to extend to."""
        parts = SUITES[keys.suite]
        self._identity = identity
        self._opener = parts.opener(keys.forward)
        self._sealer = parts.sealer(keys.backward)
        self.state = HopState.FRESH
        self.endpoint = Endpoint(Side.EXIT, self._originate, parts.max_messages)
        self.take_cells = self.endpoint.take_cells

    def receive_forward(self, bodies: Sequence[Bytes], now: float) -> list[Action]:
        """Cells from the client's side; raises `ProtocolError`."""
        kinds, inside = self._opener.open(bodies)
        if Kind.DELIVER not in kinds:
            self._step(Got.LAYER)
            return [PassOn(inside)]
        actions: list[Action] = []
        if self.state is HopState.EXIT and Kind.FORWARD not in kinds:  # an exit is one for good
            self.endpoint.receive_cells(list(zip(inside, bodies, strict=True)), now, actions)
            return actions
        passed_on: list[Bytes] = []
        for kind, inner, body in zip(kinds, inside, bodies, strict=True):
            if kind is Kind.DELIVER:
                self._receive_messages(inner, body[-PROOF:], now, actions)
            else:
                self._step(Got.LAYER)
                passed_on.append(inner)
        if passed_on:
            actions.append(PassOn(passed_on))
        return actions

    def receive_backward(self, bodies: Sequence[Bytes]) -> list[bytes]:
        """Cells from the next hop, one layer thicker for the client; raises `TooLarge`, `Unexpected`."""
        if self.state is not HopState.MIDDLE:
            raise Unexpected("a backward cell before the next hop answered")
        layers = self._sealer.wrap(bodies)
        if max(map(len, layers)) > MAX_BODY:
            raise TooLarge("no room for another layer")
        return layers

    def extended(self, created: Bytes) -> None:
        """The next relay answered CREATE with this body; raises `Malformed` unless it has 1,152 bytes."""
        if self.state is not HopState.EXTENDING:
            raise Unexpected("CREATED that nobody asked for")
        if len(created) != CREATED_BODY:
            raise Malformed("not a CREATED")
        self.state = HopState.MIDDLE
        self.endpoint.tell(Extended(bytes(created)))
        self.endpoint.tell(Drop(self.endpoint.packing.room))

    def _receive_messages(self, inner: Bytes, proof: Bytes, now: float, actions: list[Action]) -> None:
        messages = [message for message in decode_messages(inner) if not isinstance(message, Drop)]
        if not messages:
            return
        if isinstance(messages[0], Extend):
            actions.append(self._extend(messages))
        else:
            self._step(Got.STREAM)
            self.endpoint.receive(messages, proof, now, actions)

    def _extend(self, messages: Sequence[Message]) -> ExtendTo:
        message = messages[0]
        assert isinstance(message, Extend)
        self._step(Got.EXTEND)
        if len(messages) > 1:
            raise Unexpected("EXTEND is alone in its cell")
        if message.identity == self._identity:
            raise Unexpected("EXTEND to this relay itself")
        return ExtendTo(message.host, message.port, message.identity, message.create)

    def _step(self, got: Got) -> None:
        following = TABLE.get((self.state, got))
        if following is None:
            raise Unexpected(f"{got.name} at a hop that is {self.state.name}")
        self.state = following

    def _originate(self, *messages: Bytes) -> tuple[bytes, bytes]:
        layer = self._sealer.seal(Kind.DELIVER, *messages)
        return layer, layer[-PROOF:]
