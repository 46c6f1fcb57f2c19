"""Ports that a daemon can come back to."""

import socket
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.ops import free_ports
from common.ops.free_ports import LOWEST, FreePorts

HOST = "127.0.0.1"


def give_from(monkeypatch: pytest.MonkeyPatch, folder: Path, first: int) -> None:
    """The system gives ports from there on."""
    given = folder / "range"
    given.write_text(f"{first}\t60999\n")
    monkeypatch.setattr(free_ports, "_GIVEN", given)


def test_no_port_is_taken_twice_and_none_that_is_not_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give_from(monkeypatch, tmp_path, LOWEST + 8)
    monkeypatch.setattr(FreePorts, "is_free", lambda _self, _port: True)
    ports, but = FreePorts(HOST), range(LOWEST, LOWEST + 4)
    assert {ports.take(but) for _ in range(4)} == {*range(LOWEST + 4, LOWEST + 8)}


@pytest.mark.parametrize("first", [1_024, LOWEST, LOWEST + 1])
def test_where_the_system_gives_nearly_all_one_of_those_has_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: int
) -> None:
    give_from(monkeypatch, tmp_path, first)
    ports = FreePorts(HOST)
    taken = {ports.take() for _ in range(10)}
    assert len(taken) == 10
    assert all(ports.is_free(port) for port in taken)


def test_no_free_port_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FreePorts, "is_free", lambda _self, _port: False)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1: no port is free"):
        FreePorts(HOST).take()


def test_a_port_on_which_somebody_listens_is_not_free() -> None:
    ports = FreePorts(HOST)
    port = ports.take()
    assert ports.is_free(port)
    with socket.create_server((HOST, port)):
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_a_port_by_which_a_connection_leaves_is_not_free() -> None:
    """So it is with those that the system gives: a daemon that was away would not get it back."""
    with socket.create_server((HOST, 0)) as server, socket.create_connection(server.getsockname()) as leaving:
        assert not FreePorts(HOST).is_free(leaving.getsockname()[1])


def test_where_the_system_does_not_tell_the_usual_range_is_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(free_ports, "_GIVEN", tmp_path / "nothing")
    ports = FreePorts(HOST)
    assert all(LOWEST <= ports.take() < 32_768 for _ in range(20))
