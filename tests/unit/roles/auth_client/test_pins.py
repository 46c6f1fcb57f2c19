"""What a client remembers of login servers, on the disk."""

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.errors import ConfigError
from common.ops.values import LoginServer
from common.roles.auth_client.pins import KeyChanged, Pins

ADDRESS = Address("login.example", 9109)
KEY, OTHER = b"\xab" * 32, b"\xcd" * 32


def test_a_key_is_remembered_for_its_address_and_for_nobody_else(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "client")
    assert pins.key(ADDRESS) is None
    pins.remember(LoginServer(ADDRESS, KEY))
    pins.remember(LoginServer(Address("::1", 9), OTHER))
    again = Pins(tmp_path / "client")
    assert again.key(ADDRESS) == KEY
    assert again.key(Address("::1", 9)) == OTHER
    assert again.key(Address("login.example", 9110)) is None
    assert again.servers.read_text() == f"login.example:9109 {KEY.hex()}\n[::1]:9 {OTHER.hex()}\n"


def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "client")
    pins.remember(LoginServer(ADDRESS, KEY))
    pins.keep_device(KEY, "alice", b"token")
    files = list((tmp_path / "client").iterdir())
    assert {pins.servers, pins.devices} < set(files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}, "who can read a lock can hold it"
    assert stat.S_IMODE((tmp_path / "client").stat().st_mode) == 0o700


def test_another_key_takes_the_place_of_the_first(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.remember(LoginServer(ADDRESS, KEY))
    pins.remember(LoginServer(ADDRESS, OTHER))
    assert pins.key(ADDRESS) == OTHER


def test_a_device_token_is_of_one_name_on_one_server(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.keep_device(KEY, "alice", b"first")
    pins.keep_device(KEY, "alice", b"second")
    pins.keep_device(KEY, "a name\nwith all: ü", b"third")
    assert pins.device(KEY, "alice") == b"second"
    assert pins.device(KEY, "a name\nwith all: ü") == b"third"
    assert pins.device(OTHER, "alice") == b""
    pins.keep_device(KEY, "alice", b"")
    assert pins.device(KEY, "alice") == b""


@pytest.mark.parametrize("damage", ["x", "login.example:9109 abcd", "\0", f"login.example:9109  {'ab' * 32}"])
def test_a_damaged_file_is_a_sentence_and_is_not_replaced(tmp_path: Path, damage: str) -> None:
    pins = Pins(tmp_path)
    for path in (pins.servers, pins.devices):
        path.write_text(damage)
    wrongs: list[Callable[[], object]] = [
        lambda: pins.key(ADDRESS),
        lambda: pins.remember(LoginServer(ADDRESS, KEY)),
        lambda: pins.device(KEY, "alice"),
        lambda: pins.keep_device(KEY, "alice", b"x"),
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="is damaged; restore it, or remove it"):
            wrong()
    assert pins.servers.read_text() == damage


def test_clients_that_share_a_folder_lose_nothing(tmp_path: Path) -> None:
    names = [f"user{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: Pins(tmp_path).keep_device(KEY, name, name.encode()), names))
    assert [Pins(tmp_path).device(KEY, name) for name in names] == [name.encode() for name in names]


@pytest.mark.parametrize("source", ["", "the option login"])
def test_a_changed_key_shows_both_and_says_what_to_do(source: str) -> None:
    text = str(KeyChanged(ADDRESS, KEY, OTHER, source))
    assert f"believed {KEY.hex()}" in text
    assert f"shown    {OTHER.hex()}" in text
    assert f"add --accept-key {OTHER.hex()} once" in text
    assert source in text
    assert "Nothing was sent" in text
