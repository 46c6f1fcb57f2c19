"""What a person sees while a client starts: one moving line on a terminal, plain lines elsewhere.

`rich` is loaded for a terminal only: a proxy that runs as a service starts without it.
"""

from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


class StartProgress:
    """Called with percent and text; the line is gone at 100 percent, and at the end of `with`."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._console = _console(output) if output.isatty() else None
        self._status: Status | None = None

    def __call__(self, percent: int, text: str) -> None:
        """One step, from any thread."""
        line = f"{percent:3d} %  {text}"
        if self._console is None:
            print(line, file=self._output, flush=True)
        elif self._status is None:
            self._status = self._console.status(_escaped(line))
            self._status.start()
        else:
            self._status.update(_escaped(line))
        if percent >= 100:
            self.stop()

    def warn(self, text: str) -> None:
        """A warning, kept on the screen."""
        if self._console is None:
            print(f"warning: {text}", file=self._output, flush=True)
        else:
            self._console.print(f"[yellow]warning:[/] {_escaped(text)}", soft_wrap=True)

    def stop(self) -> None:
        """Removes the line."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _console(output: TextIO) -> "Console":
    from rich.console import Console  # noqa: PLC0415  see the module

    return Console(file=output)


def _escaped(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415  see the module

    return escape(text)
