"""What a gateway shows of itself: for its status page, its metrics and tests."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.directory.addresses import Address
from common.directory.document import RelayEntry
from common.directory.observation import History


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """One moment. Times are seconds since 1970, sizes bytes; the document's numbers are 0 until there is one."""

    network: str
    identity: bytes  # the gateway's Ed25519 key, which signs its documents
    addresses: tuple[Address, ...]
    started: float
    relays: tuple[RelayEntry, ...]  # those listed now; the document may be a moment behind
    histories: Mapping[bytes, History]  # by identity, also of relays that have left; not to be changed
    serial: int
    valid_after: float
    valid_until: float
    document_size: int  # of the signed envelope
    transfer_size: int  # of what a client is sent
    build_seconds: float
    connections: int
    clients_greeted: int
    pings_sent: int
    pings_missed: int
    storing: bool  # False while the disk refuses, and the list is in memory only
