"""A client's circuit: built hop by hop through itself, then the home of streams.

The keys of each later hop are agreed *through* the circuit so far, so only the first hop ever sees the client.
Only the last hop may speak; a message from another is `Unexpected`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.circuit.actions import Action, Built, HopAdded
from common.circuit.endpoint import Endpoint
from common.circuit.stream import Side
from common.crypto.handshake import ClientHandshake, EphemeralKeys, Suite
from common.crypto.layers import MAX_HOPS, SUITES
from common.crypto.onion import LayerStack, Tap
from common.errors import TooLarge, Unexpected
from common.wire.cells import Bytes
from common.wire.messages import Drop, Extend, Extended, decode_messages


@dataclass(frozen=True, slots=True)
class PathHop:
    """What a client must know of a relay to make it a hop; keys are 32 bytes each."""

    identity: bytes
    onion_key: bytes
    host: str
    port: int


class Origin:
    """Not thread-safe: its owner holds the circuit's lock."""

    def __init__(
        self, path: Sequence[PathHop], suite: Suite, keys: Callable[[], EphemeralKeys] = EphemeralKeys
    ) -> None:
        """`keys` gives each handshake its own. Raises `TooLarge` unless the path has 1 to 8 hops."""
        if not 1 <= len(path) <= MAX_HOPS:
            raise TooLarge(f"a circuit has 1 to {MAX_HOPS} hops, not {len(path)}")
        self._path = tuple(path)
        self._suite = suite
        self._keys = keys
        self._stack = LayerStack()
        self._handshake: ClientHandshake | None = self._shake(0)  # None once all hops have proved themselves
        self.endpoint = Endpoint(Side.CLIENT, self._stack.originate, SUITES[suite].max_messages)
        self.take_cells = self.endpoint.take_cells

    @property
    def create(self) -> bytes:
        """The CREATE body for the first hop (1,282 bytes)."""
        if self._handshake is None or len(self._stack):
            raise Unexpected("CREATE is sent once")
        return self._handshake.create

    @property
    def built(self) -> bool:
        """Whether all hops have proved themselves."""
        return self._handshake is None

    @property
    def heard(self) -> int:
        """How many cells have come from the relays, once there is one."""
        return self._stack.opened

    def created(self, body: Bytes) -> list[Action]:
        """The first hop's CREATED; raises `ProtocolError`."""
        if len(self._stack):
            raise Unexpected("CREATED twice")
        return self._add_hop(bytes(body))

    def receive(self, bodies: Sequence[Bytes], now: float) -> list[Action]:
        """RELAY cells from the first hop; raises `ProtocolError`."""
        actions: list[Action] = []
        done = 0
        while self._handshake is not None and done < len(bodies):  # each may bring the hop that the next is from
            for messages, _ in self._open(bodies[done : done + 1]):
                actions += self._extended(messages)
            done += 1
        if done < len(bodies):
            self.endpoint.receive_cells(self._open(bodies[done:]), now, actions)
        return actions

    def _open(self, bodies: Sequence[Bytes]) -> list[tuple[Bytes, Bytes]]:
        hop, cells = self._stack.open(bodies)
        if hop != self._stack.last:
            raise Unexpected("a message from a hop that is not the last")
        return cells

    def tap(self, tap: Tap | None) -> None:
        """From now on `tap` is told of every cell; None ends that."""
        self._stack.tap = tap

    def _shake(self, hop: int) -> ClientHandshake:
        return ClientHandshake(self._path[hop].identity, self._path[hop].onion_key, self._suite, self._keys())

    def _extended(self, body: Bytes) -> list[Action]:
        messages = [message for message in decode_messages(body) if not isinstance(message, Drop)]
        if not messages:
            return []
        if len(messages) > 1 or not isinstance(messages[0], Extended):
            raise Unexpected("only EXTENDED is legal while a circuit is built")
        return self._add_hop(messages[0].created)

    def _add_hop(self, created: bytes) -> list[Action]:
        assert self._handshake is not None
        self._stack.add(self._handshake.finish(created))
        done = len(self._stack)
        if done == len(self._path):
            self._handshake = None
            return [HopAdded(done), Built()]
        target = self._path[done]
        self._handshake = self._shake(done)
        self.endpoint.tell(Extend(target.host, target.port, target.identity, self._handshake.create))
        return [HopAdded(done)]
