"""What both ends of a circuit do alike: the stream table and the windows; `Packing` makes cells of what they say.

Methods record and append; `take_cells()` then gives the sealed cell bodies in the order they must be sent. The
owner calls it under the same lock as the method before it, so that layers are sent in the order of their counters.
"""

from collections.abc import Sequence

from common.circuit.actions import (
    Action,
    Answered,
    Credit,
    Deliver,
    LookUp,
    Opened,
    OpenTarget,
    PeerFinished,
    StreamEnded,
)
from common.circuit.congestion import CongestionWindow
from common.circuit.packing import Packing, Seal
from common.circuit.stream import OWES_END, TAKES_DATA, UNMOVED_BY_DATA, Event, Side, State, Stream, next_state
from common.circuit.window import CIRCUIT_WINDOW, STREAM_WINDOW, CircuitReceiveWindow, CircuitSendWindow
from common.crypto.layers import PROOF
from common.errors import EndReason, TooLarge, Unexpected, WindowViolated
from common.wire.cells import Bytes
from common.wire.messages import (
    Begin,
    BeginFlags,
    Connected,
    Data,
    Direction,
    Drop,
    End,
    IPAddress,
    Mark,
    Message,
    Resolve,
    Resolved,
    Sendme,
    Sought,
    decode_messages,
    only_data,
)

LAST_STREAM_ID = 2**16 - 1  # ids only rise: a circuit that used them all is replaced
MAX_OPEN_STREAMS = 4_096  # per circuit: each is a socket at the exit, and descriptors are finite
MAX_TABLE = 2 * MAX_OPEN_STREAMS  # with refused streams that the client has not ended yet

QUIET = 4_096  # bytes in a window: a stream that sends less, such as a prompt's, need not wait for room in it
OVERDRAFT = 16_384  # bytes that all such streams together may send beyond the congestion window
TRANSFER = 65_536  # bytes that a stream has sent before its cells wait to be full: an answer is there sooner
# Bytes that a new stream may get at once if another grew to it: 200 Mbit/s through relays 25 ms apart, and a
# queue. Where n are open it gets an n-th: they share the path, and hold 28 MB at most so if nobody reads.
MAX_ADVANCE = 8 * 2**20


