"""Who is listed, without any network: registrations, dial-backs, heartbeats, replays and take-overs."""

import pytest

from common.directory.addresses import Address
from common.directory.owners import Owners
from common.directory.registry import RECHECK_EVERY, RECHECK_SOON, Registry
from common.directory.registry_actions import (
    Action,
    BindNickname,
    CheckAddress,
    EndSession,
    Gone,
    Listed,
    Refusal,
    RegistrationRefused,
    StoreHistory,
    StoreRelay,
)
from tests.unit.directory.relays import NETWORK, NOW, FakeRelay


def registry(**nicknames: bytes) -> Registry:
    return Registry(NETWORK, 100, Owners(nicknames))


def news(actions: list[Action]) -> list[Action]:
    """Without what is only to be stored."""
    return [action for action in actions if not isinstance(action, StoreRelay | StoreHistory)]


def register(to: Registry, session: int, relay: FakeRelay, now: float = NOW, **changes: object) -> list[Action]:
    return news(to.register(session, relay.describe(**changes), relay.envelope(**changes), now))


def only_check(actions: list[Action]) -> CheckAddress:
    (check,) = actions
    assert isinstance(check, CheckAddress)
    return check


def listed(to: Registry, session: int, relay: FakeRelay, now: float = NOW, **changes: object) -> list[Action]:
    return news(to.checked(only_check(register(to, session, relay, now, **changes)), None, now))


def names(of: Registry) -> set[str]:
    return {entry.descriptor.nickname for entry in of.document(NOW).relays}


def refusal(to: Registry, session: int, relay: FakeRelay, now: float = NOW, **changes: object) -> Refusal:
    before = to.document(now)
    with pytest.raises(RegistrationRefused) as caught:
        register(to, session, relay, now, **changes)
    assert to.document(now) == before
    return caught.value.code


def test_a_relay_is_listed_after_its_address_was_looked_at() -> None:
    of, relay = registry(), FakeRelay(1)
    check = only_check(register(of, 1, relay))
    assert names(of) == set()
    assert of.serial == 100
    assert news(of.checked(check, None, NOW + 1)) == [
        BindNickname("relay1", relay.identity),
        Listed(1, "relay1", True),
    ]
    assert names(of) == {"relay1"}
    assert of.serial == 101
    assert of.document(NOW).relays[0].running_since == NOW + 1


def test_a_relay_whose_address_fails_is_not_listed_and_binds_no_nickname() -> None:
    of, relay = registry(), FakeRelay(1)
    check = only_check(register(of, 1, relay))
    assert of.checked(check, "nothing answers", NOW) == [EndSession(1, Refusal.ADDRESS, "nothing answers")]
    assert names(of) == set()
    assert listed(of, 2, FakeRelay(2, nickname="relay1"))


def test_a_replayed_older_descriptor_is_refused() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay, published=NOW + 5)
    assert refusal(of, 2, relay, published=NOW + 4) is Refusal.REPLAYED
    assert refusal(of, 2, relay, published=NOW + 5, bandwidth=1) is Refusal.REPLAYED
    of.closed(1, NOW)
    assert refusal(of, 2, relay, published=NOW + 4) is Refusal.REPLAYED
    assert listed(of, 2, relay, published=NOW + 6)


def test_the_time_of_a_departed_relay_is_kept_as_long_as_a_replay_could_pass() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    of.unregister(relay.identity, NOW)
    of.due_checks(NOW + 600)
    assert refusal(of, 2, relay, NOW + 590, published=NOW - 1) is Refusal.REPLAYED
    of.due_checks(NOW + 601)
    assert refusal(of, 2, relay, NOW + 602, published=NOW - 1) is Refusal.CLOCK


def test_a_clock_that_is_wrong_is_told_so() -> None:
    of, relay = registry(), FakeRelay(1)
    assert refusal(of, 1, relay, NOW - 601) is Refusal.CLOCK
    assert refusal(of, 1, relay, NOW + 601) is Refusal.CLOCK
    assert register(of, 1, relay, NOW - 599)


def test_a_nickname_stays_with_its_first_identity() -> None:
    owner, thief = FakeRelay(1), FakeRelay(2, nickname="Relay1")
    of = registry()
    listed(of, 1, owner)
    assert refusal(of, 2, thief) is Refusal.NICKNAME
    of.unregister(owner.identity, NOW)
    assert refusal(of, 2, thief) is Refusal.NICKNAME
    restarted = registry(relay1=owner.identity)
    assert refusal(restarted, 1, thief) is Refusal.NICKNAME
    assert listed(restarted, 2, owner)


def test_of_two_that_want_a_nickname_the_first_that_can_be_dialled_gets_it() -> None:
    of, one, other = registry(), FakeRelay(1), FakeRelay(2, nickname="relay1")
    check_one, check_other = only_check(register(of, 1, one)), only_check(register(of, 2, other))
    of.checked(check_other, None, NOW)
    (end,) = of.checked(check_one, None, NOW)
    assert isinstance(end, EndSession)
    assert end.code is Refusal.NICKNAME
    assert [entry.descriptor.identity for entry in of.document(NOW).relays] == [other.identity]


