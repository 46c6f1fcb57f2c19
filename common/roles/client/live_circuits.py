"""The circuits of a client that take new streams, by whose streams they carry: a client may have thousands."""

from collections.abc import Callable, Iterator

from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.wish import Isolation

Whose = tuple[Isolation | None, int | None]  # isolation and era; None and None: nobody's yet


class LiveCircuits:
    """In the order in which they were built. Not thread-safe: the pool holds its lock."""

    def __init__(self) -> None:
        self._all: dict[ClientCircuit, None] = {}
        self._whose: dict[Whose, dict[ClientCircuit, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[ClientCircuit]:
        return iter(self._all)

    def of(self, isolation: Isolation | None, era: int | None) -> dict[ClientCircuit, None]:
        """Those that carry its streams."""
        return self._whose.get((isolation, era), {})

    @property
    def unused(self) -> dict[ClientCircuit, None]:
        """Those that are nobody's yet."""
        return self.of(None, None)

    def add(self, circuit: ClientCircuit) -> None:
        """A circuit that was built."""
        self._all[circuit] = None
        self._enter(circuit)

    def remove(self, circuit: ClientCircuit) -> bool:
        """It takes no more streams; False when it is not here."""
        if circuit not in self._all:
            return False
        del self._all[circuit]
        self._strike(circuit)
        return True

    def take(self, old: Callable[[ClientCircuit], bool]) -> list[ClientCircuit]:
        """Removes those for which `old` holds, and gives them."""
        taken = [circuit for circuit in self._all if old(circuit)]
        for circuit in taken:
            self.remove(circuit)
        return taken

    def give(self, circuit: ClientCircuit, isolation: Isolation, era: int, now: float) -> None:
        """An unused one is somebody's from now on."""
        self._strike(circuit)
        circuit.isolation, circuit.era, circuit.used_at = isolation, era, now
        self._enter(circuit)

    def _enter(self, circuit: ClientCircuit) -> None:
        self._whose.setdefault((circuit.isolation, circuit.era), {})[circuit] = None

    def _strike(self, circuit: ClientCircuit) -> None:
        whose = circuit.isolation, circuit.era
        del self._whose[whose][circuit]
        if not self._whose[whose]:
            del self._whose[whose]
