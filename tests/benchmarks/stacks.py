"""What samplers say, read and put into classes: py-spy's stacks and perf's list of libraries. Nothing here waits.

A stack of py-spy's raw format is one line, "frame;frame;...;frame COUNT", outermost first; the first one is the
thread. A Python frame is "function (folder/file.py)", another one "symbol (library.so)".
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# How a thread looks that waits for the interpreter lock: CPython 3.11 and 3.12 wait on a condition with a limit (the
# switch interval) there and nowhere else; the locks of `threading` are semaphores.
LOCK_WAIT = "pthread_cond_timedwait"

TLS, LAYERS, LIBC, INTERPRETER = "TLS library", "cryptography", "C library", "interpreter"
_LIBRARIES = (
    ("libssl", TLS),
    ("libcrypto", TLS),
    ("_ssl", TLS),
    ("_rust", LAYERS),
    ("libc.so", LIBC),
    ("libc-", LIBC),
)  # beginnings of names; cryptography brings an OpenSSL of its own inside _rust
_KERNEL = "[kernel"


@dataclass(frozen=True, slots=True)
class Stack:
    """A sampled stack and how often it was seen; `frames` are outermost first, without the thread."""

    thread: str
    frames: tuple[str, ...]
    count: int


def parse_stacks(text: str) -> list[Stack]:
    """Lines of another form are left out."""
    stacks = []
    for line in text.splitlines():
        head, _, count = line.rpartition(" ")
        thread, *frames = head.split(";")
        if frames and count.isdigit():
            stacks.append(Stack(thread, tuple(frames), int(count)))
    return stacks


def waiting_share(stacks: Iterable[Stack]) -> tuple[float, int]:
    """Threads that wait for the interpreter lock at a time, on average, and the number of looks.

    All threads must have been sampled, idle ones too: the one seen most often tells how many looks there were.
    """
    seen: Counter[str] = Counter()
    waits = 0
    for stack in stacks:
        seen[stack.thread] += stack.count
        if any(frame.startswith(LOCK_WAIT) for frame in stack.frames):
            waits += stack.count
    looks = max(seen.values(), default=0)
    return (waits / looks if looks else 0.0), looks


def function_shares(stacks: Iterable[Stack]) -> dict[str, float]:
    """The share of all samples in which each Python function was the innermost, the largest first."""
    seen: Counter[str] = Counter()
    for stack in stacks:
        python = [frame for frame in stack.frames if frame.endswith(".py)")]
        if python:
            seen[_short(python[-1])] += stack.count
    total = sum(seen.values())
    return {name: count / total for name, count in seen.most_common()} if total else {}


def file_shares(functions: Mapping[str, float]) -> dict[str, float]:
    """The same added up by file, the largest first."""
    found: dict[str, float] = {}
    for name, share in functions.items():
        file = name.split(" ")[0]
        found[file] = found.get(file, 0.0) + share
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def _short(frame: str) -> str:
    """ "function (/some/where/common/net/link.py)" as "net/link.py function": the last folder and the file."""
    name, _, path = frame.removesuffix(")").rpartition(" (")
    return "/".join(path.split("/")[-2:]) + " " + name


def library_shares(report: str) -> dict[str, float]:
    """What part of a process's time outside the kernel each class of library takes, from `perf report`.

    Its lines are "OVERHEAD%,LIBRARY"; comments and empty lines are left out. The kernel's part is told exactly by
    /proc, and a sampler without privileges does not see it: so it is left out here.
    """
    found: dict[str, float] = {}
    for line in report.splitlines():
        percent, _, library = (part.strip() for part in line.partition(","))
        if line.startswith("#") or not percent.endswith("%") or library.startswith(_KERNEL):
            continue
        kind = next((kind for start, kind in _LIBRARIES if library.startswith(start)), INTERPRETER)
        found[kind] = found.get(kind, 0.0) + float(percent.removesuffix("%"))
    total = sum(found.values())
    return {kind: value / total for kind, value in found.items()} if total else {}
