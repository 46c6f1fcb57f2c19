"""The network's own page: what stands in it, and who may read it."""

from collections.abc import Iterator
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

from common.roles.client.client import Client
from common.roles.prompt.page import readable
from common.roles.prompt.status_page import RELAYS, StatusPage, duration, relay_rows, render
from tests.net.in_process import InProcess, threads


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with InProcess(tmp_path_factory.mktemp("network"), 3) as network, network.client(3) as client:
        yield client


def get(url: str) -> tuple[str, dict[str, str]]:
    with build_opener(ProxyHandler({})).open(url, timeout=30) as answer:
        return answer.read().decode(), dict(answer.headers)


def test_the_page_shows_relays_and_circuits_and_loads_nothing_else(client: Client) -> None:
    circuit = client.circuits()[0]  # before the page, which may be made while others are still built
    with StatusPage(client) as page:
        text, headers = get(page.url)
    title, shown = readable(text)
    assert title == "Network test"
    assert "3 relays are listed" in shown
    for entry in client.relays():
        assert entry.descriptor.nickname in shown
        assert str(entry.descriptor.address) in shown
    assert " > ".join(circuit.path) in shown
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "://" not in text


def test_who_does_not_know_the_secret_reads_nothing(client: Client) -> None:
    with StatusPage(client) as page, StatusPage(client) as other:
        secret = page.url.split("/")[3]
        assert len(secret) >= 22
        assert secret not in other.url
        for path in ("", secret[:-1] + "/", other.url.split("/")[3] + "/", secret + "/x"):
            with pytest.raises(HTTPError, match="404"):
                get(f"http://{page.address}/{path}")


def test_nothing_is_left_running(client: Client) -> None:
    before = threads()
    with StatusPage(client) as page:
        get(page.url)
    assert [name for name in threads() if name == "status page"] == [n for n in before if n == "status page"]


def test_the_page_is_there_before_any_document(client: Client) -> None:
    empty = Client([(entry.descriptor.address, entry.descriptor.identity) for entry in client.relays()], "none")
    assert "There is no directory document" in render(empty)


def test_a_round_trip_that_nobody_has_measured_is_not_shown_as_none(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [replace(entry, round_trip_ms=trip) for entry, trip in zip(client.relays(), (0.0, 0.04, 2.0), strict=True)]
    monkeypatch.setattr(client, "relays", lambda: entries)
    shown = {row[0]: row[RELAYS.index("round trip")] for row in relay_rows(client)}
    assert [shown[entry.descriptor.nickname] for entry in entries] == ["", "0.0 ms", "2.0 ms"]


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (99, "99 s"), (120, "2 min"), (7_200, "2 h")])
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
