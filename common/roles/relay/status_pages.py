"""What the status page says of a relay: metrics and JSON, both made from a snapshot and the time.

The tables say all that is shown of the counts: a number whose name is not here is on no page.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from common.errors import DestroyReason, EndReason
from common.roles.relay.snapshot import RelaySnapshot
from common.roles.status_http import Page

PREFIX = "onion_relay_"


@dataclass(frozen=True, slots=True)
class _Family:
    """A number, or one for each value of a label; its name and the value are the number's name in the counts."""

    name: str
    text: str
    label: str = ""
    values: tuple[str, ...] = ()

    def numbers(self) -> Iterable[str]:
        """The names."""
        return [f"{self.name}_{value}" for value in self.values] or [self.name]


def _words(*reasons: DestroyReason | EndReason) -> tuple[str, ...]:
    return tuple(reason.name.lower() for reason in reasons)


_DIRECTIONS = ("in", "out")
_CREATE_REFUSALS = _words(DestroyReason.LIMIT, DestroyReason.PROTOCOL, DestroyReason.SHUTTING_DOWN)
_STREAM_REFUSALS = _words(
    EndReason.POLICY,
    EndReason.LIMIT,
    EndReason.NOT_FOUND,
    EndReason.REFUSED,
    EndReason.UNREACHABLE,
    EndReason.TIMEOUT,
)
_NOW = (
    _Family("processes", "Processes that carry circuits: one, or the workers."),
    _Family("silent_processes", "Those of them that do not tell: what is open there is left out."),
    _Family("links", "Open links, by who dialled.", "direction", _DIRECTIONS),
    _Family("circuits", "Open circuits."),
    _Family("streams", "Open streams that leave the network here, those included that are being opened."),
    _Family("waiting_bytes", "What waits for links and targets that take their time, in memory."),
    _Family("budget_bytes", "What may wait before circuits are ended."),
)
_EVER = (
    _Family("link_bytes", "Bytes on links, TLS included.", "direction", _DIRECTIONS),
    _Family("creates_answered", "Circuits that were agreed with this relay."),
    _Family("creates_refused", "Circuits that were not, by the reason told.", "reason", _CREATE_REFUSALS),
    _Family("streams_opened", "Streams whose targets were reached."),
    _Family("streams_refused", "Streams whose targets were not, by the reason told.", "reason", _STREAM_REFUSALS),
    _Family("circuits_shed", "Circuits that were ended because too much waited."),
)


def json_page(snapshot: RelaySnapshot, now: float) -> bytes:
    """The numbers of the metrics, for other programs; times are seconds since 1970, ages seconds."""
    content = {
        "nickname": snapshot.nickname,
        "software": snapshot.software,
        "time": now,
        "started": snapshot.started,
        "uptime": max(0.0, now - snapshot.started),
        "onion_key_age": max(0.0, now - snapshot.onion_key_created),
        "listed": snapshot.listed,
        "now": _numbers(_NOW, snapshot.counts.now),
        "since_start": _numbers(_EVER, snapshot.counts.ever),
    }
    return json.dumps(content, indent=1).encode("ascii") + b"\n"


def _numbers(families: Iterable[_Family], counts: Counter[str]) -> dict[str, Any]:
    return {name: counts[name] for family in families for name in family.numbers()}


class _Metrics(Collector):
    def __init__(self, snapshot: RelaySnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """One snapshot as Prometheus' families."""
        snapshot = self._snapshot
        who = {"nickname": snapshot.nickname, "software": snapshot.software}
        yield InfoMetricFamily(PREFIX.rstrip("_"), "Which relay this is.", value=who)
        text = "When the relay was started, since 1970."
        yield GaugeMetricFamily(PREFIX + "start_time_seconds", text, value=snapshot.started)
        text = "When its newest onion key was made, since 1970."
        yield GaugeMetricFamily(PREFIX + "onion_key_created_seconds", text, value=snapshot.onion_key_created)
        listed = GaugeMetricFamily(PREFIX + "listed", "1 for a gateway that lists it, else 0.", labels=["gateway"])
        for gateway, is_listed in snapshot.listed.items():
            listed.add_metric([gateway], is_listed)
        yield listed
        yield from _metrics(GaugeMetricFamily, _NOW, snapshot.counts.now)
        yield from _metrics(CounterMetricFamily, _EVER, snapshot.counts.ever)


def _metrics(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily], families: Iterable[_Family], counts: Counter[str]
) -> Iterable[Metric]:
    for family in families:
        metric = kind(PREFIX + family.name, family.text, labels=[family.label] if family.label else [])
        for name, value in zip(family.numbers(), family.values or ("",), strict=True):
            metric.add_metric([value] if family.label else [], counts[name])
        yield metric


def metrics_page(snapshot: RelaySnapshot, _now: float) -> bytes:
    """For Prometheus, in its text format."""
    return generate_latest(_Metrics(snapshot))


PAGES = {
    "/status.json": Page("application/json", json_page),
    "/metrics": Page(CONTENT_TYPE_LATEST, metrics_page),
}
