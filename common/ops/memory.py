"""How this process uses memory: set once at the start, for programs in which bytes rush through.

Two defaults cost a tenth and a twentieth of a relay's processor time. The C library gives memory back to the
kernel whenever 128 KiB are free, and gets it back zeroed a moment later, page by page; and Python looks for cycles
after each 700 new containers, of which a new stream makes hundreds and leaves no cycle.
"""

import ctypes
import gc
import sys

_KEPT = 8 * 2**20  # bytes free that each of the C library's heaps may keep
_MAPPED = 4 * 2**20  # bytes from which a block is memory of its own: none that is used again and again
_CONTAINERS = 20_000  # new ones after which cycles are looked for
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3), in glibc alone


def tune() -> None:
    """Call it when the program's modules are loaded: they are then left out of every search for cycles."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries may have none, or ignore it
        if mallopt is not None:
            mallopt(_TRIM_THRESHOLD, _KEPT)
            mallopt(_MMAP_THRESHOLD, _MAPPED)
    gc.freeze()
    gc.set_threshold(_CONTAINERS)
