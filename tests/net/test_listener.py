"""The listener: every kind of stranger, its limits, and how it ends."""

import logging
import os
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from common.errors import ConfigError
from common.net import link_opening
from common.net import listener as listener_module
from common.net.deadline import Deadline
from common.net.link import Link
from common.net.listener import Listener
from common.wire.cells import Cell, Command
from tests.helpers import say_no_more
from tests.net.links import PATIENCE, RawPeer, Recorder, end, node, start


class Host(Recorder):
    """An owner that registers and starts the links of a listener."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []

    def on_link(self, link: Link) -> None:
        with self._changed:
            self.links.append(link)
            self._changed.notify_all()
        start(link)


@contextmanager
def listening(
    host: Host, address: tuple[str, int] = ("127.0.0.1", 0), seconds: float = PATIENCE
) -> Iterator[Listener]:
    """A started listener; afterwards it and its links have ended."""
    listener = Listener(address, node()[0], host, host.on_link, seconds)
    listener.start()
    try:
        yield listener
    finally:
        listener.close(Deadline(PATIENCE))
        assert not [t.name for t in threading.enumerate() if t.name == f"listener {listener.address[1]}"]
        end(*host.links)


def dial(listener: Listener, owner: Recorder) -> Link:
    """A started link to the listener."""
    link = link_opening.dial(listener.address, node()[1], owner, Deadline(PATIENCE))
    start(link)
    return link


def everything(sock: socket.socket) -> bytes:
    """What comes until the other side ends; a reset is an end too."""
    sock.settimeout(PATIENCE)
    said = b""
    try:
        while data := sock.recv(65_536):
            said += data
    except ConnectionError:
        pass
    return said


def works(listener: Listener, host: Host) -> None:
    """A new link comes up and carries a cell."""
    before = len(host.cells)
    link = dial(listener, Recorder())
    link.send(1, Command.RELAY, b"hello")
    host.wait_for(lambda: len(host.cells) > before)
    assert host.cells[-1] == Cell(1, Command.RELAY, b"hello")
    end(link)


def test_links_come_up() -> None:
    host = Host()
    with listening(host) as listener:
        works(listener, host)
        works(listener, host)
        host.wait_for(lambda: len(host.links) == 2)


def test_it_listens_on_ipv6() -> None:
    host = Host()
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with listening(host, ("::1", 0)) as listener:
        works(listener, host)


def test_a_taken_port_is_a_configuration_error() -> None:
    with listening(Host()) as listener:
        port = listener.address[1]
        with pytest.raises(ConfigError) as caught:
            Listener(("127.0.0.1", port), node()[0], Host(), Link.close)
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: address already in use; choose another port"


@pytest.mark.parametrize("address", [("192.0.2.1", 0), ("a" * 70, 1), ("127.0.0.1", 70_000)])
def test_an_impossible_address_is_a_configuration_error(address: tuple[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {address[0]}:{address[1]}: "):
        Listener(address, node()[0], Host(), Link.close)


def test_a_port_is_free_again_at_once() -> None:
    host = Host()
    with listening(host) as listener:
        works(listener, host)
        address = listener.address
    again = Host()
    with listening(again, address) as listener:
        works(listener, again)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"])
def test_a_web_browser_gets_a_sentence(method: str) -> None:
    host = Host()
    with listening(host) as listener, socket.create_connection(listener.address) as browser:
        browser.sendall(f"{method} / HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
        answer = everything(browser)
        assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nThis is a relay's port of an onion-routing network, not a web server.\n")
        browser.close()
        works(listener, host)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"\0" * 5_000, b"GETX", b"\x16" + b"\xff" * 3_000]
)
def test_wrong_first_bytes_are_closed_without_an_answer(said: bytes) -> None:
    host = Host()
    with listening(host) as listener, socket.create_connection(listener.address) as stranger:
        stranger.sendall(said)
        assert b"HTTP" not in everything(stranger)
        works(listener, host)
        assert len(host.links) == 1


@pytest.mark.parametrize("length", [1, 4, 200])
def test_a_truncated_handshake_is_closed(length: int) -> None:
    host = Host()
    with listening(host) as listener, socket.create_connection(listener.address) as stranger:
        raw = RawPeer(stranger, server_side=False)
        raw.tls.handshake()
        stranger.sendall(raw.tls.outgoing()[:length])
        say_no_more(stranger)
        assert everything(stranger) == b""
        works(listener, host)


@pytest.mark.parametrize("said", [b"", b"GE", b"\x16\x03"])
def test_silence_is_closed_at_the_deadline(said: bytes) -> None:
    with listening(Host(), seconds=0.2) as listener, socket.create_connection(listener.address) as stranger:
        stranger.sendall(said)
        assert everything(stranger) == b""


def test_a_handshake_without_hello_is_closed_at_the_deadline() -> None:
    host = Host()
    with listening(host, seconds=0.5) as listener, socket.create_connection(listener.address) as stranger:
        raw = RawPeer(stranger, server_side=False)
        raw.handshake()
        everything(stranger)
        assert host.links == []


def test_a_flood_of_silent_connections_does_not_keep_others_out() -> None:
    host = Host()
    with listening(host) as listener, ExitStack() as stack:
        for _ in range(300):  # more than handshakes at once, and none of them ends by itself
            stack.enter_context(socket.create_connection(listener.address))
        for _ in range(10):
            works(listener, host)


def test_who_opens_many_connections_from_one_address_drives_out_his_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MAX_HANDSHAKES", 8)
    monkeypatch.setattr(listener_module, "source_of", lambda host: host)  # loopback is one address otherwise
    host = Host()
    with listening(host) as listener, ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(listener.address, PATIENCE, ("127.0.0.2", 0)))
        flood = [stack.enter_context(socket.create_connection(listener.address)) for _ in range(30)]
        assert everything(flood[0]) == b""
        raw = RawPeer(slow, server_side=False)
        raw.handshake()
        raw.hello()
        host.wait_for(lambda: len(host.links) == 1)


def test_close_breaks_off_handshakes_and_lets_links_live() -> None:
    host, owner = Host(), Recorder()
    with listening(host) as listener:
        link = dial(listener, owner)
        host.wait_for(lambda: len(host.links) == 1)
        with socket.create_connection(listener.address) as silent:
            listener.close(Deadline(PATIENCE))
            listener.close(Deadline(PATIENCE))
            assert everything(silent) == b""
        with pytest.raises(OSError):
            socket.create_connection(listener.address)
        assert not [t.name for t in threading.enumerate() if t.name.startswith("handshake ")]
        link.send(1, Command.RELAY, b"still here")
        host.wait_for(lambda: len(host.cells) == 1)
        end(link)


def test_close_without_start() -> None:
    Listener(("127.0.0.1", 0), node()[0], Host(), Link.close).close(Deadline(PATIENCE))


def test_a_broken_owner_does_not_end_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    def broken(link: Link) -> None:
        raise KeyError("bug")

    listener = Listener(("127.0.0.1", 0), node()[0], Host(), broken)
    listener.start()
    for _ in range(2):
        owner = Recorder()
        link = dial(listener, owner)
        owner.wait_for_end()
        end(link)
    listener.close(Deadline(PATIENCE))
    assert caplog.text.count("KeyError: 'bug'") == 2


def test_no_address_of_a_client_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    host = Host()
    with listening(host) as listener:
        for said in (b"GET / HTTP/1.0\r\n\r\n", b"nonsense", b"\x16nonsense", b""):
            with socket.create_connection(listener.address) as stranger:
                stranger.sendall(said)
                say_no_more(stranger)
                everything(stranger)
        works(listener, host)
    assert "127.0.0.1" not in caplog.text


def test_without_descriptors_it_pauses_complains_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    with listening(host) as listener:
        works(listener, host)
        end(*host.links)  # no descriptor comes free later
        waiting = socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken[0], waiting.fileno()) + 50, hard))
        try:
            with pytest.raises(OSError):
                while True:
                    taken.append(os.dup(0))
            with Logged("cannot accept connections for now") as logged:
                waiting.connect(listener.address)
                assert logged.seen.wait(PATIENCE)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        raw = RawPeer(waiting, server_side=False)
        raw.handshake()
        raw.close()
        works(listener, host)
    assert caplog.text.lower().count("cannot accept connections for now: too many open files") == 1


class Logged(logging.Handler):
    """Says when a text is logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen = threading.Event()
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.seen.set()

    def __enter__(self) -> "Logged":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self)


def test_a_peer_below_tls_1_3_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with listening(Host()) as listener, socket.create_connection(listener.address) as old:
        with pytest.raises(OSError):
            context.wrap_socket(old)
