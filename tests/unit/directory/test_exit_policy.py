"""Exit policies: every forbidden range, in every form an address can take."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from common.directory.exit_policy import _SPECIAL_4, MAX_RULES, MAX_TEXT, SHORTHANDS, ExitPolicy, is_special
from common.errors import Malformed

FORBIDDEN_4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1",
    "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
]  # fmt: skip
FORBIDDEN_6 = [
    "::", "::1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1", "2001:2::1",
    "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd12::1",
    "fe80::1", "fec0::1", "ff02::1", "4000::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255",
    "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808", "::ffff:8.8.8.8",
]  # fmt: skip


def nat64(text: str) -> str:
    return str(IPv6Address(IPv6Address("64:ff9b::").packed[:12] + ip_address(text).packed))


FORBIDDEN = [
    *FORBIDDEN_4,
    *FORBIDDEN_6,
    *(f"::ffff:{text}" for text in FORBIDDEN_4),
    *(nat64(text) for text in FORBIDDEN_4),
]
OPEN_TO_ALL_PUBLIC = ["default", "accept *:*", "reject *:25, default", "accept *:80", "accept *:1-65535"]


@pytest.mark.parametrize("text", FORBIDDEN)
def test_no_policy_opens_a_special_address_without_naming_it(text: str) -> None:
    assert is_special(ip_address(text))
    for policy in OPEN_TO_ALL_PUBLIC:
        assert not ExitPolicy.parse(policy).allows(ip_address(text), 80)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_allowed(text: str) -> None:
    for policy in OPEN_TO_ALL_PUBLIC:
        assert ExitPolicy.parse(policy).allows(ip_address(text), 80)
    assert not ExitPolicy.parse("none").allows(ip_address(text), 80)


def test_the_ranges_are_found_as_if_each_were_tried() -> None:
    edges = [int(end) for network in _SPECIAL_4 for end in (network[0], network[-1])]
    for number in filter(range(2**32).__contains__, (edge + step for edge in edges for step in (-1, 0, 1))):
        ip = IPv4Address(number)
        assert is_special(ip) == any(ip in network for network in _SPECIAL_4), ip


def test_local_opens_loopback_and_nothing_else_that_default_refuses() -> None:
    local = ExitPolicy.parse("local")
    loopback = {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:127.255.255.254"}
    for text in FORBIDDEN:
        assert local.allows(ip_address(text), 80) == (text in loopback), text
    assert local.allows(ip_address("8.8.8.8"), 80)


def test_the_first_rule_that_fits_decides() -> None:
    policy = ExitPolicy.parse("accept *:80, accept *:443, reject 10.0.0.0/8:*, accept 127.0.0.0/8:*, reject *:*")
    assert policy.allows(ip_address("8.8.8.8"), 80)
    assert not policy.allows(ip_address("8.8.8.8"), 22)
    assert policy.allows(ip_address("127.0.0.1"), 22)
    assert not policy.allows(ip_address("10.0.0.1"), 80)
    assert not ExitPolicy.parse("reject 8.8.8.8:*, default").allows(ip_address("::ffff:8.8.8.8"), 80)
    assert not ExitPolicy.parse("reject 8.8.8.8:*, default").allows(ip_address("64:ff9b::808:808"), 80)
    assert ExitPolicy.parse("accept [fd00::]/8:443").allows(ip_address("fd00::1"), 443)


def test_ports_outside_the_range_are_refused() -> None:
    for port in (-1, 0, 65_536):
        assert not ExitPolicy.parse("accept 0.0.0.0/0:*").allows(ip_address("8.8.8.8"), port)


@pytest.mark.parametrize(
    ("text", "port", "expected"),
    [
        ("default", 80, True),
        ("none", 80, False),
        ("accept *:443", 80, False),
        ("accept *:443", 443, True),
        ("reject *:25, accept *:*", 25, False),
        ("reject 10.0.0.0/8:*, accept *:*", 25, True),
        ("accept 10.0.0.0/8:8000-8010", 8005, True),
    ],
)
def test_a_port_that_may_be_allowed(text: str, port: int, expected: bool) -> None:
    assert ExitPolicy.parse(text).may_allow_port(port) is expected


@pytest.mark.parametrize(
    "text",
    [
        *SHORTHANDS,
        "accept *:80, accept 10.0.0.0/8:8000-8999, reject [fd00::]/8:*",
        "accept 10.1.2.3:22",
        "reject *:25, default",
    ],
)
def test_a_policy_survives_being_written(text: str) -> None:
    policy = ExitPolicy.parse(text)
    assert ExitPolicy.parse(str(policy)) == policy
    if text in SHORTHANDS:
        assert str(policy) == text


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "accept", "accept *", "allow *:80", "accept *:0", "accept *:65536", "accept *:90-80", "accept *:80-",
        "accept *:-80", "accept *:٣", "accept example.org:80", "accept 10.0.0.1/8:80", "accept 10.0.0.0/33:80",
        "accept fd00::/8:80", "accept [10.0.0.0]/8:80", "accept [fe80::1%1]/128:80", "default,", "Default",
        ", ".join(["accept *:80"] * (MAX_RULES + 1)), " " * MAX_TEXT + "default",
    ],
)  # fmt: skip
def test_what_is_not_a_policy_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        ExitPolicy.parse(text)
