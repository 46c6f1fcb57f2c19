"""What an address counts for."""

import pytest

from common.directory.addresses import ip_of, unmap
from common.net.source import source_of


@pytest.mark.parametrize(
    ("host", "counts_for"),
    [
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("fe80::1%eth0", "fe80000000000000"),
    ],
)
def test_an_address_counts_for_itself_or_its_network(host: str, counts_for: str | None) -> None:
    assert source_of(host) == counts_for


@pytest.mark.parametrize("host", ["::ffff:192.0.2.7", "::192.0.2.7", "64:ff9b::192.0.2.7", "2001:db8::1", "192.0.2.7"])
def test_an_address_inside_another_is_found_as_everywhere_else(host: str) -> None:
    """`common.net` may not import `unmap`, and has its two lines again."""
    ip = ip_of(host)
    assert ip is not None
    assert source_of(host) == source_of(str(unmap(ip)))
