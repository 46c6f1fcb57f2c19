"""Choosing the relays of a circuit, by a secure generator.

* No relay twice, no two of one family, and beyond loopback no two of one host or public /16 (IPv6: /32).
* The last relay must allow the target's port, when one is given.
* The last relay is drawn first, uniformly among those allowed, then the others, each uniformly among what is left.
* With fewer relays than wanted the path is as long as it can be and says so; one hop only when one was asked for.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from common.directory.addresses import neighbourhood
from common.directory.descriptor import Descriptor
from common.directory.document import RelayEntry
from common.errors import DirectoryError

MAX_HOPS = 8  # what an exit puts into a cell leaves room for so many layers
DRAWS = 32  # blind draws before all candidates are looked at: finding one in a large network takes few
ATTEMPTS = 16  # whole paths tried before a shorter one is accepted: an unlucky first relay may exclude the others

Randbelow = Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Path:
    """The relays in order, first hop first; `warning` is a sentence for the user when there are too few."""

    relays: tuple[RelayEntry, ...]
    warning: str | None = None


def draw_hops(fewest: int = 3, most: int = 5, randbelow: Randbelow = secrets.randbelow) -> int:
    """How many hops the next path has: uniform from `fewest` to `most`."""
    return fewest + randbelow(most - fewest + 1)


def choose_path(
    relays: Sequence[RelayEntry],
    hops: int,
    port: int | None = None,
    *,
    exclude: Collection[bytes] = (),
    first: bytes | None = None,
    exit: bytes | None = None,
    randbelow: Randbelow = secrets.randbelow,
) -> Path:
    """A random path of `hops` relays (1 to 8) to a target on `port`, or to any when None.

    `exclude`, `first` and `exit` are identities: relays not to use, and the relay to begin or end with. The path
    is shorter, with a warning, when no more relays fit. Raises `DirectoryError`, a sentence, when there is none.
    """
    if not 1 <= hops <= MAX_HOPS:
        raise DirectoryError(f"a path has 1 to {MAX_HOPS} relays, not {hops}")
    draw = _Draw(relays, frozenset(exclude), port, randbelow)
    best: list[RelayEntry] = []
    for _ in range(ATTEMPTS):
        path = draw.path(hops, first, exit)
        if len(path) > len(best):
            best = path
        if len(best) == hops:
            return Path(tuple(best))
    if not best:
        raise DirectoryError(_no_exit(port, exit))
    if len(best) < 2:
        raise DirectoryError(f"a path of {hops} relays was asked for and only one fits: start more relays")
    return Path(tuple(best), f"the path has {len(best)} relays instead of {hops}: no more fit into one")


def _no_exit(port: int | None, exit_identity: bytes | None) -> str:
    if exit_identity is not None:
        return "the relay asked for as exit is not listed, does not allow the port, or is too close to the first"
    return "no relay can be used" if port is None else f"no relay that can be used allows port {port}"


class _Draw:
    """The relays that may be drawn, and how."""

    def __init__(
        self, relays: Sequence[RelayEntry], exclude: frozenset[bytes], port: int | None, randbelow: Randbelow
    ) -> None:
        self._relays = relays
        self._exclude = exclude
        self._port = port
        self._randbelow = randbelow

    def path(self, hops: int, first: bytes | None, exit_identity: bytes | None) -> list[RelayEntry]:
        """One attempt; empty when there is no exit."""
        if hops == 1:
            only = self._one([], exit_identity or first, self._may_be_last)
            return [only] if only is not None else []
        chosen: list[RelayEntry] = []
        if first is not None:
            begin = self._one([], first, _any)
            if begin is None:
                raise DirectoryError("the relay asked for as first hop is not listed")
            chosen.append(begin)
        last = self._one(chosen, exit_identity, self._may_be_last)
        if last is None:
            return []
        chosen.append(last)
        while len(chosen) < hops:
            middle = self._one(chosen, None, _any)
            if middle is None:
                break
            chosen.insert(len(chosen) - 1, middle)
        return chosen

    def _may_be_last(self, descriptor: Descriptor) -> bool:
        return self._port is None or descriptor.policy.may_allow_port(self._port)

    def _one(
        self, chosen: list[RelayEntry], wanted: bytes | None, test: Callable[[Descriptor], bool]
    ) -> RelayEntry | None:
        """One relay, uniform among those that fit beside `chosen`; None when none does."""

        def fits(entry: RelayEntry) -> bool:
            descriptor = entry.descriptor
            return (
                (wanted is None or descriptor.identity == wanted)
                and descriptor.identity not in self._exclude
                and all(apart(descriptor, other.descriptor) for other in chosen)
                and test(descriptor)
            )

        if wanted is None and len(self._relays) > DRAWS:
            for _ in range(DRAWS):  # rejecting what does not fit draws uniformly from what does
                entry = self._relays[self._randbelow(len(self._relays))]
                if fits(entry):
                    return entry
        candidates = [entry for entry in self._relays if fits(entry)]
        return candidates[self._randbelow(len(candidates))] if candidates else None


def _any(_: Descriptor) -> bool:
    return True


def named(relays: Sequence[RelayEntry], name: str) -> RelayEntry | None:
    """The relay with that nickname, in any case of letters, or with that identity in hex; None when not listed."""
    wanted = name.lower()
    for entry in relays:
        if wanted in (entry.descriptor.nickname.lower(), entry.descriptor.identity.hex()):
            return entry
    return None


def apart(one: Descriptor, other: Descriptor) -> bool:
    """Whether two relays may serve on one path."""
    if one.identity == other.identity or (one.family and one.family == other.family):
        return False
    place = neighbourhood(one.address)
    return place is None or place != neighbourhood(other.address)
