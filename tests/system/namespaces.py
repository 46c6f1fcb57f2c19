"""Making things inside the network namespace of another process."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def made_in(pid: int, factory: Callable[[], T]) -> T:
    """What `factory` makes in the network of a process: sockets belong to the network in which they were made."""
    result: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with open(f"/proc/{pid}/ns/net") as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(factory())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter, name="in a namespace")  # setns counts for one thread
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]
