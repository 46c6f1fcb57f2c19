"""What a gateway shows of itself: for its status page, its metrics and tests."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.directory.addresses import Address
from common.directory.document import RelayEntry
from common.directory.heartbeats import Heartbeats
from common.directory.observation import History
from common.directory.registry import Registry
from common.roles.gateway.document_builder import Published


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

    @classmethod
    def of(
        cls,
        registry: Registry,
        document: Published | None,
        heartbeats: Heartbeats,
        *,
        identity: bytes,
        addresses: tuple[Address, ...],
        started: float,
        connections: int,
        clients_greeted: int,
        storing: bool,
    ) -> "GatewaySnapshot":
        """Now, on the gateway's thread: a few milliseconds with 10,000 relays."""
        return cls(
            network=registry.network,
            identity=identity,
            addresses=addresses,
            started=started,
            relays=registry.entries(),
            histories=registry.histories(),
            serial=document.serial if document is not None else 0,
            valid_after=document.valid_after if document is not None else 0.0,
            valid_until=document.valid_until if document is not None else 0.0,
            document_size=document.size if document is not None else 0,
            transfer_size=len(document.frame) if document is not None else 0,
            build_seconds=document.cost if document is not None else 0.0,
            connections=connections,
            clients_greeted=clients_greeted,
            pings_sent=heartbeats.sent,
            pings_missed=heartbeats.missed,
            storing=storing,
        )
