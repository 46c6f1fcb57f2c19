"""A new identity: only both keys together can say so, and the old one is over then."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import Envelope, sign
from common.directory.histories import Histories
from common.directory.owners import Owners
from common.directory.registry import Registry
from common.directory.registry_actions import (
    Action,
    BindNickname,
    CheckAddress,
    EndSession,
    Gone,
    Refusal,
    RegistrationRefused,
    StoreSuccession,
)
from common.directory.succession import (
    MAX_SUCCESSION,
    SUCCESSION_TYPE,
    Succession,
    sign_succession,
    verify_succession,
)
from common.errors import Malformed, NotEnoughSignatures, OnionError, ProtocolError
from tests.helpers import flip
from tests.unit.directory.relays import NETWORK, NOW, FakeRelay

OLD, NEW, THIRD = FakeRelay(1), FakeRelay(2, nickname="relay1"), FakeRelay(3, nickname="relay1")
STATEMENT = Succession(NETWORK, OLD.identity, NEW.identity)


def test_a_statement_is_what_both_keys_signed() -> None:
    assert verify_succession(sign_succession(NETWORK, OLD.key, NEW.key), NETWORK) == STATEMENT
    assert len(sign_succession("n" * 64, OLD.key, NEW.key)) <= MAX_SUCCESSION


def test_an_identity_is_replaced_only_by_a_statement_that_both_keys_signed() -> None:
    envelope = Envelope.decode(sign_succession(NETWORK, OLD.key, NEW.key), MAX_SUCCESSION)
    thief = Ed25519PrivateKey.generate()
    for keys in ((OLD.key,), (NEW.key,), (OLD.key, OLD.key), (OLD.key, thief), (thief, NEW.key), (NEW.key, OLD.key)):
        forged = sign(SUCCESSION_TYPE, envelope.payload, *keys).encode()
        with pytest.raises((NotEnoughSignatures, Malformed)):
            verify_succession(forged, NETWORK)
    with pytest.raises((NotEnoughSignatures, Malformed)):
        verify_succession(sign_succession(NETWORK, OLD.key, OLD.key), NETWORK)
    with pytest.raises(Malformed):
        verify_succession(sign("another-type", envelope.payload, OLD.key, NEW.key).encode(), NETWORK)
    with pytest.raises(Malformed):
        verify_succession(sign_succession(NETWORK, OLD.key, NEW.key), "elsewhere")


def test_every_flipped_bit_of_a_statement_is_refused() -> None:
    statement = sign_succession(NETWORK, OLD.key, NEW.key)
    for at in range(len(statement)):
        with pytest.raises((ProtocolError, NotEnoughSignatures)):
            verify_succession(flip(statement, at, at % 8), NETWORK)


def registry_with_old() -> Registry:
    registry = Registry(NETWORK, 100)
    list_relay(registry, 1, OLD)
    return registry


def list_relay(registry: Registry, session: int, relay: FakeRelay, now: float = NOW) -> list[Action]:
    (check,) = registry.register(session, relay.plain, relay.envelope(), now)
    assert isinstance(check, CheckAddress)
    return registry.checked(check, None, now)


def of_type(actions: list[Action], *kinds: type[object]) -> list[Action]:
    return [action for action in actions if isinstance(action, kinds)]


def test_the_name_and_the_history_move_and_the_old_identity_leaves() -> None:
    registry = registry_with_old()
    actions = registry.succeed(STATEMENT, NOW + 10)
    assert of_type(actions, Gone) == [Gone("relay1", "it has a new identity")]
    assert of_type(actions, StoreSuccession) == [StoreSuccession(OLD.identity, NEW.identity)]
    assert of_type(actions, BindNickname) == [BindNickname("relay1", NEW.identity)]
    (end,) = of_type(actions, EndSession)
    assert isinstance(end, EndSession)
    assert (end.session, end.code) == (1, Refusal.REPLACED)
    list_relay(registry, 2, NEW, NOW + 11)
    assert [entry.descriptor.identity for entry in registry.entries()] == [NEW.identity]
    assert registry.histories()[NEW.identity].first_seen == NOW
    assert OLD.identity not in registry.histories()


def test_a_replaced_identity_is_refused_for_ever_also_after_a_restart() -> None:
    registry = registry_with_old()
    registry.succeed(STATEMENT, NOW)
    again = Registry(NETWORK, 1, Owners({"relay1": NEW.identity}, {OLD.identity: NEW.identity}))
    for of in (registry, again):
        for renamed in (OLD, FakeRelay(9)):
            descriptor = OLD.describe(nickname=renamed.plain.nickname, published=NOW + 1)
            with pytest.raises(RegistrationRefused) as caught:
                of.register(3, descriptor, OLD.envelope(), NOW)
            assert caught.value.code is Refusal.REPLACED


def test_a_thief_of_the_old_key_cannot_replace_it_again() -> None:
    registry = registry_with_old()
    registry.succeed(STATEMENT, NOW)
    for old, new in ((OLD, THIRD), (NEW, OLD)):
        with pytest.raises(RegistrationRefused) as caught:
            registry.succeed(Succession(NETWORK, old.identity, new.identity), NOW)
        assert caught.value.code is Refusal.REPLACED
    assert registry.succeed(STATEMENT, NOW) == []  # the same again is no news
    assert of_type(registry.succeed(Succession(NETWORK, NEW.identity, THIRD.identity), NOW), BindNickname)


def test_a_statement_about_a_stranger_changes_nothing() -> None:
    registry = Registry(NETWORK, 100, Owners(), Histories())
    assert registry.succeed(STATEMENT, NOW) == []
    assert list_relay(registry, 1, OLD)


def test_a_statement_is_no_use_for_another_s_name() -> None:
    registry = registry_with_old()
    registry.succeed(Succession(NETWORK, NEW.identity, THIRD.identity), NOW)
    with pytest.raises(OnionError, match="belongs to another relay"):
        registry.register(2, THIRD.plain, THIRD.envelope(), NOW)
