"""The soak test's judgement: what grows is named, what goes up and down is not."""

import os
from dataclasses import replace

import pytest

from tests.soak.watch import DESCRIPTORS, MEMORY, THREADS, Look, compare, grown, look

BASE = Look(20, 50, 60_000_000)


def run(*looks: Look) -> list[str]:
    return grown([{"client": each} for each in looks])


def test_what_stays_is_flat() -> None:
    assert run(*[BASE] * 60) == []


def test_what_goes_up_and_down_is_flat() -> None:
    assert run(*[replace(BASE, descriptors=50 + number % 40) for number in range(90)]) == []


@pytest.mark.parametrize(
    ("name", "each", "said"), [("threads", 1, "threads"), ("descriptors", 1, "descriptors"), ("memory", 500_000, "memory")]
)
def test_a_leak_a_minute_is_named_after_an_hour(name: str, each: int, said: str) -> None:
    sentences = run(*[replace(BASE, **{name: getattr(BASE, name) + minute * each}) for minute in range(60)])
    assert len(sentences) == 1
    assert "client grows" in sentences[0]
    assert said in sentences[0]


def test_the_allowance_is_for_each_process() -> None:
    most = Look(20 + THREADS, 50 + DESCRIPTORS, 60_000_000 + MEMORY)
    assert compare([{"a": BASE, "b": BASE}], [{"a": most, "b": BASE}]) == []
    more = replace(most, threads=most.threads + 1)
    assert compare([{"a": BASE, "b": BASE}], [{"a": BASE, "b": more}]) == [
        "b grows: it had 20 threads at first, and 25 in the end"
    ]


class _Own:
    name = "own"

    def threads(self) -> int:
        return 3

    def descriptors(self) -> int:
        return os.getpid()

    def memory(self) -> int:
        return 7


def test_a_look_has_all_processes_by_name() -> None:
    assert look([_Own()]) == {"own": Look(3, os.getpid(), 7)}
    assert str(Look(3, 4, 5_000_000)) == "3 threads 4 files 5 MB"
