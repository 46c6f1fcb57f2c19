"""How one circuit of the client is built: the choice of its path, the time it has, and what its failure teaches.

Circuits begin with an entry guard. Any other relay that did not answer is avoided for a while where the path can
do without it.
"""

import threading
from collections.abc import Callable, Iterable
from time import monotonic

from common.circuit.build_timeout import BuildTimes
from common.directory.document import RelayEntry
from common.directory.path import Path
from common.errors import AuthenticationFailed, Closed
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.guard_keeper import GuardKeeper
from common.roles.client.path_choice import PathChooser, PathWishes
from common.roles.client.spare_keys import SpareKeys
from common.roles.client.wish import Wish
from common.roles.links import Links

STUCK = 3  # circuits in a row that a guard could not extend: then it is the guard that does not work
AVOID = 30.0  # seconds a relay that did not answer is avoided: the directory drops it much sooner if it is gone


class CircuitBuilder:
    """Thread-safe. `relays` gives the listed ones now."""

    def __init__(
        self,
        relays: Callable[[], Iterable[RelayEntry]],
        links: Links,
        pump: Pump,
        wishes: PathWishes,
        guards: GuardKeeper,
        warn: Callable[[str], None],
        begun: Callable[[ClientCircuit], None],
        silent: Callable[[bytes], None],
    ) -> None:
        """`begun` hears of each circuit before anything is said on it, so of those that will not be built too.

        `silent` hears of a first hop (its identity) that did not answer in time.
        """
        self._chooser = PathChooser(relays, wishes, guards)
        self._links = links
        self._pump = pump
        self._guards = guards
        self._warn = warn
        self._begun = begun
        self._silent = silent
        # Guards all below; a leaf: no chooser, guards or circuit are called with it held, nor who hears of one.
        self._lock = threading.Lock()
        self._avoid: dict[bytes, float] = {}  # identity: until when
        self._stuck = 0  # circuits in a row that failed at the second hop
        self._times = BuildTimes()
        self._keys = SpareKeys()

    @property
    def wishes(self) -> PathWishes:
        """How paths are chosen."""
        return self._chooser.wishes

    @wishes.setter
    def wishes(self, wishes: PathWishes) -> None:
        """A circuit that is being built may follow those before, or be chosen by some of both."""
        self._chooser.wishes = wishes

    def hopeless(self, wish: Wish) -> bool:
        """Whether no listed relay would serve it."""
        return self._chooser.hopeless(wish.fits)

    def limit(self, hops: int) -> float:
        """Seconds after which a circuit of so many hops is given up now."""
        with self._lock:
            return self._times.limit(hops)

    def build(self, wish: Wish | None) -> ClientCircuit:
        """A circuit to where a wish goes, or a spare one; waits for the relays and the disk.

        Raises `Closed`, `ProtocolError` or `DirectoryError`.
        """
        path = self._chooser.choose(wish.fits if wish is not None else None, self._avoided())
        if path.warning is not None:
            self._warn(path.warning)
        first = path.relays[0].descriptor
        deadline = Deadline(self.limit(len(path.relays)))
        done = 0
        try:
            link = self._links.obtain((first.address.host, first.address.port), first.identity, deadline)
            circuit = ClientCircuit(
                path.relays, self.wishes.suite, link, self._links, self._pump, self._keys.take
            )
            self._begun(circuit)
            try:
                circuit.build(deadline)
            finally:
                done = circuit.hops_done
        except (Closed, AuthenticationFailed):
            self._blame(path, done, deadline.expired)
            raise
        with self._lock:
            self._times.built(circuit.build_seconds, len(path.relays))
            self._stuck = 0
        self._guards.worked(first.identity)
        return circuit

    def prepare(self) -> None:
        """Makes what the next circuit can have ready, when nobody waits for this thread: 1 ms at most."""
        self._keys.refill()

    def _avoided(self) -> set[bytes]:
        now = monotonic()
        with self._lock:
            self._avoid = {identity: until for identity, until in self._avoid.items() if until > now}
            return set(self._avoid)

    def _blame(self, path: Path, done: int, late: bool) -> None:
        """A circuit was not built: the hop after those that are done did not answer."""
        at = min(done, len(path.relays) - 1)
        with self._lock:
            if late:
                self._times.given_up()
            self._stuck = self._stuck + 1 if at == 1 else 0
            stuck = self._stuck >= STUCK
        if at == 0 or stuck:
            self._guards.failed(path.relays[0].descriptor.identity)
        if at == 0 and late:
            self._silent(path.relays[0].descriptor.identity)
        if at > 0 or not self._guards.guards:  # a guard's own rule says when to try it again
            with self._lock:
                self._avoid[path.relays[at].descriptor.identity] = monotonic() + AVOID
