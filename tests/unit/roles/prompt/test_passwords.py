"""Passwords from a file descriptor; those from a terminal are tested with the real program."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.errors import ConfigError, OnionError
from common.roles.prompt.passwords import ReadPasswords, TypedPasswords


@contextmanager
def pipe(data: bytes) -> Iterator[int]:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    yield reading
    os.close(reading)


def test_lines_are_the_current_one_and_then_new_ones() -> None:
    with pipe("öne\r\ntwo\nthree".encode()) as descriptor:
        passwords = ReadPasswords(descriptor)
        assert passwords.current("x") == "öne"
        assert passwords.current("x") == "öne"
        assert passwords.new("x") == "two"
        assert passwords.current("x") == "two"
        assert passwords.new("x") == "three"
        with pytest.raises(ConfigError, match="no line is left to read from"):
            passwords.new("x")


def test_spaces_belong_to_a_password() -> None:
    with pipe(b"  two words \n") as descriptor:
        assert ReadPasswords(descriptor).new("x") == "  two words "


def test_an_empty_line_is_an_empty_password() -> None:
    with pipe(b"\n") as descriptor:
        assert ReadPasswords(descriptor).current("x") == ""


def test_what_is_no_text_is_a_sentence_without_it() -> None:
    with pipe(b"zebra\xff\n") as descriptor, pytest.raises(OnionError) as caught:
        ReadPasswords(descriptor).current("x")
    assert str(caught.value) == "this password cannot be used: it is no text in UTF-8"
    assert caught.value.__suppress_context__


def test_a_descriptor_that_is_not_open_is_a_sentence() -> None:
    with pipe(b"") as descriptor:
        pass
    with pytest.raises(ConfigError, match=f"--password-fd: {descriptor} cannot be read"):
        ReadPasswords(descriptor).current("x")


def test_without_a_terminal_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe(b"secret\n") as descriptor, os.fdopen(os.dup(descriptor)) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(ConfigError, match="give --password-fd FD"):
            TypedPasswords(print).current("x")


def test_no_password_is_in_a_repr() -> None:
    with pipe(b"zebra\n") as descriptor:
        passwords = ReadPasswords(descriptor)
        passwords.current("x")
        assert "zebra" not in repr(passwords)
