"""Private files: replaced as a whole, for their owner only; a disk that refuses is a sentence."""

import os
import stat
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.ops.files import private_folder, read_private, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "b")
    write_private(folder / "key", b"one")
    assert mode(folder) == 0o700
    assert mode(folder / "key") == 0o600
    assert read_private(folder / "key") == b"one"


def test_a_folder_made_on_the_way_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        private_folder(tmp_path / "state" / "more" / "keys")
    finally:
        os.umask(before)
    assert [mode(tmp_path / each) for each in ("state", "state/more", "state/more/keys")] == [0o700] * 3


def test_writing_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    (tmp_path / "key").symlink_to(other)
    write_private(tmp_path / "key", b"new")
    assert other.read_bytes() == b"other"


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_disk_that_refuses_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be used as a folder for state"):
        private_folder(tmp_path / "file" / "state")
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write_private(tmp_path / "missing" / "key", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        write_private(tmp_path / "folder", b"")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_private(tmp_path / "folder")
    assert read_private(tmp_path / "none") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
