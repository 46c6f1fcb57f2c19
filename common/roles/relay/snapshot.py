"""What a relay shows of itself: for its metrics and tests. Nothing is in it about who uses the relay."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.roles.relay.counts import Counts


@dataclass(frozen=True, slots=True)
class RelaySnapshot:
    """One moment. Times are seconds since 1970."""

    nickname: str
    software: str
    started: float
    onion_key_created: float
    listed: Mapping[str, bool]  # by each gateway's address
    counts: Counts
