"""SIGHUP: what may change does, the rest is named, and a mistake changes nothing."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.ops.config import RelayConfig, load
from common.ops.options import OPTIONS
from common.ops.reload import Reload

BEFORE = """
gateways = [{ address = "127.0.0.1:9000", key = "%s" }]
nickname = "one"
exit_policy = "local"
""" % ("ab" * 32)


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """The log's level is everybody's."""
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    yield
    logging.getLogger().setLevel(before)


class Program:
    """A relay's configuration file, and what reading it again made the relay do."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "relay.toml"
        self.file.write_text(BEFORE)
        self.used: list[RelayConfig] = []
        self.reload = Reload("relay", self._load(), self._load, self.used.append)

    def _load(self) -> RelayConfig:
        return load("relay", ["--config", str(self.file), "--workers", "1"], {})

    def change(self, before: str, after: str) -> None:
        text = self.file.read_text()
        assert before in text
        self.file.write_text(text.replace(before, after))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_what_is_live_is_used_and_told(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    program.change("local", "none")
    program.reload()
    assert [config.exit_policy for config in program.used] == ["none"]
    assert caplog.messages == ["configuration read again; changed: exit_policy"]


def test_what_is_not_stays_and_is_named_each_time(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    program.change("local", "none")
    program.change('"one"', '"two"\nworkers = 2\nlisten = "127.0.0.1:1"')
    program.reload()
    (config,) = program.used
    assert (config.exit_policy, config.nickname, config.workers, config.listen.port) == ("none", "one", 1, 9001)
    named = "configuration read again; these need a restart to change: listen, nickname"  # workers: by command line
    assert caplog.messages[1:] == [named]
    program.reload()
    assert caplog.messages[2:] == ["configuration read again; changed: nothing", named]
    assert len(program.used) == 1


def test_a_mistake_changes_nothing_and_the_next_time_counts(program: Program) -> None:
    program.change("local", "none")
    program.change('"one"', '"one"\nlog_level = "loud"')
    with pytest.raises(ConfigError, match=r"relay\.toml: log_level: 'loud' is not one of"):
        program.reload()
    assert program.used == []
    program.change("loud", "error")
    program.reload()
    assert [(config.exit_policy, config.log_level) for config in program.used] == [("none", "error")]


def test_the_level_of_the_log_changes(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    program.change('"one"', '"one"\nlog_level = "warning"')
    program.reload()
    assert caplog.messages == [], "what was read is told at the new level"
    assert logging.getLogger().level == logging.WARNING
    program.change("warning", "debug")
    program.reload()
    assert caplog.messages[0].startswith("at level debug the log names targets")


def test_what_is_live_is_the_same_for_all_who_have_it() -> None:
    for role, options in OPTIONS.items():
        live = {option.name for option in options if option.live}
        assert "log_level" in live, role
    assert not any(option.secret and option.live for options in OPTIONS.values() for option in options)
