"""A cell that waits, to be full or for company, on a real link: it is sent although nothing more comes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from time import monotonic

import pytest

from common.circuit.endpoint import TRANSFER
from common.crypto.layers import PROOF
from common.errors import EndReason
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.circuit_end import CircuitEnd
from common.wire.messages import Connected, Direction, End, decode_messages
from tests.net.bare import Machine
from tests.net.links import PATIENCE, Recorder, two_links

SEGMENTS = 2_896  # bytes: what two TCP segments bring


@pytest.fixture
def far() -> Recorder:
    """Where the cells come to."""
    return Recorder()


@contextmanager
def transfer(far: Recorder, *, running: bool) -> Iterator[CircuitEnd]:
    """With stream 1, which has sent enough to be one, on a path that is known to be long; does the pump run?"""
    pump = Pump("filling")
    if running:
        pump.start()
    with two_links(Recorder(), far) as (link, _):
        circuit = CircuitEnd(Machine(), link, 7, pump)
        with circuit.lock:
            circuit.endpoint.begin("target", 80, 0.0)
            circuit.endpoint._congestion.base = 0.2
        circuit.send(1, bytes(TRANSFER + 1))
        far.wait_for(lambda: carried(far) > TRANSFER)
        yield circuit
    pump.stop(Deadline(PATIENCE))


def send_little(circuit: CircuitEnd) -> None:
    """What would be mostly padding."""
    with circuit.lock:
        circuit.packing._sealed_at = monotonic() + PATIENCE  # however slow this machine is: "just now"
    circuit.send(1, bytes(SEGMENTS))


def carried(far: Recorder) -> int:
    """Bytes of cells' bodies."""
    return sum(len(cell.body) for cell in list(far.cells))


def has_come(far: Recorder, goal: int) -> bool:
    """Whether so many are there."""
    return carried(far) >= goal


def test_a_cell_that_nobody_fills_is_sent_when_its_time_is_over(far: Recorder) -> None:
    with transfer(far, running=True) as circuit:
        for _ in range(3):
            goal = carried(far) + SEGMENTS
            send_little(circuit)
            far.wait_for(partial(has_come, far, goal))
            with circuit.lock:
                assert circuit.packing.filling is None and not circuit.packing.unsealed


def test_a_clients_last_end_is_sent_though_nothing_takes_it_along(far: Recorder) -> None:
    with transfer(far, running=True) as circuit:
        with circuit.lock:
            connected = Connected(1, IPv4Address("192.0.2.1"), 60)
            end = End(1, Direction.SENDING, EndReason.DONE)
            circuit.endpoint.receive([connected, end], bytes(PROOF), 0.0)
        before = len(far.cells)
        circuit.finish(1)
        far.wait_for(lambda: len(far.cells) > before)
        assert decode_messages(far.cells[-1].body) == [end]


def test_what_waits_when_its_circuit_ends_is_not_sent(far: Recorder) -> None:
    with transfer(far, running=False) as circuit:
        send_little(circuit)
        with circuit.lock:
            assert circuit.packing.filling is not None
            circuit.closed = True
        circuit._send_rest()
        assert circuit.link.drain(Deadline(PATIENCE))
        assert circuit.packing.unsealed == SEGMENTS
