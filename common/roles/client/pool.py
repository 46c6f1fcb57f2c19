"""The client's circuits: some built ahead, each used by one isolation key, replaced when they die, age or lose
a relay.

A wish that finds no circuit waits here while one is built. Building needs waiting, so each circuit is built on a
short-lived thread; how, is in `circuit_builder`.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice
from time import monotonic

from common.directory.document import RelayEntry
from common.errors import Closed, DestroyReason, DirectoryError, EndReason, ProtocolError, Unreachable
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.client.circuit_builder import CircuitBuilder
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.guard_keeper import GuardKeeper
from common.roles.client.live_circuits import LiveCircuits
from common.roles.client.path_choice import PathWishes
from common.roles.client.wish import MAX_TRIES, Wish
from common.roles.links import Links

__all__ = ["CircuitPool", "PathWishes"]

SPARE = 2  # unused circuits kept ready, so that a request, and one with another isolation, wait for none
MAX_BUILDING = 16  # threads that build at a time
MAX_CIRCUITS = 4_096  # half of what a link carries: with a guard all begin on one, and some there are just ending
MAX_AGE = 600.0  # seconds after its first stream in which a circuit takes new ones: linking them is the cost
MAX_IDLE_AGE = 3_000.0  # seconds an unused circuit is kept: relays renew their onion keys every day
ANSWER_TIME = 4.0  # seconds after which a stream is asked for on another circuit too: slow targets answer in two
HEDGED_TRIES = 3  # circuits that are so asked at most: a target that is down is asked for at three exits
BUILD_TIMES = 100  # build times kept: as many as a person wants a median of
RETRY_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between failed builds; the last one repeats

_logger = logging.getLogger(__name__)


class CircuitPool:
    """Thread-safe. `relays` gives the listed ones now; `refresh` asks for a newer list without waiting."""

    def __init__(
        self,
        relays: Callable[[], Iterable[RelayEntry]],
        refresh: Callable[[], None],
        links: Links,
        pump: Pump,
        wishes: PathWishes,
        warn: Callable[[str], None],
        on_hop: Callable[[int, int], None] = lambda _done, _of: None,
        guards: GuardKeeper | None = None,
    ) -> None:
        self.guards = guards or GuardKeeper()
        self._builder = CircuitBuilder(relays, links, pump, wishes, self.guards, warn, self._begun, self._leave)
        self._relays = relays
        self._refresh = refresh
        self._on_hop = on_hop
        # Guards all below; a leaf: no circuit, plug or builder is called with it held.
        self._changed = threading.Condition()
        self._circuits = LiveCircuits()
        self._retired: list[ClientCircuit] = []  # take no new streams
        # Each is a program's connection, which waits for half a minute at most. There may be thousands.
        self._waiting: dict[Wish, None] = {}
        self._building = 0
        self._threads: set[threading.Thread] = set()  # those that build
        self._failures = 0  # builds failed in a row
        self._era = 0  # rises with each new identity
        self._last_error: Exception | None = None
        self._build_times: deque[float] = deque(maxlen=BUILD_TIMES)
        self._close_reasons: Counter[DestroyReason] = Counter()
        self._closed = False

    # ---- any thread

    def start(self) -> None:
        """Builds the first circuits."""
        self._build_missing()

    def assign(self, wish: Wish) -> None:
        """Gives a wish a circuit, now or when one is built; never waits."""
        if self._assign(wish):
            self._build_missing()

    def _assign(self, wish: Wish) -> bool:
        """As `assign`; tells whether a circuit may be missing now."""
        while not wish.settled:
            if wish.tries >= MAX_TRIES:
                if not wish.pending:
                    wish.fail(wish.refusal if wish.avoid else EndReason.CIRCUIT_CLOSED)
                return False
            circuit = self._claim(wish)
            if circuit is None:
                break
            try:
                wish.ask(circuit)
            except (Closed, ProtocolError):
                continue  # it ended this moment, or has no stream id left
            return circuit.endpoint.used_streams == 1  # it was a spare one
        if self._closed:
            wish.fail(EndReason.CIRCUIT_CLOSED)
            return False
        return not self._refuse(wish)

    def hurry(self, wish: Wish) -> float:
        """Asks one more circuit when those asked have not answered in time; never waits.

        Returns the seconds after which it is worth calling again.
        """
        waited = monotonic() - wish.asked_at
        if not wish.pending or wish.tries >= HEDGED_TRIES:
            return ANSWER_TIME
        if waited < ANSWER_TIME:
            return ANSWER_TIME - waited
        self.assign(wish)
        return ANSWER_TIME

    def wait_ready(self, deadline: Deadline) -> None:
        """Waits for the first circuit; raises `Unreachable` with the reason there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._circuits or self._closed, deadline.left())
            if self._circuits:
                return
        raise Unreachable(self.trouble())

    def trouble(self) -> str:
        """Why there is no circuit, in a sentence."""
        return f"no circuit could be built: {self._last_error or 'no relay has answered yet'}"

    def renew(self) -> None:
        """New identity: what is asked for from now on shares no circuit with anything before."""
        with self._changed:
            self._era += 1
        self._retire(lambda _circuit: True)
        self._build_missing()

    def reconfigure(self, wishes: PathWishes) -> None:
        """Circuits are built as these wishes say from now on; those of before carry no further stream."""
        with self._changed:
            self._builder.wishes = wishes
        self.renew()

    def sweep(self) -> None:
        """Retires circuits that are old, and ends retired ones without streams; called now and then."""
        now = monotonic()

        def old(circuit: ClientCircuit) -> bool:
            if circuit.slow:
                return True
            if circuit.used_at is None:
                return now - circuit.born > MAX_IDLE_AGE
            return now - circuit.used_at > MAX_AGE

        self._retire(old)
        self._build_missing()
        self.review()  # what was built by an older list; and those in doubt are asked again

    def review(self) -> None:
        """Looks whether the relays of all circuits are listed; called on the pump's thread for each new list.

        A circuit with one that is not takes no more streams until it is. When no stream is open on it, it ends,
        and what waits for an answer goes elsewhere; else it is asked whether it lives.
        """
        listed = {entry.descriptor.identity for entry in self._relays()}
        if not listed:
            return  # there is no list now: that says nothing of relays
        with self._changed:
            circuits = [*self._circuits, *self._retired]
            for circuit in circuits:
                circuit.listed = all(entry.descriptor.identity in listed for entry in circuit.path)
        for circuit in circuits:
            if circuit.listed:
                continue
            if circuit.carries_streams:
                circuit.doubt()
            elif circuit.attachments:
                circuit.end()
            else:
                circuit.end_in_order()

    @property
    def circuits(self) -> list[ClientCircuit]:
        """The live ones, unused ones included."""
        with self._changed:
            return list(self._circuits)

    @property
    def retired(self) -> list[ClientCircuit]:
        """Those that take no new streams, and still carry some."""
        with self._changed:
            return [circuit for circuit in self._retired if not circuit.closed]

    @property
    def build_times(self) -> list[float]:
        """Seconds that the last circuits took to build, the newest last."""
        with self._changed:
            return list(self._build_times)

    @property
    def close_reasons(self) -> dict[str, int]:
        """How many circuits have ended, those that were never complete included, by reason."""
        with self._changed:
            return {reason.name.lower().replace("_", " "): count for reason, count in self._close_reasons.items()}

    def close(self) -> None:
        """Ends all circuits; threads that build end when their links do."""
        with self._changed:
            self._closed = True
            circuits, waiting = [*self._circuits, *self._retired], list(self._waiting)
            self._changed.notify_all()
        for wish in waiting:
            wish.fail(EndReason.CIRCUIT_CLOSED)
        for circuit in circuits:
            circuit.end()

    def join(self, deadline: Deadline) -> None:
        """Waits for the threads that build."""
        for thread in list(self._threads):
            if thread.ident is not None:  # else another thread is just about to start it, and it ends at once
                thread.join(deadline.left())

    # ---- choosing

    def _claim(self, wish: Wish) -> ClientCircuit | None:
        """A live circuit for this wish, marked as used; else None, and the wish waits."""
        with self._changed:
            if self._closed:
                return None
            if wish.era is None:
                wish.era = self._era
            circuits = self._circuits
            for circuit in circuits.of(wish.isolation, wish.era):
                if _serves(circuit, wish):
                    return circuit
            for circuit in circuits.unused:
                if _serves(circuit, wish):
                    circuits.give(circuit, wish.isolation, wish.era, monotonic())
                    return circuit
            self._waiting[wish] = None
            return None

    def _refuse(self, wish: Wish) -> bool:
        """Fails a wish that no listed relay would serve, and tells whether it is one."""
        if wish.pending or not self._builder.hopeless(wish):
            return False
        wish.fail(wish.refusal)
        return True

    def _retire(self, old: Callable[[ClientCircuit], bool]) -> None:
        """Takes circuits out of use, and ends those on which nothing runs any more."""
        with self._changed:
            self._retired += self._circuits.take(old)
            over = [circuit for circuit in self._retired if not circuit.attachments]
        for circuit in over:
            circuit.end_in_order()

    # ---- building

    def _build_missing(self) -> None:
        with self._changed:
            self._waiting = {wish: None for wish in self._waiting if not wish.settled}
            # Unused ones do not count against wishes: those wait because none of these exits serves them.
            spare = max(0, SPARE - len(self._circuits.unused))
            wanted = len({(wish.era, wish.isolation) for wish in self._waiting}) + spare
            count = 0 if self._closed else max(0, min(wanted, MAX_BUILDING) - self._building)
            room = MAX_CIRCUITS - len(self._circuits) - len(self._retired) - self._building
            idle = self._take_idle(count - room)
            count = max(0, min(count, room + len(idle)))
            threads = [threading.Thread(target=self._run, name="builder", daemon=True) for _ in range(count)]
            self._building += count
            self._threads.update(threads)
            full = not (self._building or self._closed)  # though somebody waits
            refused = list(self._waiting) if full else []
        for circuit in idle:
            circuit.end_in_order()
        for wish in refused:
            if not wish.pending:
                wish.fail(EndReason.LIMIT)
        for thread in threads:
            self._start(thread)

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError:  # none can be had now: the next look at what is missing tries again
            with self._changed:
                self._building -= 1
                self._threads.discard(thread)

    def _take_idle(self, count: int) -> list[ClientCircuit]:
        """Takes out so many, if there are, that were used and carry nothing now, the oldest first.

        Requires the lock.
        """
        idle = (circuit for circuit in self._circuits if circuit.isolation is not None and not circuit.attachments)
        taken = list(islice(idle, max(0, count)))
        for circuit in taken:
            self._circuits.remove(circuit)
        return taken

    def _run(self) -> None:
        try:
            self._build_one()
        except Exception:
            _logger.exception("internal error while building a circuit")
        finally:
            with self._changed:
                self._building -= 1
                self._threads.discard(threading.current_thread())
        self._serve_waiting()
        self._builder.prepare()

    def _build_one(self) -> None:
        pause = RETRY_PAUSES[min(self._failures, len(RETRY_PAUSES) - 1)]
        with self._changed:
            if pause:
                self._changed.wait_for(lambda: self._closed, pause)
            if self._closed:
                return
            wish = next((wish for wish in self._waiting if not wish.settled), None)
            wishes = self._builder.wishes
        try:
            circuit = self._builder.build(wish)
        except (Closed, ProtocolError, DirectoryError) as error:
            self._failed(error, wish)
            return
        with self._changed:
            self._failures = 0
            self._build_times.append(circuit.build_seconds)
            gone = self._closed or circuit.closed or self._builder.wishes is not wishes
            if not gone:
                self._circuits.add(circuit)
            self._changed.notify_all()
        if gone:
            circuit.end()

    def _failed(self, error: Exception, wish: Wish | None) -> None:
        _logger.debug("a circuit was not built: %s", error)
        with self._changed:
            self._failures += 1
            self._last_error = error
            self._changed.notify_all()
        self._refresh()
        if wish is not None and isinstance(error, DirectoryError):
            self._refuse(wish)

    def _begun(self, circuit: ClientCircuit) -> None:
        """A circuit is about to be built."""
        hops = len(circuit.path)
        circuit.on_end = self._ended
        circuit.on_progress = lambda done: self._on_hop(done, hops)
        circuit.retry = self.assign

    def _leave(self, first: bytes) -> None:
        """A first hop says nothing any more: what waits on circuits through it is asked for elsewhere."""
        with self._changed:
            through = [circuit for circuit in self._circuits if circuit.path[0].descriptor.identity == first]
        for circuit in through:
            if circuit.carries_streams:
                circuit.slow = True
            else:
                circuit.end(DestroyReason.TIMEOUT)

    def _serve_waiting(self) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, {}
        for wish in waiting:
            self._assign(wish)
        self._build_missing()

    def _ended(self, circuit: ClientCircuit) -> None:
        """A circuit ended; on the pump's thread, so nothing here waits."""
        with self._changed:
            self._close_reasons[circuit.ended_by or DestroyReason.FINISHED] += 1
            self._retired = [other for other in self._retired if other is not circuit]
            if not self._circuits.remove(circuit):
                return
        if circuit.ended_by not in (DestroyReason.FINISHED, None):
            self._refresh()
        self._build_missing()


def _serves(circuit: ClientCircuit, wish: Wish) -> bool:
    """Whether it takes another stream, to where the wish goes, and was not asked by it before."""
    return not (circuit in wish.asked or circuit.worn or circuit.closed) and wish.fits(circuit.exit.descriptor)
