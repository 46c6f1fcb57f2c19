"""Addresses: one spelling each, and nothing that a resolver would read as something else."""

from ipaddress import ip_address

import pytest

from common.directory.addresses import (
    Address,
    ip_of,
    is_private,
    neighbourhood,
    parse_address,
    parse_listen,
    unmap,
)
from common.errors import Malformed


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9001", "127.0.0.1", 9001),
        ("[::1]:1", "::1", 1),
        ("[2001:0DB8::0001]:65535", "2001:db8::1", 65535),
        ("Relay.Example.ORG:80", "relay.example.org", 80),
        ("localhost:80", "localhost", 80),
        ("a_b-c.de:80", "a_b-c.de", 80),
    ],
)
def test_an_address_is_read_and_written(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:+1",
        "host:٣",
        "host: 80",
        "::1:80",
        "[::1]",
        "[::1",
        "[127.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "127.1:80",
        "0x7f.1:80",
        "127.0.0.0x1:80",
        "2130706433:80",
        "256.0.0.1:80",
        "010.0.0.1:80",
        "a..b:80",
        "-a.b:80",
        "a.b-:80",
        "a b:80",
        "a/b:80",
        "ü.de:80",
        "a" * 64 + ":80",
        "a." * 127 + "bcd:80",
        "host\n:80",
    ],
)
def test_what_is_not_an_address_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Malformed, match=r"write|not|neither|stands|zone"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "2001:DB8::1", "::ffff:10.0.0.1", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_the_ip_address_of_a_host_is_what_the_standard_library_reads(text: str) -> None:
    assert ip_of(text) == ip_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "1", "127.1", "1.2.3", "1.2.3.4.5", "1.2.3.4.", ".1.2.3.4", "01.2.3.4", "1.2.3.00", "0x7f.0.0.1",
        "256.0.0.1", "1.2.3.256", "1.2.3.4444", "+1.2.3.4", "1.2.3.-4", "1. 2.3.4", " 1.2.3.4", "1.2.3.4\n", "1.2..4",
        "1.2.3.4/32", "1.2.3.٣", "1.2.3.²", "\ud8001.2.3.4", "\x001.2.3.4", "1.2.3\x00.4", "example.org", "a1", ":", "[::1]",
        "1.2.3.4:5", "2130706433",
    ],
)  # fmt: skip
def test_what_the_standard_library_does_not_read_is_no_ip_address(text: str) -> None:
    assert ip_of(text) is None
    with pytest.raises(ValueError, match="address"):
        ip_address(text)


def test_only_a_listening_address_may_have_port_0() -> None:
    assert parse_listen("127.0.0.1:0") == Address("127.0.0.1", 0)


def test_mapped_addresses_are_ipv4_addresses() -> None:
    assert unmap(ip_address("::ffff:10.0.0.1")) == ip_address("10.0.0.1")
    assert unmap(ip_address("2001:db8::1")) == ip_address("2001:db8::1")


def test_neighbours_share_a_16_a_32_or_a_name_and_loopback_has_none() -> None:
    assert neighbourhood(Address("8.8.1.1", 1)) == neighbourhood(Address("8.8.2.2", 2))
    assert neighbourhood(Address("8.8.1.1", 1)) == neighbourhood(Address("::ffff:8.8.2.2", 2))
    assert neighbourhood(Address("8.8.1.1", 1)) != neighbourhood(Address("8.9.1.1", 1))
    assert neighbourhood(Address("2a00:1:1::1", 1)) == neighbourhood(Address("2a00:1:2::1", 1))
    assert neighbourhood(Address("2a00:1::1", 1)) != neighbourhood(Address("2a00:2::1", 1))
    assert neighbourhood(Address("a.example", 1)) == neighbourhood(Address("a.example", 2))
    assert neighbourhood(Address("127.0.0.1", 1)) is None
    assert neighbourhood(Address("::1", 1)) is None


@pytest.mark.parametrize("start", ["10.1.", "100.64.", "172.31.", "192.168.", "::ffff:10.1.", "fd00:1:1::"])
def test_private_neighbours_share_a_host(start: str) -> None:
    one, other = (f"{start}1:1", f"{start}1:2") if start.endswith(":") else (f"{start}1.1", f"{start}1.2")
    assert neighbourhood(Address(one, 1)) == neighbourhood(Address(one, 2)) is not None
    assert neighbourhood(Address(one, 1)) != neighbourhood(Address(other, 1))


def test_a_mapped_private_host_is_the_same_host() -> None:
    assert neighbourhood(Address("::ffff:10.0.0.1", 1)) == neighbourhood(Address("10.0.0.1", 1))


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0",
        "192.168.255.255", "::ffff:10.0.0.1", "fc00::", "fdff:ffff::1",
    ],
)  # fmt: skip
def test_private_addresses(text: str) -> None:
    assert is_private(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.8", "2a00::1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
        "0.0.0.0", "::", "127.0.0.1", "::1", "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%1",
        "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.0.0.1", "255.255.255.255", "ff02::1", "fec0::1",
        "2001:db8::1", "64:ff9b::10.0.0.1", "2002:a00:1::1",
    ],
)  # fmt: skip
def test_neither_public_nor_loopback_link_local_or_reserved_addresses_are_private(text: str) -> None:
    assert not is_private(ip_address(text))
