"""The load of the workers' benchmark does what it says it does."""

import os
import time
from pathlib import Path

import pytest

from common.circuit.origin import PathHop
from common.ops.keystore import load_or_create_onion_keys
from common.ops.values import SUITES
from common.wire.cells import LONG_CELL
from tests.benchmarks.relay_load import BATCH, Load
from tests.net.in_process import InProcess, wait_until

LINKS = 2
SIZE = 10 * LONG_CELL * LINKS


@pytest.mark.parametrize("suite", SUITES)
def test_the_relay_opens_every_cell_and_answers_every_handshake(tmp_path: Path, suite: str) -> None:
    with InProcess(tmp_path, relays=1) as network:
        (member,) = network.members
        key = load_or_create_onion_keys(member.folder, time.time()).current.public
        hop = PathHop(member.identity, key, member.address.host, member.address.port)
        load = Load(hop, LINKS, [os.getpid()])
        before = member.relay.relay.carried()
        sent = load.seal(SUITES[suite], SIZE)()
        assert sent >= SIZE
        assert member.relay.relay.carried() - before >= sent
        done = load.handshakes(0.1)
        assert done >= LINKS * BATCH
        load.close()
        wait_until(lambda: not any(not link.dialled for link in member.links))
