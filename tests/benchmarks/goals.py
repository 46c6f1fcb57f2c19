"""What is measured, who is compared, and the goals of the project: the tables that runs and reports share."""

from dataclasses import dataclass
from enum import Enum

from tests.benchmarks.results import Results, Spread

SUITES = ("fernet", "aes-gcm")
YARDSTICK = "C tor fast"
TOR_DEFAULT = "C tor default"
FORWARDERS = "forwarders"
DIRECT = "direct"
CONTENDERS = (*SUITES, YARDSTICK, TOR_DEFAULT, FORWARDERS, DIRECT)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number; `better` is "more" or "less"."""

    name: str
    title: str
    unit: str
    better: str


_MEASURES = (
    Measure("download_1", "download, 1 stream", "MB/s", "more"),
    Measure("download_16", "download, 16 streams, one circuit", "MB/s", "more"),
    Measure("download_16_isolated", "download, 16 streams, a circuit each", "MB/s", "more"),
    Measure("upload_1", "upload, 1 stream", "MB/s", "more"),
    Measure("cpu", "CPU of client and relays, all transfers", "s/GB", "less"),
    Measure("echo_median", "echo of 64 bytes, median", "ms", "less"),
    Measure("echo_p95", "echo of 64 bytes, 95 %", "ms", "less"),
    Measure("echo_cpu", "CPU of client and relays, an echo", "µs", "less"),
    Measure("first_byte_median", "new stream to first byte, median", "ms", "less"),
    Measure("first_byte_p95", "new stream to first byte, 95 %", "ms", "less"),
    Measure("prompt_shared_p95", "echo beside 16 bulk streams on its circuit, 95 %", "ms", "less"),
    Measure("prompt_apart_p95", "echo beside 16 bulk streams, a circuit each, 95 %", "ms", "less"),
    Measure("shares_shared", "slowest of 16 bulk streams on one circuit, of the fastest", "%", "more"),
    Measure("shares_apart", "slowest of 16 bulk streams, a circuit each, of the fastest", "%", "more"),
    Measure("stream_rate", "new streams, 32 workers", "/s", "more"),
    Measure("stream_cpu", "CPU of client and relays, a new stream of 32 workers", "µs", "less"),
    Measure("open_seconds", "2,000 streams, time to open", "s", "less"),
    Measure("open_failures", "2,000 streams, failures", "", "less"),
    Measure("memory_idle", "memory of a relay, idle", "MB", "less"),
    Measure("memory_2000", "memory of a relay, 2,000 streams", "MB", "less"),
    Measure("circuit_median", "circuit build, links up, median", "ms", "less"),
    Measure("circuit_rate", "circuits, 16 at a time", "/s", "more"),
    Measure("network_start", "network start to first byte", "s", "less"),
    Measure("client_start", "client start to first byte, cold", "s", "less"),
    Measure("prompt_start", "client start to its prompt, cold", "s", "less"),
)
MEASURES = {measure.name: measure for measure in _MEASURES}


class Verdict(Enum):
    """How a goal stands."""

    MET = "met"
    MISSED = "not met"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """A measure of a suite and its limit: at least or at most, as the measure is better.

    With `relative` the limit is a multiple of what C tor fast reached in the same round. `there` is what it reached
    on the machine for which the limit was set, where that tells how quick a machine is.
    """

    measure: str
    suite: str
    limit: float
    relative: bool
    there: float | None = None

    @property
    def scaled(self) -> "Goal | None":
        """The same as a multiple of what C tor fast reaches here, if that can be said."""
        if self.there is None:
            return None
        return Goal(self.measure, self.suite, self.limit / self.there, relative=True)

    def reached(self, results: Results) -> Spread | None:
        """Of the value to be judged, over the rounds."""
        if self.relative:
            return results.ratio(self.suite, YARDSTICK, self.measure)
        return results.spread(self.suite, self.measure)

    def verdict(self, results: Results) -> Verdict:
        """Judges the median."""
        reached = self.reached(results)
        if reached is None:
            return Verdict.UNKNOWN
        more = MEASURES[self.measure].better == "more"
        met = reached.median >= self.limit if more else reached.median <= self.limit
        return Verdict.MET if met else Verdict.MISSED


_RELATIVE = {name: (1.0, 2.5) for name in ("download_1", "upload_1", "download_16", "download_16_isolated")}
_ABSOLUTE = {
    "echo_median": (0.7, 0.45),
    "echo_p95": (2.0, 2.0),
    "first_byte_median": (1.5, 1.2),
    "first_byte_p95": (4.0, 4.0),
    "prompt_shared_p95": (25.0, 25.0),
    "prompt_apart_p95": (25.0, 25.0),
    "shares_shared": (80.0, 80.0),
    "shares_apart": (80.0, 80.0),
    "stream_rate": (2_000.0, 2_900.0),
    "open_failures": (0.0, 0.0),
    "open_seconds": (1.4, 1.4),
    "circuit_median": (4.0, 4.0),
    "circuit_rate": (250.0, 250.0),
    "cpu": (18.0, 8.0),
    "memory_idle": (45.0, 45.0),
    "memory_2000": (120.0, 120.0),
    "network_start": (4.0, 4.0),
    "client_start": (0.8, 0.8),
}  # one limit per suite
_THERE = {"echo_median": 0.43, "first_byte_median": 1.6, "stream_rate": 2_900.0, "cpu": 17.0}
GOALS = tuple(
    Goal(name, suite, limit, relative, _THERE.get(name))
    for table, relative in ((_RELATIVE, True), (_ABSOLUTE, False))
    for name, limits in table.items()
    for suite, limit in zip(SUITES, limits, strict=True)
)
