"""A client and a relay of several gateways, in one process: some of the gateways are away, silent, slow or old."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.directory.document import DirectoryDocument
from common.errors import ConfigError, DirectoryError, StaleDocument, Unreachable
from common.net.deadline import Deadline
from common.ops.keystore import load_or_create_identity
from common.roles.client import bootstrap
from common.roles.client.bootstrap import DirectoryClient
from common.roles.gateway.gateway import Gateway
from common.roles.relay.listed_relay import ListedRelay
from tests.net.registering import NETWORK, PATIENCE

LOOPBACK = Address("127.0.0.1", 0)
Pin = tuple[Address, bytes]


@contextlib.contextmanager
def gateway_at(folder: Path, listen: Address = LOOPBACK) -> Iterator[Pin]:
    identity = load_or_create_identity(folder)
    gateway = Gateway(
        [listen],
        identity.private_key,
        identity.certificate,
        identity.key,
        network=NETWORK,
        state_dir=folder,
        ping_interval=0.5,
    )
    gateway.start()
    try:
        yield gateway.address, identity.public
    finally:
        gateway.stop()


@contextlib.contextmanager
def relay_of(folder: Path, *pins: Pin) -> Iterator[ListedRelay]:
    relay = ListedRelay(
        load_or_create_identity(folder),
        folder,
        LOOPBACK,
        None,
        pins,
        network=NETWORK,
        nickname="relay",
        exit_policy="none",
    )
    relay.start()
    try:
        yield relay
    finally:
        relay.stop(5.0)


@contextlib.contextmanager
def client_of(*pins: Pin, cache: Path | None = None) -> Iterator[DirectoryClient]:
    client = DirectoryClient(pins, NETWORK, cache)
    client.start()
    try:
        yield client
    finally:
        client.stop()


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Pin]:
    """A gateway that is not there; it may come later. Its port stays bound, so that nobody else gets it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", sock.getsockname()[1])
        yield address, load_or_create_identity(tmp_path / "late").public


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = Deadline(PATIENCE)
    for thread in set(threading.enumerate()) - before:
        thread.join(deadline.left())  # one that waited for a gateway that hung has its own deadline
        assert not thread.is_alive(), thread.name


def names(document: DirectoryDocument) -> set[str]:
    return {entry.descriptor.nickname for entry in document.relays}


def wait_for_names(client: DirectoryClient, wanted: set[str]) -> None:
    deadline = Deadline(PATIENCE)
    while {entry.descriptor.nickname for entry in client.relays} != wanted:
        assert not deadline.expired, client.document
        client.refresh_soon()
        time.sleep(0.02)


def test_each_new_list_is_told_once(tmp_path: Path) -> None:
    told: list[DirectoryDocument | None] = []
    with gateway_at(tmp_path / "gateway") as pin:
        client = DirectoryClient([pin], NETWORK, on_list=lambda: told.append(client.document))
        for _ in range(3):
            client.fetch(Deadline(PATIENCE))
        assert told == [client.document]
        with relay_of(tmp_path / "relay", pin):
            while names(client.fetch(Deadline(PATIENCE))) != {"relay"}:
                pass
            assert told[-1] is client.document
            assert len({document.serial for document in told if document is not None}) == len(told)


def test_a_gateway_down_from_the_start_and_coming_later_lists_the_relay(tmp_path: Path, away: Pin) -> None:
    with contextlib.ExitStack() as stack:
        pins = [stack.enter_context(gateway_at(tmp_path / name)) for name in ("one", "two")]
        stack.enter_context(relay_of(tmp_path / "relay", *pins, away))
        client = stack.enter_context(client_of(*pins, away))
        assert names(client.wait_for(1, Deadline(PATIENCE))) == {"relay"}
        assert names(DirectoryClient([*pins, away], NETWORK).fetch(Deadline(PATIENCE))) == {"relay"}
        stack.enter_context(gateway_at(tmp_path / "late", away[0]))
        late = stack.enter_context(client_of(away))
        assert names(late.wait_for(1, Deadline(PATIENCE))) == {"relay"}


