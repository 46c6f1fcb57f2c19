"""From what an earlier run stored to a registry that goes on where that one ended."""

import logging

from common.directory.descriptor import Descriptor, verify_member
from common.directory.document import VALID_FOR
from common.directory.histories import Histories
from common.directory.owners import Owners
from common.directory.registry import Registry
from common.errors import DirectoryError, ProtocolError
from common.roles.gateway.store import Stored

log = logging.getLogger(__name__)


def restore(stored: Stored, network: str, now: float) -> Registry:
    """The registry; `now` is the wall clock's.

    It lists the relays that were listed, unless the gateway was away for longer than a document lives: until then
    clients may have a document that lists them, after that nobody expects them to be there. A serial never goes
    back; the clock keeps that true even when the store was lost.
    """
    serial = max(stored.serial, int(now)) + 1
    owners = Owners(stored.nicknames, stored.successors)
    registry = Registry(network, serial, owners, Histories(stored.histories, now))
    listed: dict[bytes, Descriptor] = {}
    for envelope in stored.relays:
        try:
            descriptor = verify_member(envelope, network)
        except (ProtocolError, DirectoryError):
            log.warning("a stored relay is damaged, or of another network: it must come back by itself")
            continue
        history = stored.histories.get(descriptor.identity)
        if history is not None and now - history.last_seen < VALID_FOR:
            listed[envelope] = descriptor
    registry.restore(listed, now)
    return registry
