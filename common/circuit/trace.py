"""What a client saw of its own cells while one request was under way: messages by name and size, layers by size.

The sizes are those of real cells: the client made, or opened, every layer of them. No byte of a message is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.wire.cells import LONG_CELL, MAX_SHORT_BODY, SHORT_CELL, Bytes
from common.wire.messages import HEADER, MessageCommand

MAX_CELLS = 512  # remembered of one request: a page's worth; what follows is only counted


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """A message in a cell; `data` counts its bytes without the header (5 bytes)."""

    command: str
    stream_id: int
    data: int


@dataclass(frozen=True, slots=True)
class TracedCell:
    """One RELAY cell of the circuit; `layers` are bytes, the outermost (which the first hop has) first."""

    out: bool  # towards the exit
    messages: tuple[TracedMessage, ...]
    layers: tuple[int, ...]

    @property
    def cells(self) -> tuple[int, ...]:
        """The size of the cell on the link before each hop."""
        return tuple(SHORT_CELL if size <= MAX_SHORT_BODY else LONG_CELL for size in self.layers)

    @property
    def message_bytes(self) -> int:
        """The messages as the exit has them, headers included."""
        return sum(HEADER.size + message.data for message in self.messages)


class Trace:
    """Collects the cells of one stream. Written under its circuit's lock."""

    def __init__(self) -> None:
        self.owner: object = None  # the circuit on which the stream is
        self.cells: list[TracedCell] = []
        self.more = 0  # cells beyond the limit
        self._stream_id = 0

    def begin(self, owner: object, stream_id: int) -> None:
        """The stream has this id on that circuit from now on; what was seen on another one is dropped."""
        self.owner = owner
        self._stream_id = stream_id
        self.cells = []
        self.more = 0

    def record(self, out: bool, messages: Bytes, layers: Sequence[int]) -> None:
        """A `Tap`; `messages` has been decoded before, or will be."""
        found = tuple(_messages(messages))
        if all(message.stream_id != self._stream_id for message in found):
            return
        if len(self.cells) < MAX_CELLS:
            self.cells.append(TracedCell(out, found, tuple(layers)))
        else:
            self.more += 1


def _messages(data: Bytes) -> list[TracedMessage]:
    """Only the headers: a malformed rest is for whoever decodes it to refuse."""
    found = []
    names = {int(command): command.name for command in MessageCommand}
    at = 0
    while at + HEADER.size <= len(data):
        command, stream_id, length = HEADER.unpack_from(data, at)
        found.append(TracedMessage(names.get(command, "?"), stream_id, length))
        at += HEADER.size + length
    return found
