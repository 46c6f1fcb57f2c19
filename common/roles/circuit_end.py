"""One end of a live circuit, the client's or the exit's, and the plain sockets joined to its streams.

The circuit's lock guards its state machine and the order in which sealed cells are queued: decide and record under
it; sockets are written to, cells sealed and links flushed after it, at the end of the turn. Lock order:
circuit, then link; a plug is never called with the circuit's lock held.
"""

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from common.circuit.actions import (
    Action,
    Credit,
    Deliver,
    Opened,
    OpenTarget,
    PeerFinished,
    StreamEnded,
)
from common.circuit.endpoint import Endpoint
from common.errors import DestroyReason, EndReason
from common.net.link import Link
from common.net.plug import PIECE, Plug
from common.net.pump import Pump
from common.net.turn import TURN
from common.wire.cells import Bytes, Command
from common.wire.messages import IPAddress

READ_AHEAD = 16  # full cells of DATA read from a socket at once
SEAL_AT = 31_710  # bytes of DATA that do not wait for the turn's end: full cells gain nothing, and links are idle


class Machine(Protocol):
    """A hop or an origin."""

    endpoint: Endpoint


class Attachment:
    """A plain socket joined to a stream: a `PlugOwner` for the one, and where the other's bytes go.

    `adopt` may come after the stream's first bytes (an exit still dials): they wait, within the stream's window.
    """

    def __init__(self, circuit: "CircuitEnd", stream_id: int) -> None:
        self.circuit = circuit
        self.stream_id = stream_id
        self.bytes_in = 0  # from the circuit
        self.bytes_out = 0
        self._plug: Plug | None = None
        self._early_lock = threading.Lock()  # guards the change from no plug to a plug; before a plug's lock
        self._early: list[Bytes] = []  # pieces
        self._broken = False
        # Each is set by one thread, which then looks at the other: whoever comes second closes.
        self._peer_finished = False  # and all it sent is delivered
        self._finished = False

    @property
    def live(self) -> bool:
        """Whether the circuit still has it."""
        return self.circuit.attachments.get(self.stream_id) is self

    @property
    def held(self) -> int:
        """Bytes of memory that what the socket has not taken takes, about."""
        plug = self._plug
        return plug.held if plug is not None else self.bytes_in + PIECE * len(self._early)

    def adopt(self, plug: Plug) -> bool:
        """Gives the stream its socket; False when it has broken, and the plug stays the caller's. No lock held."""
        with self._early_lock:
            if self._broken:
                return False
            taken = plug.write(*self._early) if self._early else 0
            if self._peer_finished:
                plug.finish()
            self._early.clear()
            self._plug = plug
        if taken:
            self.circuit.taken(self.stream_id, taken)
        return True

    # ---- from the circuit: the pump's thread

    def deliver(self, pieces: Sequence[Bytes]) -> None:
        """Bytes for the application."""
        self.bytes_in += sum(map(len, pieces))
        plug = self._plug
        if plug is None:
            with self._early_lock:
                plug = self._plug
                if plug is None:
                    self._early += pieces
                    return
        taken = plug.write(*pieces)
        if taken:
            self.circuit.taken(self.stream_id, taken)

    def peer_finished(self) -> None:
        """The other side sends no more."""
        with self._early_lock:
            self._peer_finished = True
            plug = self._plug
        if plug is not None:
            if self._finished:
                plug.close()
            else:
                plug.finish()

    def ended(self, reason: EndReason) -> None:
        """The stream broke: whoever holds the other end of the socket must see an error, not an end."""
        with self._early_lock:
            self._broken = True
            self._early.clear()
            plug = self._plug
        if plug is not None:
            plug.abort()

    def credit(self) -> None:
        """More may be sent."""
        if self._plug is not None:
            self._plug.resume()

    def send_on(self) -> None:
        """It is this stream's turn to send: on the pump's thread, and done when this returns."""
        if self._plug is not None:
            self._plug.read_on()

    # ---- PlugOwner: the pump's thread

    def plug_connected(self, plug: Plug) -> None:
        """Only an exit dials; see there."""

    def plug_wants(self, plug: Plug) -> int:
        """What the windows and the link's outbox have room for."""
        return min(self.circuit.sendable(self.stream_id), READ_AHEAD * self.circuit.endpoint.max_data)

    def plug_received(self, plug: Plug, data: bytes) -> None:
        """Bytes from the application."""
        self.bytes_out += len(data)
        self.circuit.send(self.stream_id, data)

    def plug_ended(self, plug: Plug) -> None:
        """The application sends no more."""
        self.circuit.finish(self.stream_id)
        self._finished = True
        if self._peer_finished:
            plug.close()

    def plug_drained(self, plug: Plug, count: int) -> None:
        """The application takes its time, and has now taken `count` bytes more."""
        self.circuit.taken(self.stream_id, count)

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        """The application went away."""
        self.circuit.reset(self.stream_id, EndReason.RESET)


