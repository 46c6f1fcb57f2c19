"""The table of options: the operations page has them all."""

import pytest

from common.ops.config import PROJECT
from common.ops.options import OPTIONS


@pytest.mark.parametrize("role", ["gateway", "relay", "auth_server", "client"])
def test_the_operations_page_has_every_option(role: str) -> None:
    text = (PROJECT / "docs" / "operations.md").read_text()
    table = text.split(f"\n**{role}**\n\n", 1)[1].split("\n\n")[0]
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(named) == sorted(option.name for option in OPTIONS[role])
