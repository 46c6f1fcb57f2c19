"""The stream table: every side, state and event; and what must hold of it as a whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.circuit.stream import (
    MAY_SEND,
    OWES_END,
    TABLE,
    TAKES_DATA,
    UNMOVED_BY_DATA,
    Event,
    Side,
    State,
    Stream,
    next_state,
)
from common.errors import Unexpected
from tests.helpers import PATIENT

SIDES = pytest.mark.parametrize("side", list(Side))
MIRROR = {
    Event.BEGIN: Event.GOT_BEGIN,
    Event.RESOLVE: Event.GOT_RESOLVE,
    Event.RESOLVED: Event.GOT_RESOLVED,
    Event.CONNECTED: Event.GOT_CONNECTED,
    Event.FINISH: Event.GOT_END_SENDING,
    Event.RESET: Event.GOT_END_BOTH,
}  # what one side does, and what the other gets from it


@given(st.sampled_from(Side), st.sampled_from(State), st.sampled_from(Event))
@PATIENT
def test_a_pair_moves_as_the_table_says_or_is_unexpected(side: Side, state: State, event: Event) -> None:
    stream = Stream(side, state, 0.0)
    following = TABLE[side].get((state, event))
    if following is None:
        with pytest.raises(Unexpected):
            stream.step(event)
        assert stream.state is state
    else:
        assert stream.step(event) is state
        assert stream.state is following is next_state(side, state, event)


@SIDES
def test_every_state_is_reached_and_left(side: Side) -> None:
    reached: set[State] = {State.IDLE}
    for _ in State:
        reached |= {to for (state, _), to in TABLE[side].items() if state in reached}
    other = State.CONNECTING_REMOTE_ENDED if side is Side.CLIENT else State.CONNECTING_LOCAL_ENDED
    assert reached | {other} == set(State)
    assert other not in reached
    assert {state for state, _ in TABLE[side]} == reached


@SIDES
def test_from_every_state_a_stream_can_close(side: Side) -> None:
    closing: set[State] = {State.CLOSED}
    for _ in State:
        closing |= {state for (state, _), to in TABLE[side].items() if to in closing}
    assert {state for state, _ in TABLE[side]} <= closing


@SIDES
def test_closed_is_the_end(side: Side) -> None:
    """Only what an honest peer may have sent before it knew is legal then, and moves nothing."""
    pairs = {event: to for (state, event), to in TABLE[side].items() if state is State.CLOSED}
    assert pairs == {Event.GOT_SENDME: State.CLOSED, Event.GOT_END_BOTH: State.CLOSED}


@SIDES
def test_nothing_leads_back_to_idle(side: Side) -> None:
    assert State.IDLE not in TABLE[side].values()


def test_only_a_client_opens_streams() -> None:
    opening = {side: {event for state, event in TABLE[side] if state is State.IDLE} for side in Side}
    assert opening[Side.CLIENT] == {Event.BEGIN, Event.RESOLVE}
    assert opening[Side.EXIT] == {Event.GOT_BEGIN, Event.GOT_RESOLVE}


@SIDES
def test_who_owes_an_end_has_sent_none(side: Side) -> None:
    """Walk every path: the states in OWES_END are exactly those that a side may be in before it sent an END."""
    before: set[State] = {State.IDLE}
    for _ in State:
        for (state, event), to in TABLE[side].items():
            if state in before and event not in (Event.FINISH, Event.RESET) and to is not State.CLOSED:
                before.add(to)
    assert before - {State.IDLE, State.RESOLVING} == OWES_END & {state for state, _ in TABLE[side]}


@SIDES
def test_a_side_that_got_an_end_takes_no_more_data(side: Side) -> None:
    for (_state, event), to in TABLE[side].items():
        if event in (Event.GOT_END_SENDING, Event.GOT_END_BOTH):
            assert to not in TAKES_DATA
            assert (to, Event.GOT_DATA) not in TABLE[side]


@SIDES
def test_a_side_that_sent_an_end_may_send_no_more(side: Side) -> None:
    for (_state, event), to in TABLE[side].items():
        if event in (Event.FINISH, Event.RESET):
            assert not Stream(side, to, 0.0).may_send


def test_a_client_may_send_before_the_target_answers_and_an_exit_not() -> None:
    assert Stream(Side.CLIENT, State.CONNECTING, 0.0).may_send
    assert not Stream(Side.EXIT, State.CONNECTING, 0.0).may_send
    assert {State.OPEN, State.REMOTE_ENDED} == MAY_SEND[Side.EXIT] == MAY_SEND[Side.CLIENT] - {State.CONNECTING}


@SIDES
def test_whether_a_stream_may_send_follows_its_state(side: Side) -> None:
    for (state, event), to in TABLE[side].items():
        stream = Stream(side, state, 0.0)
        stream.step(event)
        assert stream.may_send is (to in MAY_SEND[side])


def test_data_moves_no_stream_but_those_that_ask_the_table() -> None:
    assert {State.OPEN, State.LOCAL_ENDED, State.RESETTING} == UNMOVED_BY_DATA


@SIDES
@pytest.mark.parametrize("first", [Event.FINISH, Event.GOT_END_SENDING])
def test_half_close_in_either_order(side: Side, first: Event) -> None:
    second = Event.GOT_END_SENDING if first is Event.FINISH else Event.FINISH
    stream = Stream(side, State.OPEN, 0.0)
    stream.step(first)
    assert stream.state is (State.LOCAL_ENDED if first is Event.FINISH else State.REMOTE_ENDED)
    if first is Event.FINISH:
        stream.step(Event.GOT_DATA)
    else:
        assert stream.may_send
    stream.step(second)
    assert stream.state.name == "CLOSED"


# ---- two honest sides, every interleaving

SENDME_STATES = frozenset({State.OPEN, State.LOCAL_ENDED})  # in which `Endpoint.taken` sends one
IN_FLIGHT = 4  # messages each way
Wire = tuple[Event, ...]
World = tuple[State, State, Wire, Wire]  # client, exit, in flight to the exit, in flight to the client


def acts(side: Side, own: State) -> list[tuple[State, Event]]:
    """All that an honest side may do: the state it leads to, and what the other gets."""
    made = [(to, MIRROR[event]) for (state, event), to in TABLE[side].items() if state is own and event in MIRROR]
    if Stream(side, own, 0.0).may_send:
        made.append((own, Event.GOT_DATA))
    if own in SENDME_STATES:
        made.append((own, Event.GOT_SENDME))
    return made


def takes(side: Side, own: State, event: Event) -> tuple[State, Wire]:
    """Where a message leads, and the END that answers a reset as `Endpoint` does."""
    answered = event is Event.GOT_END_BOTH and own in OWES_END
    return next_state(side, own, event), (Event.GOT_END_BOTH,) * answered


def steps(world: World) -> list[World]:
    """Every world one step away: a side acts, or takes what was sent to it."""
    client, exit_, to_exit, to_client = world
    following: list[World] = []
    if len(to_exit) < IN_FLIGHT:
        following += [(to, exit_, (*to_exit, got), to_client) for to, got in acts(Side.CLIENT, client)]
    if len(to_client) < IN_FLIGHT:
        following += [(client, to, to_exit, (*to_client, got)) for to, got in acts(Side.EXIT, exit_)]
    if to_exit:
        to, answer = takes(Side.EXIT, exit_, to_exit[0])
        following.append((client, to, to_exit[1:], to_client + answer))
    if to_client:
        to, answer = takes(Side.CLIENT, client, to_client[0])
        following.append((to, exit_, to_exit + answer, to_client[1:]))
    return following


def test_no_interleaving_of_two_honest_sides_is_unexpected() -> None:
    """All worlds with up to four messages in flight each way, exhaustively: `next_state` never raises, and when
    nothing is in flight and one side is closed, so is the other."""
    start: World = (State.IDLE, State.IDLE, (), ())
    seen, todo = {start}, [start]
    while todo:
        world = todo.pop()
        client, exit_, to_exit, to_client = world
        if not to_exit and not to_client:
            assert (client is State.CLOSED) == (exit_ is State.CLOSED)
        new = [following for following in steps(world) if following not in seen]
        seen.update(new)
        todo += new
    assert len(seen) > 1_000
