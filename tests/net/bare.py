"""A circuit's end without layers, for tests of what stands around it."""

from common.circuit.endpoint import Endpoint
from common.circuit.stream import Side
from common.crypto.layers import PROOF

MAX_MESSAGES = 15_865


class Machine:
    """A client's end whose cells are its messages; every proof of receipt is zeros."""

    def __init__(self) -> None:
        self.endpoint = Endpoint(Side.CLIENT, lambda *messages: (b"".join(messages), bytes(PROOF)), MAX_MESSAGES)

    def take_cells(self, now: float) -> list[bytes]:
        return self.endpoint.take_cells(now)
