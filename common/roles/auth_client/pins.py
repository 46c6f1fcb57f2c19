"""What a client remembers of login servers, in its state folder, mode 0600: their keys, and its device tokens.

    known_servers     a line for each server: host:port and its Ed25519 key, 64 hex digits
    login_devices     a line for each account: the server's key, the name in hex, the token in hex

A key is believed from the first login that worked: then the server has proved that it knows the account, over this
very connection. From then on another key is refused. A device token is no secret that logs anybody in; it only
lets this device's tries be counted apart from those of strangers.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.directory.addresses import Address
from common.errors import ConfigError, OnionError
from common.ops.files import private, private_folder, read_private, write_private
from common.ops.values import LoginServer

MAX_DEVICES = 10_000  # lines that are kept, the newest: nobody has more accounts on one computer
_SERVER = re.compile(r"(\S+) ([0-9a-f]{64})")
_DEVICE = re.compile(r"([0-9a-f]{64} [0-9a-f]+) ([0-9a-f]+)")


class KeyChanged(OnionError):
    """The login server shows another key (32 bytes, or none) than the believed one; nothing was said."""

    def __init__(self, address: Address, believed: bytes, shown: bytes, source: str) -> None:
        self.believed, self.shown = believed, shown
        place = f"put it into {source}, or " if source else ""
        accept = f" If its owner confirms the new key, {place}add --accept-key {shown.hex()} once."
        super().__init__(
            f"the login server {address} shows another key than the believed one: somebody may stand in between\n"
            f"    believed {believed.hex()}\n"
            f"    shown    {shown.hex() or 'none of the right kind'}\n"
            f"Nothing was sent.{accept if shown else ''}"
        )


class Pins:
    """The two files in `folder`; each change is whole, also when two clients share the folder."""

    def __init__(self, folder: Path) -> None:
        self.servers = folder / "known_servers"
        self.devices = folder / "login_devices"
        self._folder = folder

    def key(self, address: Address) -> bytes | None:
        """The key remembered for a server; raises `ConfigError` when the file is damaged or cannot be read."""
        found = self._read(self.servers, _SERVER).get(str(address))
        return None if found is None else bytes.fromhex(found)

    def remember(self, server: LoginServer) -> None:
        """Believes this key from now on, in place of another one."""
        assert server.key is not None
        if self.key(server.address) != server.key:
            self._write(self.servers, _SERVER, str(server.address), server.key.hex())

    def device(self, key: bytes, name: str) -> bytes:
        """This device's token for an account on the server with that key; empty when there is none."""
        return bytes.fromhex(self._read(self.devices, _DEVICE).get(_account(key, name), ""))

    def keep_device(self, key: bytes, name: str, token: bytes) -> None:
        """Keeps the token in place of an earlier one; an empty one is forgotten."""
        self._write(self.devices, _DEVICE, _account(key, name), token.hex())

    def _read(self, path: Path, line: re.Pattern[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for text in (read_private(path) or b"").decode("utf-8", "replace").splitlines():
            match = line.fullmatch(text)
            if match is None:
                raise ConfigError(f"{path}: is damaged; restore it, or remove it to begin anew")
            found[match[1]] = match[2]
        return found

    def _write(self, path: Path, line: re.Pattern[str], name: str, value: str) -> None:
        with self._locked():
            found = self._read(path, line)
            found.pop(name, None)
            if value:
                found[name] = value
            lines = [f"{each} {found[each]}\n" for each in found][-MAX_DEVICES:]
            write_private(path, "".join(lines).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        private_folder(self._folder)
        try:
            file = open(self._folder / ".login.lock", "wb", opener=private)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"{self._folder}: cannot be written to: {error.strerror}") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _account(key: bytes, name: str) -> str:
    return f"{key.hex()} {name.encode('utf-8', 'replace').hex()}"
