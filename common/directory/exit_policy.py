"""What an exit may dial: a list of rules, the first that fits decides, and what none fits is refused.

    accept|reject HOST:PORTS        HOST is *, 192.0.2.0/24 or [2001:db8::]/32; PORTS is *, 443 or 8000-8999

* `accept *` means every *public* address. A private, loopback, link-local or otherwise special range opens only
  when a rule names it, so "accept *:80" never opens a home network or a cloud's metadata service.
* `reject *` means every address.
* An IPv4-mapped IPv6 address is judged as the IPv4 address. A NAT64 address must be allowed as both.
* Three words stand for lists of rules: `default` (public addresses), `local` (the same and loopback), `none`.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from common.directory.addresses import IpAddress, unmap
from common.errors import Malformed

WEB_PORTS = (80, 443)  # by these a relay is judged to be an exit where no port is named
MAX_RULES = 64  # judged one after the other for each stream
MAX_TEXT = 1_024  # characters: every client holds the policy of every relay

# IANA special-purpose registry: whatever is not an ordinary public host.
_SPECIAL_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # unspecified: Linux dials loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)  # in order
_FIRST_4 = [int(network.network_address) for network in _SPECIAL_4]  # searched, not tried: each stream asks
_LAST_4 = [int(network.broadcast_address) for network in _SPECIAL_4]
_PUBLIC_6 = IPv6Network("2000::/3")  # loopback, link-local, unique local, multicast, IPv4 forms lie outside
_SPECIAL_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # the last 32 bits are the IPv4 address that is really dialled (RFC 6052)

SHORTHANDS = {
    "default": "accept *:*",
    "local": "accept 127.0.0.0/8:*, accept [::1]/128:*, accept *:*",
    "none": "reject *:*",
}


def is_special(ip: IpAddress) -> bool:
    """Whether `ip` is private, loopback, link-local, multicast, documentation or otherwise not a public host."""
    ip = unmap(ip)
    if isinstance(ip, IPv4Address):
        number = int(ip)
        return number <= _LAST_4[bisect_right(_FIRST_4, number) - 1]  # the first begins at 0: one is found always
    inside = inside_nat64(ip)
    if inside is not ip:
        return is_special(inside)
    return ip not in _PUBLIC_6 or any(ip in network for network in _SPECIAL_6)


def inside_nat64(ip: IpAddress) -> IpAddress:
    """The IPv4 address that is really reached by a NAT64 one; any other as it is."""
    return IPv4Address(ip.packed[-4:]) if isinstance(ip, IPv6Address) and ip in _NAT64 else ip


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `network` None is `*`, the ports are a range with both ends in it."""

    accept: bool
    network: IPv4Network | IPv6Network | None
    first_port: int
    last_port: int

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule in `text`; raises `Malformed` with a sentence."""
        verb, _, rest = text.strip().partition(" ")
        host, colon, ports = rest.strip().rpartition(":")
        if verb not in ("accept", "reject") or not colon:
            raise Malformed(f"{text[:80]!r} is not a rule: write accept HOST:PORTS or reject HOST:PORTS")
        first, last = _parse_ports(ports)
        return cls(verb == "accept", _parse_network(host), first, last)

    def __str__(self) -> str:
        ports = f"{self.first_port}-{self.last_port}"
        if self.first_port == self.last_port:
            ports = str(self.first_port)
        elif (self.first_port, self.last_port) == (0, 65_535):
            ports = "*"
        return f"{'accept' if self.accept else 'reject'} {_spell(self.network)}:{ports}"

    def fits(self, ip: IpAddress, port: int) -> bool:
        """Whether this rule decides about `ip` (already unmapped) and `port`."""
        if not self.first_port <= port <= self.last_port:
            return False
        if self.network is None:
            return not (self.accept and is_special(ip))
        return ip in self.network


def _parse_ports(text: str) -> tuple[int, int]:
    if text == "*":
        return 0, 65_535
    first, dash, last = text.partition("-")
    numbers = (first, last if dash else first)
    if all(number.isascii() and number.isdigit() and len(number) <= 5 for number in numbers):
        low, high = int(numbers[0]), int(numbers[1])
        if 1 <= low <= high <= 65_535:
            return low, high
    raise Malformed(f"{text[:80]!r} is not a port, a range like 8000-8999, or *")


def _parse_network(text: str) -> IPv4Network | IPv6Network | None:
    if text == "*":
        return None
    plain = text.replace("[", "").replace("]", "")
    spelled = f"[{plain.partition('/')[0]}]" if ":" in plain else plain.partition("/")[0]
    try:
        network = ip_network(plain)
    except ValueError:
        raise Malformed(f"{text[:80]!r} is not *, an IPv4 network or an [IPv6]/bits network") from None
    if not text.startswith(spelled) or (isinstance(network, IPv6Network) and network.network_address.scope_id):
        raise Malformed(f"{text[:80]!r}: an IPv6 network is written like [2001:db8::]/32")
    return network


def _spell(network: IPv4Network | IPv6Network | None) -> str:
    if network is None:
        return "*"
    if isinstance(network, IPv6Network):
        return f"[{network.network_address}]/{network.prefixlen}"
    return str(network)


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Rules in order; immutable, and `ExitPolicy.parse(str(policy)) == policy`."""

    rules: tuple[Rule, ...]

    @staticmethod
    @lru_cache(maxsize=1_024)  # most relays of a network share a policy; bounds what odd ones can make us hold
    def parse(text: str) -> "ExitPolicy":
        """The policy in `text`: rules and the words `default`, `local`, `none`, separated by commas."""
        if len(text) > MAX_TEXT:
            raise Malformed(f"an exit policy has at most {MAX_TEXT} characters")
        rules: list[Rule] = []
        for part in text.split(","):
            for rule in SHORTHANDS.get(part.strip(), part).split(","):
                rules.append(Rule.parse(rule))
        if len(rules) > MAX_RULES:
            raise Malformed(f"an exit policy has at most {MAX_RULES} rules")
        return ExitPolicy(tuple(rules))

    def __str__(self) -> str:
        text = ", ".join(str(rule) for rule in self.rules)
        return next((word for word, rules in SHORTHANDS.items() if rules == text), text)

    def allows(self, ip: IpAddress, port: int) -> bool:
        """Whether a stream may be opened to the address that is really dialled; port 1 to 65535."""
        if not 1 <= port <= 65_535:
            return False
        ip = unmap(ip)
        inside = inside_nat64(ip)
        if inside is not ip and not self._decide(inside, port):
            return False
        return self._decide(ip, port)

    def _decide(self, ip: IpAddress, port: int) -> bool:
        for rule in self.rules:
            if rule.fits(ip, port):
                return rule.accept
        return False

    def may_allow_port(self, port: int) -> bool:
        """Whether some address may be dialled on `port`: for choosing an exit before a name's address is known."""
        for rule in self.rules:
            if rule.first_port <= port <= rule.last_port:
                if rule.accept:
                    return True
                if rule.network is None:
                    return False
        return False