def test_a_new_onion_key_is_listed_at_once_without_another_look() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    assert register(of, 1, relay, published=NOW + 1, onion_keys=(b"n" * 32,)) == [Listed(1, "relay1", False)]
    assert of.document(NOW).relays[0].descriptor.onion_keys == (b"n" * 32,)
    assert of.serial == 102


def test_a_new_address_is_listed_only_after_a_look() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    check = only_check(register(of, 1, relay, published=NOW + 1, address=Address("127.0.0.1", 77)))
    assert of.document(NOW).relays[0].descriptor.address.port == 9001
    of.checked(check, None, NOW)
    assert of.document(NOW).relays[0].descriptor.address.port == 77


def test_a_newer_descriptor_is_not_undone_by_an_older_look() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    late = only_check(register(of, 1, relay, published=NOW + 1, address=Address("127.0.0.1", 77)))
    register(of, 1, relay, published=NOW + 2)
    assert of.checked(late, None, NOW) == []
    assert of.checked(late, "nothing answers", NOW) == []
    assert of.document(NOW).relays[0].descriptor.published == NOW + 2


def test_an_address_is_looked_at_again_and_twice_before_the_relay_leaves() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    assert of.due_checks(NOW + RECHECK_EVERY - 1) == []
    now = NOW + RECHECK_EVERY
    check = only_check(of.due_checks(now))
    assert of.due_checks(now) == []
    assert of.checked(check, "nothing answers", now) == []
    assert names(of) == {"relay1"}
    again = only_check(of.due_checks(now + RECHECK_SOON))
    gone, end = news(of.checked(again, "nothing answers", now + RECHECK_SOON))
    assert isinstance(gone, Gone)
    assert isinstance(end, EndSession)
    assert names(of) == set()


def test_a_closed_connection_takes_the_relay_from_the_list() -> None:
    of = registry()
    listed(of, 1, FakeRelay(1))
    assert news(of.closed(1, NOW)) == [Gone("relay1", "its connection ended")]
    assert of.closed(1, NOW) == []
    assert names(of) == set()
    assert of.serial == 102


def test_the_newest_connection_owns_the_relay() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    end, again = register(of, 2, relay, published=NOW + 1)
    assert isinstance(end, EndSession)
    assert end.session == 1
    assert again == Listed(2, "relay1", False)
    assert of.closed(1, NOW) == []
    assert names(of) == {"relay1"}
    assert of.closed(2, NOW)


def test_one_connection_serves_one_relay() -> None:
    of, one, other = registry(), FakeRelay(1), FakeRelay(2)
    listed(of, 1, one)
    gone, check = register(of, 1, other)
    assert isinstance(gone, Gone)
    assert isinstance(check, CheckAddress)


def test_a_silent_relay_leaves_and_is_listed_again_with_its_first_answer() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    assert news(of.silent(1, NOW)) == [Gone("relay1", "it does not answer pings")]
    assert of.silent(1, NOW) == []
    assert names(of) == set()
    assert news(of.answered(1, 0.0125, NOW + 50)) == [Listed(1, "relay1", True)]
    (entry,) = of.document(NOW).relays
    assert (entry.running_since, entry.round_trip_ms) == (NOW + 50, 12.5)
    assert of.serial == 103


def test_an_answer_does_not_list_a_relay_that_was_never_looked_at() -> None:
    of = registry()
    register(of, 1, FakeRelay(1))
    assert of.answered(1, 0.01, NOW) == []
    assert of.silent(1, NOW) == []
    assert names(of) == set()


def test_unregistering_ends_the_listing() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    assert of.unregister(FakeRelay(1).identity, NOW) == []
    assert names(of) == {"relay1"}
    assert of.unregister(relay.identity, NOW)
    assert names(of) == set()


def test_a_full_registry_says_so() -> None:
    of = Registry(NETWORK, 1, max_relays=1)
    listed(of, 1, FakeRelay(1))
    assert refusal(of, 2, FakeRelay(2)) is Refusal.FULL


def test_a_new_address_that_fails_ends_the_listing() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    check = only_check(register(of, 1, relay, published=NOW + 1, address=Address("127.0.0.1", 77)))
    gone, end = news(of.checked(check, "nothing answers", NOW))
    assert isinstance(gone, Gone)
    assert end == EndSession(1, Refusal.ADDRESS, "nothing answers")


def test_a_look_that_succeeds_is_repeated_after_the_usual_time() -> None:
    of, relay = registry(), FakeRelay(1)
    listed(of, 1, relay)
    check = only_check(of.due_checks(NOW + RECHECK_EVERY))
    assert of.checked(check, None, NOW + RECHECK_EVERY) == []
    assert of.due_checks(NOW + 2 * RECHECK_EVERY - 1) == []
    assert len(of.due_checks(NOW + 2 * RECHECK_EVERY)) == 1


def test_the_outcome_of_a_look_for_a_connection_that_ended_changes_nothing() -> None:
    of, relay = registry(), FakeRelay(1)
    check = only_check(register(of, 1, relay))
    of.closed(1, NOW)
    assert of.checked(check, None, NOW) == []
    assert names(of) == set()


def test_a_renewed_document_has_a_higher_serial() -> None:
    of = registry()
    of.renew_document()
    assert of.document(NOW).serial == 101
