"""Thousands of streams in one thread, with little work of its own: the benchmark shares the cores it measures.

A task is a generator that yields (file descriptor, events) and goes on when that is ready.
"""

import select
import socket
from collections.abc import Generator

from common.net.deadline import Deadline

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
Task = Generator[tuple[int, int], None, None]


class Loop:
    """Runs tasks side by side; leaving the `with` closes those that have not finished."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._tasks: dict[int, Task] = {}
        self._events: dict[int, int] = {}

    def spawn(self, task: Task) -> None:
        """Runs a task up to where it waits."""
        step = next(task, None)
        if step is None:
            return
        handle, events = step
        known = self._events.get(handle)
        if known is None:
            self._epoll.register(handle, events)
        elif known != events:
            self._epoll.modify(handle, events)
        self._events[handle] = events
        self._tasks[handle] = task

    def forget(self, sock: socket.socket) -> None:
        """Closes a socket: tasks close theirs with this."""
        if self._events.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())
        sock.close()

    def run(self, deadline: Deadline) -> None:
        """Until all tasks have finished or time is up."""
        while self._tasks and not deadline.expired:
            self.turn(deadline)

    def turn(self, deadline: Deadline) -> None:
        """Waits until some tasks can go on, or time is up, and lets them."""
        for handle, _ in self._epoll.poll(deadline.left()):
            task = self._tasks.pop(handle, None)
            if task is not None:
                self.spawn(task)
            elif self._events.pop(handle, None) is not None:
                self._epoll.unregister(handle)  # nobody waits for it now

    def __enter__(self) -> "Loop":
        return self

    def __exit__(self, *_: object) -> None:
        while self._tasks:
            self._tasks.popitem()[1].close()
        self._epoll.close()
