"""A whole relay in the directory: its family, its measured bandwidth, and a new identity under the old name."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.directory.document import RelayEntry
from common.net.deadline import Deadline
from common.ops.keystore import (
    load_or_create_family_key,
    load_or_create_identity,
    load_succession,
    replace_identity,
)
from common.roles.client.bootstrap import DirectoryClient
from common.roles.gateway.gateway import Gateway
from common.roles.relay import listed_relay
from common.roles.relay.bandwidth import HOURS, WINDOW, Bandwidth
from common.roles.relay.counts import Counts
from common.roles.relay.listed_relay import ListedRelay
from tests.net.registering import NETWORK, PATIENCE
from tests.net.test_gateway import running


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path / "gateway") as started:
        yield started


@contextlib.contextmanager
def relay(gateway: Gateway, folder: Path, nickname: str, family: Path | None = None) -> Iterator[ListedRelay]:
    listed = ListedRelay(
        load_or_create_identity(folder),
        folder,
        Address("127.0.0.1", 0),
        None,
        [(gateway.address, gateway.identity)],
        network=NETWORK,
        nickname=nickname,
        exit_policy="local",
        family_key=load_or_create_family_key(family) if family is not None else None,
    )
    listed.start()
    try:
        yield listed
    finally:
        listed.stop(1.0)


def entries(gateway: Gateway, count: int) -> list[RelayEntry]:
    client, deadline = DirectoryClient([(gateway.address, gateway.identity)], NETWORK), Deadline(PATIENCE)
    while len(relays := client.fetch(deadline).relays) != count:
        assert not deadline.expired
    return sorted(relays, key=lambda entry: entry.descriptor.nickname)


def test_relays_with_one_key_file_are_one_family(gateway: Gateway, tmp_path: Path) -> None:
    key = tmp_path / "family" / "family.pem"
    with relay(gateway, tmp_path / "a", "a", key), relay(gateway, tmp_path / "b", "b", key):
        with relay(gateway, tmp_path / "c", "c"):
            one, other, alone = entries(gateway, 3)
    assert one.descriptor.family == other.descriptor.family != ""
    assert alone.descriptor.family == ""
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_relay_with_a_new_identity_comes_back_under_its_name(gateway: Gateway, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with relay(gateway, keys, "relay"):
        (before,) = entries(gateway, 1)
    assert load_succession(keys) == b""
    new = replace_identity(keys, NETWORK)
    assert new.public != before.descriptor.identity
    assert load_or_create_identity(keys).public == new.public
    with relay(gateway, keys, "relay"):
        (after,) = entries(gateway, 1)
        assert after.descriptor.nickname == "relay"
        assert after.descriptor.identity == new.public
    with relay(gateway, keys, "relay"):
        assert entries(gateway, 1)[0].descriptor.identity == new.public


# ---- the end ----


class Serving:
    """A server that is asked again and again what is open; `now` is what it says in turn, the last for ever."""

    def __init__(self, *now: dict[str, int]) -> None:
        self.asked = 0
        self._now = now

    def counts(self) -> Counts:
        self.asked += 1
        return Counts(Counter(self._now[min(self.asked, len(self._now)) - 1]))


@pytest.mark.parametrize(
    ("now", "asked"),
    [
        pytest.param([{"circuits": 0}], 1, id="no circuit is left"),
        pytest.param([{"circuits": 2}, {"circuits": 1}, {}], 3, id="one after the other ends"),
        pytest.param([{"silent_processes": 1}, {}], 2, id="a worker does not tell"),
        pytest.param([{"waiting_bytes": 9}, {}], 2, id="what came by a circuit that is over is not delivered yet"),
    ],
)
def test_a_relay_that_is_to_end_waits_while_there_are_circuits(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: list[dict[str, int]], asked: int
) -> None:
    monkeypatch.setattr(listed_relay, "LOOK", 0.001)
    with relay(gateway, tmp_path / "keys", "relay") as listed, monkeypatch.context() as patch:
        server = Serving(*now)
        patch.setattr(listed, "_server", server)
        listed._wait_until_unused(Deadline(PATIENCE))
        assert server.asked == asked


def test_a_relay_that_is_to_end_waits_no_longer_than_it_may(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with relay(gateway, tmp_path / "keys", "relay") as listed, monkeypatch.context() as patch:
        patch.setattr(listed, "_server", Serving({"circuits": 1}))
        deadline = Deadline(0.05)
        listed._wait_until_unused(deadline)
        assert deadline.expired


def test_a_relay_that_was_not_told_to_wait_does_not(gateway: Gateway, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), relay(gateway, tmp_path / "keys", "relay"):
        pass
    assert "may go on" not in caplog.text


# ---- bandwidth ----


class Carried:
    """A relay's counter, moved by the test."""

    total = 0

    def __call__(self) -> int:
        return self.total


def test_the_best_window_of_a_day_counts_and_a_short_burst_is_spread_over_its_window() -> None:
    carried = Carried()
    bandwidth = Bandwidth(carried, 0.0)
    assert bandwidth.peak == 0
    carried.total = 50_000_000
    bandwidth.sample(WINDOW)
    assert bandwidth.peak == 5_000_000
    carried.total += 10_000_000
    bandwidth.sample(WINDOW + 0.5)  # too early: not a window
    assert bandwidth.peak == 5_000_000
    bandwidth.sample(WINDOW + 0.5)


def test_a_peak_is_forgotten_after_a_day() -> None:
    carried = Carried()
    bandwidth = Bandwidth(carried, 0.0)
    carried.total = 1_000_000
    bandwidth.sample(WINDOW)
    for hour in range(1, HOURS):
        bandwidth.sample(hour * 3_600.0)
    assert bandwidth.peak == 100_000
    bandwidth.sample(HOURS * 3_600.0)
    assert bandwidth.peak == 0


def test_a_status_page_on_every_address_is_where_others_dial_the_relay_too(tmp_path: Path) -> None:
    """Security: no exit dials it there, past what keeps others from that port."""
    listed = ListedRelay(
        load_or_create_identity(tmp_path),
        tmp_path,
        Address("127.0.0.1", 0),
        Address("198.51.100.7", 9001),
        [],
        network=NETWORK,
        nickname="told",
        exit_policy="accept 198.51.100.0/24:*",
        private=[Address("0.0.0.0", 9081)],
    )
    try:
        allows = listed.relay._exit.allows
        assert not allows(ip_address("198.51.100.7"), 9081)
        assert allows(ip_address("198.51.100.8"), 9081)
    finally:
        listed.stop(1.0)
