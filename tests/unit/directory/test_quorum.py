"""Several gateways, one list: what a minority of them can do, which is nothing."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.directory.addresses import Address
from common.directory.descriptor import Descriptor
from common.directory.document import DirectoryDocument, RelayEntry
from common.directory.quorum import agree, majority
from common.errors import DirectoryError
from tests.helpers import PATIENT
from tests.unit.directory.relays import NETWORK, NOW, FakeRelay

ONE, TWO, THREE = FakeRelay(1), FakeRelay(2), FakeRelay(3)
HONEST = (ONE.entry(), TWO.entry(), THREE.entry())


def document(*relays: RelayEntry, serial: int = 1, valid_until: float = NOW + 600) -> DirectoryDocument:
    return DirectoryDocument(NETWORK, serial, NOW, valid_until, relays)


def view(*documents: DirectoryDocument, pinned: int = 3) -> DirectoryDocument:
    return agree({bytes([number]): each for number, each in enumerate(documents)}, pinned)


def names(found: DirectoryDocument) -> set[str]:
    return {entry.descriptor.nickname for entry in found.relays}


def test_more_than_half() -> None:
    assert [majority(pinned) for pinned in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


def test_one_gateway_s_document_is_taken_as_it_is() -> None:
    only = document(*HONEST)
    assert view(only, pinned=1) is only


@pytest.mark.parametrize(("reachable", "pinned"), [(0, 1), (1, 2), (1, 3), (2, 4), (2, 5)])
def test_fewer_than_a_majority_is_a_sentence(reachable: int, pinned: int) -> None:
    needed = majority(pinned)
    with pytest.raises(DirectoryError, match=f"{reachable} of {pinned} gateways .* {needed} are needed"):
        view(*[document(*HONEST)] * reachable, pinned=pinned)


def test_a_gateway_away_changes_nothing() -> None:
    assert names(view(document(*HONEST), document(*HONEST))) == {"relay1", "relay2", "relay3"}


def test_a_gateway_that_invents_relays_is_outvoted() -> None:
    invented = [FakeRelay(number).entry() for number in range(10, 20)]
    liar = document(*HONEST, *invented)
    assert names(view(liar, document(*HONEST), document(*HONEST))) == {"relay1", "relay2", "relay3"}
    assert names(view(liar, document(*HONEST))) == {"relay1", "relay2", "relay3"}, "also while one is away"


def test_a_gateway_that_hides_relays_is_outvoted() -> None:
    assert names(view(document(), document(*HONEST), document(*HONEST))) == {"relay1", "relay2", "relay3"}


def test_a_gateway_that_swaps_keys_is_outvoted() -> None:
    impostor = FakeRelay(1, onion_keys=(bytes(32),))
    liar = document(impostor.entry(), *HONEST[1:])
    found = view(liar, document(*HONEST), document(*HONEST))
    assert {entry.descriptor for entry in found.relays} == {entry.descriptor for entry in HONEST}


@pytest.mark.parametrize(
    "changes",
    [
        {"address": Address("127.0.0.1", 1)},
        {"onion_keys": (bytes(32),)},
        {"onion_keys": (bytes(32), ONE.plain.onion_keys[0])},
        {"nickname": "trusted"},
        {"exit_policy": "none"},
        {"family": "ab" * 32},
    ],
)
def test_a_relay_in_league_with_one_gateway_shows_no_client_another_face(changes: dict[str, object]) -> None:
    face = ONE.entry(**changes, published=NOW + 1)
    found = view(document(face), document(ONE.entry()), document(ONE.entry()))
    assert [entry.descriptor for entry in found.relays] == [ONE.plain]
    assert view(document(face), document(ONE.entry()), document()).relays == ()


def test_descriptors_of_different_age_agree_and_the_newest_counts() -> None:
    old = ONE.entry(published=NOW - 60, bandwidth=1, software="old", versions=(1,))
    new = ONE.entry(published=NOW, bandwidth=9, software="new", versions=(1, 2))
    for documents in ([document(old), document(new)], [document(new), document(old), document(old)]):
        (entry,) = view(*documents).relays
        assert (entry.envelope, entry.descriptor) == (new.envelope, new.descriptor)


def test_the_majority_decides_whose_a_nickname_is() -> None:
    first, second = FakeRelay(7, nickname="twin"), FakeRelay(8, nickname="TWIN")
    found = view(document(first.entry()), document(first.entry()), document(second.entry()))
    assert [entry.descriptor.identity for entry in found.relays] == [first.identity]
    assert view(document(first.entry()), document(second.entry()), document()).relays == ()
    assert view(document(first.entry()), document(second.entry()), pinned=2).relays == ()


def test_what_was_observed_needs_a_majority_too() -> None:
    def seen(since: float, trip: float, *flags: str) -> DirectoryDocument:
        return document(replace(ONE.entry(), running_since=since, round_trip_ms=trip, flags=flags))

    (entry,) = view(seen(10, 1, "running", "fast"), seen(20, 9, "running"), seen(0, 0, "exit", "running")).relays
    assert (entry.running_since, entry.round_trip_ms, entry.flags) == (10, 1, ("running",))
    (entry,) = view(seen(10, 1, "running", "fast"), seen(20, 9, "running")).relays
    assert (entry.running_since, entry.round_trip_ms, entry.flags) == (20, 9, ("running",))


def test_the_list_is_valid_for_as_long_as_a_majority_it_stands_on() -> None:
    five, nine = document(serial=9, valid_until=NOW + 5), document(serial=4, valid_until=NOW + 9)
    found = view(five, nine)
    assert (found.valid_until, found.serial, found.network) == (NOW + 5, 9, NETWORK)
    assert view(five, nine, document(valid_until=NOW + 0.1)).valid_until == NOW + 5, "no gateway cuts it short"


def test_every_field_has_its_rule() -> None:
    """A field that is added must be put into one of these sets, and into `agree`."""
    must_agree = {"nickname", "address", "identity", "onion_keys", "exit_policy", "family"}
    may_differ = {"bandwidth", "software", "versions", "published", "family_proof"}
    assert {field.name for field in fields(Descriptor)} <= must_agree | may_differ
    of_the_newest, observed = {"envelope", "descriptor"}, {"running_since", "round_trip_ms", "flags", "bandwidth"}
    assert {field.name for field in fields(RelayEntry)} == of_the_newest | observed


_POOL = [
    FakeRelay(number, nickname=nickname).entry(onion_keys=(bytes([key]) * 32,))
    for number, nickname in enumerate(["a", "A", "b", "c"])
    for key in (1, 2)
]


@st.composite
def _documents(draw: st.DrawFn) -> DirectoryDocument:
    """Any that a client accepts: no identity and no nickname twice."""
    chosen: list[RelayEntry] = []
    for entry in draw(st.permutations(_POOL)):
        known = {each.descriptor.nickname.lower() for each in chosen}
        if entry.descriptor.nickname.lower() not in known and draw(st.booleans()):
            chosen.append(entry)
    return document(*chosen)


@PATIENT
@given(st.lists(_documents(), min_size=1, max_size=5), st.integers(0, 4))
def test_whatever_gateways_say_every_relay_has_a_majority_and_stands_once(
    documents: list[DirectoryDocument], absent: int
) -> None:
    pinned = len(documents) + absent
    if len(documents) < majority(pinned):
        with pytest.raises(DirectoryError):
            view(*documents, pinned=pinned)
        return
    relays = view(*documents, pinned=pinned).relays
    for entry in relays:
        assert sum(entry in each.relays for each in documents) >= majority(pinned)
    assert len({entry.descriptor.identity for entry in relays}) == len(relays)
    assert len({entry.descriptor.nickname.lower() for entry in relays}) == len(relays)


def test_a_minority_of_liars_changes_nothing_whatever_it_says() -> None:
    lies = [document(), document(*(replace(entry, flags=("fast",)) for entry in HONEST)), document(*_POOL[::4])]
    for lie in lies:
        found = view(lie, *[document(*HONEST)] * 3, lie, pinned=5)
        assert set(found.relays) == set(HONEST)
