"""What the live fuzzers share: threads of hostile peers, the same for the same seed, until a time is over."""

import contextlib
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from common.errors import OnionError
from common.net.deadline import Deadline

THREADS = 4
SECONDS = 60.0
SHORT = 0.2  # seconds that a hostile peer waits for an answer


class Attacker:
    """One thread's worth of hostility. `turned_away` is what an attack may end with."""

    turned_away: tuple[type[Exception], ...] = (OSError, OnionError)

    def __init__(self, target: tuple[str, int], seed: int) -> None:
        self.attacks = 0
        self.target = target
        self.random = Random(seed)

    def choices(self) -> Sequence[Callable[[], None]]:
        """The attacks to draw from."""
        raise NotImplementedError

    def run(self, until: Deadline) -> None:
        """Attacks until the time is over; being turned away is no fault."""
        choices = self.choices()
        while not until.expired:
            with contextlib.suppress(*self.turned_away):
                self.random.choice(choices)()
            self.attacks += 1

    def raw(self) -> None:
        """What is no TLS."""
        with socket.create_connection(self.target, SHORT) as sock:
            sock.sendall(self.random.choice([b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"]) + self.noise())

    def spoil(self, whole: bytes) -> bytes:
        """Cut short, changed at one place, doubled in part, or with another beginning."""
        at = self.random.randrange(len(whole))
        return self.random.choice(
            [
                whole[:at],
                whole[:at] + self.random.randbytes(self.random.randrange(1, 9)) + whole[at + 1 :],
                whole + whole[:at],
                self.random.randrange(2**32).to_bytes(4, "big") + whole[4:],
            ]
        )

    def noise(self) -> bytes:
        """Random bytes, or none."""
        return self.random.randbytes(self.random.choice([0, 1, 5, 100, 3_000, 100_000]))


def attack(attackers: Sequence[Attacker], until: Deadline, meanwhile: Callable[[], None]) -> int:
    """Lets them all, and does `meanwhile` again and again; the number of attacks. Raises what any of them raised."""
    with ThreadPoolExecutor(len(attackers)) as pool:
        futures = [pool.submit(attacker.run, until) for attacker in attackers]
        while not until.expired:
            meanwhile()
    for future in futures:
        future.result()
    return sum(attacker.attacks for attacker in attackers)


def main(fuzz: Callable[[Path, float, int], int], borne: str) -> None:
    """`[SECONDS [SEED]]` on the command line."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(f"{seconds:.0f} seconds, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        attacks = fuzz(Path(folder), seconds, seed)
    print(f"{attacks} attacks: {borne}")