class CircuitEnd:
    """The streams of one circuit at this end; cells go to and come from `link`."""

    def __init__(self, machine: Machine, link: Link, circuit_id: int, pump: Pump) -> None:
        self.lock = threading.Lock()  # guards the machine, `attachments` and the order of queued cells
        self.machine = machine
        self.endpoint = machine.endpoint
        self.packing = machine.endpoint.packing
        self.link = link
        self.circuit_id = circuit_id
        self.pump = pump
        self.attachments: dict[int, Attachment] = {}
        self.closed = False
        self._refused: dict[int, None] = {}  # streams with more to send, whose turn it is first
        self._timed = False  # the pump will look after a cell that waits to be full
        self._paced = False  # the pump will look when the pace allows more
        self._serving = False  # the pump will let them send
        self._crowded = False  # several had to wait: each sends one cell in its turn, or shares would be uneven

    # ---- any thread, no lock held

    def end(self, reason: DestroyReason) -> None:
        """Ends the circuit in all directions."""
        raise AssertionError("a client and a relay do, each in its way")

    @property
    def held(self) -> int:
        """Bytes of memory, about, that wait to be sent on its link or taken by its streams' sockets."""
        with self.lock:
            attachments = list(self.attachments.values())
        return self.link.backlog(self.circuit_id) + sum(stream.held for stream in attachments)

    def sendable(self, stream_id: int) -> int:
        """Bytes a stream may send now; 0 also while the link has enough of this circuit."""
        if self.closed:
            return 0
        with self.lock:
            now = monotonic()
            congested = self.link.congested(self.circuit_id)
            room = 0 if congested else self.endpoint.sendable(stream_id, now)
            if not room:
                self._refused[stream_id] = None
                if not congested:
                    self._keep_pace(now)
            return min(room, self.endpoint.max_data) if self._crowded else room

    def send(self, stream_id: int, data: bytes) -> None:
        """Sends what `sendable` allowed; bytes for a stream that has ended in the meantime are dropped.

        One thread, the pump's, reads for all streams of a circuit, so what was allowed still is.
        """
        with self.lock:
            if self.closed:
                return
            self.endpoint.send(stream_id, data)
            much = self.packing.unsealed >= SEAL_AT
            if much:
                self.queue_cells()
        if much:
            self.link.flush()
        else:
            TURN.settle(self)

    def taken(self, stream_id: int, count: int) -> None:
        """The application took bytes."""
        with self.lock:
            if self.closed or not self.endpoint.taken(stream_id, count, monotonic()):
                return
        TURN.settle(self)

    def answered(self, stream_id: int, address: IPAddress, ttl: int) -> bool:
        """An exit's target answered; False when the client has given up."""
        with self.lock:
            if self.closed or not self.endpoint.connected(stream_id, address, ttl):
                return False
        TURN.settle(self)
        return True

    def finish(self, stream_id: int) -> None:
        """The application sends no more."""
        with self.lock:
            if self.closed:
                return
            if self.endpoint.finish(stream_id):
                self.attachments.pop(stream_id, None)
        TURN.settle(self)

    def reset(self, stream_id: int, reason: EndReason) -> None:
        """Ends a stream at once."""
        with self.lock:
            self.attachments.pop(stream_id, None)
            if self.closed:
                return
            self.endpoint.reset(stream_id, reason)
        TURN.settle(self)

    def settle(self) -> None:
        """Seals and queues what is recorded: for the turn."""
        with self.lock:
            if self.closed or not self.queue_cells():
                return
        TURN.flush(self.link)

    def drained(self) -> None:
        """The link takes more of this circuit again, its window is open, or its pace allows the next cell."""
        with self.lock:
            if self._serving or not self._refused:
                return
            self._serving = True
        self.pump.call(self._serve)

    # ---- the pump

    def _serve(self) -> None:
        """Lets streams send while there is room: whoever was refused first is first, and the others go on waiting.

        To wake all of a thousand streams for each receipt, most of them to be refused again, would cost more than
        what they send.
        """
        with self.lock:
            self._serving = False
            self._crowded = len(self._refused) > 1
            waiting = list(self._refused)
        for stream_id in waiting:
            with self.lock:
                if self.closed or self.link.congested(self.circuit_id):
                    return
                now = monotonic()
                if not self.endpoint.has_room(now):
                    self._keep_pace(now)
                    return
                self._refused.pop(stream_id, None)
                attachment = self.attachments.get(stream_id)
            if attachment is not None:
                attachment.send_on()

    def _go_on(self) -> None:
        """The pace allows the next cell."""
        with self.lock:
            self._paced = False
        self.drained()

    def _send_rest(self) -> None:
        """A cell has waited to be full; or the one that did was sent, and another waits now."""
        with self.lock:
            self._timed = False
            now, due = monotonic(), self.packing.due
            if self.closed or due is None:
                return
            if due > now:
                self._time_rest(now)
                return
            self.link.queue(self.circuit_id, Command.RELAY, *self.packing.take_cells(now))
        TURN.flush(self.link)

    # ---- with the lock held

    def queue_cells(self) -> bool:
        """Queues what the machine wants sent; True when there was anything."""
        assert self.lock.locked()
        if not self.packing.outgoing:
            return False
        now = monotonic()
        bodies = self.packing.take_cells(now, full=True)
        if self.packing.filling is not None:
            self._time_rest(now)
        if bodies:
            self.link.queue(self.circuit_id, Command.RELAY, *bodies)
        return bool(bodies)

    def _time_rest(self, now: float) -> None:
        """Sees that what waits to fill a cell does not wait for ever."""
        due = self.packing.due
        if due is not None and not self._timed:
            self._timed = True
            self.pump.call_later(due - now, self._send_rest)

    def _keep_pace(self, now: float) -> None:
        """Sees that who waits for the pace is served in time, by one timer."""
        wait = self.packing.wait(now)
        if wait > 0 and not self._paced:
            self._paced = True
            self.pump.call_later(wait, self._go_on)

    def claim(self, action: Action) -> Attachment | None:
        """The attachment that an action is for.

        Taken from the table in the moment in which the machine moved on: a stream may be over, and gone from the
        table, before what came on it is delivered.
        """
        assert self.lock.locked()
        match action:
            case Deliver(stream_id) | Credit(stream_id) | Opened(stream_id) | PeerFinished(stream_id, False):
                return self.attachments.get(stream_id)
            case StreamEnded(stream_id) | PeerFinished(stream_id):
                return self.attachments.pop(stream_id, None)
            case OpenTarget(stream_id):
                self.attachments[stream_id] = attachment = self.attach(action)
                return attachment
        return None

    def attach(self, action: OpenTarget) -> Attachment:
        """What will carry a stream that the other side opens: an exit's."""
        raise AssertionError("only an exit is asked to")

    # ---- the pump's thread

    def perform(self, action: Action, attachment: Attachment | None) -> None:
        """Does what the machine asks about streams; the rest is the subclass's."""
        if isinstance(action, Credit) and not action.stream_id:
            self.drained()
            return
        if attachment is None:
            return  # the application has left meanwhile
        match action:
            case Deliver(_, pieces):
                attachment.deliver(pieces)
            case Credit():
                attachment.credit()
            case PeerFinished():
                attachment.peer_finished()
            case StreamEnded(_, reason):
                attachment.ended(reason)
            case _:
                raise AssertionError(f"{type(action).__name__} is not about streams")

    def close_streams(self, reason: EndReason) -> None:
        """The circuit is over: every stream breaks."""
        with self.lock:
            self.closed = True
            self._refused.clear()
            attachments, self.attachments = list(self.attachments.values()), {}
        for attachment in attachments:
            attachment.ended(reason)
