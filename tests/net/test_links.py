"""The table of circuits on links: dispatch, one link per relay, and the order of DESTROY and data."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from common.errors import AuthenticationFailed, Closed, DestroyReason, TooLarge, Unexpected
from common.net import link_opening
from common.net.deadline import Deadline
from common.net.link import Link
from common.net.listener import Listener
from common.net.pump import Pump
from common.roles import links as links_module
from common.roles.links import CircuitSide, Links
from common.wire.cells import Bytes, Command, encode_destroy
from tests.net.in_process import PATIENCE, threads, wait_until
from tests.net.links import Recorder, end, node, start
from tests.system.targets import unused_port


class Side:
    """A circuit that records what it is told; a body of b"fault" is a protocol fault, b"bug" a bug."""

    def __init__(self) -> None:
        self.bodies: list[Bytes] = []
        self.ended: list[DestroyReason] = []
        self._changed = threading.Condition()

    def cells(self, bodies: Sequence[Bytes]) -> None:
        for body in bodies:
            self.created(body)

    def created(self, body: Bytes) -> None:
        if body == b"fault":
            raise Unexpected("as asked")
        if body == b"bug":
            raise RuntimeError("as asked")
        with self._changed:
            self.bodies.append(body)
            self._changed.notify_all()

    def failed(self, reason: DestroyReason) -> None:
        with self._changed:
            self.ended.append(reason)
            self._changed.notify_all()

    def drained(self) -> None:
        pass

    def wait(self, bodies: int = 0, ended: int = 0) -> None:
        """Until so much was heard."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.bodies) >= bodies and len(self.ended) >= ended, PATIENCE
            ), (self.bodies, self.ended)


class Pair:
    """A dialling side's links and an accepting side's, whose circuits are `Side`s by their id."""

    def __init__(self) -> None:
        context, self.identity = node()
        self._pumps = Pump("near"), Pump("far")
        for pump in self._pumps:
            pump.start()
        self.near = Links(self._pumps[0])
        self.sides: dict[int, Side] = {}
        self.far = Links(self._pumps[1], self._new)
        self._listener = Listener(("127.0.0.1", 0), context, self.far, self.far.add)
        self._listener.start()
        self.address = self._listener.address

    def _new(self, link: Link, circuit_id: int, body: bytes) -> CircuitSide:
        if body == b"refuse":
            raise TooLarge("as asked")
        side = self.sides[circuit_id] = Side()
        link.queue(circuit_id, Command.CREATED, b"made")
        link.flush()
        return side

    def obtain(self) -> Link:
        """The link."""
        return self.near.obtain(self.address, self.identity, Deadline(PATIENCE))

    def circuit(self, body: bytes = b"") -> tuple[Link, int, Side]:
        """A circuit that was answered, seen from the dialling side."""
        link, side = self.obtain(), Side()
        circuit_id = self.near.register(link, side)
        link.send(circuit_id, Command.CREATE, body)
        side.wait(bodies=1)
        return link, circuit_id, side

    def close(self) -> None:
        """Ends all."""
        deadline = Deadline(PATIENCE)
        self._listener.close(deadline)
        self.near.close(deadline)
        self.far.close(deadline)
        for pump in self._pumps:
            pump.stop(deadline)


@contextmanager
def _pair() -> Iterator[Pair]:
    before = threads()
    pair = Pair()
    try:
        yield pair
    finally:
        pair.close()
        wait_until(lambda: threads() <= before)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with _pair() as pair:
        yield pair


def test_all_who_ask_for_the_same_relay_share_one_link(pair: Pair) -> None:
    with ThreadPoolExecutor(16) as pool:
        links = set(pool.map(lambda _: pair.obtain(), range(64)))
    assert len(links) == 1
    assert pair.near.all == list(links)
    wait_until(lambda: len(pair.far.all) == 1)


def test_a_relay_with_another_identity_is_no_link(pair: Pair) -> None:
    with pytest.raises(AuthenticationFailed):
        pair.near.obtain(pair.address, bytes(32), Deadline(PATIENCE))
    assert not pair.near.all


def test_a_dead_port_is_closed_and_asked_again_later(pair: Pair) -> None:
    with pytest.raises(Closed):
        pair.near.obtain(("127.0.0.1", unused_port()), pair.identity, Deadline(PATIENCE))
    assert pair.obtain()


def test_a_link_that_ended_is_dialled_anew(pair: Pair) -> None:
    first = pair.obtain()
    first.close()
    assert pair.obtain() is not first


def test_cells_reach_their_circuit_and_no_other(pair: Pair) -> None:
    circuits = [pair.circuit() for _ in range(20)]
    for number, (link, circuit_id, _) in enumerate(circuits):
        link.send(circuit_id, Command.RELAY, bytes([number]))
    for number, (_, circuit_id, _) in enumerate(circuits):
        pair.sides[circuit_id].wait(bodies=1)
        assert pair.sides[circuit_id].bodies == [bytes([number])]


