"""Writing what must survive a crash and be read by nobody else: new folders 0700, files 0600, replaced as a whole.

Whatever the disk refuses is a `ConfigError` sentence that names the path: the state folder is a setting.
"""

import os
import secrets
from pathlib import Path

from common.errors import ConfigError


def private_folder(path: Path) -> Path:
    """The folder, made 0700 if missing as its parents are; what is there keeps its mode. Raises `ConfigError`."""
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):  # `parents=True` would make them with the umask's mode
            each.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(exist_ok=True)  # raises if it is no folder
    except OSError as error:
        raise ConfigError(f"{path}: cannot be used as a folder for state: {error.strerror}") from None
    return path


def private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes is 0600. Who may read a file may also hold its lock."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, data: bytes) -> None:
    """Replaces the file, mode 0600: a reader, or a crash, finds the old or the new whole. Raises `ConfigError`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # two writers never share one
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def read_private(path: Path) -> bytes | None:
    """The file's bytes, None when there is no such file; raises `ConfigError`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)  # the new name, too, must survive
    finally:
        os.close(descriptor)
