"""Guards over simulated months: few, kept, returned to, and never rotated because of failures."""

import json
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.directory.guards import (
    DAY,
    FEWEST_RELAYS,
    FIRST_PAUSE,
    LONGEST_LIFE,
    LONGEST_PAUSE,
    MOST,
    MOST_KEPT,
    SAMPLE,
    SHORTEST_LIFE,
    Guards,
    decode,
    encode,
    failed,
    order,
    renew,
    worked,
)
from common.errors import Malformed

NOW = 1_800_000_000.0
HOUR = 3_600.0


def relay(number: int) -> bytes:
    return number.to_bytes(32, "big")


def relays(count: int) -> set[bytes]:
    return {relay(number) for number in range(count)}


def seeded(seed: int = 1) -> Callable[[int], int]:
    state = seed

    def randbelow(limit: int) -> int:
        nonlocal state
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        return (state >> 33) % limit

    return randbelow


class Life:
    """A client that builds circuits; `reached` says which relays answer it."""

    def __init__(self, listed: set[bytes], seed: int = 1) -> None:
        self.listed = listed
        self.reached = set(listed)
        self.now = NOW
        self.guards: Guards = ()
        self.used: Counter[bytes] = Counter()  # guards by circuits built
        self._randbelow = seeded(seed)

    def build(self, tries: int = 1) -> bytes | None:
        """The guard of a new circuit; None when each of so many tries failed."""
        for _ in range(tries):
            self.guards = renew(self.guards, self.listed, self.now, self._randbelow)
            first = order(self.guards, self.listed, self.now)[0]
            if first in self.reached:
                self.guards = worked(self.guards, first, self.now, self._randbelow)
                self.used[first] += 1
                return first
            self.guards = failed(self.guards, first, self.now)
        return None

    def wait(self, seconds: float, step: float = HOUR) -> None:
        """Lives on, with a circuit each step."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.build(tries=4)


def test_a_client_begins_with_few_guards_and_uses_the_first() -> None:
    life = Life(relays(100))
    assert {life.build() for _ in range(1_000)} == {life.guards[0].identity}
    assert len(life.guards) == SAMPLE


def test_the_first_guard_is_uniform_among_the_listed_relays() -> None:
    counts: Counter[bytes] = Counter()
    for seed in range(4_000):
        first = Life(relays(20), seed * 7_919 + 1).build()
        assert first is not None
        counts[first] += 1
    assert set(counts) == relays(20)
    assert all(140 < count < 270 for count in counts.values())


def test_a_year_needs_few_guards() -> None:
    life = Life(relays(50))
    life.wait(365 * DAY, 6 * HOUR)
    assert len(life.used) <= 365 / 45 + 1
    assert len(life.guards) == SAMPLE


def test_each_guard_stays_for_its_time() -> None:
    life = Life(relays(50))
    life.build()
    until = life.guards[0].until
    assert until is not None
    assert SHORTEST_LIFE <= until - NOW <= LONGEST_LIFE
    assert [guard.until for guard in life.guards[1:]] == [None, None], "their time begins when they are used"
    life.wait(SHORTEST_LIFE - DAY)
    assert len(life.used) == 1
    life.wait(LONGEST_LIFE - SHORTEST_LIFE + 2 * DAY)
    assert len(life.used) == 2
    assert len(life.guards) == SAMPLE


def test_a_dead_guard_costs_one_try_and_is_returned_to() -> None:
    life = Life(relays(20))
    first = life.build()
    assert first is not None
    life.reached.discard(first)
    second = life.build(tries=2)
    assert second not in (None, first)
    life.wait(3 * DAY)
    assert set(life.used) == {first, second}
    life.reached.add(first)
    life.now += LONGEST_PAUSE
    assert life.build() == first


def test_an_unlisted_guard_is_passed_over_and_keeps_its_place() -> None:
    life = Life(relays(20))
    first = life.build()
    assert first is not None
    life.listed.discard(first)
    life.wait(20 * DAY)
    assert len(life.used) == 2
    assert len(life.guards) == SAMPLE
    life.listed.add(first)
    assert life.build() == first


def test_failures_never_rotate_the_guards() -> None:
    """A month of a bad line: every second try of every guard fails."""
    life = Life(relays(50))
    life.build()
    before = life.guards
    for _ in range(30 * 24):
        life.reached = set()
        life.build(tries=3)
        life.reached = set(life.listed)
        life.now += LONGEST_PAUSE
        life.build()
        life.now += HOUR
    assert [guard.identity for guard in life.guards[:SAMPLE]] == [guard.identity for guard in before]
    assert life.used.most_common(1)[0][0] == before[0].identity


def test_who_blocks_relays_leads_a_client_through_few_of_them() -> None:
    """The client reaches only the attacker's 30 of 50 relays, for a month."""
    life = Life(relays(50))
    life.reached = {relay(number) for number in range(20, 50)}
    life.wait(30 * DAY)
    assert len(life.guards) <= max(MOST, 50 // 5)
    blocked = Life(relays(50))
    blocked.reached = set()
    blocked.wait(DAY, 60.0)
    assert len(blocked.guards) == max(MOST, 50 // 5)


def test_after_an_outage_the_client_returns_to_its_first_guard_at_once() -> None:
    life = Life(relays(50))
    first = life.build()
    life.reached = set()
    life.wait(HOUR, 60.0)
    life.reached = set(life.listed)
    life.now += LONGEST_PAUSE
    built = [life.build(tries=3) for _ in range(3)]
    assert built[-1] == first


def test_when_all_guards_are_unlisted_others_are_drawn_at_once() -> None:
    life = Life(relays(20))
    life.build()
    gone = {guard.identity for guard in life.guards}
    life.listed -= gone
    assert life.build() not in (gone | {None})


def test_a_guard_is_set_aside_for_longer_each_time_but_never_for_good() -> None:
    life = Life(relays(20))
    first = life.build()
    assert first is not None
    pauses = []
    for _ in range(12):
        life.guards = failed(life.guards, first, life.now)
        guard = next(guard for guard in life.guards if guard.identity == first)
        pauses.append(guard.retry_at - life.now)
        life.guards = failed(life.guards, first, life.now)  # a circuit that had begun before
        assert next(guard for guard in life.guards if guard.identity == first).retry_at == guard.retry_at
        life.now = guard.retry_at
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_small_network_has_no_guards() -> None:
    few = relays(FEWEST_RELAYS - 1)
    assert renew((), few, NOW, seeded()) == ()
    assert order(renew((), relays(20), NOW, seeded()), few, NOW) == []


def test_a_network_with_as_many_relays_as_guards_works() -> None:
    life = Life(relays(FEWEST_RELAYS))
    life.reached = {relay(0)}
    assert life.build(tries=FEWEST_RELAYS) == relay(0)


def test_a_clock_that_was_wrong_does_no_harm() -> None:
    life = Life(relays(20))
    life.now = NOW + 3_650 * DAY
    life.build()
    life.guards = failed(life.guards, life.guards[0].identity, life.now)
    life.now = NOW
    assert life.build() == life.guards[0].identity, "the others' time had not begun"
    life.now += 1.0
    assert life.guards[0].until is not None
    assert life.guards[0].until <= NOW + LONGEST_LIFE


def test_relays_that_come_and_go_do_not_fill_the_file() -> None:
    guards: Guards = ()
    for day in range(300):
        listed = {relay(1_000 * day + number) for number in range(5)}
        guards = renew(guards, listed, NOW + day * HOUR, seeded(day))
        assert len(guards) <= MOST_KEPT
        assert order(guards, listed, NOW + day * HOUR)


def test_the_file_gives_back_the_guards_without_their_failures() -> None:
    guards = renew((), relays(20), NOW, seeded())
    guards = worked(guards, guards[1].identity, NOW, seeded())
    data = encode(failed(guards, guards[0].identity, NOW))
    assert decode(data) == guards
    assert decode(encode(())) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"version": 1}',
        b'{"version": 1, "guards": [{}]}',
        b'{"version": 1, "guards": [{"identity": "00", "until": 1}]}',
        b'{"version": 1, "guards": [{"identity": "%s", "until": NaN}]}' % (b"00" * 32),
        b'{"version": 1, "guards": [{"identity": "%s", "until": []}]}' % (b"00" * 32),
        json.dumps({"version": 1, "guards": [{"identity": "00" * 32, "until": 1}] * 2}).encode(),
        100_000 * b"[",
    ],
    ids=lambda data: data[:9],
)
def test_a_damaged_file_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="damaged"):
        decode(data)


def test_a_file_of_another_version_is_said_so() -> None:
    with pytest.raises(Malformed, match="version 2, not 1"):
        decode(b'{"version": 2, "guards": []}')


@given(st.binary())
def test_only_malformed_comes_out_of_garbage(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)
