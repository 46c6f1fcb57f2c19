"""Circuits that share one slowest link, cell by cell, with the real windows at their senders and a clock of numbers.

A cell waits for the cells before it, takes its time at the link's rate, and its receipt is back a round trip later.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from common.circuit.congestion import CongestionWindow
from common.circuit.window import CIRCUIT_WINDOW, CircuitReceiveWindow, CircuitSendWindow

CELL = 15_855  # bytes of DATA in a long cell of the fernet suite
MBIT = 125_000.0  # bytes a second


@dataclass
class Circuit:
    """One circuit; `hungry` says whether its source has more to send at a time."""

    path: "Path"
    delay: float  # seconds of its round trip that are not the link's
    hungry: Callable[[float], bool]
    stalled: Callable[[float], float]  # how long the receiver's answer is held at a time

    def __post_init__(self) -> None:
        self.congestion = CongestionWindow(CIRCUIT_WINDOW)
        self.sending, self.receiving = CircuitSendWindow(), CircuitReceiveWindow()
        self.windows: list[tuple[float, int]] = []
        self.delivered: list[tuple[float, int]] = []
        self._marks = 0
        self._back = 0.0

    def go_on(self, now: float) -> None:
        """Sends what its window and its source allow."""
        while self.hungry(now):
            if self.sending.flying >= self.congestion.window:
                self.congestion.refused()
                break
            if self.sending.left < CELL:
                break
            wait = self.congestion.wait(now)
            if wait > 0:
                self.path.at(now + wait, self.go_on)
                break
            self._send(now, CELL)
        if self.sending.stuck(self.congestion.step):
            self._send(now, 0)

    def _send(self, now: float, count: int) -> None:
        proof = None
        self.congestion.sent(now, count)
        if self.sending.cell_sent(count, self.congestion.step):
            proof = self._marks.to_bytes(16, "big")
            self._marks += 1
            self.sending.marked(proof, now)
        self.path.carry(self, count, proof, now)

    def arrives(self, count: int, proof: bytes | None, now: float) -> None:
        """A cell is at the other end; the receipt it asks for goes back."""
        self.receiving.data_arrived(count)
        self.delivered.append((now, self.receiving.arrived))
        if proof is not None:
            self._back = back = max(self._back, now + self.delay / 2 + self.stalled(now))  # in order
            self.path.at(back, self._receipt(self.receiving.marked(), proof))

    def _receipt(self, limit: int, proof: bytes) -> Callable[[float], None]:
        def come(now: float) -> None:
            receipt = self.sending.credit(limit, proof)
            sending = self.sending
            self.congestion.measured(now, now - receipt.sent_at, receipt.newly, sending.answered, sending.sent)
            self.windows.append((now, self.congestion.window))
            self.go_on(now)

        return come

    def got(self, start: float, end: float) -> int:
        """Bytes that arrived in a time."""
        return sum(CELL for now, _ in self.delivered if start <= now < end)


class Path:
    """The link. `rate` and `extra` (seconds that each cell needs besides, such as jitter) may change with time."""

    def __init__(self, rate: Callable[[float], float], extra: Callable[[float], float] = lambda _now: 0.0) -> None:
        self.queues: list[tuple[float, float]] = []  # when, and the seconds a cell had to wait
        self._rate = rate
        self._extra = extra
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._free = 0.0

    def circuit(
        self,
        delay: float,
        start: float = 0.0,
        hungry: Callable[[float], bool] = lambda _now: True,
        stalled: Callable[[float], float] = lambda _now: 0.0,
    ) -> Circuit:
        """A circuit that begins at `start`, and is asked every 50 ms whether it has more to send."""
        circuit = Circuit(self, delay, lambda now: now >= start and hungry(now), stalled)

        def poll(now: float) -> None:
            circuit.go_on(now)
            self.at(now + 0.05, poll)

        self.at(start, poll)
        return circuit

    def at(self, when: float, what: Callable[[float], None]) -> None:
        """`what` happens then."""
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def carry(self, circuit: Circuit, count: int, proof: bytes | None, now: float) -> None:
        """A cell reaches the link half of its circuit's delay after it was sent; order is kept."""
        self.at(now + circuit.delay / 2, lambda then: self._transmit(circuit, count, proof, then))

    def _transmit(self, circuit: Circuit, count: int, proof: bytes | None, now: float) -> None:
        self.queues.append((now, max(0.0, self._free - now)))
        self._free = max(self._free, now) + max(count, 500) / self._rate(now)
        self._free = max(self._free, now + self._extra(now))
        self.at(self._free, lambda then: circuit.arrives(count, proof, then))

    def run(self, until: float) -> None:
        """Everything up to a time."""
        while self._events and self._events[0][0] <= until:
            when, _, what = heapq.heappop(self._events)
            what(when)

    def queue(self, start: float, end: float, part: float = 0.5) -> float:
        """That part of the cells of a time waited less, in seconds."""
        waits = sorted(wait for now, wait in self.queues if start <= now < end)
        return waits[min(int(part * len(waits)), len(waits) - 1)]