class Endpoint:
    """One end of a circuit. Not thread-safe: its owner holds the circuit's lock."""

    def __init__(self, side: Side, seal: Seal, max_messages: int) -> None:
        """`max_messages` is the suite's."""
        self._side = side
        self._streams: dict[int, Stream] = {}
        self._highest = 0
        self._send_window = CircuitSendWindow()
        self._receive_window = CircuitReceiveWindow()
        self._congestion = CongestionWindow(CIRCUIT_WINDOW)
        self._learned = 0  # what a stream's window has grown to
        self.packing = Packing(seal, max_messages, self._send_window, self._congestion)
        self.take_cells = self.packing.take_cells
        self.max_data = self.packing.max_data

    # ---- what arrives

    def receive_cells(self, cells: Sequence[tuple[Bytes, Bytes]], now: float, actions: list[Action]) -> None:
        """As `receive`, cells as they came: messages and innermost layer of each; `actions` grows.

        What a run of cells brings for one stream is taken at once: in bulk that is nearly all there is.
        """
        run: list[Bytes] = []
        of = size = 0  # the run's stream, and its bytes
        for body, layer in cells:
            found = only_data(body)
            if found is not None and found[0] == of:
                run.append(found[1])
                size += len(found[1])
                continue
            if of:
                self._receive_data(of, run, size, now, actions)
                of = 0
            if found is None:
                self.receive(decode_messages(body), layer[-PROOF:], now, actions)
            else:
                of, run, size = found[0], [found[1]], len(found[1])
        if of:
            self._receive_data(of, run, size, now, actions)

    def receive(
        self, messages: Sequence[Message], proof: Bytes, now: float, before: list[Action] | None = None
    ) -> list[Action]:
        """All messages of one cell; `proof` is the end of its innermost layer. Raises `ProtocolError`.

        What is to be done comes behind what there was to be done `before`, in the same list.
        """
        actions = [] if before is None else before
        marked = False
        for message in messages:
            if isinstance(message, Data):
                self._receive_data(message.stream_id, [message.data], len(message.data), now, actions)
            elif isinstance(message, Mark):
                marked = True
            else:
                self._receive(message, now, actions)
        if marked:
            self.tell(Sendme(0, self._receive_window.marked(), bytes(proof)))
        return actions

    def _receive_data(
        self, stream_id: int, pieces: list[Bytes], size: int, now: float, actions: list[Action]
    ) -> None:
        stream = self._known(stream_id, Event.GOT_DATA)
        if stream is None:
            return
        if stream.state not in UNMOVED_BY_DATA:
            stream.step(Event.GOT_DATA)
        stream.receive_window.data_arrived(size, now)
        self._receive_window.data_arrived(size)
        if stream.state in TAKES_DATA:
            last = actions[-1] if actions else None
            if isinstance(last, Deliver) and last.stream_id == stream_id:
                last.pieces += pieces
            else:
                actions.append(Deliver(stream_id, pieces))

    def _receive(self, message: Message, now: float, actions: list[Action]) -> None:
        match message:
            case Sendme(stream_id=0):
                self._receive_receipt(message, now)
                actions.append(Credit(0))
            case Sendme():
                self._receive_sendme(message, actions)
            case End():
                self._receive_end(message, actions)
            case Begin():
                self._receive_begin(message, now, actions)
            case Connected():
                stream = self._step(message.stream_id, Event.GOT_CONNECTED)
                if stream is not None and stream.state is not State.RESETTING:
                    actions.append(Opened(message.stream_id, message.address))
            case Resolve():
                self._receive_resolve(message, now, actions)
            case Resolved():
                self._step(message.stream_id, Event.GOT_RESOLVED)
                actions.append(Answered(message.stream_id, message.reason, message.addresses, message.name))
            case Drop():
                pass
            case _:
                raise Unexpected(f"{message.command.name} at this end")

    def _receive_begin(self, message: Begin, now: float, actions: list[Action]) -> None:
        self._open(message.stream_id, Event.GOT_BEGIN, now)
        if len(self._streams) > MAX_OPEN_STREAMS:
            self.reset(message.stream_id, EndReason.LIMIT)
        else:
            actions.append(OpenTarget(message.stream_id, message.host, message.port, message.flags))

    def _receive_resolve(self, message: Resolve, now: float, actions: list[Action]) -> None:
        self._open(message.stream_id, Event.GOT_RESOLVE, now)
        if len(self._streams) > MAX_OPEN_STREAMS:
            self.resolved(message.stream_id, EndReason.LIMIT, (), 0)
        else:
            actions.append(LookUp(message.stream_id, message.host, message.sought))

    def _receive_receipt(self, message: Sendme, now: float) -> None:
        window = self._send_window
        receipt = window.credit(message.total, message.proof)
        self._congestion.measured(now, now - receipt.sent_at, receipt.newly, window.answered, window.sent)
        if window.stuck(self._congestion.step):
            self.packing.add(b"")  # a cell for the mark, which will be due, if for nothing else

    def _receive_sendme(self, message: Sendme, actions: list[Action]) -> None:
        stream = self._step(message.stream_id, Event.GOT_SENDME)
        if stream is not None:
            stream.send_window.credit(message.total)
            actions.append(Credit(message.stream_id))

    def _receive_end(self, message: End, actions: list[Action]) -> None:
        both = message.direction is Direction.BOTH
        stream_id = message.stream_id
        event = Event.GOT_END_BOTH if both else Event.GOT_END_SENDING
        stream = self._known(stream_id, event)
        if stream is None:
            return
        left = stream.step(event)
        closed = stream.state is State.CLOSED
        if both and left in OWES_END:
            self.tell(End(stream_id, Direction.BOTH, EndReason.DONE))
        if closed:
            del self._streams[stream_id]
        if left is State.RESETTING:
            return
        actions.append(StreamEnded(stream_id, message.reason) if both else PeerFinished(stream_id, closed))

    # ---- what this side does

    def begin(self, host: str, port: int, now: float, flags: BeginFlags = BeginFlags.ANY) -> int:
        """A client opens a stream: its id. Raises `TooLarge` when the circuit has no id left."""
        stream_id = self._next_id()
        message = Begin(stream_id, host, port, flags).encode()
        self._open(stream_id, Event.BEGIN, now)
        self.packing.add(message)
        return stream_id

    def resolve(self, host: str, now: float, sought: Sought = Sought.ADDRESSES) -> int:
        """A client asks for a name's addresses, or an address's name: the id that `Answered` will bear."""
        stream_id = self._next_id()
        message = Resolve(stream_id, host, sought).encode()
        self._open(stream_id, Event.RESOLVE, now)
        self.packing.add(message)
        return stream_id

    def connected(self, stream_id: int, address: IPAddress, ttl: int) -> bool:
        """An exit reached the target; False when the client has reset the stream in the meantime."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is State.RESETTING:
            return False
        stream.step(Event.CONNECTED)
        self.tell(Connected(stream_id, address, ttl))
        self._advance(stream_id, stream)
        return True

    def resolved(
        self, stream_id: int, reason: EndReason, addresses: tuple[IPAddress, ...], ttl: int, name: str = ""
    ) -> None:
        """An exit answers a `LookUp`."""
        self._step(stream_id, Event.RESOLVED)
        self.tell(Resolved(stream_id, reason, addresses, ttl, name))

    def sendable(self, stream_id: int, now: float) -> int:
        """Bytes of DATA that may be sent at `now`, on the clock of `take_cells`.

        That is by the limits of stream and circuit, the congestion window and its pace.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not stream.may_send:
            return 0
        limit = min(stream.send_window.left, self._send_window.left - self.packing.unsealed)
        if limit <= 0:
            return 0
        room = self._window_left()
        if room > 0:
            if not self._congestion.pace:
                return min(limit, self._whole_cells(room))
            if self.packing.wait(now) <= 0:
                return min(limit, self._whole_cells(1))  # what fills one
        sent = self._send_window.sent + self.packing.unsealed
        return min(limit, QUIET) if room > -OVERDRAFT and stream.quiet(QUIET, sent, self._congestion.window) else 0

    def has_room(self, now: float) -> bool:
        """Whether DATA of any stream may be sent: by the circuit's limit, its congestion window and its pace."""
        packing = self.packing
        return self._window_left() > 0 and self._send_window.left > packing.unsealed and packing.wait(now) <= 0

    def _whole_cells(self, room: int) -> int:
        """Bytes of DATA that fill cells: about `room`, which on a slow path is often less than a cell."""
        whole = room - (room + self.packing.unsealed) % self.max_data
        return whole if whole > 0 else whole + self.max_data

    def _window_left(self) -> int:
        """Bytes that the congestion window leaves, which is told when there are none; negative when it shrank."""
        left = self._congestion.window - self._send_window.flying - self.packing.unsealed
        if left <= 0:
            self._congestion.refused()
        return left

    def send(self, stream_id: int, data: bytes) -> None:
        """Sends `data`, which `sendable` has allowed; for a stream that has ended since it is dropped.

        The congestion window may have shrunk since; more than the limits allow is `WindowViolated`.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not stream.may_send:
            return
        if stream.advances:
            self._advance(stream_id, stream)
        size, unsealed = len(data), self.packing.unsealed
        if size > self._send_window.left - unsealed:
            raise WindowViolated("sent beyond the circuit's limit")
        stream.sent(size, self._send_window.sent + unsealed, self._congestion.window)
        self.packing.add_data(stream_id, data, patient=stream.send_window.sent > TRANSFER)

    def taken(self, stream_id: int, count: int, now: float) -> bool:
        """The application took `count` bytes of what was delivered; at an exit, not before `connected`.

        True when that is worth telling the other side.
        """
        stream = self._streams.get(stream_id)
        if stream is None or not count:
            return False
        assert stream.state is not State.CONNECTING, "nothing is taken before the target answers"
        window = stream.receive_window
        limit = window.data_taken(count, now, free=bool(self.packing.outgoing))
        if window.window > self._learned:
            self._learned = min(window.window, MAX_ADVANCE)
        if limit is None or stream.state not in (State.OPEN, State.LOCAL_ENDED):
            return False
        self.tell(Sendme(stream_id, limit))
        return True

    def finish(self, stream_id: int) -> bool:
        """The application sends no more (half-close); True when that closes the stream."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is State.RESETTING:
            return True
        stream.step(Event.FINISH)
        closed = self._forget_if_closed(stream_id, stream)
        # A client's, behind the other's, is awaited by nobody: the next stream's BEGIN may take it along.
        patient = closed and self._side is Side.CLIENT
        self.packing.add(End(stream_id, Direction.SENDING, EndReason.DONE).encode(), patient=patient)
        return closed

    def reset(self, stream_id: int, reason: EndReason) -> None:
        """Ends both directions at once; does nothing when the stream is gone already."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is State.RESETTING:
            return
        stream.step(Event.RESET)
        self.tell(End(stream_id, Direction.BOTH, reason))
        self._forget_if_closed(stream_id, stream)

    def tell(self, message: Message) -> None:
        """Appends a message that is no DATA."""
        self.packing.add(message.encode())

    # ---- what others may ask

    @property
    def open_streams(self) -> int:
        """How many streams are not closed."""
        return len(self._streams)

    @property
    def used_streams(self) -> int:
        """How many streams there have been."""
        return self._highest

    @property
    def bytes_sent(self) -> int:
        """Bytes of DATA sent since the start."""
        return self._send_window.sent

    @property
    def bytes_received(self) -> int:
        """Bytes of DATA received since the start."""
        return self._receive_window.arrived

    # ---- helpers

    def _advance(self, stream_id: int, stream: Stream) -> None:
        """Grants a new stream its larger window together with something that is sent anyway."""
        if stream.state is not State.OPEN:
            return
        stream.advances = False
        limit = stream.receive_window.advance()
        if limit is not None:
            self.tell(Sendme(stream_id, limit))

    def _next_id(self) -> int:
        if self._highest == LAST_STREAM_ID:
            raise TooLarge("the circuit has used all its stream ids")
        return self._highest + 1

    def _open(self, stream_id: int, event: Event, now: float) -> None:
        if stream_id <= self._highest:
            raise Unexpected(f"{event.name} for a stream id that was used")
        if len(self._streams) >= MAX_TABLE:
            raise TooLarge("too many streams on the circuit")
        learned = self._learned // (self._receiving() + 1)
        self._streams[stream_id] = Stream(self._side, next_state(self._side, State.IDLE, event), now, learned)
        self._highest = stream_id

    def _receiving(self) -> int:
        """How many streams may bring DATA; of many, how many there are, as nothing is shared among so many."""
        if len(self._streams) >= MAX_ADVANCE // STREAM_WINDOW:
            return len(self._streams)
        return sum(stream.state in TAKES_DATA for stream in self._streams.values())

    def _known(self, stream_id: int, event: Event) -> Stream | None:
        """The stream, or None when it is closed and `event` is legal then; raises `Unexpected`."""
        stream = self._streams.get(stream_id)
        if stream is None:
            next_state(self._side, State.CLOSED if stream_id <= self._highest else State.IDLE, event)
        return stream

    def _step(self, stream_id: int, event: Event) -> Stream | None:
        stream = self._known(stream_id, event)
        if stream is not None:
            stream.step(event)
            self._forget_if_closed(stream_id, stream)
        return stream

    def _forget_if_closed(self, stream_id: int, stream: Stream) -> bool:
        if stream.state is not State.CLOSED:
            return False
        del self._streams[stream_id]
        return True
