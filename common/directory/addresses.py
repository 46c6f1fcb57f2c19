"""Where something can be dialled: "192.0.2.1:9001", "[2001:db8::1]:9001" or "relay.example.org:9001".

An address has one spelling: names in lower case, IP addresses in their shortest form, so equal means same.
A name that a system resolver would read as a number ("127.1", "0x7f.1") is not an address here.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from common.errors import Malformed

MAX_NAME = 253  # characters of a DNS name (RFC 1035, section 2.3.4)
MAX_TEXT = MAX_NAME + 6  # a name, a colon and a port

IpAddress = IPv4Address | IPv6Address

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORT = re.compile(r"[0-9]{1,5}")
_PRIVATE = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT, from which overlay VPNs number their hosts
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
    )
)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; made by `parse_address` or `parse_listen`, and `str` gives back what they take."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> IpAddress | None:
        """The host as an IP address, None when it is a name."""
        return ip_of(self.host)


def parse_address(text: str) -> Address:
    """The address to dial, port 1 to 65535; raises `Malformed` with a sentence that says what would be right."""
    return _parse(text, lowest_port=1)


def parse_listen(text: str) -> Address:
    """The address to listen on; port 0 is any free one. Raises `Malformed`."""
    return _parse(text, lowest_port=0)


def _parse(text: str, lowest_port: int) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise Malformed(f"{_quote(text)} is not an address: write host:port or [IPv6]:port")
    if not _PORT.fullmatch(port) or not lowest_port <= int(port) <= 65_535:
        raise Malformed(f"{_quote(port)} is not a port: write a number from {lowest_port} to 65535")
    return Address(_parse_host(host), int(port))


def _parse_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return _spell(IPv6Address(host[1:-1]))
        except ValueError:
            raise Malformed(f"{_quote(host)} is not an IPv6 address") from None
    if ":" in host:
        raise Malformed(f"{_quote(host)}: an IPv6 address stands in brackets, like [::1]:9001")
    if (ip := ip_of(host)) is not None:
        return str(ip)
    labels = host.split(".")
    named = len(host) <= MAX_NAME and all(_LABEL.fullmatch(label) for label in labels)
    if not named or _NUMERIC.fullmatch(labels[-1]):
        raise Malformed(f"{_quote(host)} is neither a host name nor an IP address")
    return host.lower()


def _spell(ip: IPv6Address) -> str:
    if ip.scope_id is not None:
        raise Malformed("an IPv6 address with a zone means something on one host only")
    return str(ip)


def ip_of(host: str) -> IpAddress | None:
    """The host as an IP address, None when it is a name."""
    if not (":" in host or host[-1:].isdigit()):
        return None  # as most are: trying costs more than all the rest of a look at a name
    try:
        return ip_address(host)
    except ValueError:
        return None


def _quote(text: str) -> str:
    return repr(text[:80])


def unmap(ip: IpAddress) -> IpAddress:
    """The IPv4 address inside an IPv4-mapped IPv6 one (RFC 4291, section 2.5.5.2); any other as it is."""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def is_private(ip: IpAddress) -> bool:
    """Whether people number hosts of their own so: neither loopback nor link-local, where clouds have metadata."""
    ip = unmap(ip)
    return any(ip in network for network in _PRIVATE)


@lru_cache(maxsize=16_384)  # more than a large network has relays; each is asked for at every path
def neighbourhood(address: Address) -> str | None:
    """What two relays of one path must not share: the /16 (IPv6: /32), or the name; None on loopback.

    Of a private address it is the host: whoever has the range has all of it, and most have one only.
    """
    ip = address.ip
    if ip is None:
        return address.host
    ip = unmap(ip)
    if ip.is_loopback:
        return None
    if is_private(ip):
        return str(ip)
    return ip.packed[:2].hex() if ip.version == 4 else ip.packed[:4].hex()
