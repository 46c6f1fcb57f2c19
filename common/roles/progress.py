"""What a person sees while a client starts: one moving line on a terminal, plain lines elsewhere."""

from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class StartProgress:
    """Called with percent and text; the line is gone at 100 percent, and at the end of `with`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def __call__(self, percent: int, text: str) -> None:
        """One step, from any thread."""
        line = f"{percent:3d} %  {escape(text)}"
        if not self._console.is_terminal:
            self._console.print(line, highlight=False)
        elif self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        else:
            self._status.update(line)
        if percent >= 100:
            self.stop()

    def warn(self, text: str) -> None:
        """A warning, kept on the screen."""
        self._console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)

    def stop(self) -> None:
        """Removes the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
