"""A circuit as its client sees it: built hop by hop, then the home of streams."""

import itertools
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from common.circuit.actions import Action, Answered, Built, HopAdded, Opened
from common.circuit.endpoint import MAX_OPEN_STREAMS
from common.circuit.origin import Origin, PathHop
from common.crypto.handshake import EphemeralKeys, Suite
from common.directory.document import RelayEntry
from common.errors import Closed, DestroyReason, EndReason, TooLarge, Unexpected
from common.net.deadline import Deadline
from common.net.link import Link
from common.net.plug import Plug
from common.net.pump import Pump
from common.net.turn import TURN
from common.roles.circuit_end import Attachment, CircuitEnd
from common.roles.client.wish import RETRIED, Isolation, Opening, Question, Wish
from common.roles.links import Links
from common.wire.cells import Bytes, Command
from common.wire.messages import IPAddress, Sought

MAX_STREAMS = 60_000  # of the 65,535 ids: room for what is asked for while the next circuit is built
ANSWER_LIMIT = 15.0  # seconds in which a circuit must answer: a host that was paused does when it wakes
_ASKED = "0.0.0.0"  # every relay answers a look-up of an address at once, without looking
_numbers = itertools.count(1)


def path_hop(entry: RelayEntry) -> PathHop:
    """What the handshake needs of a listed relay."""
    relay = entry.descriptor
    return PathHop(relay.identity, relay.onion_keys[0], relay.address.host, relay.address.port)


class ClientStream(Attachment):
    """A stream of a client: an `Opening` until the target answers, then joined to the application's socket."""

    def __init__(self, circuit: "ClientCircuit", stream_id: int, opening: Opening) -> None:
        super().__init__(circuit, stream_id)
        self.opening = opening
        self.open = False
        self._reading = False
        self.client_circuit = circuit

    def opened(self, address: IPAddress) -> None:
        """The target answered."""
        opening = self.opening
        if not opening.settle():
            self.circuit.reset(self.stream_id, EndReason.DONE)
            return
        opening.leave(winner=self)
        self.open = True
        opening.plug.write(opening.answered(address))
        if self.adopt(opening.plug):
            self.client_circuit.pump.call(self._begin_reading)
        else:  # another thread ended the circuit in this moment
            opening.broken(EndReason.CIRCUIT_CLOSED)
            opening.plug.abort()

    def credit(self) -> None:
        """More may be sent: first what the application said before the answer."""
        if self._reading:
            super().credit()
        elif self.open:
            self.client_circuit.pump.call(self._begin_reading)

    def send_on(self) -> None:
        """As `credit`, and at once."""
        if self._reading:
            super().send_on()
        elif self.open:
            self._begin_reading()

    def _begin_reading(self) -> None:
        """The pump's thread, where a plug's owner may change. Waits for `credit` while `first` is not all sent."""
        opening, plug = self.opening, self.opening.plug
        if plug.closed:  # the application left, and the owner before us was told
            self.circuit.reset(self.stream_id, EndReason.RESET)
            return
        while opening.first:
            count = self.circuit.sendable(self.stream_id)
            if not count:
                return
            data, opening.first = opening.first[:count], opening.first[count:]
            self.plug_received(plug, data)
        self._reading = True
        plug.owner = self
        plug.read_on()

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        """The application went away."""
        self.circuit.reset(self.stream_id, EndReason.RESET)

    def ended(self, reason: EndReason) -> None:
        """Refused, or broken later."""
        if self.open:
            self.opening.broken(reason)
        super().ended(reason)
        if not self.open:
            self.client_circuit.stream_refused(self.opening, reason)