def test_a_relay_is_listed_alike_by_all_its_gateways_and_leaves_all(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        pins = [stack.enter_context(gateway_at(tmp_path / name)) for name in ("one", "two", "three")]
        client = stack.enter_context(client_of(*pins))
        with relay_of(tmp_path / "relay", *pins):
            client.wait_for(1, Deadline(PATIENCE))
            for pin in pins:
                with client_of(pin) as single:
                    assert names(single.wait_for(1, Deadline(PATIENCE))) == {"relay"}
        wait_for_names(client, set())


def test_a_relay_with_gateways_that_hang_leaves_in_seconds(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        pin = stack.enter_context(gateway_at(tmp_path / "one"))
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        pins = [(Address("127.0.0.1", sock.getsockname()[1]), bytes([at]) * 32) for at, sock in enumerate(silent)]
        with relay_of(tmp_path / "relay", pin, *pins), client_of(pin) as client:
            client.wait_for(1, Deadline(PATIENCE))
            start = time.monotonic()
        assert time.monotonic() - start < 4, "all are left side by side"


def test_one_slow_gateway_delays_nothing(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        pins = [stack.enter_context(gateway_at(tmp_path / name)) for name in ("one", "two")]
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        slow = Address("127.0.0.1", silent.getsockname()[1]), bytes(32)
        client = stack.enter_context(client_of(slow, *pins))
        start = time.monotonic()
        client.wait_for(0, Deadline(PATIENCE))
        assert time.monotonic() - start < 3
        start = time.monotonic()
        assert names(DirectoryClient([slow, *pins], NETWORK).fetch(Deadline(2.0))) == set()
        assert time.monotonic() - start < 1.9


def test_fewer_than_a_majority_is_a_sentence_that_says_what_is_reachable_and_needed(
    tmp_path: Path, away: Pin
) -> None:
    with gateway_at(tmp_path / "one") as pin:
        with pytest.raises(Unreachable) as caught:
            DirectoryClient([pin, away], NETWORK).fetch(Deadline(PATIENCE))
        assert str(caught.value).startswith("1 of 2 gateways gave a valid directory document and 2 are needed; ")
        assert (
            f"the gateway {away[0]} does not answer: cannot connect: connection refused"
            in str(caught.value).lower()
        )
        with (
            client_of(pin, away) as client,
            pytest.raises(Unreachable, match=r"1 of 2 gateways .* [Cc]onnection refused"),
        ):
            client.wait_for(1, Deadline(0.5))


def test_fetching_anew_fails_without_a_majority_though_documents_are_held(tmp_path: Path) -> None:
    with gateway_at(tmp_path / "one") as pin:
        with gateway_at(tmp_path / "two") as other:
            client = DirectoryClient([pin, other], NETWORK)
            client.fetch(Deadline(PATIENCE))
        assert client.document is not None, "what is held stays usable"
        with pytest.raises(
            Unreachable, match=f"^1 of 2 gateways gave .* and 2 are needed; the gateway {other[0]} "
        ):
            client.fetch(Deadline(PATIENCE))


def test_who_waits_is_told_soon_when_no_gateway_is_there(away: Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "GIVE_UP", 1.0)
    start = time.monotonic()
    with (
        client_of(away) as client,
        pytest.raises(Unreachable, match=r"there is no valid directory document: .* refused"),
    ):
        client.wait_for(1, Deadline(PATIENCE))
    assert 1 <= time.monotonic() - start < 5


def test_each_gateway_has_its_cache_and_a_client_starts_warm_from_a_majority(tmp_path: Path) -> None:
    cache = tmp_path / "directory.json"
    with contextlib.ExitStack() as stack:
        pins = [stack.enter_context(gateway_at(tmp_path / name)) for name in ("one", "two", "three")]
        stack.enter_context(relay_of(tmp_path / "relay", *pins))
        with client_of(*pins, cache=cache) as client:
            client.wait_for(1, Deadline(PATIENCE))
            for pin in pins:
                with client_of(pin) as single:
                    single.wait_for(1, Deadline(PATIENCE))
            client.fetch(Deadline(PATIENCE))
    kept = sorted(tmp_path.glob("directory-*.json"))
    assert len(kept) == 3
    kept[0].unlink()
    with client_of(*pins, cache=cache) as client:
        assert names(client.wait_for(1, Deadline(0.0))) == {"relay"}
    kept[1].write_bytes(kept[2].read_bytes())  # another gateway's document is no second vote
    with client_of(*pins, cache=cache) as client, pytest.raises(DirectoryError):
        client.wait_for(1, Deadline(0.0))


def test_a_gateway_returning_with_an_older_serial_is_not_believed_even_after_its_document_expired(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "directory.json"
    with gateway_at(tmp_path / "one") as pin:
        ahead = DirectoryClient([pin], NETWORK, cache)
        ahead.fetch(Deadline(PATIENCE))
        ahead.stop()
    later = DirectoryClient([pin], NETWORK, cache, now=lambda: time.time() + 601)
    for watch in later._watches:
        watch.load_cache()
    assert later.document is None
    (tmp_path / "one" / "gateway.sqlite").unlink()
    with pytest.MonkeyPatch.context() as patch:
        real = time.time
        patch.setattr(time, "time", lambda: real() - 300)  # its store is lost and its clock is behind
        with gateway_at(tmp_path / "one", pin[0]):
            with pytest.raises(StaleDocument, match="is older than"):
                later.fetch(Deadline(PATIENCE))
    assert later.document is None


def test_a_key_that_is_pinned_twice_has_no_two_votes() -> None:
    with pytest.raises(ConfigError, match="twice"):
        DirectoryClient([(LOOPBACK, bytes(32)), (LOOPBACK, bytes(32))], NETWORK)
