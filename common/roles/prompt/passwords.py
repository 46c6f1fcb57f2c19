"""Where passwords come from: a terminal that does not show them, or a file descriptor, a line each.

Never from the command line or the environment, which others see. What was read is in no message and no `repr`.
"""

import getpass
import os
import sys
import warnings
from collections.abc import Callable
from typing import Protocol

from common.errors import ConfigError, OnionError
from common.login.strength import hint

MAX_LINE = 65_536  # bytes of a line that are read: far beyond any password
_STANDARD_INPUT = 0
TRIES = 3  # times that two entries may differ


class Passwords(Protocol):
    """How a login asks for passwords."""

    def current(self, name: str) -> str:
        """The one that the account has."""

    def new(self, name: str) -> str:
        """The one that it shall have."""


class TypedPasswords:
    """Asks the person at the terminal; a new one twice, with a hint when it is weak."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` shows the hint."""
        self._tell = tell

    def current(self, name: str) -> str:
        """Once; raises `ConfigError` without a terminal, `KeyboardInterrupt` at ctrl-c."""
        return _type(f"password of {name}: ")

    def new(self, name: str) -> str:
        """Twice, until both are the same."""
        for _ in range(TRIES):
            password = _type(f"new password for {name}: ")
            if advice := hint(password, name):
                self._tell(advice)
            if _type("the same again: ") == password:
                return password
            self._tell("the two differ: once more")
        raise OnionError("no password was chosen: the two entries differed each time")


class ReadPasswords:
    """Reads a file descriptor: the first line is the current password, or the new one if that is asked first."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._current: str | None = None

    def current(self, name: str) -> str:
        """The same at each call."""
        if self._current is None:
            self._current = self._line()
        return self._current

    def new(self, name: str) -> str:
        """The next line; it is the current one from then on."""
        self._current = self._line()
        return self._current

    def _line(self) -> str:
        try:
            line = self._read()
        except OSError as error:
            text = f"{self._descriptor} cannot be read: {error.strerror}"
            raise ConfigError(f"command line: --password-fd: {text}") from None
        if line is None:
            raise ConfigError(f"command line: --password-fd: no line is left to read from {self._descriptor}")
        return line

    def _read(self) -> str | None:
        """A line without its end; None at the end of all."""
        if self._descriptor == _STANDARD_INPUT:  # commands may follow on it: one buffer must read both
            text = sys.stdin.readline(MAX_LINE)
            if not text.isprintable() and any("\udc80" <= each <= "\udcff" for each in text):
                raise _not_unicode()
            return text.rstrip("\r\n") if text else None
        line = bytearray()
        while len(line) < MAX_LINE and not line.endswith(b"\n"):
            byte = os.read(self._descriptor, 1)
            if not byte:
                break
            line += byte
        return _decode(bytes(line)) if line else None


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise _not_unicode() from None


def _not_unicode() -> OnionError:
    return OnionError("this password cannot be used: it is no text in UTF-8")


def _type(question: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password: give --password-fd FD")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(question)
    except getpass.GetPassWarning:
        raise ConfigError("this terminal shows what is typed: give --password-fd FD") from None
    except EOFError:
        raise KeyboardInterrupt from None  # ctrl-d: as little as ctrl-c
    except UnicodeDecodeError:
        raise _not_unicode() from None
