"""The files that are written for people: examples."""

import tomllib

import pytest

from common.ops.config import PROJECT
from common.ops.options import OPTIONS
from common.ops.toml_writer import example


@pytest.mark.parametrize("role", ["gateway", "relay", "auth_server", "client"])
def test_shipped_examples_hold_every_option_at_its_default(role: str) -> None:
    text = (PROJECT / "docs" / "examples" / f"{role}.toml").read_text()
    assert text == example(role)
    assert tomllib.loads(text) == {}
    settings = [
        line[2:] for line in text.splitlines() if line.startswith("# ") and " = " in line and "as in" not in line
    ]
    assert tomllib.loads("\n".join(settings)) == {option.name: option.default for option in OPTIONS[role]}
