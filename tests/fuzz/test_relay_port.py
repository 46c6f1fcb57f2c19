"""A few seconds of what `make fuzz` does for a minute."""

from pathlib import Path

from tests.fuzz.relay_port import fuzz


def test_hostile_peers_cost_a_relay_nothing_that_others_have(tmp_path: Path) -> None:
    assert fuzz(tmp_path, seconds=3.0, seed=1) > 10
