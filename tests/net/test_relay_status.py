"""The status page of a relay over real HTTP: that its numbers are those of real traffic, and that it names nobody."""

import contextlib
import http.client
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.circuit.actions import Opened, StreamEnded
from common.circuit.origin import PathHop
from common.errors import ConfigError, DestroyReason, EndReason
from common.roles import status_http
from common.roles.relay import look_ups
from common.roles.relay import relay as relay_module
from common.roles.relay.counts import COUNT_TIME
from common.roles.relay.listed_relay import SOFTWARE
from common.roles.relay.status_pages import PAGES
from common.roles.status_http import StatusServer
from tests.net.in_process import LOOPBACK, PATIENCE, InProcess, Member, wait_until
from tests.net.raw_client import RawClient
from tests.net.test_relay import SlowNames, hop
from tests.net.test_workers import COUNT, a_link_to_each, pids, started
from tests.system.targets import Target, echo, unused_port

CLIENT = "127.0.0.77"  # an address that nobody else has
PATHS = ("/status.json", "/metrics")


class Site:
    """The status page of a relay."""

    def __init__(self, member: Member, server: StatusServer) -> None:
        self.member = member
        self.address = server.address

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        """The answer's status and body."""
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def told(self) -> dict[str, Any]:
        """The JSON page."""
        status, body = self.ask("/status.json")
        assert status == 200
        told: dict[str, Any] = json.loads(body)
        return told


@contextlib.contextmanager
def site_of(member: Member) -> Iterator[Site]:
    with StatusServer(LOOPBACK, PAGES, member.relay.snapshot) as server:
        yield Site(member, server)


@pytest.fixture(autouse=True)
def _pages_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "REST", 0)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[InProcess]:
    with InProcess(tmp_path, 2) as network:
        yield network


@pytest.fixture
def site(network: InProcess) -> Iterator[Site]:
    with site_of(network.members[0]) as site:
        yield site


def begin(raw: RawClient, *path: PathHop, host: str, port: int) -> object:
    """What comes of a stream on a circuit of its own."""
    circuit_id, origin = raw.build(*path)
    while not origin.built:
        raw.flush(circuit_id, origin)
        origin.receive([raw.cell().body], 0.0)
    origin.endpoint.begin(host, port, 0.0)
    return raw.action(circuit_id, origin)


def create_for_another(raw: RawClient, member: Member) -> None:
    """A CREATE that is refused."""
    known = hop(member)
    with pytest.raises(AssertionError):
        raw.build(PathHop(known.identity, bytes(32), known.host, known.port))


@contextlib.contextmanager
def traffic(first: Member, second: Member) -> Iterator[tuple[RawClient, Target]]:
    """One open stream at `first`, one through it, two refused, and a CREATE refused."""
    raw = RawClient(first.address, source=CLIENT)
    with contextlib.closing(raw), Target(echo) as target:
        known = hop(first)
        assert isinstance(begin(raw, known, host="127.0.0.1", port=target.port), Opened)
        assert isinstance(begin(raw, known, hop(second), host="localhost", port=target.port), Opened)
        ended = begin(raw, known, host="127.0.0.1", port=first.address.port)
        assert isinstance(ended, StreamEnded) and ended.reason is EndReason.POLICY
        ended = begin(raw, known, host="127.0.0.1", port=unused_port())
        assert isinstance(ended, StreamEnded) and ended.reason is EndReason.REFUSED
        create_for_another(raw, first)
        yield raw, target


# ---- what it shows


def test_the_numbers_are_those_of_real_traffic(network: InProcess) -> None:
    one, other = network.members
    with traffic(one, other) as (raw, _), site_of(one) as site:
        wait_until(lambda: site.told()["now"]["waiting_bytes"] == 0)  # an answer may still be on its way
        told = site.told()
        assert (told["nickname"], told["software"]) == ("r0", SOFTWARE)
        assert told["listed"] == {str(network.gateway.address): True}
        assert 0 <= told["onion_key_age"] < PATIENCE and 0 <= told["uptime"] < PATIENCE
        links = one.links
        assert told["now"] == {
            "processes": 1,
            "silent_processes": 0,
            "links_in": 1,
            "links_out": 1,
            "circuits": 4,
            "streams": 1,
            "waiting_bytes": 0,
            "budget_bytes": 536_870_912,
        }
        ever = told["since_start"]
        carried = ever.pop("link_bytes_in")
        assert carried == sum(link.bytes_in for link in links) > 5 * 1_024
        assert ever.pop("link_bytes_out") == sum(link.bytes_out for link in links) > 5 * 1_024
        assert {name: number for name, number in ever.items() if number} == {
            "creates_answered": 4,
            "creates_refused_protocol": 1,
            "streams_opened": 1,
            "streams_refused_policy": 1,
            "streams_refused_refused": 1,
        }
        raw.close()
        wait_until(lambda: one.circuits == 0)
        wait_until(lambda: (later := site.told())["now"]["links_in"] == later["now"]["streams"] == 0)
        assert site.told()["since_start"]["link_bytes_in"] >= carried, "a link that is over had carried it"


