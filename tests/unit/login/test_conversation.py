"""The login server's side of a connection: every (phase, message) pair moves as the table says, or is refused."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.crypto.scram import ClientFirst, ScramClient, ScramServer, make_verifier
from common.errors import Unexpected
from common.login.conversation import (
    CHALLENGE_TIME,
    IDLE,
    SILENCE,
    STRANGER_TIME,
    TRANSITIONS,
    Account,
    Challenge,
    Conversation,
    Phase,
    Refusal,
)
from common.login.throttle import TRIES_PER_CONNECTION
from common.wire import login
from common.wire.login import FRESH, ErrorCode
from tests.unit.wire.test_login import EXAMPLES

REQUESTS = [message for message in EXAMPLES if isinstance(message, get_args(login.Request))]
HELLO, SCRAM, PROOF, PING = login.Hello(1), login.Scram(b"x"), login.Proof(b"x"), login.Ping()


def challenge(until: float = 1e9) -> Challenge:
    client = ScramClient("a", "b", bytes(32))
    verifier = make_verifier("b", bytes(16), 1)
    return Challenge(
        ScramServer(ClientFirst.parse(client.first()), verifier, bytes(32)), "a", Account(1, verifier), b"", until
    )


def at(phase: Phase) -> Conversation:
    """A conversation that has come so far, at time 0."""
    conversation = Conversation(0.0)
    if phase is Phase.GREETING:
        return conversation
    conversation.receive(HELLO, 0.0)
    if phase in (Phase.CHALLENGED, Phase.MEMBER, Phase.PROVING):
        conversation.receive(SCRAM, 0.0)
        conversation.challenged(challenge())
    if phase in (Phase.MEMBER, Phase.PROVING):
        conversation.receive(PROOF, 0.0)
        conversation.take_challenge(0.0)
        conversation.proved("session", 0.0)
    if phase is Phase.PROVING:
        conversation.receive(SCRAM, 0.0)
        conversation.challenged(challenge())
    assert conversation.phase is phase
    return conversation


@given(st.sampled_from(Phase), st.sampled_from(EXAMPLES))
def test_every_message_in_every_phase_moves_or_is_unexpected(phase: Phase, message: login.Message) -> None:
    conversation = at(phase)
    following = TRANSITIONS.get((phase, type(message)))
    if following is None:
        with pytest.raises(Unexpected):
            conversation.receive(message, 1.0)
        assert conversation.phase is phase
    else:
        conversation.receive(message, 1.0)
        assert conversation.phase is following


def test_every_request_is_legal_somewhere_and_nothing_else_is() -> None:
    assert {kind for _, kind in TRANSITIONS} == {type(message) for message in REQUESTS}


def test_nothing_of_a_session_is_legal_before_it() -> None:
    before = {kind for phase, kind in TRANSITIONS if phase in (Phase.GREETING, Phase.STRANGER, Phase.CHALLENGED)}
    assert before == {login.Hello, login.SignUp, login.Scram, login.Proof, login.Ping}


def test_a_challenge_is_used_up_and_expires() -> None:
    conversation = at(Phase.CHALLENGED)
    conversation.receive(PROOF, 1.0)
    assert conversation.take_challenge(1.0).name == "a"
    assert not conversation.logged_in
    with pytest.raises(Unexpected):
        conversation.receive(PROOF, 1.0)
    conversation.receive(SCRAM, 1.0)
    conversation.challenged(challenge(until=1.0 + CHALLENGE_TIME))
    conversation.receive(PROOF, 2.0 + CHALLENGE_TIME)
    with pytest.raises(Refusal) as caught:
        conversation.take_challenge(2.0 + CHALLENGE_TIME)
    assert caught.value.code is ErrorCode.EXPIRED


def test_a_refused_challenge_leaves_the_phase_before() -> None:
    stranger, member = at(Phase.CHALLENGED), at(Phase.PROVING)
    stranger.not_challenged()
    member.not_challenged()
    assert (stranger.phase, member.phase) == (Phase.STRANGER, Phase.MEMBER)


@pytest.mark.parametrize("message", [login.Delete(), login.Rekey(bytes(16), 1, bytes(32), bytes(32), False)])
def test_what_changes_an_account_needs_a_proof_that_is_fresh(message: login.Message) -> None:
    conversation = at(Phase.MEMBER)
    conversation.receive(message, FRESH)
    with pytest.raises(Refusal) as caught:
        conversation.receive(message, FRESH + 0.1)
    assert caught.value.code is ErrorCode.PROOF_NEEDED
    assert conversation.phase is Phase.MEMBER
    conversation.receive(SCRAM, 100.0)
    conversation.challenged(challenge())
    conversation.receive(PROOF, 100.0)
    conversation.take_challenge(100.0)
    conversation.proved("session", 100.0)
    conversation.receive(message, 100.0)


def test_a_connection_has_so_many_tries_and_the_right_password_gives_them_back() -> None:
    conversation = at(Phase.MEMBER)
    for number in range(TRIES_PER_CONNECTION + 1):
        conversation.receive(SCRAM, 1.0)
        conversation.challenged(challenge())
        if number == TRIES_PER_CONNECTION:
            with pytest.raises(Refusal) as caught:
                conversation.receive(PROOF, 1.0)
            assert caught.value.last
        else:
            conversation.receive(PROOF, 1.0)
            conversation.take_challenge(1.0)


def test_a_stranger_has_so_long_whatever_is_said() -> None:
    conversation = at(Phase.STRANGER)
    conversation.receive(PING, STRANGER_TIME - 1)
    assert conversation.ends_at == STRANGER_TIME


def test_a_session_ends_by_silence_and_by_nothing_but_pings() -> None:
    conversation = at(Phase.MEMBER)
    assert conversation.ends_at == SILENCE
    now = 0.0
    while now < IDLE:
        conversation.receive(PING, now)
        assert now < conversation.ends_at <= now + SILENCE
        now += SILENCE - 1
    assert conversation.ends_at == IDLE
    assert conversation.idle(IDLE) and not conversation.idle(IDLE - 1)
    conversation.receive(login.WhoAmI(), IDLE - 1)
    assert conversation.ends_at == IDLE - 1 + SILENCE
