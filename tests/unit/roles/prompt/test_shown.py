"""What is shown: text of others must not drive the terminal, as text or as JSON."""

import io
import json

import pytest
from rich.console import Console

from common.roles.prompt.shown import plain, show_json

HOSTILE = "\x1b[2J\x9b2J\x7f\x00\r\u202e\u2028\ud800\U000e0041"


def test_text_of_others_does_not_drive_the_terminal() -> None:
    assert plain(f"one\n\ttwo{HOSTILE}").isprintable() is False, "lines and tabs stay"
    assert plain(HOSTILE).isprintable()


@pytest.mark.parametrize("text", [HOSTILE, "Müller 東京 \U0001f600"])
def test_json_does_not_drive_the_terminal_and_says_the_same(text: str) -> None:
    file = io.StringIO()
    show_json(Console(file=file), {"text": text})
    shown = file.getvalue()
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == {"text": text}
    assert ("東京" in shown) == ("東京" in text), "letters stay readable"
