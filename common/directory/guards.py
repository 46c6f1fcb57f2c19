"""Entry guards: the few relays a client begins its circuits with, kept for months.

Whoever runs the first hop sees the client's address. With a new first hop for each circuit, a person who runs some
relays would see every client sooner or later; with guards most clients never meet that person at all.

The rule:

* The first `SAMPLE` guards are drawn uniformly among the listed relays, and keep their order.
* A circuit begins with the first guard, in that order, that is listed, not set aside, and fits on the path.
* A guard that does not answer is set aside, for longer each time, and then tried again: at most once in
  `LONGEST_PAUSE`. One that is not listed is passed over for as long. Both keep their place, so the client returns
  to its first guard when that returns.
* Another guard is drawn, behind the others, only when no guard is both listed and not set aside. No more are drawn
  once `MOST` of the listed relays (in a large network a fifth) are guards: who can keep the client from reaching
  relays must not lead it through all of them. Then those that were set aside are tried again, the earliest first.
* A guard that was set aside and works again makes the ones before it due at once: where none answered, the fault
  may have been the client's own line.
* A guard's time begins with its first circuit and is over `SHORTEST_LIFE` to `LONGEST_LIFE` later, never before
  because of failures.
* With fewer than `FEWEST_RELAYS` listed there are no guards: every relay sees every client soon whatever it does.

Pure: the guards are a tuple that goes in and comes out; `now` is Unix time.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import isfinite

from common.errors import Malformed

SAMPLE = 3  # the first, and two for when it is away
MOST = 8  # guards that are listed, or a fifth of the listed relays where that is more
_SHARE = 5
MOST_KEPT = 64  # guards in all: in a network whose relays come and go, those that are gone make room
FEWEST_RELAYS = 4
DAY = 86_400.0
SHORTEST_LIFE, LONGEST_LIFE = 45 * DAY, 75 * DAY  # drawn between: not all guards change in one week
FIRST_PAUSE = 30.0  # seconds a guard that did not answer is set aside, doubled each time
LONGEST_PAUSE = 1_800.0
_BELIEVED = 3 * LONGEST_LIFE  # who stays for longer was used while the clock was wrong
VERSION = 1  # of the file
IDENTITY_SIZE = 32

Randbelow = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Guard:
    """A relay's identity; when its time is over, None before its first circuit; failures in a row, next try."""

    identity: bytes
    until: float | None = None
    failures: int = 0
    retry_at: float = 0.0

    def due(self, now: float) -> bool:
        """Whether it may be tried; also when the clock was set back."""
        return not now < self.retry_at <= now + LONGEST_PAUSE


Guards = tuple[Guard, ...]


def renew(guards: Guards, listed: Collection[bytes], now: float, randbelow: Randbelow) -> Guards:
    """Without those whose time is over, and with as many new ones as the rule asks for.

    `listed` are the identities of the relays that may be guards; `randbelow(n)` gives a number from 0 to n - 1.
    """
    if len(listed) < FEWEST_RELAYS:
        return guards
    kept = [guard for guard in guards if guard.until is None or now < guard.until <= now + _BELIEVED]
    while len(kept) < SAMPLE or _lacks(kept, listed, now):
        held = {guard.identity for guard in kept}
        others = sorted(set(listed) - held)
        if not others:
            break
        kept.append(Guard(others[randbelow(len(others))]))
    gone = [guard for guard in kept if guard.identity not in listed][: max(0, len(kept) - MOST_KEPT)]
    return tuple(guard for guard in kept if guard not in gone)


def _lacks(guards: list[Guard], listed: Collection[bytes], now: float) -> bool:
    """Whether another one may be drawn because of all these none can be used."""
    present = [guard for guard in guards if guard.identity in listed]
    return len(present) < max(MOST, len(listed) // _SHARE) and not any(guard.due(now) for guard in present)


def order(guards: Guards, listed: Collection[bytes], now: float) -> list[bytes]:
    """The identities to begin a circuit with, the best first; those that are set aside come last."""
    if len(listed) < FEWEST_RELAYS:
        return []
    present = [guard for guard in guards if guard.identity in listed]
    aside = sorted((guard for guard in present if not guard.due(now)), key=lambda guard: guard.retry_at)
    return [guard.identity for guard in present if guard.due(now)] + [guard.identity for guard in aside]


def failed(guards: Guards, identity: bytes, now: float) -> Guards:
    """After a guard did not answer. One that is set aside already stays so for no longer."""

    def set_aside(guard: Guard) -> Guard:
        pause = min(FIRST_PAUSE * 2.0 ** min(guard.failures, 16), LONGEST_PAUSE)
        return replace(guard, failures=guard.failures + 1, retry_at=now + pause)

    return tuple(
        set_aside(guard) if guard.identity == identity and guard.due(now) else guard for guard in guards
    )


def worked(guards: Guards, identity: bytes, now: float, randbelow: Randbelow) -> Guards:
    """After a circuit was built through a guard; gives back the same tuple when that changes nothing."""
    at = next((at for at, guard in enumerate(guards) if guard.identity == identity), None)
    if at is None:
        return guards
    guard = guards[at]
    before = guards[:at]
    if guard.failures:
        before = tuple(replace(other, retry_at=0.0) for other in before)
        guard = replace(guard, failures=0, retry_at=0.0)
    if guard.until is None:
        life = SHORTEST_LIFE + randbelow(int(LONGEST_LIFE - SHORTEST_LIFE))
        guard = replace(guard, until=float(round(now + life)))
    return guards if guard is guards[at] else (*before, guard, *guards[at + 1 :])


def encode(guards: Guards) -> bytes:
    """The file: JSON. What failed is not in it: after a start every guard is tried again."""
    items = [{"identity": guard.identity.hex(), "until": guard.until} for guard in guards]
    return json.dumps({"version": VERSION, "guards": items}, indent=1).encode() + b"\n"


def decode(data: bytes) -> Guards:
    """The guards of a file; raises `Malformed`."""
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise Malformed(f"is of version {content['version']!r}, not {VERSION}")
        guards = tuple(Guard(bytes.fromhex(item["identity"]), _until(item["until"])) for item in content["guards"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise Malformed("is damaged") from None
    whole = all(len(guard.identity) == IDENTITY_SIZE for guard in guards)
    if not whole or len({guard.identity for guard in guards}) != len(guards) or len(guards) > MOST_KEPT:
        raise Malformed("is damaged")
    return guards


def _until(raw: object) -> float | None:
    if raw is None:
        return None
    if not isinstance(raw, float | int) or not isfinite(raw):
        raise ValueError("not a time")
    return float(raw)
