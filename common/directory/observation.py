"""What a gateway has seen of a relay, and what it concludes. Only what this gateway saw itself counts.

**Uptime** is seconds seen up through seconds watched, since the relay was first listed. Both sums lose half of
their weight every 7 days, so that a relay is judged by its last weeks. The time in which the gateway itself did
not run is in neither.

**Flags**
* `running`: listed. It answers pings, and its identity answers at its address.
* `exit`: its policy opens ports 80 and 443 to some address.
* `fast`: its believed bandwidth is 1 MB/s or more: enough for a video.
* `stable`: watched for a day or longer (by the weights above), up for 95 % of it, and running for an hour.
* `guard`: first seen a week ago or longer, up for 98 %, and both stable and fast.

**Bandwidth** is what the relay says that it has carried; a gateway cannot measure it without loading the network.
A newcomer's word is believed up to 2 times the median of what all listed relays say, that of a stable relay up to
10 times. So who lies gains little without first serving for days, and moving the median takes half of the network.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace

from common.directory.descriptor import Descriptor
from common.directory.exit_policy import WEB_PORTS

HOUR, DAY = 3_600.0, 86_400.0
HALF_LIFE = 7 * DAY
_TIME_CONSTANT = HALF_LIFE / math.log(2)
STABLE_WATCHED, STABLE_UPTIME, STABLE_RUNNING = DAY, 0.95, HOUR
GUARD_KNOWN, GUARD_UPTIME = 7 * DAY, 0.98
FAST = 1_000_000  # bytes a second
NEWCOMER_FACTOR, STABLE_FACTOR = 2, 10
SMOOTHING = 8  # a new round trip counts one part in so many, as in TCP (RFC 6298, section 2)


@dataclass(frozen=True, slots=True)
class History:
    """A relay's past, in seconds (since 1970); `failures` counts the times it left without a good-bye."""

    first_seen: float
    running_since: float
    updated: float  # until when `up` and `watched` count
    last_seen: float
    up: float = 0.0
    watched: float = 0.0
    round_trip_ms: float = 0.0
    failures: int = 0

    @classmethod
    def begin(cls, now: float) -> "History":
        """Of a relay that is listed for the first time."""
        return cls(first_seen=now, running_since=now, updated=now, last_seen=now)

    @property
    def uptime(self) -> float:
        """The share of time it was up, 0 to 1; 1 before anything was watched."""
        return self.up / self.watched if self.watched else 1.0

    def advance(self, now: float, *, up: bool, round_trip_ms: float | None = None) -> "History":
        """With the time since the last call counted; a clock that was set back counts nothing."""
        passed = max(0.0, now - self.updated)
        keep = math.exp(-passed / _TIME_CONSTANT)
        gain = (1 - keep) * _TIME_CONSTANT
        return replace(
            self,
            updated=now,
            last_seen=now if up else self.last_seen,
            up=self.up * keep + gain * up,
            watched=self.watched * keep + gain,
            round_trip_ms=self.round_trip_ms if round_trip_ms is None else round_trip_ms,
        )

    def is_stable(self, now: float) -> bool:
        """The rule of `stable` above."""
        running = now - self.running_since
        return self.watched >= STABLE_WATCHED and self.uptime >= STABLE_UPTIME and running >= STABLE_RUNNING


def smooth(before: float, sample: float) -> float:
    """The smoothed round trip after one more sample, both in milliseconds; 0 is none yet."""
    return before + (sample - before) / SMOOTHING if before else sample


def typical_claim(claims: Iterable[int]) -> int:
    """The median of the bandwidths that relays claim, those who know theirs; 0 when nobody does."""
    known = [claim for claim in claims if claim]
    return round(statistics.median(known)) if known else 0


def believed_bandwidth(claim: int, typical: int, stable: bool) -> int:
    """What the gateway lists as a relay's bandwidth, in bytes a second."""
    return min(claim, typical * (STABLE_FACTOR if stable else NEWCOMER_FACTOR))


def flags(descriptor: Descriptor, history: History, bandwidth: int, now: float) -> tuple[str, ...]:
    """The words for a listed relay, by the rules above."""
    words = ["running"]
    stable, fast = history.is_stable(now), bandwidth >= FAST
    if stable:
        words.append("stable")
    if all(descriptor.policy.may_allow_port(port) for port in WEB_PORTS):
        words.append("exit")
    known = now - history.first_seen >= GUARD_KNOWN and history.uptime >= GUARD_UPTIME
    if stable and fast and known:
        words.append("guard")
    if fast:
        words.append("fast")
    return tuple(words)
