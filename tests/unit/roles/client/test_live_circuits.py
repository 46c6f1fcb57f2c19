"""The table of a client's circuits tells the same as a look at each of them."""

from random import Random
from typing import Any, cast

import pytest

from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.live_circuits import LiveCircuits


class Circuit:
    """What the table looks at."""

    def __init__(self) -> None:
        self.isolation: tuple[str, ...] | None = None
        self.era: int | None = None
        self.used_at: float | None = None


def circuit() -> ClientCircuit:
    return cast(Any, Circuit())  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_each_is_found_under_its_streams(seed: int) -> None:
    random = Random(seed)
    live, listed = LiveCircuits(), list[ClientCircuit]()
    for now in range(200):
        match random.randrange(4):
            case 0 | 1:
                listed.append(circuit())
                live.add(listed[-1])
            case 2 if live.unused:
                live.give(next(iter(live.unused)), (random.choice("abc"),), random.randrange(2), now)
            case 3 if listed:
                one = random.choice(listed)
                listed.remove(one)
                assert live.remove(one)
                assert not live.remove(one)
        assert list(live) == listed
        assert len(live) == len(listed)
        keys = {(one.isolation, one.era) for one in listed} | {(None, None), (("nobody's",), 0)}
        for isolation, era in keys:
            assert set(live.of(isolation, era)) == {
                one for one in listed if (one.isolation, one.era) == (isolation, era)
            }
        assert list(live.unused) == [one for one in listed if one.isolation is None]


def test_what_is_given_is_marked_with_whose_and_when() -> None:
    live, one = LiveCircuits(), circuit()
    live.add(one)
    live.give(one, ("user",), 3, 7.0)
    assert (one.isolation, one.era, one.used_at) == (("user",), 3, 7.0)
    assert list(live.of(("user",), 3)) == [one]
    assert not live.unused


def test_what_is_taken_is_here_no_more() -> None:
    live, circuits = LiveCircuits(), [circuit() for _ in range(6)]
    for one in circuits:
        live.add(one)
    live.give(circuits[1], ("a",), 0, 0.0)
    assert live.take(lambda one: one in circuits[1:3]) == circuits[1:3]
    assert list(live) == [circuits[0], *circuits[3:]]
    assert not live.of(("a",), 0)
