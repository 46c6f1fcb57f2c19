"""The table of options: the operations page has them all, and whatever a file says, the answer is a sentence."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.ops.config import PROJECT, load
from common.ops.options import OPTIONS
from tests.unit.ops.arguments import toml

ROLES = ["gateway", "relay", "auth_server", "client"]
# Every type of TOML, and what stands in for others: lists of lists, numbers where words stand, words that are none.
ODD = ["[]", "[[]]", "[{}]", "{}", '{a = "b"}', "1", "-1", "1.5", "nan", "true", "1979-05-27", "12:00:00", '""', '"?"',
       '["?"]', '"\\u0000"']  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_the_operations_page_has_every_option(role: str) -> None:
    text = (PROJECT / "docs" / "operations.md").read_text()
    table = text.split(f"\n**{role}**\n\n", 1)[1].split("\n\n")[0]
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(named) == sorted(option.name for option in OPTIONS[role])


@pytest.mark.parametrize(("role", "name"), [(role, option.name) for role in ROLES for option in OPTIONS[role]])
def test_an_odd_value_is_taken_or_refused_with_the_options_name(role: str, name: str, tmp_path: Path) -> None:
    refused = 0
    for odd in ODD:
        path = toml(tmp_path, f"{name} = {odd}", f"{role}.toml")
        try:
            load(role, ["--config", path], {})  # type: ignore[call-overload]
        except ConfigError as error:
            refused += 1
            assert name in str(error) or "gateway" in str(error) or "nickname" in str(error), (odd, str(error))
    assert refused
