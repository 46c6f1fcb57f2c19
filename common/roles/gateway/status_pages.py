"""What the status page says of a gateway: HTML, JSON and metrics, each made from a snapshot and the time.

* Whatever comes from a relay is text: in HTML everything is escaped but what this file wrote itself.
* There is nothing about clients in a snapshot but how many there are, so there is nothing here either.
* The metrics are of the gateway and of the relays together. One series for each of 10,000 relays would be what
  fills a Prometheus first; who wants single relays reads the JSON.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from common.directory.document import RelayEntry
from common.roles.gateway.snapshot import GatewaySnapshot
from common.roles.status_http import Page

SHORT_IDENTITY = 16  # hex digits in the table; the JSON has all
SHORT_POLICY = 60  # characters in the table
QUANTILES = (0.5, 0.9, 1.0)  # of the round trips, in the metrics
PREFIX = "onion_gateway_"

_COLUMNS = (
    "nickname",
    "identity",
    "address",
    "flags",
    "round trip",
    "running since",
    "uptime",
    "bandwidth",
    "exit policy",
)
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))  # of time, and the next smaller
_STYLE = (
    "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
    "th,td{text-align:left;padding:.2em .8em;border-bottom:1px solid #ccc;vertical-align:top}"
    "code{overflow-wrap:anywhere}"
)


class _Markup(str):
    """HTML that this file wrote; every other text is escaped."""

    __slots__ = ()


def _element(name: str, *children: str) -> _Markup:
    inside = "".join(child if isinstance(child, _Markup) else escape(child) for child in children)
    return _Markup(f"<{name}>{inside}</{name}>")


def html_page(snapshot: GatewaySnapshot, now: float) -> bytes:
    """The page for people; needs no JavaScript and loads nothing."""
    title = f"gateway of the network {snapshot.network}"
    head = _element("head", _Markup('<meta charset="utf-8">'), _element("title", title), _element("style", _STYLE))
    body = _element(
        "body",
        _element("h1", title),
        _table((), [[_element("th", name), value] for name, value in _facts(snapshot, now)]),
        _element("h2", f"{len(snapshot.relays)} relays"),
        _table(_COLUMNS, (_relay_row(entry, snapshot, now) for entry in snapshot.relays)),
        _element("p", _Markup('The same as <a href="/status.json">JSON</a>, <a href="/metrics">metrics</a>.')),
    )
    page = '<!DOCTYPE html>\n<html lang="en">' + head + body + "</html>\n"
    return page.encode("ascii", "xmlcharrefreplace")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> _Markup:
    heading = [_element("tr", *(_element("th", column) for column in columns))] if columns else []
    lines = (_element("tr", *(_cell(value) for value in row)) for row in rows)
    return _element("table", *heading, _Markup("\n".join(lines)))


def _cell(value: str) -> _Markup:
    if isinstance(value, _Markup) and value.startswith("<th>"):
        return value
    return _element("td", value)


def _facts(snapshot: GatewaySnapshot, now: float) -> Iterable[tuple[str, str]]:
    yield "gateway's key", _element("code", snapshot.identity.hex())
    yield "listens on", ", ".join(map(str, snapshot.addresses))
    yield "running since", _since(snapshot.started, now)
    if snapshot.serial:
        yield "document", f"serial {snapshot.serial}, {_span(now - snapshot.valid_after)} old"
        yield "valid until", _moment(snapshot.valid_until)
        yield "signatures", _element("code", snapshot.identity.hex())
        yield "size", f"{snapshot.document_size:,} bytes, {snapshot.transfer_size:,} to send"
        yield "built in", f"{snapshot.build_seconds:.3f} s"
    else:
        yield "document", "none yet"
    for flag, count in sorted(_flags(snapshot).items()):
        yield f"relays that are {flag}", str(count)
    yield "relays known", str(len(snapshot.histories))
    yield "connections", str(snapshot.connections)
    yield "clients greeted", str(snapshot.clients_greeted)
    yield "pings", f"{snapshot.pings_sent} sent, {snapshot.pings_missed} missed"
    yield "disk", "takes what is stored" if snapshot.storing else "REFUSES: the list is in memory only"


def _relay_row(entry: RelayEntry, snapshot: GatewaySnapshot, now: float) -> list[str]:
    descriptor = entry.descriptor
    history = snapshot.histories.get(descriptor.identity)
    policy = descriptor.exit_policy
    return [
        descriptor.nickname,
        _element("code", descriptor.identity.hex()[:SHORT_IDENTITY]),
        str(descriptor.address),
        " ".join(entry.flags),
        f"{entry.round_trip_ms:.1f} ms" if entry.round_trip_ms else "",
        _since(entry.running_since, now),
        f"{100 * history.uptime:.1f} %" if history is not None else "",
        f"{entry.bandwidth / 1e6:.2f} MB/s" if entry.bandwidth else "unknown",
        policy if len(policy) <= SHORT_POLICY else policy[:SHORT_POLICY] + " ...",
    ]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _since(seconds: float, now: float) -> str:
    return f"{_moment(seconds)} ({_span(now - seconds)})"


def _span(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = max(0, int(seconds))
    for size, unit, next_size, next_unit in _UNITS:
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // next_size} {next_unit}"
    return f"{whole} s"


def _flags(snapshot: GatewaySnapshot) -> Counter[str]:
    return Counter(flag for entry in snapshot.relays for flag in entry.flags)


# ---- JSON ----


def json_page(snapshot: GatewaySnapshot, now: float) -> bytes:
    """The same for programs: an object; times are seconds since 1970, `document` is null until there is one."""
    content = {
        "network": snapshot.network,
        "time": now,
        "gateway": {
            "key": snapshot.identity.hex(),
            "addresses": list(map(str, snapshot.addresses)),
            "started": snapshot.started,
            "connections": snapshot.connections,
            "clients_greeted": snapshot.clients_greeted,
            "pings_sent": snapshot.pings_sent,
            "pings_missed": snapshot.pings_missed,
            "relays_known": len(snapshot.histories),
            "storing": snapshot.storing,
        },
        "document": _document(snapshot, now) if snapshot.serial else None,
        "flags": _flags(snapshot),
        "relays": [_relay(entry, snapshot) for entry in snapshot.relays],
    }
    return json.dumps(content, indent=1).encode("ascii") + b"\n"


def _document(snapshot: GatewaySnapshot, now: float) -> Mapping[str, Any]:
    return {
        "serial": snapshot.serial,
        "age": max(0.0, now - snapshot.valid_after),
        "valid_after": snapshot.valid_after,
        "valid_until": snapshot.valid_until,
        "signatures": [snapshot.identity.hex()],
        "size": snapshot.document_size,
        "transfer_size": snapshot.transfer_size,
        "build_seconds": snapshot.build_seconds,
    }


def _relay(entry: RelayEntry, snapshot: GatewaySnapshot) -> Mapping[str, Any]:
    descriptor = entry.descriptor
    history = snapshot.histories.get(descriptor.identity)
    return {
        "nickname": descriptor.nickname,
        "identity": descriptor.identity.hex(),
        "address": str(descriptor.address),
        "flags": list(entry.flags),
        "round_trip_ms": entry.round_trip_ms,
        "running_since": entry.running_since,
        "first_seen": history.first_seen if history is not None else None,
        "uptime": history.uptime if history is not None else None,
        "failures": history.failures if history is not None else None,
        "bandwidth": entry.bandwidth,
        "exit_policy": descriptor.exit_policy,
        "family": descriptor.family,
        "software": descriptor.software,
    }


# ---- metrics ----


class _Metrics(Collector):
    def __init__(self, snapshot: GatewaySnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """One snapshot as Prometheus' families."""
        snapshot = self._snapshot
        who = {"network": snapshot.network, "key": snapshot.identity.hex()}
        yield InfoMetricFamily(PREFIX.rstrip("_"), "Which gateway this is.", value=who)
        for name, value, text in _gauges(snapshot):
            yield GaugeMetricFamily(PREFIX + name, text, value=value)
        for name, value, text in _counters(snapshot):
            yield CounterMetricFamily(PREFIX + name, text, value=value)
        flags = GaugeMetricFamily(PREFIX + "flagged_relays", "Listed relays that have a flag.", labels=["flag"])
        for flag, count in sorted(_flags(snapshot).items()):
            flags.add_metric([flag], count)
        yield flags
        text = "The round trip that so many of the listed relays do not exceed."
        times = GaugeMetricFamily(PREFIX + "round_trip_seconds", text, labels=["quantile"])
        known = sorted(entry.round_trip_ms / 1_000 for entry in snapshot.relays if entry.round_trip_ms)
        for quantile in QUANTILES if known else ():
            times.add_metric([str(quantile)], known[math.ceil(quantile * len(known)) - 1])
        yield times


