"""A client that starts while a person already types: the prompt waits for no circuit.

What is asked for waits, and shows how far the start is. A start that failed is told then, as it would have been.
"""

import threading
from collections.abc import Callable
from typing import Self

from common.errors import OnionError
from common.roles.client.client import Client


class NotStarted(OnionError):
    """The client could not start; the text is the sentence why."""


class Starting:
    """`with` begins to start the client that is given to it, and closes it at the end."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="start", daemon=True)
        self._over = threading.Event()
        self._error: OnionError | None = None
        self._lock = threading.Lock()  # guards the next two, and is held while the person is told
        self._tell: Callable[[str], None] | None = None  # while somebody waits
        self._held: list[str] = []  # warnings of before somebody waited: they would be written into the typed line
        self._step = "starting"

    def progress(self, percent: int, text: str) -> None:
        """The client's progress, from any thread."""
        with self._lock:
            self._step = f"{percent} %  {text}"
            if self._tell is not None:
                self._tell(self._step)

    def warn(self, text: str) -> None:
        """The client's warning, from any thread: kept until somebody waits for the start, or asks."""
        with self._lock:
            self._held.append(text)

    def warnings(self) -> list[str]:
        """Those of which nobody has heard yet."""
        with self._lock:
            held, self._held = self._held, []
        return held

    def begin(self, client: Client) -> Self:
        """To be entered: the client, made with `progress` and `warn` of this object."""
        self._client = client
        return self

    def wait(self, tell: Callable[[str], None]) -> None:
        """Returns when the client is ready; raises `NotStarted`."""
        if not self._over.is_set():
            with self._lock:
                self._tell = tell
                tell(self._step)
            try:
                self._over.wait()
            finally:
                with self._lock:
                    self._tell = None
        if self._error is not None:
            raise NotStarted(str(self._error)) from self._error

    def __enter__(self) -> Self:
        assert self._client is not None
        try:
            self._client.begin()
            self._thread.start()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._client is not None
        self._client.close()  # who waits for the first circuit is told that there will be none
        self._thread.join()

    def _run(self) -> None:
        assert self._client is not None
        self._error = OnionError("the client could not start: internal error")  # unless we hear of another
        try:
            self._client.wait_ready()
            self._error = None
        except OnionError as error:
            self._error = error
        finally:
            self._over.set()
