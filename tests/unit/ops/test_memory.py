"""What the allocator keeps is counted by the kernel: a page that is given back is faulted in anew."""

import subprocess
import sys

import pytest

# The middle of a transfer in small: batches of cells come and go, and nothing else holds the heap's top.
_WORK = """
import gc, resource, sys
from common.ops import memory
if "tuned" in sys.argv:
    memory.tune()
def work(times):
    for _ in range(times):
        held = [bytes(16_384) for _ in range(64)]
        del held
work(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(100)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, gc.get_freeze_count(), gc.get_threshold()[0])
"""


def _faults(*words: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", _WORK, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return [int(word) for word in done.stdout.split()]


def test_cells_that_come_and_go_cost_no_page_faults() -> None:
    faults, frozen, threshold = _faults("tuned")
    assert frozen > 1_000  # the modules are left out of the search for cycles
    assert threshold == 20_000
    if _faults()[0] < 1_000:
        pytest.skip("this system's allocator keeps what is freed by itself")
    assert faults < 100
