"""What a peer's address counts for, where one peer must not take the places of all."""

from ipaddress import IPv6Address, ip_address


def source_of(host: str) -> str | None:
    """A numeric host itself, in IPv6 its /64, which one customer has; None for loopback, where all are one."""
    ip = ip_address(host.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return None
    return ip.packed[:8].hex() if isinstance(ip, IPv6Address) else str(ip)
