"""Paths: no repeats, no relatives, an exit that allows the port, and uniformly random."""

import secrets
from collections import Counter
from collections.abc import Callable

import pytest

from common.directory.addresses import Address, neighbourhood
from common.directory.path import MAX_HOPS, choose_path, draw_hops
from common.errors import DirectoryError
from tests.unit.directory.relays import unsigned_entry

TEN = [unsigned_entry(number) for number in range(1, 11)]


def seeded(seed: int) -> Callable[[int], int]:
    """A generator that gives the same numbers each time, so that a statistical test never fails by chance."""
    state = seed

    def randbelow(limit: int) -> int:
        nonlocal state
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (state >> 33) % limit

    return randbelow


@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_a_path_has_the_wanted_length_and_no_relay_twice(hops: int) -> None:
    for _ in range(50):
        path = choose_path(TEN, hops, 80)
        assert len({entry.descriptor.identity for entry in path.relays}) == len(path.relays) == hops
        assert path.warning is None


def test_no_two_relays_of_one_family() -> None:
    relays = [unsigned_entry(number, family=f"family{number % 3}") for number in range(9)]
    for _ in range(50):
        path = choose_path(relays, 3)
        assert len({entry.descriptor.family for entry in path.relays}) == 3
    assert len(choose_path(relays, 4).relays) == 3
    assert len(choose_path([unsigned_entry(number, family="") for number in range(4)], 4).relays) == 4


@pytest.mark.parametrize("form", ["8.{}.{}.1", "2a00:{}:{}::1", "host{}.example"])
def test_no_two_relays_of_one_neighbourhood_beyond_loopback(form: str) -> None:
    relays = [
        unsigned_entry(number, address=Address(form.format(number % 3, number), 1_000 + number))
        for number in range(9)
    ]
    for _ in range(50):
        path = choose_path(relays, 3)
        assert len({neighbourhood(entry.descriptor.address) for entry in path.relays}) == 3
    assert len(choose_path(relays, 5).relays) == 3


@pytest.mark.parametrize("form", ["192.168.7.{}", "fd00:1:1::{}"])
def test_a_path_of_private_hosts_uses_each_once_whatever_their_range(form: str) -> None:
    relays = [
        unsigned_entry(number, address=Address(form.format(number % 3), 1_000 + number)) for number in range(9)
    ]
    for _ in range(50):
        assert len({entry.descriptor.address.host for entry in choose_path(relays, 3).relays}) == 3
    assert len(choose_path(relays, 5).relays) == 3


def test_the_last_relay_allows_the_port() -> None:
    relays = [unsigned_entry(number, exit_policy="accept *:443" if number == 4 else "none") for number in range(8)]
    for _ in range(20):
        assert choose_path(relays, 3, 443).relays[-1] is relays[4]
    with pytest.raises(DirectoryError, match="port 80"):
        choose_path(relays, 3, 80)


def test_fewer_relays_than_wanted_make_a_shorter_path_and_a_warning() -> None:
    path = choose_path(TEN[:2], 5, 80)
    assert len(path.relays) == 2
    assert path.warning is not None
    assert "2 relays instead of 5" in path.warning


def test_one_hop_is_never_chosen_silently() -> None:
    with pytest.raises(DirectoryError):
        choose_path(TEN[:1], 3)
    with pytest.raises(DirectoryError):
        choose_path([unsigned_entry(number, family="one") for number in range(5)], 3)
    assert len(choose_path(TEN[:1], 1).relays) == 1


def test_no_relay_at_all_is_said() -> None:
    for hops in (1, 3):
        with pytest.raises(DirectoryError):
            choose_path([], hops)
    for hops in (0, MAX_HOPS + 1, -1):
        with pytest.raises(DirectoryError):
            choose_path(TEN, hops)


def test_excluded_first_and_exit_relays() -> None:
    one, other = TEN[0].descriptor.identity, TEN[1].descriptor.identity
    for _ in range(50):
        assert one not in {entry.descriptor.identity for entry in choose_path(TEN, 5, exclude={one}).relays}
        path = choose_path(TEN, 4, 80, first=one, exit=other)
        assert (path.relays[0], path.relays[-1], len(path.relays)) == (TEN[0], TEN[1], 4)
        assert choose_path(TEN, 3, first=one).relays[0] is TEN[0]
    assert choose_path(TEN, 1, exit=other).relays == (TEN[1],)
    with pytest.raises(DirectoryError):
        choose_path(TEN, 3, exit=bytes(32))
    with pytest.raises(DirectoryError):
        choose_path(TEN, 3, first=bytes(32))
    with pytest.raises(DirectoryError):
        choose_path(TEN, 3, first=one, exit=one)


def test_an_unlucky_exit_does_not_shorten_a_path_that_exists() -> None:
    """One relay is related to all others; a path of three exists only without it."""
    relays = [unsigned_entry(number, address=Address(f"8.{number}.0.1", 80)) for number in range(3)]
    relays.append(unsigned_entry(9, address=Address("8.0.9.9", 80), family="wide"))
    for seed in range(100):
        assert len(choose_path(relays, 3, randbelow=seeded(seed)).relays) == 3


def test_every_place_of_a_path_is_uniformly_distributed() -> None:
    draws, hops = 6_000, 3
    for relays in (TEN, [unsigned_entry(number) for number in range(40)]):  # both ways of drawing
        counts = [Counter[bytes]() for _ in range(hops)]
        randbelow = seeded(7)
        for _ in range(draws):
            for place, entry in enumerate(choose_path(relays, hops, 80, randbelow=randbelow).relays):
                counts[place][entry.descriptor.identity] += 1
        expected = draws / len(relays)
        for count in counts:
            chi_squared = sum((count[e.descriptor.identity] - expected) ** 2 / expected for e in relays)
            assert chi_squared < 2 * len(relays)  # about len(relays) when uniform


def test_rejecting_what_does_not_fit_keeps_the_rest_uniform() -> None:
    relays = [unsigned_entry(number, exit_policy="default" if number % 2 else "none") for number in range(40)]
    randbelow, counts = seeded(3), Counter[bytes]()
    for _ in range(4_000):
        counts[choose_path(relays, 2, 80, randbelow=randbelow).relays[-1].descriptor.identity] += 1
    assert len(counts) == 20
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 45


def test_the_number_of_hops_is_uniform() -> None:
    counts = Counter(draw_hops(randbelow=seeded_hops) for seeded_hops in [seeded(1)] for _ in range(3_000))
    assert set(counts) == {3, 4, 5}
    assert all(abs(count - 1_000) < 150 for count in counts.values())
    assert draw_hops(4, 4) == 4


def test_paths_come_from_a_secure_generator() -> None:
    """The default is `secrets`; that nothing imports `random` is in tests/test_imports.py."""
    for function in (choose_path, draw_hops):
        defaults = [*(function.__kwdefaults__ or {}).values(), *(function.__defaults__ or ())]
        assert secrets.randbelow in defaults