class ClientCircuit(CircuitEnd):
    """A `CircuitSide` of the link to the first hop."""

    def __init__(
        self,
        path: tuple[RelayEntry, ...],
        suite: Suite,
        link: Link,
        links: Links,
        pump: Pump,
        keys: Callable[[], EphemeralKeys] = EphemeralKeys,
    ) -> None:
        """`keys` gives each handshake its own. Raises `Closed` or `TooLarge`; `build` sends CREATE."""
        self.origin = Origin([path_hop(entry) for entry in path], suite, keys)
        super().__init__(self.origin, link, 0, pump)
        self.path = path
        self.suite = suite
        self.number = next(_numbers)  # what people call it; the wire has another, per link
        self.hops_done = 0
        self.born = monotonic()
        self.build_seconds = 0.0
        self.used_at: float | None = None  # when it got its first stream
        self.isolation: Isolation | None = None  # of its streams; None while unused
        self.era: int | None = None  # the same of their era
        self.slow = False  # another circuit answered in its place
        self.listed = True  # all its relays are, as far as the pool has looked
        self.ended_by: DestroyReason | None = None
        self.on_progress: Callable[[int], None] = lambda _hops: None
        self.on_end: Callable[[ClientCircuit], None] = lambda _circuit: None
        self.retry: Callable[[Wish], None] = lambda wish: wish.fail(EndReason.CIRCUIT_CLOSED)
        self._links = links
        self._questions: dict[int, Question] = {}
        self._last_word: int | None = None  # asked for by `end_in_order`: the circuit ends with the answer
        self._doubted = False  # it was asked whether it lives, and has time to answer
        self._settled = threading.Event()  # built, or ended
        self.circuit_id = links.register(link, self)

    # ---- building: a thread that waits

    def build(self, deadline: Deadline) -> None:
        """Sends CREATE and waits until all hops have proved themselves; raises `Closed` with the reason."""
        with self.lock:
            if not self.closed:
                self.link.queue(self.circuit_id, Command.CREATE, self.origin.create)
        self.link.flush()
        if not self._settled.wait(deadline.left()):
            self.end(DestroyReason.TIMEOUT)
        if self.ended_by is not None or not self.origin.built:
            raise Closed(f"no answer from hop {self.hops_done + 1}", self.ended_by)
        self.build_seconds = monotonic() - self.born

    # ---- streams: any thread

    @property
    def exit(self) -> RelayEntry:
        """The last relay."""
        return self.path[-1]

    @property
    def worn(self) -> bool:
        """Whether it takes no new streams.

        It has nearly used its stream ids, carries as many as an exit takes, was too slow, has a relay that is not
        listed, or is about to end.
        """
        full = self.endpoint.used_streams >= MAX_STREAMS or self.endpoint.open_streams >= MAX_OPEN_STREAMS
        return full or self.slow or not self.listed or self._last_word is not None

    @property
    def carries_streams(self) -> bool:
        """Whether a stream is open on it; one that waits for its answer is not."""
        with self.lock:
            attachments = list(self.attachments.values())
        return any(isinstance(stream, ClientStream) and stream.open for stream in attachments)

    def begin(self, opening: Opening) -> None:
        """Opens a stream; raises `Closed` when the circuit is gone, `TooLarge` when it is worn out."""
        opening.tries += 1
        with self.lock:
            if self.closed:
                raise Closed("the circuit has ended", self.ended_by)
            stream_id = self.endpoint.begin(opening.host, opening.port, monotonic(), opening.flags)
            self.attachments[stream_id] = stream = ClientStream(self, stream_id, opening)
            opening.streams.append(stream)
            self._trace(opening, stream_id)
        TURN.settle(self)

    def resolve(self, question: Question) -> None:
        """Looks a name up at the exit, which answers on the pump's thread. Raises as `begin`."""
        question.tries += 1
        with self.lock:
            if self.closed:
                raise Closed("the circuit has ended", self.ended_by)
            stream_id = self.endpoint.resolve(question.host, monotonic(), question.sought)
            self._questions[stream_id] = question
            self._trace(question, stream_id)
        TURN.settle(self)

    def stream_refused(self, opening: Opening, reason: EndReason) -> None:
        """The exit or the circuit gave an opening up: it may go elsewhere."""
        opening.let_go()
        if reason in RETRIED:
            if reason is not EndReason.CIRCUIT_CLOSED:
                opening.refused_by(self.exit.descriptor.identity, reason)
            self.retry(opening)
        else:
            opening.fail(reason)

    def doubt(self) -> None:
        """A relay of it is not listed: that may have frozen, which closes nothing, or only have left the list.

        So the exit is asked something. The circuit ends if nothing at all comes in time, and the relay is still
        missing.
        """
        with self.lock:
            if self.closed or self._doubted or self._ask() is None:
                return
            self._doubted = True
            heard = self.origin.heard
        TURN.settle(self)
        self.pump.call_later(ANSWER_LIMIT, lambda: self._judge(heard))

    def _judge(self, heard: int) -> None:
        """Its time to answer is over; `heard` is what was heard before."""
        self._doubted = False
        if self.origin.heard == heard and not self.listed:
            self.end(DestroyReason.TIMEOUT)

    def end_in_order(self) -> None:
        """Ends the circuit when its exit has all that was sent on streams which are over; none may be open.

        What is on its way still would be dropped with the circuit. So the exit is asked something, and answers
        when it has got all that was sent before, or else `ANSWER_LIMIT` passes. May be called again.
        """
        with self.lock:
            if self.closed or self._last_word is not None:
                return
            if self.endpoint.used_streams:
                self._last_word = self._ask()
        if self._last_word is None:
            self.end()
            return
        TURN.settle(self)
        self.pump.call_later(ANSWER_LIMIT, self.end)

    def _ask(self) -> int | None:
        """Requires the lock. A question that the exit answers at once: its stream id, None when no id is left."""
        try:
            return self.endpoint.resolve(_ASKED, monotonic())
        except TooLarge:
            return None

    def end(self, reason: DestroyReason = DestroyReason.FINISHED) -> None:
        """Ends the circuit; its streams break."""
        self.failed(reason)
        self._links.destroy(self.link, self.circuit_id, reason)

    def untrace(self) -> None:
        """Nobody is told of cells any more."""
        with self.lock:
            self.origin.tap(None)

    def _trace(self, wish: Wish, stream_id: int) -> None:
        """Requires the lock: from now on the wish's trace, if it has one, is told of each cell."""
        if wish.trace is not None:
            wish.trace.begin(self, stream_id)
            self.origin.tap(wish.trace.record)

    # ---- CircuitSide: the pump's thread

    def cells(self, bodies: Sequence[Bytes]) -> None:
        """From the relays."""
        now = monotonic()
        claimed: list[tuple[Action, Attachment | None]] = []
        with self.lock:
            if self.closed:
                return
            for action in self.origin.receive(bodies, now):
                claimed.append((action, self.claim(action)))
            speaks = bool(self.packing.outgoing)
        if speaks:
            TURN.settle(self)
        for action, attachment in claimed:
            self._perform(action, attachment)

    def created(self, body: Bytes) -> None:
        """From the first hop."""
        with self.lock:
            if self.closed:
                return
            actions = self.origin.created(body)
        TURN.settle(self)
        for action in actions:
            self._perform(action, None)

    def failed(self, reason: DestroyReason) -> None:
        """Over, whoever ended it."""
        with self.lock:
            if self.ended_by is not None:
                return
            self.ended_by = reason
            questions, self._questions = list(self._questions.values()), {}
        self._settled.set()
        self.close_streams(EndReason.CIRCUIT_CLOSED)
        for question in questions:
            question.let_go()
            self.retry(question)
        self.on_end(self)

    def _perform(self, action: Action, attachment: Attachment | None) -> None:
        match action:
            case HopAdded(hops):
                self.hops_done = hops
                self.on_progress(hops)
            case Built():
                self._settled.set()
            case Opened(address=address):
                if isinstance(attachment, ClientStream):
                    attachment.opened(address)
            case Answered(stream_id) if stream_id == self._last_word:
                self.end()
            case Answered(stream_id, reason, addresses, name):
                question = self._questions.get(stream_id)
                if question is None:
                    return  # it was `doubt`'s; or the circuit has ended meanwhile, and it is asked elsewhere
                if addresses if question.sought is Sought.NAME else name:
                    raise Unexpected("the answer to another question")
                if self._questions.pop(stream_id, None) is None:
                    return
                if reason is EndReason.LIMIT:
                    question.let_go()
                    question.refused_by(self.exit.descriptor.identity, reason)
                    self.retry(question)
                else:
                    question.answer(reason, addresses, name)
            case _:
                self.perform(action, attachment)
