"""The client's stack of layers: it alone can seal for, and open from, every hop of its circuit."""

from collections.abc import Callable, Sequence

from common.crypto.handshake import HopKeys
from common.crypto.layers import MAX_HOPS, PROOF, SUITES, Kind, Opener, Sealer
from common.errors import AuthenticationFailed, TooLarge, Unexpected
from common.wire.cells import Bytes

# Is told of each cell: whether it goes out, its messages, and the size of each layer, the outermost first.
Tap = Callable[[bool, Bytes, Sequence[int]], None]


class LayerStack:
    """Grows by one hop with each handshake; speaks to the last hop and hears any."""

    def __init__(self) -> None:
        self.tap: Tap | None = None  # None but while somebody traces a request
        self.last = -1  # the number of the last hop; the first is 0
        self._forward: list[Sealer] = []
        self._around: list[Sealer] = []  # the layers around the last hop's, in the order they are sealed
        self._backward: list[Opener] = []

    def __len__(self) -> int:
        return len(self._forward)

    @property
    def opened(self) -> int:
        """How many cells have come."""
        return self._backward[0].opened

    def add(self, keys: HopKeys) -> None:
        """The next hop's layers; raises `TooLarge` beyond 8 hops."""
        if len(self) == MAX_HOPS:
            raise TooLarge("a circuit has at most 8 hops")
        parts = SUITES[keys.suite]
        self.last += 1
        self._around = self._forward[::-1]
        self._forward.append(parts.sealer(keys.forward))
        self._backward.append(parts.opener(keys.backward))

    def originate(self, *messages: Bytes) -> tuple[bytes, bytes]:
        """A cell body for the last hop, sealed from there inwards, and the proof that hop will see (16 bytes)."""
        layer = self._forward[-1].seal(Kind.DELIVER, *messages)
        proof = layer[-PROOF:]
        tap = self.tap
        sizes = [len(layer)]
        for sealer in self._around:
            layer = sealer.seal(Kind.FORWARD, layer)
            if tap is not None:
                sizes.append(len(layer))
        if tap is not None:
            tap(True, b"".join(messages), sizes[::-1])
        return layer, proof

    def open(self, layers: Sequence[Bytes]) -> tuple[int, list[tuple[Bytes, Bytes]]]:
        """Cells of one hop, opened layer by layer: which hop, and of each its messages and its innermost layer.

        Raises `AuthenticationFailed`, or `Unexpected` when they are from several hops.
        """
        levels = [layers]
        for hop, opener in enumerate(self._backward):
            kinds, bodies = opener.open(levels[-1])
            delivered = kinds.count(Kind.DELIVER)
            if delivered == len(kinds):
                if self.tap is not None:
                    for body, *around in zip(bodies, *levels, strict=True):
                        self.tap(False, body, list(map(len, around)))
                return hop, list(zip(bodies, levels[-1], strict=True))
            if delivered:
                raise Unexpected("messages from more than one hop")
            if self.tap is None:
                levels.clear()  # what is not needed any more need not stay in the processor's caches
            levels.append(bodies)
        raise AuthenticationFailed("layer")
