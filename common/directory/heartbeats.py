"""When to ping which session, and how many pings it has missed.

It knows sessions (connections), not relays, and runs on a clock that never jumps.
"""

import heapq
from dataclasses import dataclass

MISSED_LIMIT = 2  # unanswered pings after which a relay leaves the list


@dataclass(frozen=True, slots=True)
class Beat:
    """Ping `session` with `number`; `missed` pings before this one were not answered."""

    session: int
    number: int
    missed: int


@dataclass(slots=True)
class _Pulse:
    number: int = 0
    sent: float = 0.0
    missed: int = 0
    waiting: bool = False


class Heartbeats:
    """When to ping which session: each every `interval` seconds, spread over the interval."""

    def __init__(self, interval: float) -> None:
        self.sent = 0  # pings, since the start
        self.missed = 0  # of them, not answered before the next one was due
        self._interval = interval
        self._pulses: dict[int, _Pulse] = {}
        self._due: list[tuple[float, int]] = []  # a heap; each session in `_pulses` stands in it once

    def add(self, session: int, fraction: float, now: float) -> None:
        """The first ping comes after `fraction` (0 to 1) of the interval, so that relays spread."""
        if session not in self._pulses:
            self._pulses[session] = _Pulse()
            heapq.heappush(self._due, (now + fraction * self._interval, session))

    def remove(self, session: int) -> None:
        """No more pings; a session's number is never used again."""
        self._pulses.pop(session, None)

    def answer(self, session: int, number: int, now: float) -> float | None:
        """The round trip in seconds of the ping that is answered; None for an answer that nobody waits for."""
        pulse = self._pulses.get(session)
        if pulse is None or not pulse.waiting or number != pulse.number:
            return None
        pulse.waiting, pulse.missed = False, 0
        return now - pulse.sent

    def due(self, now: float) -> list[Beat]:
        """The pings to send now."""
        beats: list[Beat] = []
        while self._due and self._due[0][0] <= now:
            _, session = heapq.heappop(self._due)
            pulse = self._pulses.get(session)
            if pulse is None:
                continue
            pulse.missed += pulse.waiting
            self.missed += pulse.waiting
            self.sent += 1
            pulse.number, pulse.sent, pulse.waiting = pulse.number + 1, now, True
            heapq.heappush(self._due, (now + self._interval, session))
            beats.append(Beat(session, pulse.number, pulse.missed))
        return beats

    def next_due(self) -> float | None:
        """When `due` has something to say, None while nobody is to be pinged."""
        return self._due[0][0] if self._due else None
