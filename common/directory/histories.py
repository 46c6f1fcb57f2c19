"""The histories of all relays that are or lately were listed."""

from collections.abc import Mapping
from dataclasses import replace

from common.directory.document import MAX_RELAYS
from common.directory.observation import History
from common.directory.registry_actions import Action, StoreHistory

KEEP = 30 * 86_400.0  # seconds that a history outlives its relay's last listing: a holiday, a repair
MAX_DEPARTED = 2 * MAX_RELAYS  # histories of departed relays; the longest departed go first


class Histories:
    """Each relay's `History`. The time until now was watched by another run of the gateway, or by nobody."""

    def __init__(self, stored: Mapping[bytes, History] | None = None, now: float = 0.0) -> None:
        """`stored` is what an earlier run kept: of its relays each is departed until it `begin`s."""
        self._all = {identity: replace(history, updated=now) for identity, history in (stored or {}).items()}
        # Who is not listed, the longest departed first.
        self._departed = dict.fromkeys(sorted(self._all, key=lambda identity: self._all[identity].last_seen))

    def all(self) -> dict[bytes, History]:
        """A copy: each relay's history by its identity."""
        return dict(self._all)

    def of(self, identity: bytes, now: float) -> History:
        """A relay's history; that of a newcomer when there is none."""
        return self._all.get(identity) or History.begin(now)

    def begin(self, identity: bytes, now: float) -> list[Action]:
        """The relay is listed: a new run begins, the time since the last one was downtime."""
        known = self._all.get(identity)
        history = History.begin(now) if known is None else known.advance(now, up=False)
        self._departed.pop(identity, None)
        return self._set(identity, replace(history, running_since=now, last_seen=now))

    def resume(self, identity: bytes, now: float) -> None:
        """The relay was listed when the gateway stopped: its run goes on."""
        self._departed.pop(identity, None)
        self._all[identity] = replace(self.of(identity, now), updated=now)

    def advance(self, identity: bytes, now: float, round_trip_ms: float) -> list[Action]:
        """The relay was up since the last call."""
        return self._set(identity, self.of(identity, now).advance(now, up=True, round_trip_ms=round_trip_ms))

    def end(self, identity: bytes, now: float, round_trip_ms: float, failed: bool) -> list[Action]:
        """The relay has left the list; `failed` unless it said good-bye."""
        history = self.of(identity, now).advance(now, up=True, round_trip_ms=round_trip_ms)
        self._departed[identity] = None
        return self._set(identity, replace(history, failures=history.failures + failed))

    def move(self, old: bytes, new: bytes) -> list[Action]:
        """The relay has a new identity."""
        history = self._all.get(old)
        if history is None or new in self._all:
            return []
        self._departed[new] = None
        return [*self._forget(old), *self._set(new, history)]

    def forget_old(self, now: float) -> list[Action]:
        """Drops who departed too long ago, and who are too many."""
        actions: list[Action] = []
        while self._departed:
            identity = next(iter(self._departed))
            if len(self._departed) <= MAX_DEPARTED and self._all[identity].last_seen > now - KEEP:
                break
            actions += self._forget(identity)
        return actions

    def _set(self, identity: bytes, history: History) -> list[Action]:
        self._all[identity] = history
        return [StoreHistory(identity, history)]

    def _forget(self, identity: bytes) -> list[Action]:
        del self._all[identity]
        self._departed.pop(identity, None)
        return [StoreHistory(identity, None)]
