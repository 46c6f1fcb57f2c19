"""When to ping which session, and which sessions are silent.

Who does not answer a ping before the next one is due has a fifth of an interval for that next one; then it is
silent. So a peer that dies is found out at most 2.2 intervals after its last answer, and one lost ping does no
harm.

It knows sessions (connections), not relays, and runs on a clock that never jumps.
"""

import heapq
from collections import deque
from dataclasses import dataclass

LAST_CHANCE = 0.2  # of an interval, for the second ping


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
        self._last_chances: deque[tuple[float, int, int]] = deque()  # in order: until when, session, ping

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
            if pulse.missed:
                self._last_chances.append((now + LAST_CHANCE * self._interval, session, pulse.number))
            beats.append(Beat(session, pulse.number, pulse.missed))
        return beats

    def silent(self, now: float) -> list[int]:
        """The sessions that have not answered two pings; each is named again with each ping it does not answer."""
        sessions: list[int] = []
        while self._last_chances and self._last_chances[0][0] <= now:
            _, session, number = self._last_chances.popleft()
            pulse = self._pulses.get(session)
            if pulse is not None and pulse.waiting and pulse.number == number:
                sessions.append(session)
        return sessions

    def next_due(self) -> float | None:
        """When `due` or `silent` has something to say, None while nobody is to be pinged."""
        moments = [queue[0][0] for queue in (self._due, self._last_chances) if queue]
        return min(moments) if moments else None
