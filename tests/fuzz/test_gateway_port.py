"""A few seconds of what `make fuzz` does for a minute."""

from pathlib import Path

from tests.fuzz.gateway_port import fuzz


def test_hostile_peers_cost_the_gateway_no_relay(tmp_path: Path) -> None:
    assert fuzz(tmp_path, seconds=3.0, seed=1) > 10