@pytest.mark.parametrize(
    ("body", "reason"), [(b"fault", DestroyReason.PROTOCOL), (b"bug", DestroyReason.INTERNAL)]
)
def test_a_fault_ends_one_circuit_at_both_ends_with_its_reason(
    pair: Pair, body: bytes, reason: DestroyReason
) -> None:
    link, other_id, other = pair.circuit()
    _, circuit_id, side = pair.circuit()
    link.send(circuit_id, Command.RELAY, body)
    side.wait(ended=1)
    assert side.ended == [reason]
    assert pair.sides[circuit_id].ended == [reason]
    link.send(other_id, Command.RELAY, b"fine")
    pair.sides[other_id].wait(bodies=1)
    assert not other.ended
    wait_until(lambda: pair.near.circuits(link) == 1 == pair.far.circuits(pair.far.all[0]))


def test_a_refused_create_is_a_destroy_with_the_reason(pair: Pair) -> None:
    link, side = pair.obtain(), Side()
    link.send(pair.near.register(link, side), Command.CREATE, b"refuse")
    side.wait(ended=1)
    assert side.ended == [DestroyReason.LIMIT]
    wait_until(lambda: not pair.near.circuits(link) and not pair.far.circuits(pair.far.all[0]))


def test_both_sides_may_destroy_at_the_same_moment(pair: Pair) -> None:
    for _ in range(200):
        link, circuit_id, side = pair.circuit()
        far_link, far_side = pair.far.all[0], pair.sides[circuit_id]
        both = threading.Barrier(2)

        def end(links: Links, on: Link, number: int, barrier: threading.Barrier) -> None:
            barrier.wait(PATIENCE)
            links.destroy(on, number, DestroyReason.FINISHED)

        far = threading.Thread(target=end, args=(pair.far, far_link, circuit_id, both))
        far.start()
        end(pair.near, link, circuit_id, both)
        far.join(PATIENCE)
        assert not link.closed, "two DESTROY that crossed ended the link"
        del side, far_side
    wait_until(lambda: not pair.near.circuits(link) and not pair.far.circuits(far_link))
    assert not far_link.closed


def test_destroy_is_sent_once_however_often_it_is_asked_for(pair: Pair) -> None:
    link, circuit_id, _ = pair.circuit()
    for _ in range(3):
        pair.near.destroy(link, circuit_id, DestroyReason.FINISHED)
    pair.sides[circuit_id].wait(ended=1)
    wait_until(lambda: not pair.near.circuits(link))
    pair.circuit()
    assert pair.sides[circuit_id].ended == [DestroyReason.FINISHED]


def test_the_end_of_a_link_fails_all_its_circuits_at_both_ends(pair: Pair) -> None:
    circuits = [pair.circuit() for _ in range(5)]
    circuits[0][0].close()
    for _, circuit_id, side in circuits:
        side.wait(ended=1)
        pair.sides[circuit_id].wait(ended=1)
        assert side.ended == pair.sides[circuit_id].ended == [DestroyReason.LINK_CLOSED]
    assert not pair.near.all


def test_a_circuit_on_a_link_that_has_ended_is_closed(pair: Pair) -> None:
    link = pair.obtain()
    link.close()
    with pytest.raises(Closed):
        pair.near.register(link, Side())


def test_circuit_ids_are_random_and_tell_nothing_of_other_circuits_and_links(pair: Pair) -> None:
    """Security: who sees one link's ids learns neither how many circuits there were nor which go on elsewhere."""
    drawn: list[list[int]] = []
    with _pair() as other:
        for each in (pair, other):
            link = each.obtain()
            drawn.append([each.near.register(link, Side()) for _ in range(200)])
    for ids in drawn:
        for bit in range(32):
            assert 40 < sum(circuit_id >> bit & 1 for circuit_id in ids) < 160  # else: once in 10 ** 14 runs
        steps = {(after - before) % 2**32 for before, after in pairwise(ids)}
        assert len(steps) > 190, "a counter, whatever its step"
    assert sum(one == another for one, another in zip(*drawn, strict=True)) < 2, "each link has its own"


def test_no_more_circuits_than_the_limit(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "MAX_CIRCUITS", 3)
    link = pair.obtain()
    for _ in range(3):
        pair.near.register(link, Side())
    with pytest.raises(TooLarge):
        pair.near.register(link, Side())


def test_a_link_beyond_the_limit_is_closed_and_the_others_go_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS", 1)
    link, circuit_id, side = pair.circuit()
    owner = Recorder()
    beyond = link_opening.dial(pair.address, pair.identity, owner, Deadline(PATIENCE))
    start(beyond)
    owner.wait_for_end()  # as soon as it is up
    with pytest.raises(Closed):  # the near side has its one link too
        pair.near.obtain(("localhost", pair.address[1]), pair.identity, Deadline(PATIENCE))
    assert pair.near.all == [link]
    link.send(circuit_id, Command.RELAY, b"fine")
    pair.sides[circuit_id].wait(bodies=1)
    assert not side.ended
    link.close()
    wait_until(lambda: not pair.far.all)
    pair.circuit()
    end(beyond)


