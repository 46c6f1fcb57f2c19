"""A network of one's own hosts: the real programs on private addresses of one range, each on a host of its own."""

import socket
import threading
from pathlib import Path

import pytest

from common.roles.client.control import ask_all
from tests.system.targets import Target
from tests.wide_area.hosts import WideArea
from tests.wide_area.programs import Failed, WidePrograms

pytestmark = pytest.mark.system

PAGE = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nours\n"


class OwnHosts(WideArea):
    """As a home or an office numbers them."""

    ADDRESSES = "10.77.0.{}"


@pytest.mark.usefixtures("needs_wide_area")
def test_a_page_comes_over_three_private_hosts_and_exits_open_no_other_private_target(tmp_path: Path) -> None:
    seen: list[str] = []

    def page(sock: socket.socket, _ending: threading.Event) -> None:
        seen.append(sock.getpeername()[0])
        with sock.makefile("rb") as request:
            while request.readline().strip():
                pass
        sock.sendall(PAGE)

    with OwnHosts(5) as area:
        policy = f"accept {area.hosts[5].address}:*, accept *:*"
        with (
            WidePrograms(area, tmp_path, "fernet", policy, ["--allow-private"]) as programs,
            area.hosts[5].make(lambda: Target(page, host=area.hosts[5].address)) as target,
        ):
            with programs.open((target.host, target.port)) as stream, stream.makefile("rb") as answer:
                stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert answer.read() == PAGE
                (client,) = ask_all(tmp_path / "client", {"command": "status"})
            assert seen == [area.hosts[3].address], "the exit's"
            for host in (area.hosts[1].address, area.hosts[4].address, "169.254.169.254"):
                with pytest.raises(Failed, match="answered 0502"):
                    programs.open((host, 80))
    paths = [circuit["path"] for circuit in client["circuits"]]
    assert paths
    assert all(sorted(path) == ["relay1", "relay2", "relay3"] for path in paths), paths
