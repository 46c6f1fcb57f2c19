"""The states of a stream. Everything that changes a stream's state is in this file.

Each direction ends by one END of its sender: END(SENDING) ends that direction alone (half-close), END(BOTH) is a
reset, which the other side answers with an END of its own unless it had sent one. A side forgets a stream when it
has sent an END and got one. Stream ids only rise on a circuit, so a late SENDME or reset for a forgotten stream is
told apart from one for a stream that never was.

A pair of state and event that is not in the table below is `Unexpected` and ends the circuit: nothing is skipped.
"""

from enum import auto

from common.circuit.key import Key
from common.circuit.window import STREAM_WINDOW, StreamReceiveWindow, StreamSendWindow
from common.errors import Unexpected


class Side(Key):
    """Which end of the circuit this is."""

    CLIENT = auto()
    EXIT = auto()


class State(Key):
    """Where a stream stands; LOCAL is this side's sending, REMOTE the other's."""

    IDLE = auto()  # never opened
    CONNECTING = auto()  # BEGIN was sent, or got; the target has not answered
    CONNECTING_LOCAL_ENDED = auto()  # client only: it finished before the target answered
    CONNECTING_REMOTE_ENDED = auto()  # exit only: the same, seen from there
    OPEN = auto()
    LOCAL_ENDED = auto()
    REMOTE_ENDED = auto()
    RESETTING = auto()  # END(BOTH) was sent; what still comes is thrown away until the other side's END
    RESOLVING = auto()
    CLOSED = auto()


class Event(Key):
    """What may happen to a stream: the messages got, then what this side does."""

    GOT_BEGIN = auto()
    GOT_RESOLVE = auto()
    GOT_RESOLVED = auto()
    GOT_CONNECTED = auto()
    GOT_DATA = auto()
    GOT_SENDME = auto()
    GOT_END_SENDING = auto()
    GOT_END_BOTH = auto()
    BEGIN = auto()
    RESOLVE = auto()
    RESOLVED = auto()
    CONNECTED = auto()
    FINISH = auto()
    RESET = auto()


S, E = State, Event

_SHARED: dict[tuple[State, Event], State] = {
    (S.OPEN, E.GOT_DATA): S.OPEN,
    (S.OPEN, E.GOT_SENDME): S.OPEN,
    (S.OPEN, E.GOT_END_SENDING): S.REMOTE_ENDED,
    (S.OPEN, E.GOT_END_BOTH): S.CLOSED,
    (S.OPEN, E.FINISH): S.LOCAL_ENDED,
    (S.OPEN, E.RESET): S.RESETTING,
    (S.LOCAL_ENDED, E.GOT_DATA): S.LOCAL_ENDED,
    (S.LOCAL_ENDED, E.GOT_SENDME): S.LOCAL_ENDED,
    (S.LOCAL_ENDED, E.GOT_END_SENDING): S.CLOSED,
    (S.LOCAL_ENDED, E.GOT_END_BOTH): S.CLOSED,
    (S.LOCAL_ENDED, E.RESET): S.RESETTING,
    (S.REMOTE_ENDED, E.GOT_SENDME): S.REMOTE_ENDED,
    (S.REMOTE_ENDED, E.GOT_END_BOTH): S.CLOSED,
    (S.REMOTE_ENDED, E.FINISH): S.CLOSED,
    (S.REMOTE_ENDED, E.RESET): S.CLOSED,
    (S.CONNECTING, E.GOT_END_BOTH): S.CLOSED,
    (S.CONNECTING, E.RESET): S.RESETTING,
    (S.RESETTING, E.GOT_DATA): S.RESETTING,
    (S.RESETTING, E.GOT_SENDME): S.RESETTING,
    (S.RESETTING, E.GOT_END_SENDING): S.CLOSED,
    (S.RESETTING, E.GOT_END_BOTH): S.CLOSED,
    (S.CLOSED, E.GOT_SENDME): S.CLOSED,
    (S.CLOSED, E.GOT_END_BOTH): S.CLOSED,
}

