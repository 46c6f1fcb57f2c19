"""Which relays the next circuit goes through: the listed ones, the user's wishes, the guards, and the rules of
`directory/path`, put together.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.crypto.handshake import Suite
from common.directory.descriptor import Descriptor
from common.directory.document import RelayEntry
from common.directory.exit_policy import WEB_PORTS
from common.directory.path import Path, apart, choose_path, draw_hops, named
from common.errors import DirectoryError
from common.roles.client.guard_keeper import GuardKeeper

Fits = Callable[[Descriptor], bool]


@dataclass(frozen=True, slots=True)
class PathWishes:
    """How paths are chosen: `exclude` and `exit` by nickname or identity in hex; `own` is this process's relay."""

    fewest: int = 3
    most: int = 5
    suite: Suite = Suite.FERNET
    exclude: tuple[str, ...] = ()
    exit: str = ""
    own: bytes | None = None

    def usable(self, relays: Iterable[RelayEntry]) -> list[RelayEntry]:
        """The relays that may be on a path."""
        every = list(relays)
        found = [named(every, name) for name in self.exclude]
        without = {entry.descriptor.identity for entry in found if entry is not None} | {self.own}
        return [entry for entry in every if entry.descriptor.identity not in without]

    def fixed_exit(self, relays: list[RelayEntry]) -> bytes | None:
        """The identity of the exit asked for, None without one; raises `DirectoryError` when it is not listed."""
        if not self.exit:
            return None
        found = named(relays, self.exit)
        if found is None:
            raise DirectoryError(f"the relay asked for as exit, {self.exit}, is not listed")
        return found.descriptor.identity


class PathChooser:
    """Thread-safe. `listed` gives the relays of now; `wishes` may be replaced by others at any time."""

    def __init__(
        self, listed: Callable[[], Iterable[RelayEntry]], wishes: PathWishes, guards: GuardKeeper
    ) -> None:
        self._listed = listed
        self.wishes = wishes
        self._guards = guards

    def hopeless(self, fits: Fits) -> bool:
        """Whether no listed relay that may be the exit fits; False also while none is listed."""
        relays = self.wishes.usable(self._listed())
        try:
            fixed = self.wishes.fixed_exit(relays)
        except DirectoryError:
            return False  # it may come back in time
        exits = [entry.descriptor for entry in relays if fixed in (None, entry.descriptor.identity)]
        return bool(exits) and not any(map(fits, exits))

    def choose(self, fits: Fits | None, avoid: set[bytes]) -> Path:
        """A path whose exit fits, or serves the web where nothing is asked for yet; waits for the disk.

        It does without the relays to `avoid` (identities) unless it would be too short. Raises `DirectoryError`.
        """
        relays = self.wishes.usable(self._listed())
        hops = draw_hops(self.wishes.fewest, self.wishes.most)
        guards = self._guards.order({entry.descriptor.identity for entry in relays}) if hops > 1 else []
        if avoid:
            try:
                path = self._draw(relays, hops, fits, avoid, guards)
                if len(path.relays) >= self.wishes.fewest:
                    return Path(path.relays)
            except DirectoryError:
                pass  # then with all relays, and the error, if any, is the user's to see
        path = self._draw(relays, hops, fits, set(), guards)
        return path if len(path.relays) < self.wishes.fewest else Path(path.relays)

    def _draw(
        self, relays: list[RelayEntry], hops: int, fits: Fits | None, avoid: set[bytes], guards: list[bytes]
    ) -> Path:
        """Begins with the best guard with which the path is long enough; with any relay where there are none."""
        exits = self._exits(relays, fits, avoid)
        if not guards:
            return _path(relays, hops, avoid, None, exits)
        best: Path | None = None
        error = DirectoryError("no relay can be used")
        for guard in guards:
            try:
                path = _path(relays, hops, avoid, guard, exits)
            except DirectoryError as failure:
                error = failure
                continue
            if len(path.relays) >= min(hops, self.wishes.fewest):
                return path
            if best is None or len(path.relays) > len(best.relays):
                best = path
        if best is None:
            raise error
        return best

    def _exits(self, relays: list[RelayEntry], fits: Fits | None, avoid: set[bytes]) -> list[RelayEntry] | None:
        """The relays that may be the last; None where any may. Raises `DirectoryError`."""
        fixed = self.wishes.fixed_exit(relays)
        exits = [entry for entry in relays if entry.descriptor.identity not in avoid]
        if fixed is not None:
            exits = [entry for entry in exits if entry.descriptor.identity == fixed]
        if fixed is None or fits is not None:
            exits = [entry for entry in exits if (fits or _serves_web)(entry.descriptor)]
        if not exits and fits is None and fixed is None:
            return None
        return exits


def _path(
    relays: list[RelayEntry], hops: int, avoid: set[bytes], guard: bytes | None, exits: list[RelayEntry] | None
) -> Path:
    """A path that begins with the guard, if there is one, and ends with any of `exits`."""
    if guard is not None:
        avoid = avoid - {guard}  # the guards' own rule decides about it
        first = next(entry.descriptor for entry in relays if entry.descriptor.identity == guard)
        if exits is not None:
            exits = [entry for entry in exits if apart(first, entry.descriptor)]
    if exits is None:
        return choose_path(relays, hops, exclude=avoid, first=guard)
    if not exits:
        raise DirectoryError("no relay that can be used lets streams out to the target")
    return choose_path(relays, hops, exclude=avoid, first=guard, exit=secrets.choice(exits).descriptor.identity)


def _serves_web(exit_: Descriptor) -> bool:
    """Whether a circuit that ends there can be expected to serve somebody."""
    return any(map(exit_.policy.may_allow_port, WEB_PORTS))
