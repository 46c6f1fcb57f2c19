"""`path`: what it draws is what the control state says, and its sizes are those that the relays really see."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from common.roles.client.client import Client
from common.roles.prompt.path_report import draw, trace_request
from common.wire.cells import LONG_CELL, SHORT_CELL
from tests.net.in_process import InProcess, wait_until
from tests.system.targets import WebTarget


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    with InProcess(tmp_path_factory.mktemp("network"), 5) as network:
        yield network


@pytest.fixture(scope="module")
def client(network: InProcess) -> Iterator[Client]:
    with network.client(4) as client:
        yield client


@pytest.fixture(scope="module")
def web() -> Iterator[WebTarget]:
    with WebTarget() as web:
        yield web


def test_the_path_is_that_of_the_circuit_that_carried_the_request(client: Client, web: WebTarget) -> None:
    report = trace_request(client, f"{web.url}/bytes/100000")
    (view,) = [view for view in client.circuits() if view.number == report.circuit]
    assert tuple(hop.nickname for hop in report.hops) == view.path
    assert view.state == "in use"
    assert report.suite == view.suite == "fernet"
    assert report.outcome == "200 OK, 100,000 bytes"
    document = {entry.descriptor.nickname: entry.descriptor for entry in client.relays()}
    for hop in report.hops:
        assert hop.identity == document[hop.nickname].identity.hex()
        assert hop.address == str(document[hop.nickname].address)


def test_each_hop_knows_its_neighbours_and_only_the_last_reads(client: Client, web: WebTarget) -> None:
    hops = trace_request(client, f"{web.url}/values").hops
    names = [hop.nickname for hop in hops]
    assert [hop.before for hop in hops] == ["you: your address", *names[:-1]]
    assert [hop.after for hop in hops] == [*names[1:], f"{web.host}:{web.port}"]
    assert all(hop.reads.startswith("nothing") for hop in hops[:-1])
    assert "whole request" in hops[-1].reads


def test_the_sizes_are_what_the_relays_really_see(
    network: InProcess, client: Client, web: WebTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bytes, list[int]] = {}
    by_relay = {id(member.relay.relay.links): member.identity for member in network.members}
    for member in network.members:
        links = member.relay.relay.links
        take = links.link_cells

        def watch(link, cells, take=take, links=links):  # type: ignore[no-untyped-def]
            seen.setdefault(by_relay[id(links)], []).extend(len(cell.body) for cell in cells)
            take(link, cells)

        monkeypatch.setattr(links, "link_cells", watch)
    report = trace_request(client, f"{web.url}/bytes/50000")
    expected = {
        bytes.fromhex(hop.identity): sorted(
            [cell.layers[at] for cell in report.cells if cell.out]
            + [cell.layers[at + 1] for cell in report.cells if not cell.out and at + 1 < len(report.hops)]
        )
        for at, hop in enumerate(report.hops)
    }

    def all_seen() -> bool:
        return all(not _missing(expected[who], seen.get(who, [])) for who in expected)

    wait_until(all_seen)


def _missing(wanted: list[int], found: list[int]) -> list[int]:
    rest = list(found)
    missing = []
    for size in wanted:
        if size in rest:
            rest.remove(size)
        else:
            missing.append(size)
    return missing


def test_layers_grow_by_the_suites_overhead_and_cells_fit_them(client: Client, web: WebTarget) -> None:
    report = trace_request(client, f"{web.url}/bytes/100000")
    assert {message.command for cell in report.cells for message in cell.messages} >= {"BEGIN", "CONNECTED", "DATA"}
    for cell in report.cells:
        assert len(cell.layers) == 4
        assert [outer - inner for outer, inner in zip(cell.layers, cell.layers[1:], strict=False)] == [64, 64, 64]
        assert cell.layers[-1] > cell.message_bytes
        assert all(size == (SHORT_CELL if layer <= 1_017 else LONG_CELL) for size, layer in zip(cell.cells, cell.layers, strict=True))
    received = sum(m.data for cell in report.cells if not cell.out for m in cell.messages if m.command == "DATA")
    assert received > 100_000, "all DATA of the answer was seen, its HTTP header too"


def test_nobody_watches_when_the_request_is_over(client: Client, web: WebTarget) -> None:
    trace_request(client, f"{web.url}/values")
    assert all(circuit.origin._stack.tap is None for circuit in client.pool.circuits)


def test_without_an_address_a_look_up_is_traced(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.roles.prompt.path_report.LOOKED_UP", "localhost")
    report = trace_request(client)
    # A cell may also hold the end of the stream before.
    assert [cell.messages[-1].command for cell in report.cells] == ["RESOLVE", "RESOLVED"]
    assert "127.0.0.1" in report.outcome


def test_a_request_that_fails_is_still_drawn(client: Client) -> None:
    report = trace_request(client, "http://127.0.0.1:1/")
    assert "refuses connections" in report.outcome
    assert [cell.messages[0].command for cell in report.cells][:2] == ["BEGIN", "END"]


def test_json_holds_what_is_drawn(client: Client, web: WebTarget) -> None:
    report = trace_request(client, f"{web.url}/values")
    data = json.loads(json.dumps(report.to_json()))
    assert [hop["nickname"] for hop in data["hops"]] == [hop.nickname for hop in report.hops]
    assert data["cells"][0]["layers"] == list(report.cells[0].layers)
    assert data["cells"][0]["links"] == [1_024] * 4
    assert data["cells"][0]["messages"][0]["command"] == "BEGIN"


def test_the_drawing_names_all_and_escapes_what_comes_from_outside(client: Client, web: WebTarget) -> None:
    report = replace(trace_request(client, f"{web.url}/values"), outcome="[red]x[/]")
    report = replace(report, hops=(replace(report.hops[0], address="[fd00::1]:9001"), *report.hops[1:]))
    file = io.StringIO()
    draw(Console(file=file, width=120), report)
    text = file.getvalue()
    for hop in report.hops:
        assert f"{hop.nickname}  {hop.address}" in text
        assert f"before {hop.before} · after {hop.after}" in text
    assert "[red]x[/]" in text
    assert f"{report.cells[0].layers[0]:,}" in text
