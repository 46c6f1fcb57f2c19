"""The line editor of the terminal, where this Python has one: some are built without."""

from types import ModuleType


def line_editor() -> ModuleType | None:
    """`readline`, which takes hold of the terminal as it is imported: from then on `input` edits lines."""
    try:
        import readline  # noqa: PLC0415  see above
    except ImportError:
        return None
    return readline
