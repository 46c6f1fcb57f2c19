"""Relays for the directory's tests: an identity key each, and descriptors and entries made with it."""

import dataclasses
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.addresses import Address
from common.directory.descriptor import Descriptor, sign_descriptor
from common.directory.document import DirectoryDocument, RelayEntry

NOW = 1_800_000_000.0
NETWORK = "test"


class FakeRelay:
    """A relay that exists only as a key and a number."""

    def __init__(self, number: int = 1, **changes: Any) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.identity = self.key.public_key().public_bytes_raw()
        self.plain = Descriptor(
            nickname=f"relay{number}",
            address=Address("127.0.0.1", 9000 + number),
            identity=self.identity,
            onion_keys=(bytes([number % 256]) * 32,),
            exit_policy="default",
            family="",
            bandwidth=0,
            software="test",
            versions=(1,),
            published=NOW,
        )
        self.plain = self.describe(**changes)

    def describe(self, **changes: Any) -> Descriptor:
        """Its descriptor with some fields changed."""
        return dataclasses.replace(self.plain, **changes)

    def envelope(self, **changes: Any) -> bytes:
        """Its signed descriptor with some fields changed."""
        return sign_descriptor(self.describe(**changes), self.key)

    def entry(self, **changes: Any) -> RelayEntry:
        """As a gateway lists it."""
        return RelayEntry(self.envelope(**changes), self.describe(**changes), NOW, 1.5, ("running",))


def unsigned_entry(number: int, **changes: Any) -> RelayEntry:
    """An entry for path choice, which looks at no signature: cheap to make by the thousand."""
    descriptor = Descriptor(
        nickname=f"relay{number}",
        address=Address("127.0.0.1", 9000 + number),
        identity=number.to_bytes(32, "big"),
        onion_keys=(bytes(32),),
        exit_policy="default",
        family="",
        bandwidth=0,
        software="test",
        versions=(1,),
        published=NOW,
    )
    return RelayEntry(b"", dataclasses.replace(descriptor, **changes), NOW, 1.5)


def make_document(*relays: FakeRelay, serial: int = 7, **changes: Any) -> DirectoryDocument:
    """A document of these relays, valid from `NOW` for ten minutes."""
    entries = tuple(relay.entry() for relay in relays)
    return dataclasses.replace(DirectoryDocument(NETWORK, serial, NOW, NOW + 600, entries), **changes)
