"""Keys that are made before they are needed: each is for one handshake."""

from threading import Barrier, Thread

import pytest

from common.crypto.handshake import EphemeralKeys
from common.roles.client import spare_keys
from common.roles.client.spare_keys import SPARE, SpareKeys


def test_no_keys_are_used_for_two_handshakes_whoever_takes_them_at_once() -> None:
    keys = SpareKeys()
    taken: list[bytes] = []
    ready = Barrier(4)

    def use() -> None:
        ready.wait()
        for _ in range(3 * SPARE):
            taken.append(keys.take().x_public)
            keys.refill()

    threads = [Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == len(taken) == 12 * SPARE


def test_what_was_made_before_is_taken_first_and_only_so_much_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[EphemeralKeys] = []

    def make() -> EphemeralKeys:
        made.append(EphemeralKeys())
        return made[-1]

    monkeypatch.setattr(spare_keys, "EphemeralKeys", make)
    keys = SpareKeys()
    for _ in range(2):
        keys.refill()
    assert len(made) == SPARE
    assert [keys.take() for _ in range(SPARE)] == made[:SPARE]
    assert keys.take() is made[SPARE], "with none left, others"
