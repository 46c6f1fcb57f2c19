"""The pages of a made-up gateway: that they say what the snapshot says, and that no text of a relay gets through."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.directory.addresses import Address
from common.directory.descriptor import Descriptor
from common.directory.document import RelayEntry
from common.directory.observation import History
from common.roles.gateway.snapshot import GatewaySnapshot
from common.roles.gateway.status_pages import PAGES, html_page, json_page, metrics_page

NOW = 1_800_000_000.0
KEY = b"g" * 32


def entry(number: int, **changes: object) -> RelayEntry:
    descriptor = Descriptor(
        nickname=f"relay{number}",
        address=Address("192.0.2.1", 9_000 + number),
        identity=bytes([number]) * 32,
        onion_keys=(b"o" * 32,),
        exit_policy="accept *:80, accept *:443",
        family="",
        bandwidth=9,
        software="test 1",
        versions=(1,),
        published=NOW,
    )
    descriptor = replace(descriptor, **changes)  # type: ignore[arg-type]
    return RelayEntry(b"", descriptor, NOW - 3_700 * number, 10.0 * number, ("running", "exit"), 1_500_000 * number)


def snapshot_of(*relays: RelayEntry, serial: int = 7) -> GatewaySnapshot:
    history = History(NOW - 100_000, NOW - 3_700, NOW, NOW, up=75.0, watched=100.0, failures=3)
    return GatewaySnapshot(
        network="lab",
        identity=KEY,
        addresses=(Address("127.0.0.1", 9_000),),
        started=NOW - 90_061,
        relays=relays,
        histories={relay.descriptor.identity: history for relay in relays[:1]},
        serial=serial,
        valid_after=NOW - 65,
        valid_until=NOW + 535,
        document_size=12_345,
        transfer_size=6_789,
        build_seconds=0.25,
        connections=4,
        clients_greeted=11,
        pings_sent=100,
        pings_missed=2,
        storing=True,
    )


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, and its texts."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.texts: list[str] = []
        self._depth: list[str] = []
        self.feed(page.decode("utf-8"))
        self.close()
        assert self._depth == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attrs))
        if tag != "meta":
            self._depth.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._depth.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_says_what_the_snapshot_says() -> None:
    texts = Reader(html_page(snapshot_of(entry(1), entry(2)), NOW)).texts
    for text in (
        "gateway of the network lab",
        "2 relays",
        "serial 7, 1 min 5 s old",
        "2027-01-15 08:08:55 UTC",
        KEY.hex(),
        "12,345 bytes, 6,789 to send",
        "relay1",
        "01" * 8,
        "192.0.2.1:9001",
        "running exit",
        "10.0 ms",
        "2027-01-15 06:58:20 UTC (1 h 1 min)",
        "75.0 %",
        "1.50 MB/s",
        "accept *:80, accept *:443",
        "100 sent, 2 missed",
    ):
        assert text in texts


def test_without_a_document_or_a_round_trip_nothing_is_made_up() -> None:
    unknown = replace(entry(1), round_trip_ms=0.0, bandwidth=0)
    snapshot = replace(snapshot_of(unknown, serial=0), histories={}, storing=False)
    texts = Reader(html_page(snapshot, NOW)).texts
    assert "none yet" in texts and "unknown" in texts and "REFUSES: the list is in memory only" in texts
    assert not any("ms" in text.split() or "1970" in text for text in texts)
    told = json.loads(json_page(snapshot, NOW))
    assert told["document"] is None
    assert told["relays"][0]["uptime"] is None


HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</td></table>&lt;b&gt;", "\ud800<b>\x00é\u202e"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["nickname", "exit_policy", "software", "family"])
def test_a_relay_cannot_inject_into_the_page(field: str, text: str) -> None:
    """Even one whose descriptor should never have been taken."""
    clean = Reader(html_page(snapshot_of(entry(1)), NOW)).elements
    hostile = html_page(snapshot_of(entry(1, **{field: text})), NOW)
    assert Reader(hostile).elements == clean
    assert json.loads(json_page(snapshot_of(entry(1, **{field: text})), NOW))["relays"][0][field] == text
    assert b"<" not in json_page(snapshot_of(entry(1)), NOW)


def test_hostile_flags_and_networks_do_not_inject_either() -> None:
    flagged = replace(entry(1), flags=("<b>", 'x"y\n'))
    snapshot = replace(snapshot_of(flagged), network='<i>"\n')
    assert {tag for tag, _ in Reader(html_page(snapshot, NOW)).elements}.isdisjoint({"b", "i"})
    families = text_string_to_metric_families(metrics_page(snapshot, NOW).decode())
    labels = [sample.labels for family in families for sample in family.samples]
    assert {"flag": 'x"y\n'} in labels


def test_json_equals_the_snapshot() -> None:
    snapshot = snapshot_of(entry(1), entry(2))
    told = json.loads(json_page(snapshot, NOW))
    assert told["network"] == "lab"
    assert told["time"] == NOW
    assert told["flags"] == {"running": 2, "exit": 2}
    gateway, document = told["gateway"], told["document"]
    assert (gateway.pop("key"), gateway.pop("addresses"), gateway.pop("relays_known")) == (KEY.hex(), ["127.0.0.1:9000"], 1)
    assert gateway == {name: getattr(snapshot, name) for name in gateway}
    assert (document.pop("age"), document.pop("signatures")) == (65, [KEY.hex()])
    assert document.pop("size") == snapshot.document_size
    assert document == {name: getattr(snapshot, name) for name in document}
    for relay, listed in zip(told["relays"], snapshot.relays, strict=True):
        descriptor = listed.descriptor
        assert bytes.fromhex(relay["identity"]) == descriptor.identity
        assert relay["address"] == str(descriptor.address)
        assert tuple(relay["flags"]) == listed.flags
        assert {name: relay[name] for name in ("nickname", "exit_policy", "family", "software")} == {
            name: getattr(descriptor, name) for name in ("nickname", "exit_policy", "family", "software")
        }
        for name in ("round_trip_ms", "running_since", "bandwidth"):
            assert relay[name] == getattr(listed, name)
    assert [(relay["uptime"], relay["failures"]) for relay in told["relays"]] == [(0.75, 3), (None, None)]


def test_the_metrics_are_what_prometheus_reads() -> None:
    text = metrics_page(snapshot_of(entry(1), entry(2), entry(3)), NOW).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["onion_gateway_relays",] == 3
    assert samples["onion_gateway_info", KEY.hex(), "lab"] == 1
    assert samples["onion_gateway_flagged_relays", "exit"] == 3
    assert samples["onion_gateway_bandwidth_bytes_per_second",] == 9_000_000
    assert samples["onion_gateway_pings_sent_total",] == 100
    assert samples["onion_gateway_pings_missed_total",] == 2
    assert samples["onion_gateway_clients_greeted_total",] == 11
    assert samples["onion_gateway_document_serial",] == 7
    assert samples["onion_gateway_document_valid_until_seconds",] == NOW + 535
    assert samples["onion_gateway_storing",] == 1
    assert [samples["onion_gateway_round_trip_seconds", quantile] for quantile in ("0.5", "0.9", "1.0")] == [0.02, 0.03, 0.03]
    assert all(family.documentation for family in families.values())
    assert {family.type for family in families.values()} == {"gauge", "counter"}


@pytest.mark.parametrize("path", PAGES)
def test_an_empty_gateway_has_every_page(path: str) -> None:
    assert PAGES[path].render(snapshot_of(serial=0), NOW)
