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
        self.reload = Reload("relay", self.load(), self.load, self.used.append)

    def load(self) -> RelayConfig:
        """What the file says now."""
        return load("relay", ["--config", str(self.file), "--workers", "1"], {})

    def change(self, before: str, after: str) -> None:
        """In the file."""
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


def test_two_changes_are_both_used_and_told_and_the_level_is_set_first(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers are told the level of their parent."""
    levels: list[int] = []
    program.reload._use = lambda _: levels.append(logging.getLogger().level)
    program.change("local", "none")
    program.change('"one"', '"one"\nlog_level = "debug"')
    program.reload()
    assert levels == [logging.DEBUG]
    assert caplog.messages[-1] == "configuration read again; changed: exit_policy, log_level"


def test_what_could_not_be_used_is_tried_again(program: Program) -> None:
    def fail(_: RelayConfig) -> None:
        raise RuntimeError

    program.reload._use = fail
    program.change("local", "none")
    with pytest.raises(RuntimeError):
        program.reload()
    program.reload._use = program.used.append
    program.reload()
    assert [config.exit_policy for config in program.used] == ["none"]


def test_the_level_stays_too_when_the_rest_is_refused(program: Program) -> None:
    def refuse(_: RelayConfig) -> None:
        raise ConfigError("exit: nobody is called so")

    program.reload._use = refuse
    program.change("local", "none")
    program.change('"one"', '"one"\nlog_level = "error"')
    with pytest.raises(ConfigError, match="nobody is called so"):
        program.reload()
    assert logging.getLogger().level == logging.INFO
    program.reload._use = program.used.append
    program.reload()
    assert logging.getLogger().level == logging.ERROR


def test_a_level_that_has_not_changed_is_not_set_again(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    """At debug that would warn each time."""
    program.change('"one"', '"one"\nlog_level = "debug"')
    program.reload()
    caplog.clear()
    program.change("local", "none")
    program.reload()
    assert caplog.messages == ["configuration read again; changed: exit_policy"]


def test_a_port_that_was_any_and_is_written_down_since_has_not_changed(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """The launcher does so."""
    program.change('"one"', '"one"\nlisten = "127.0.0.1:0"')
    program.reload = Reload("relay", program.load(), program.load)
    program.change("127.0.0.1:0", "127.0.0.1:40000")
    program.reload()
    assert caplog.messages == ["configuration read again; changed: nothing"]
    program.change("127.0.0.1:40000", "127.0.0.2:40000")
    program.reload()
    assert caplog.messages[-1].endswith("to change: listen")


def test_these_options_are_live_and_no_other() -> None:
    """Each is applied by who makes the `Reload` of its role, which system tests show."""
    live = {(role, option.name) for role, options in OPTIONS.items() for option in options if option.live}
    levels = {(role, "log_level") for role in OPTIONS}
    relays = {("relay", "exit_policy"), ("relay", "stop_wait"), ("client", "relay_exit_policy")}
    paths = {("client", name) for name in ("hops", "suite", "exclude", "exit")}
    assert live == levels | relays | paths | {("auth_server", "closed")}