def test_for_a_link_beyond_the_limit_the_one_longest_without_a_circuit_ends(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Security: a link costs a stranger nothing more than a handshake, and would keep others out for minutes."""
    monkeypatch.setattr(links_module, "MAX_LINKS", 4)
    used, circuit_id, side = pair.circuit()
    owners = [Recorder() for _ in range(5)]
    strangers: list[Link] = []

    def dial() -> None:
        link = link_opening.dial(pair.address, pair.identity, owners[len(strangers)], Deadline(PATIENCE))
        start(link)
        strangers.append(link)
        wait_until(lambda: len(pair.far.all) == min(1 + len(strangers), 4))

    for _ in range(3):
        dial()
    was_used = owners[0]  # the oldest, but not the longest without a circuit
    strangers[0].send(7, Command.CREATE, b"")
    was_used.wait_for(lambda: len(was_used.cells) == 1)
    strangers[0].send(7, Command.DESTROY, encode_destroy(DestroyReason.FINISHED))
    was_used.wait_for(lambda: len(was_used.cells) == 2)
    for gone in owners[1:3]:
        dial()
        gone.wait_for_end()
    assert not any(owners[number].errors for number in (0, 3, 4))
    used.send(circuit_id, Command.RELAY, b"fine")
    pair.sides[circuit_id].wait(bodies=1)
    assert not side.ended
    end(*strangers)


def test_an_idle_link_that_gave_its_place_is_dialled_anew(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS", 1)
    with _pair() as other:
        idle = pair.obtain()
        wait_until(lambda: pair.far.all)  # which has the same limit
        pair.near.obtain(other.address, other.identity, Deadline(PATIENCE))
        assert idle.closed
        with pytest.raises(Closed):
            pair.near.register(idle, Side())
        again = pair.obtain()
        assert again is not idle
        assert not again.closed


def test_a_link_that_has_ended_takes_no_place_though_the_pump_is_still_to_hear_of_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "MAX_LINKS", 1)
    with _pair() as other, _pair() as third:
        ended = pair.obtain()
        begun, busy = threading.Event(), threading.Event()
        pair.near._pump.call(begun.set)
        pair.near._pump.call(lambda: busy.wait(PATIENCE))
        try:
            assert begun.wait(PATIENCE)
            ended.close()
            links = [pair.near.obtain(each.address, each.identity, Deadline(PATIENCE)) for each in (other, third)]
            assert [link.closed for link in links] == [True, False], "one may be open"
            assert pair.near.all == [ended, *links]
        finally:
            busy.set()


def test_nothing_is_kept_of_a_link_that_ends_as_soon_as_it_is_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Security: a relay gone bad could have each link to a new identity of its own kept for ever."""
    real = Link.start

    def start_and_end(link: Link, pump: Pump) -> None:
        real(link, pump)
        if link.dialled:
            link.close()
            link.join(Deadline(PATIENCE))

    monkeypatch.setattr(Link, "start", start_and_end)
    assert pair.obtain().closed
    assert not pair.near._dialled
    assert not pair.near._idle_since


def test_a_dialled_link_without_circuits_is_closed_after_a_while(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "IDLE_LINK", -1.0)
    link, circuit_id, _ = pair.circuit()
    pair.near.close_idle()
    assert not link.closed
    pair.near.destroy(link, circuit_id, DestroyReason.FINISHED)
    wait_until(lambda: not pair.near.circuits(link))
    pair.near.close_idle()
    assert link.closed


def test_who_was_dialled_cannot_create_circuits(pair: Pair) -> None:
    """Also not at a relay, which answers CREATE on accepted links: ids on this one are the dialling side's to draw."""
    pair.near._new_circuit = pair._new
    link = pair.obtain()
    wait_until(lambda: pair.far.all)
    pair.far.all[0].send(7, Command.CREATE, b"")
    wait_until(lambda: link.closed)
    assert not pair.sides


def test_nothing_is_accepted_after_close(pair: Pair) -> None:
    pair.obtain()
    pair.far.close(Deadline(PATIENCE))
    with pytest.raises(Closed):
        pair.near.close(Deadline(PATIENCE))
        pair.obtain()


def test_a_stranger_cannot_create_circuits_at_a_client(tmp_path: Path) -> None:
    """The dialled side, here a relay gone bad, sends CREATE: clients answer none."""
    with _pair() as pair:
        link = pair.obtain()
        wait_until(lambda: pair.far.all)
        pair.far.all[0].send(7, Command.CREATE, b"")
        wait_until(lambda: link.closed)
