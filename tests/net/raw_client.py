"""A client's link to a relay, written by hand."""

import secrets
import socket
from collections.abc import Iterator

from common.circuit.actions import Action
from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import Suite
from common.directory.addresses import Address
from common.errors import Closed, DestroyReason
from common.wire.cells import Cell, Command, decode_destroy, encode_cell, encode_destroy
from common.wire.framing import CellReader
from tests.net.links import RawPeer


class RawClient:
    """A dialling side written by hand, that says to a relay what the test wants."""

    def __init__(
        self,
        address: Address,
        versions: tuple[int, ...] = (1,),
        source: str = "127.0.0.1",
        suite: Suite = Suite.FERNET,
    ) -> None:
        sock = socket.create_connection((address.host, address.port), source_address=(source, 0))
        self._suite = suite
        self.peer = RawPeer(sock, server_side=False)
        self.peer.handshake()
        self.peer.hello(versions)
        self._reader = CellReader()
        self._cells = self._read()

    def _read(self) -> Iterator[Cell]:
        try:
            for record in self.peer.records():
                yield from (cell for cell in self._reader.feed(record) if cell.command != Command.HELLO)
        except Closed:
            return  # the relay's end of TLS

    def say(self, circuit_id: int, command: int, body: bytes) -> None:
        """One cell."""
        self.peer.say(encode_cell(circuit_id, command, body))

    def cell(self) -> Cell:
        """The next cell."""
        cell = next(self._cells, None)
        assert cell is not None, "the relay ended the link"
        return cell

    def destroyed(self, circuit_id: int) -> DestroyReason:
        """The next cell, which must be this circuit's DESTROY; it is answered."""
        cell = self.cell()
        assert (cell.circuit_id, cell.command) == (circuit_id, Command.DESTROY)
        self.say(circuit_id, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
        return decode_destroy(cell.body)

    def build(self, *path: PathHop) -> tuple[int, Origin]:
        """A circuit of which the first hop has answered; what follows is queued in the origin."""
        origin = Origin(path, self._suite)
        circuit_id = secrets.randbits(32) | 1
        self.say(circuit_id, Command.CREATE, origin.create)
        created = self.cell()
        assert created.command == Command.CREATED
        origin.created(created.body)
        return circuit_id, origin

    def flush(self, circuit_id: int, origin: Origin) -> None:
        """Sends what the origin wants to send."""
        for body in origin.take_cells(0):
            self.say(circuit_id, Command.RELAY, body)

    def action(self, circuit_id: int, origin: Origin) -> Action:
        """What comes of that which the origin wants to send: the first of it."""
        self.flush(circuit_id, origin)
        while True:
            cell = self.cell()
            assert (cell.circuit_id, cell.command) == (circuit_id, Command.RELAY)
            for action in origin.receive([cell.body], 0.0):
                return action

    def link_ended(self) -> bool:
        """Waits for the next cell: True when there is none, because the relay ended the link."""
        return next(self._cells, None) is None

    def close(self) -> None:
        """Hangs up."""
        self.peer.close()