def test_creates_and_streams_beyond_a_limit_are_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "CREATE_BURST", 1)
    monkeypatch.setattr(relay_module, "CREATE_RATE", 0)
    monkeypatch.setattr(relay_module, "BEGIN_BURST", 0)
    monkeypatch.setattr(relay_module, "BEGIN_RATE", 0)
    with contextlib.closing(RawClient(site.member.address)) as raw:
        ended = begin(raw, hop(site.member), host="127.0.0.1", port=1)
        assert isinstance(ended, StreamEnded) and ended.reason is EndReason.LIMIT
        with pytest.raises(AssertionError):
            raw.build(hop(site.member))
        ever = site.told()["since_start"]
    assert (ever["creates_answered"], ever["creates_refused_limit"], ever["streams_refused_limit"]) == (1, 1, 1)


def test_ports_that_the_policy_has_no_rule_for_are_counted_as_refused_by_policy(site: Site) -> None:
    site.member.relay.reconfigure("none")
    with contextlib.closing(RawClient(site.member.address)) as raw:
        begin(raw, hop(site.member), host="127.0.0.1", port=80)
    assert site.told()["since_start"]["streams_refused_policy"] == 1


def test_a_stream_that_its_client_gave_up_is_not_counted_as_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients ask another exit when one takes long: what comes of the first is told to nobody."""
    monkeypatch.setattr(look_ups, "RESOLVERS", 1)  # so that the answers come in order
    slow_names = SlowNames(monkeypatch)
    with contextlib.closing(RawClient(site.member.address)) as raw, contextlib.ExitStack() as stack:
        stack.callback(slow_names.released.set)
        circuit_id, origin = raw.build(hop(site.member))
        given_up = origin.endpoint.begin("given-up.slow", 80, 0.0)
        origin.endpoint.begin("waited-for.slow", 80, 0.0)
        raw.flush(circuit_id, origin)
        wait_until(lambda: slow_names.asked)
        origin.endpoint.reset(given_up, EndReason.DONE)
        raw.flush(circuit_id, origin)
        wait_until(lambda: site.told()["now"]["streams"] == 1)
        slow_names.released.set()
        wait_until(lambda: site.told()["now"]["streams"] == 0)
    assert site.told()["since_start"]["streams_refused_not_found"] == 1


def test_prometheus_reads_the_numbers_of_the_json(network: InProcess) -> None:
    with traffic(*network.members), site_of(network.members[0]) as site:
        told, (status, body) = site.told(), site.ask("/metrics")
        assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(body)}
    assert all(family.documentation for family in families.values())
    samples = {
        "_".join([sample.name.removesuffix("_total"), *sample.labels.values()]).removeprefix("onion_relay_"): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert told["now"].items() | told["since_start"].items() <= samples.items()
    (info,) = families["onion_relay_info"].samples
    assert info.labels == {"nickname": "r0", "software": SOFTWARE}
    assert samples[f"listed_{network.gateway.address}"] == 1
    assert samples["start_time_seconds"] == pytest.approx(told["started"])
    assert samples["onion_key_created_seconds"] == pytest.approx(told["time"] - told["onion_key_age"])
    assert {family.type for family in families.values()} == {"gauge", "counter"}


def test_a_gateway_that_does_not_list_it_is_shown(network: InProcess) -> None:
    with site_of(network.members[0]) as site:
        network.gateway.stop()
        wait_until(lambda: site.told()["listed"] == {str(network.gateway.address): False})


# ---- whom it shows nothing of, and who does not see it


def test_no_secret_no_address_and_no_name_of_anybody_is_on_the_page(
    network: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Not of clients, targets or neighbours: all text is the relay's own, its gateways', or a word of the page."""
    caplog.set_level(logging.DEBUG, logger="common.roles.status_http")
    one, other = network.members
    with traffic(one, other) as (_, target), site_of(one) as site:
        pages = [site.ask(path)[1] for path in PATHS]
        own = [one.identity, hop(one).onion_key, other.identity, hop(other).onion_key]
    said = "".join(pages).replace(str(network.gateway.address), "")
    for secret in (CLIENT, "127.0.0.1", "localhost", f":{target.port}", f":{other.address.port}", "r1"):
        assert secret not in said
    assert not any(key.hex()[:8] in said for key in own)
    told = json.loads(pages[0])
    assert {value for value in told.values() if isinstance(value, str)} == {"r0", SOFTWARE}
    assert told["listed"].keys() == {str(network.gateway.address)}
    assert all(type(number) is int for part in ("now", "since_start") for number in told[part].values())
    words = {reason.name.lower() for reason in (*DestroyReason, *EndReason)} | {"in", "out"}
    labels = {
        value
        for family in text_string_to_metric_families(pages[1])
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert labels <= words | {"r0", SOFTWARE, str(network.gateway.address)}
    assert not caplog.records


@pytest.mark.parametrize("path", PATHS)
def test_dns_rebinding_reads_nothing(site: Site, path: str) -> None:
    """A web site's name that points at this server."""
    for host in ("evil.example", f"evil.example:{site.address.port}", "127.0.0.1.evil.example"):
        assert site.ask(path, Host=host) == (421, "421 Misdirected Request\n")
    assert site.ask(path, Host="localhost")[0] == 200


def test_there_are_no_other_pages(site: Site) -> None:
    assert site.ask("/")[0] == site.ask("/metrics/")[0] == 404


def test_a_taken_port_is_a_sentence(site: Site) -> None:
    with pytest.raises(ConfigError) as caught:
        StatusServer(site.address, PAGES, site.member.relay.snapshot)
    assert str(caught.value) == f"http: cannot listen on {site.address}: address already in use; choose another port"


# ---- workers


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Site]:
    """A relay of two workers."""
    with started(tmp_path / "keys") as member, site_of(member) as site:
        yield site


