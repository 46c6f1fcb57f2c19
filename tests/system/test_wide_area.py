"""Long fat paths: the real programs on hosts with delay and a slow uplink between them, on one machine.

What is compared was measured in the same run, and differs by more than any machine's mood: without a congestion
window, 8 MiB of a circuit, 6.7 seconds of this link, would stand in front of it.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

import pytest

from common.net import link_opening
from common.net.deadline import Deadline
from common.net.link import Link
from common.wire.cells import MAX_BODY, Command
from tests.net.links import PATIENCE, Recorder, end, node, start
from tests.wide_area.hosts import WideArea, listening
from tests.wide_area.load import Bulk, echoes
from tests.wide_area.programs import WidePrograms
from tests.wide_area.target import Target

pytestmark = pytest.mark.system

SLOW = 10  # Mbit/s of relay 2's uplink, on every path of three relays
BYTES = SLOW * 125_000  # a second
CEILING = 8 * 2**20  # the circuit's window
TRANSFERS = 16  # each may have 512 KiB on its way


@pytest.fixture(scope="module")
def area(needs_wide_area: None) -> Iterator[WideArea]:
    """Five hosts, 10 ms from each other."""
    with WideArea(5, delay=10, rate=200) as area:
        area.set(2, rate=SLOW)
        yield area


@pytest.fixture(scope="module")
def programs(area: WideArea, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WidePrograms]:
    """A client on host 4."""
    with WidePrograms(area, tmp_path_factory.mktemp("wide"), "aes-gcm") as programs:
        yield programs


def _stream(programs: WidePrograms, target: Target, user: str) -> socket.socket:
    stream = programs.open(target.address, user)
    stream.settimeout(60)
    return stream


@pytest.mark.parametrize("up", [True, False])
def test_a_prompt_waits_less_than_a_full_circuit_would_make_it(
    area: WideArea, programs: WidePrograms, up: bool
) -> None:
    """Beside so many transfers on the same circuit that their own windows would fill it."""
    with Target(area.hosts[5]) as target, ExitStack() as stack:
        with _stream(programs, target, f"{up}") as alone:
            idle = median(echoes(alone, 10))
        prompt = stack.enter_context(_stream(programs, target, f"{up}"))
        bulks = [stack.enter_context(Bulk(_stream(programs, target, f"{up}"), up=up)) for _ in range(TRANSFERS)]
        beside = median(echoes(prompt, 60))
        assert all(bulk.moved for bulk in bulks), "each goes on"
        assert sum(bulk.moved for bulk in bulks) > BYTES
        assert beside - idle < CEILING / BYTES / 4


def _ahead(link: Link, far: Recorder, moment: int) -> int:
    """How many cells come before one of a quiet circuit, sent when `moment` have come; its number is that too."""
    far.wait_for(lambda: len(far.cells) >= moment)
    before = len(far.cells)
    link.send(moment, Command.RELAY, b"me first")
    far.wait_for(lambda: any(cell.circuit_id == moment for cell in far.cells))
    return [cell.circuit_id for cell in far.cells].index(moment) - before


def test_a_quiet_circuit_waits_for_no_queue_in_the_network(area: WideArea) -> None:
    """Before a slow uplink nothing passes anything: TCP by itself (Reno) makes its queue as long as it may be."""
    near, far = Recorder(), Recorder()
    context, identity = node()
    with listening(area.hosts[1]) as server, ThreadPoolExecutor(1) as pool:
        there = server.getsockname()
        dialling = pool.submit(area.hosts[2].make, lambda: link_opening.dial(there, identity, near, Deadline(PATIENCE)))
        accepted = link_opening.accept(server.accept()[0], context, far, Deadline(PATIENCE))
        dialled = dialling.result()
    dialled._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    area.set(2, queue=1_000)
    try:
        for link in (accepted, dialled):
            start(link)
        dialled.queue(1, Command.RELAY, *[bytes(MAX_BODY)] * 800)
        dialled.flush()
        passed = [_ahead(dialled, far, moment) for moment in (300, 450, 600)]
        assert median(passed) < 16, "2 to 4 here; 76, a second's queue, without a limit"
    finally:
        end(accepted, dialled)
        area.set(2, queue=200)