def _gauges(snapshot: GatewaySnapshot) -> Iterable[tuple[str, float, str]]:
    bandwidth = sum(entry.bandwidth for entry in snapshot.relays)
    yield "start_time_seconds", snapshot.started, "When the gateway was started, since 1970."
    yield "relays", len(snapshot.relays), "Relays listed now."
    yield "known_relays", len(snapshot.histories), "Relays that are or lately were listed."
    yield "bandwidth_bytes_per_second", bandwidth, "What the listed relays are believed to carry, together."
    yield "document_serial", snapshot.serial, "Serial of the newest document, 0 before the first."
    yield "document_valid_after_seconds", snapshot.valid_after, "When the newest document was made, since 1970."
    yield "document_valid_until_seconds", snapshot.valid_until, "When the newest document expires, since 1970."
    yield "document_bytes", snapshot.document_size, "Size of the signed document."
    yield "document_transfer_bytes", snapshot.transfer_size, "What a client is sent, compressed."
    yield "document_build_seconds", snapshot.build_seconds, "How long building the newest document took."
    yield "connections", snapshot.connections, "Open connections of relays and clients."
    yield "storing", snapshot.storing, "1 when the disk takes what is stored, else 0."


def _counters(snapshot: GatewaySnapshot) -> Iterable[tuple[str, float, str]]:
    yield "clients_greeted", snapshot.clients_greeted, "Clients that have greeted."
    yield "pings_sent", snapshot.pings_sent, "Pings sent to relays."
    yield "pings_missed", snapshot.pings_missed, "Pings that no answer came to in time."


def metrics_page(snapshot: GatewaySnapshot, _now: float) -> bytes:
    """The same for Prometheus, in its text format."""
    return generate_latest(_Metrics(snapshot))


PAGES = {
    "/": Page("text/html; charset=utf-8", html_page),
    "/status.json": Page("application/json", json_page),
    "/metrics": Page(CONTENT_TYPE_LATEST, metrics_page),
}
