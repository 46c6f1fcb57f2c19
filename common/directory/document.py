"""The directory document. It is valid for a client when

1. its envelope is of `DOCUMENT_TYPE`, at most `MAX_ENVELOPE` bytes, and signed by enough of the pinned gateways;
2. it has exactly the fields below and names the client's network;
3. its serial is not below one seen before, and an equal serial means equal bytes (no rollback, no two faces);
4. `valid_after` is not in the future, with `CLOCK_SKEW` tolerated, and `valid_until` not in the past;
5. each relay's descriptor is signed by that relay itself, and by the family that it names: a gateway can leave
   relays out, it cannot invent keys;
6. no identity and no nickname stands in it twice.

Nothing is parsed before 1. Time is an argument.
"""

import hashlib
import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.crypto.signing import Envelope, sign, verify
from common.directory.descriptor import MAX_ENVELOPE as MAX_DESCRIPTOR
from common.directory.descriptor import NETWORK, Descriptor, verify_member
from common.errors import DirectoryError, Malformed, StaleDocument
from common.wire.strict_json import Fields, decode_json, encode_json

DOCUMENT_TYPE = "application/vnd.onion-network.directory+json"
VALID_FOR = 600.0  # seconds
CLOCK_SKEW = 600.0  # seconds that a client's or relay's clock may be wrong
MAX_RELAYS = 10_000
MAX_ENVELOPE = 64 * 2**20  # bytes: 10,000 of the largest descriptors, in base64
MAX_FLAGS = 8

_FLAG = re.compile(r"[a-z-]{1,16}")
_FIELDS = ("network", "serial", "valid_after", "valid_until", "relays")
_ENTRY_FIELDS = ("descriptor", "running_since", "round_trip_ms", "bandwidth", "flags")


@dataclass(frozen=True, slots=True)
class RelayEntry:
    """A live relay: its own signed words, and what the gateway saw or believes.

    `running_since` is seconds since 1970, `round_trip_ms` smoothed, `bandwidth` bytes a second (0 for unknown).
    """

    envelope: bytes
    descriptor: Descriptor
    running_since: float
    round_trip_ms: float
    flags: tuple[str, ...] = ()
    bandwidth: int = 0


@dataclass(frozen=True, slots=True)
class DirectoryDocument:
    """The live relays of a network at one moment; the serial goes up with every new document of a gateway."""

    network: str
    serial: int
    valid_after: float
    valid_until: float
    relays: tuple[RelayEntry, ...]

    def encode(self) -> bytes:
        """The JSON payload that the gateway signs."""
        relays = [
            {
                "descriptor": entry.envelope.decode("ascii"),
                "running_since": entry.running_since,
                "round_trip_ms": entry.round_trip_ms,
                "bandwidth": entry.bandwidth,
                "flags": list(entry.flags),
            }
            for entry in self.relays
        ]
        return encode_json(
            {
                "network": self.network,
                "serial": self.serial,
                "valid_after": self.valid_after,
                "valid_until": self.valid_until,
                "relays": relays,
            }
        )

    @classmethod
    def decode(cls, payload: bytes, known: dict[bytes, Descriptor] | None = None) -> "DirectoryDocument":
        """The document in a verified payload, descriptors and all; raises `ProtocolError` or `DirectoryError`.

        `known` spares verifying envelopes a second time: those verified for this network before, by their bytes.
        """
        fields = Fields(decode_json(payload), "directory document", _FIELDS)
        network = fields.text("network", 64)
        relays = tuple(_decode_entry(one, network, known or {}) for one in fields.items("relays", MAX_RELAYS))
        identities = {entry.descriptor.identity for entry in relays}
        nicknames = {entry.descriptor.nickname.lower() for entry in relays}
        if not len(relays) == len(identities) == len(nicknames):
            raise Malformed("directory document: a relay stands in it twice")
        return cls(
            network=network,
            serial=fields.integer("serial"),
            valid_after=fields.number("valid_after"),
            valid_until=fields.number("valid_until"),
            relays=relays,
        )


def _decode_entry(value: object, network: str, known: dict[bytes, Descriptor]) -> RelayEntry:
    fields = Fields(value, "relay entry", _ENTRY_FIELDS)
    envelope = fields.text("descriptor", MAX_DESCRIPTOR).encode("ascii")
    flags = fields.items("flags", MAX_FLAGS)
    words = tuple(flag for flag in flags if isinstance(flag, str) and _FLAG.fullmatch(flag))
    if len(words) != len(flags):
        raise Malformed("relay entry: flags must be short words")
    return RelayEntry(
        envelope=envelope,
        descriptor=known.get(envelope) or verify_member(envelope, network),
        running_since=fields.number("running_since"),
        round_trip_ms=fields.number("round_trip_ms"),
        flags=words,
        bandwidth=fields.integer("bandwidth"),
    )


def sign_document(document: DirectoryDocument, *keys: Ed25519PrivateKey) -> bytes:
    """The encoded envelope of a document."""
    return sign(DOCUMENT_TYPE, document.encode(), *keys).encode()


def digest(envelope: bytes) -> bytes:
    """What a client sends to say which document it holds: SHA-256 of the encoded envelope."""
    return hashlib.sha256(envelope).digest()


class TrustedDirectory:
    """Takes encoded documents and holds the newest that satisfies the rules above. Not thread-safe.

    `document` and `envelope` are what is held, None at first. A held document is not dropped when it expires:
    compare `valid_until`.
    """

    def __init__(self, network: str, gateway_keys: frozenset[bytes], threshold: int = 1) -> None:
        if not NETWORK.fullmatch(network):
            raise Malformed("a network's name has 1 to 64 letters, digits, dots, dashes or underscores")
        self.document: DirectoryDocument | None = None
        self.envelope: bytes | None = None
        self._network = network
        self._keys = gateway_keys
        self._threshold = threshold
        self._newest = 0  # the highest serial that was ever signed for us, even if that document has expired

    def update(self, envelope: bytes, now: float) -> DirectoryDocument:
        """Verifies and takes a document; on any error what was held stays.

        Raises `NotEnoughSignatures`, `StaleDocument`, another `DirectoryError`, or `Malformed` / `TooLarge`.
        """
        if envelope == self.envelope and self.document is not None:
            _check_time(self.document, now)
            return self.document
        payload = verify(Envelope.decode(envelope, MAX_ENVELOPE), DOCUMENT_TYPE, self._keys, self._threshold)
        held = self.document.relays if self.document is not None else ()
        document = DirectoryDocument.decode(payload, {entry.envelope: entry.descriptor for entry in held})
        if document.network != self._network:
            raise DirectoryError(f"the gateway serves the network {document.network!r}, not {self._network!r}")
        self._check_serial(document)
        self._newest = document.serial
        _check_time(document, now)
        self.document, self.envelope = document, envelope
        return document

    def _check_serial(self, document: DirectoryDocument) -> None:
        if document.serial < self._newest:
            raise StaleDocument(f"document {document.serial} is older than {self._newest}, which was seen before")
        if self.document is not None and document.serial == self.document.serial:
            raise StaleDocument(f"there are two directory documents with the serial {document.serial}")


def _check_time(document: DirectoryDocument, now: float) -> None:
    if document.valid_after > now + CLOCK_SKEW:
        minutes = round((document.valid_after - now) / 60)
        raise StaleDocument(f"the directory document is from {minutes} minutes in the future: is the clock right?")
    if document.valid_until <= now:
        minutes = round((now - document.valid_until) / 60)
        raise StaleDocument(f"the directory document expired {minutes} minutes ago: is the clock right?")
