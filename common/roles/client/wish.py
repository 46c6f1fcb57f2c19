"""What somebody asked of the network, a stream or a look-up, from the wish until the answer.

Until then nothing was promised to the application, so it may move from a circuit that dies, or whose exit refuses,
to another. When no answer comes for a while it is asked on another circuit *too*, and the first answer wins.
`settle` decides exactly once how it ends: answered, refused, too late or given up.

That a stream is asked for twice does no harm to what is said on it: nothing the application says leaves before an
answer, so the target of the loser gets at most a connection that is closed without a byte.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from common.circuit.trace import Trace
from common.directory.addresses import ip_of
from common.directory.descriptor import Descriptor
from common.directory.exit_policy import WEB_PORTS
from common.errors import EndReason
from common.net.plug import Plug
from common.net.timers import Timer
from common.wire.messages import BeginFlags, IPAddress, Sought

if TYPE_CHECKING:
    from common.roles.client.client_circuit import ClientCircuit, ClientStream

MAX_TRIES = 4  # circuits per stream: the application has its own patience, and exits are no port scanners
RETRIED = frozenset({EndReason.POLICY, EndReason.LIMIT, EndReason.INTERNAL, EndReason.CIRCUIT_CLOSED})


Isolation = tuple[str, ...]
Answer = Callable[[EndReason, tuple[IPAddress, ...], str], None]  # addresses or a name; neither says why


class Wish(ABC):
    """What streams and look-ups have in common: their isolation, their tries, and one end."""

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        self.tries = 0
        self.avoid: set[bytes] = set()  # identities of exits that refused
        self.refusal = EndReason.POLICY  # what it fails with when no exit is left: LIMIT if one had too much to do
        self.timer: Timer | None = None
        self.era: int | None = None  # of the pool, when it was asked for: circuits are not shared across eras
        self.asked: list[ClientCircuit] = []  # circuits it was begun on
        self.asked_at = 0.0  # when last
        self.pending = 0  # circuits that may still answer
        self.trace: Trace | None = None  # who wants to see the cells of this
        self._settled = False
        self._lock = threading.Lock()  # guards `_settled` and `pending`

    @property
    def settled(self) -> bool:
        """Whether it is over."""
        return self._settled

    @property
    @abstractmethod
    def port(self) -> int | None:
        """What the exit must let out to, where that matters."""

    def ask(self, circuit: "ClientCircuit") -> None:
        """Asks the circuit's exit; raises `Closed` or `TooLarge`."""
        with self._lock:
            self.pending += 1
        self.asked.append(circuit)
        self.asked_at = monotonic()
        try:
            self.begin_on(circuit)
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """A circuit will not answer."""
        with self._lock:
            self.pending -= 1

    def refused_by(self, exit_: bytes, reason: EndReason) -> None:
        """An exit (its identity) does not serve it now: another one may."""
        self.avoid.add(exit_)
        if reason is EndReason.LIMIT:
            self.refusal = reason

    def settle(self) -> bool:
        """True for the first caller, who then tells the application; False for all others."""
        with self._lock:
            first, self._settled = not self._settled, True
        if first and self.timer is not None:
            self.timer.cancel()
        return first

    def fail(self, reason: EndReason) -> None:
        """Ends it without an answer, unless it is settled."""
        if self.settle():
            self._refuse(reason)

    @abstractmethod
    def fits(self, exit_: Descriptor) -> bool:
        """Whether an exit says that it serves this."""

    @abstractmethod
    def begin_on(self, circuit: "ClientCircuit") -> None:
        """Asks the circuit's exit; raises `Closed` or `TooLarge`."""

    @abstractmethod
    def _refuse(self, reason: EndReason) -> None:
        """Tells the application."""


class Opening(Wish):
    """A stream asked for."""

    def __init__(
        self,
        host: str,
        port: int,
        plug: Plug,
        answered: Callable[[IPAddress], bytes],
        refused: Callable[[EndReason], None],
        broken: Callable[[EndReason], None],
        isolation: Isolation = (),
        flags: BeginFlags = BeginFlags.ANY,
        first: bytes = b"",
    ) -> None:
        """`plug` is the application's socket, not read from before the target answers.

        `answered` gives the bytes to tell the application first; `refused` hears why there will be no stream;
        `broken` hears that the open stream ended with an error. `first`: what the application has said already.
        """
        super().__init__(isolation)
        self.host = host
        self.plug = plug
        self.answered = answered
        self.broken = broken
        self.flags = flags
        self.first = first
        self.streams: list[ClientStream] = []  # one for each circuit it was begun on
        self._port = port
        self._address = ip_of(host)
        self._refuse_stream = refused

    @property
    def port(self) -> int:
        """The target's."""
        return self._port

    def fits(self, exit_: Descriptor) -> bool:
        """Judged by the address when the host is one, else by the port."""
        if exit_.identity in self.avoid:
            return False
        if self._address is None:
            return exit_.policy.may_allow_port(self.port)
        return exit_.policy.allows(self._address, self.port)

    def begin_on(self, circuit: "ClientCircuit") -> None:
        """See `Wish`."""
        circuit.begin(self)

    def leave(self, winner: "ClientStream | None" = None) -> None:
        """Resets its streams but the one that answered first; circuits that were slower get no new streams."""
        for stream in list(self.streams):  # one may just be begun elsewhere: its answer finds the wish settled
            if stream is not winner and stream.live:
                if winner is not None:
                    stream.client_circuit.slow = True
                stream.circuit.reset(stream.stream_id, EndReason.DONE)
        self.asked.clear()
        self.streams[:] = [winner] if winner is not None else []

    @property
    def live(self) -> bool:
        """Whether a stream was begun and is not over."""
        return any(stream.live for stream in list(self.streams))

    def abort(self) -> None:
        """Ends it now, whatever it has come to: no answer is awaited, and its streams are reset. Any thread."""
        self.settle()
        for stream in list(self.streams):
            stream.circuit.reset(stream.stream_id, EndReason.RESET)
        self.plug.abort()

    def _refuse(self, reason: EndReason) -> None:
        self.leave()
        self._refuse_stream(reason)


class Question(Wish):
    """A name to look up, or the address of one."""

    def __init__(
        self, host: str, done: Answer, isolation: Isolation = (), sought: Sought = Sought.ADDRESSES
    ) -> None:
        """`done` hears the reason and the answer, on the thread where it arrives."""
        super().__init__(isolation)
        self.host = host
        self.sought = sought
        self._done = done

    @property
    def port(self) -> int | None:
        """None: any exit will do."""
        return None

    def fits(self, exit_: Descriptor) -> bool:
        """Relays that let nothing out look nothing up either, nor name an address that they do not reach."""
        if exit_.identity in self.avoid:
            return False
        address = ip_of(self.host)
        if self.sought is Sought.NAME and address is not None:
            return any(exit_.policy.allows(address, port) for port in WEB_PORTS)
        return any(map(exit_.policy.may_allow_port, WEB_PORTS))

    def begin_on(self, circuit: "ClientCircuit") -> None:
        """See `Wish`."""
        circuit.resolve(self)

    def answer(self, reason: EndReason, addresses: tuple[IPAddress, ...], name: str) -> None:
        """The exit's answer."""
        if self.settle():
            self._done(reason, addresses, name)

    def _refuse(self, reason: EndReason) -> None:
        self._done(reason, (), "")
