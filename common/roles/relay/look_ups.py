"""Look-ups for many circuits on few threads: each blocks one, for seconds where a name's servers are silent.

* A circuit has few under way at a time, and circuits are served in turns: whoever asks for names that nobody
  answers for waits, and others wait only when several such circuits have all threads.
* What waits too long, or behind too many others, is answered LIMIT: another exit may be quicker. When all places
  are taken, the circuit that has most of them gives one to a circuit that has less.
* What nobody wants any more is not begun; what is under way cannot be ended.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from common.errors import EndReason
from common.net.pump import Pump

RESOLVERS = 32  # threads at most, each started when it is needed first: 40 KB each, and they stay
RUNNING = 4  # of one circuit at a time: eight circuits whose names' servers are silent take all threads
WAITING = 64  # of one circuit: more than a browser asks for at once
MAX_LOOKUPS = 1_024  # waiting in all
MAX_WAIT = 5.0  # seconds in the queue: a client has asked another exit by then
_LOOK = 1.0  # seconds between two looks for who has waited too long

_logger = logging.getLogger(__name__)


@dataclass(slots=True, repr=False)  # targets stay out of tracebacks and logs
class _LookUp:
    wanted: Callable[[], bool]
    work: Callable[[], object]
    refused: Callable[[EndReason], object]
    until: float


@dataclass(slots=True, eq=False)
class _Queue:
    """One circuit's."""

    circuit: object
    waiting: deque[_LookUp] = field(default_factory=deque)
    running: int = 0
    in_turn: bool = False


class LookUps:
    """See the module. Waits for nothing, not even in `close`: threads that hang are left to end by themselves."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._changed = threading.Condition()  # its lock guards all that follows
        self._queues: dict[object, _Queue] = {}  # of circuits that have any
        self._turns: deque[_Queue] = deque()  # those whose next may begin, each once
        self._waiting = 0
        self._most = 0  # no circuit has more waiting; it may be that all have less by now
        self._threads = 0
        self._idle = 0  # of these, which nobody has woken
        self._timed = False  # the pump will look who has waited too long
        self._closed = False

    def close(self) -> None:
        """Begins no more; those that wait hear nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def submit(
        self,
        circuit: object,
        wanted: Callable[[], bool],
        work: Callable[[], object],
        refused: Callable[[EndReason], object],
    ) -> None:
        """Runs `work` on a thread, unless it is not `wanted` by then.

        Or calls `refused` with the reason: at once, or later on the pump's thread, which is this one too.
        """
        look_up = _LookUp(wanted, work, refused, monotonic() + MAX_WAIT)
        displaced: _LookUp | None = None
        with self._changed:
            if self._waiting >= MAX_LOOKUPS:
                displaced = self._make_room(circuit)
            accepted = not self._closed and self._waiting < MAX_LOOKUPS and self._add(circuit, look_up)
            hires = accepted and self._needs_thread(self._queues[circuit])
            times = accepted and not self._timed
            self._timed = self._timed or times
        if displaced is not None:
            displaced.refused(EndReason.LIMIT)
        if not accepted:
            refused(EndReason.LIMIT)
        if hires:
            self._hire()
        if times:
            self._pump.call_later(_LOOK, self._refuse_late)

    def _hire(self) -> None:
        try:
            threading.Thread(target=self._run, name="resolver", daemon=True).start()
        except RuntimeError:  # none can be had: those there are serve it, or it waits too long
            with self._changed:
                self._threads -= 1

    # ---- with the lock held

    def _make_room(self, circuit: object) -> _LookUp | None:
        """Takes out the last of the circuit that has most waiting, if this one then has no more than it."""
        own = self._queues.get(circuit)
        least = 2 + (len(own.waiting) if own is not None else 0)
        if self._most < least:
            return None  # without a look at each: 10,000 in a row may come
        longest = max(self._queues.values(), key=lambda queue: len(queue.waiting), default=None)
        self._most = len(longest.waiting) if longest is not None else 0
        if longest is None or self._most < least:
            return None
        self._waiting -= 1
        return longest.waiting.pop()

    def _add(self, circuit: object, look_up: _LookUp) -> bool:
        queue = self._queues.get(circuit)
        if queue is None:
            queue = self._queues[circuit] = _Queue(circuit)
        if len(queue.waiting) >= WAITING:
            return False
        queue.waiting.append(look_up)
        self._waiting += 1
        self._most = max(self._most, len(queue.waiting))
        self._line_up(queue)
        return True

    def _line_up(self, queue: _Queue) -> None:
        if queue.waiting and queue.running < RUNNING and not queue.in_turn:
            queue.in_turn = True
            self._turns.append(queue)

    def _needs_thread(self, queue: _Queue) -> bool:
        """Of what was just added: whether a thread must be started for it; an idle one is woken."""
        if len(queue.waiting) > RUNNING - queue.running:
            return False  # it begins when one of its circuit has ended, on that one's thread
        if self._idle:
            self._idle -= 1
            self._changed.notify()
            return False
        if self._threads == RESOLVERS:
            return False
        self._threads += 1
        return True

    def _forget_if_done(self, queue: _Queue) -> None:
        if not queue.waiting and not queue.running:
            del self._queues[queue.circuit]

    # ---- the resolvers' threads

    def _run(self) -> None:
        done = None
        while (found := self._next(done)) is not None:
            done, look_up = found
            try:
                if look_up.wanted():
                    look_up.work()
            except Exception:
                _logger.exception("unexpected error in a look-up")

    def _next(self, done: _Queue | None) -> tuple[_Queue, _LookUp] | None:
        """Waits for the next one; None after `close`."""
        with self._changed:
            if done is not None:
                done.running -= 1
                self._line_up(done)
                self._forget_if_done(done)
            while not self._turns and not self._closed:
                self._idle += 1
                self._changed.wait()
            if self._closed:
                return None
            queue = self._turns.popleft()
            queue.in_turn = False
            look_up = queue.waiting.popleft()
            queue.running += 1
            self._waiting -= 1
            self._line_up(queue)
            return queue, look_up

    # ---- the pump's thread

    def _refuse_late(self) -> None:
        now = monotonic()
        late: list[_LookUp] = []
        with self._changed:
            for queue in list(self._queues.values()):
                while queue.waiting and queue.waiting[0].until <= now:
                    late.append(queue.waiting.popleft())
                queue.in_turn = queue.in_turn and bool(queue.waiting)
                self._forget_if_done(queue)
            self._turns = deque(queue for queue in self._turns if queue.in_turn)
            self._waiting -= len(late)
            self._timed = self._waiting > 0
            timed = self._timed
        if timed:
            self._pump.call_later(_LOOK, self._refuse_late)
        for look_up in late:
            look_up.refused(EndReason.LIMIT)