TABLE: dict[Side, dict[tuple[State, Event], State]] = {
    Side.CLIENT: _SHARED
    | {
        (S.IDLE, E.BEGIN): S.CONNECTING,
        (S.IDLE, E.RESOLVE): S.RESOLVING,
        (S.RESOLVING, E.GOT_RESOLVED): S.CLOSED,
        (S.CONNECTING, E.GOT_CONNECTED): S.OPEN,
        (S.CONNECTING, E.FINISH): S.CONNECTING_LOCAL_ENDED,
        (S.CONNECTING_LOCAL_ENDED, E.GOT_CONNECTED): S.LOCAL_ENDED,
        (S.CONNECTING_LOCAL_ENDED, E.GOT_END_BOTH): S.CLOSED,
        (S.CONNECTING_LOCAL_ENDED, E.RESET): S.RESETTING,
        (S.RESETTING, E.GOT_CONNECTED): S.RESETTING,
    },
    Side.EXIT: _SHARED
    | {
        (S.IDLE, E.GOT_BEGIN): S.CONNECTING,
        (S.IDLE, E.GOT_RESOLVE): S.RESOLVING,
        (S.RESOLVING, E.RESOLVED): S.CLOSED,
        (S.CONNECTING, E.GOT_DATA): S.CONNECTING,
        (S.CONNECTING, E.GOT_END_SENDING): S.CONNECTING_REMOTE_ENDED,
        (S.CONNECTING, E.CONNECTED): S.OPEN,
        (S.CONNECTING_REMOTE_ENDED, E.CONNECTED): S.REMOTE_ENDED,
        (S.CONNECTING_REMOTE_ENDED, E.GOT_END_BOTH): S.CLOSED,
        (S.CONNECTING_REMOTE_ENDED, E.RESET): S.CLOSED,
    },
}

# Where DATA may be sent: a client may before the target answers, an exit may not.
MAY_SEND = {
    Side.CLIENT: frozenset({S.CONNECTING, S.OPEN, S.REMOTE_ENDED}),
    Side.EXIT: frozenset({S.OPEN, S.REMOTE_ENDED}),
}
OWES_END = frozenset({S.CONNECTING, S.CONNECTING_REMOTE_ENDED, S.OPEN, S.REMOTE_ENDED})  # has sent no END yet
TAKES_DATA = frozenset({S.CONNECTING, S.OPEN, S.LOCAL_ENDED})  # data that arrives is for the application
# Where DATA is legal and changes nothing, at both ends: most of what arrives is DATA, and need not ask the table.
UNMOVED_BY_DATA = frozenset(
    state for state in State if all(table.get((state, E.GOT_DATA)) is state for table in TABLE.values())
)


def next_state(side: Side, state: State, event: Event) -> State:
    """Where `event` leads; raises `Unexpected` when it is not legal in `state`."""
    following = TABLE[side].get((state, event))
    if following is None:
        raise Unexpected(f"{event.name} while {state.name}")
    return following


class Stream:
    """One stream of a circuit's end: its state and its windows."""

    __slots__ = (
        "_recent",
        "_recent_from",
        "_sent_at",
        "advances",
        "may_send",
        "receive_window",
        "send_window",
        "side",
        "state",
    )

    def __init__(self, side: Side, state: State, now: float, learned: int = 0) -> None:
        """`learned`: see `StreamReceiveWindow`."""
        self.side = side
        self.state = state
        self.may_send = state in MAY_SEND[side]  # whether its state allows DATA
        self.send_window = StreamSendWindow()
        self.receive_window = StreamReceiveWindow(now, learned)
        self.advances = learned > STREAM_WINDOW  # its window is larger than the other side knows yet
        self._recent = 0  # bytes it sent since the circuit had sent `_recent_from`
        self._recent_from = 0
        self._sent_at = 0  # what the circuit had sent then

    def sent(self, count: int, circuit_sent: int, period: int) -> None:
        """It sends `count` bytes, which its limit allows; counts those in each `period` bytes of the circuit."""
        self.send_window.take(count)
        if circuit_sent - self._recent_from >= period:
            self._recent, self._recent_from = 0, circuit_sent
        self._recent += count
        self._sent_at = circuit_sent + count

    def quiet(self, count: int, circuit_sent: int, period: int) -> bool:
        """Whether it has sent less than `count` bytes in its last period, or nothing since another has passed."""
        return self._recent < count or circuit_sent - self._sent_at >= period

    def step(self, event: Event) -> State:
        """Moves on and returns the state that was left; raises `Unexpected`."""
        left, side = self.state, self.side
        self.state = state = TABLE[side].get((left, event)) or next_state(side, left, event)
        self.may_send = state in MAY_SEND[side]
        return left