def test_the_numbers_are_the_sums_over_the_workers(many: Site) -> None:
    with a_link_to_each(many.member) as links, Target(echo) as target:
        before = many.told()
        for raw in links.values():
            known = hop(many.member)
            assert isinstance(begin(raw, known, host="127.0.0.1", port=target.port), Opened)
            assert isinstance(begin(raw, known, host="127.0.0.1", port=many.member.address.port), StreamEnded)
            create_for_another(raw, many.member)
        wait_until(lambda: many.told()["now"]["waiting_bytes"] == 0)  # an answer may still be on its way
        told = many.told()
        assert told["now"] == before["now"] | {"circuits": 2 * COUNT, "streams": COUNT}
        assert told["now"]["links_in"] >= COUNT
        assert (told["now"]["processes"], told["now"]["silent_processes"]) == (COUNT, 0)
        ever, past = told["since_start"], before["since_start"]
        grown = {name: ever[name] - past[name] for name in ever if ever[name] != past[name]}
        assert grown.pop("link_bytes_in") >= COUNT * 5 * 1_024
        assert grown.pop("link_bytes_out") >= COUNT * 5 * 1_024
        assert grown == {
            "creates_answered": 2 * COUNT,
            "creates_refused_protocol": COUNT,
            "streams_opened": COUNT,
            "streams_refused_policy": COUNT,
        }


def test_what_a_worker_has_counted_survives_it(many: Site) -> None:
    with a_link_to_each(many.member) as links:
        for raw in links.values():
            raw.build(hop(many.member))
        assert many.told()["now"]["circuits"] == COUNT
        os.kill(next(iter(links)), signal.SIGKILL)

        def is_whole_again() -> bool:
            told = many.told()
            assert told["since_start"]["creates_answered"] == COUNT, "neither lost nor counted twice"
            return bool(told["now"]["silent_processes"] == 0 and told["now"]["circuits"] == 1)

        wait_until(is_whole_again)
        assert pids(many.member) - links.keys()


def test_a_frozen_worker_is_left_out_and_the_page_comes_in_bounded_time(many: Site) -> None:
    with a_link_to_each(many.member) as links:
        for raw in links.values():
            raw.build(hop(many.member))
        told = many.told()
        frozen = next(iter(links))
        os.kill(frozen, signal.SIGSTOP)
        try:
            start = monotonic()
            later = many.told()
            assert monotonic() - start < 3 * COUNT_TIME
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert (later["now"]["processes"], later["now"]["silent_processes"], later["now"]["circuits"]) == (COUNT, 1, 1)
        assert later["since_start"]["creates_answered"] == told["since_start"]["creates_answered"] == COUNT


def test_a_relay_whose_own_thread_hangs_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "COUNT_TIME", 0.1)
    with contextlib.closing(RawClient(site.member.address)) as raw:
        raw.build(hop(site.member))
        assert site.member.relay.snapshot().counts.now["circuits"] == 1
        freed = threading.Event()
        site.member.relay.relay.pump.call(freed.wait)
        try:
            counts = site.member.relay.snapshot().counts
        finally:
            freed.set()
    assert counts.now == {"processes": 1, "silent_processes": 1}
    assert counts.ever["creates_answered"] == 1
