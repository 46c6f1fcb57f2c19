"""What the two ends of a circuit say inside the layers: each message's encoding beside its decoding.

    command (1) | stream id (2, 0 = the circuit itself) | length (2) | data

Several messages may share a cell; none crosses cells. Whether a message is legal *now* is decided in
`common/circuit`; here it is only well formed or `Malformed`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar, Self

from common.errors import EndReason, Malformed
from common.wire.cells import MAX_SHORT_BODY, Bytes
from common.wire.codec import U16, U32, U64, Reader, pack_short_string

HEADER = struct.Struct(">BHH")
_HEADER_SIZE = HEADER.size
CREATE_BODY = 1_282  # bytes of a CREATE cell's body: types, identity, onion key, X25519 and ML-KEM-768 keys
CREATED_BODY = 1_152  # bytes of a CREATED cell's body: X25519 key, ML-KEM-768 ciphertext, proof
IDENTITY = 32
PROOF = 16  # bytes of the layer that a circuit SENDME repeats
MAX_ANSWERS = 16  # addresses in a RESOLVED: more help nobody

IPAddress = IPv4Address | IPv6Address


class MessageCommand(IntEnum):
    """The first byte of a message."""

    BEGIN = 1
    CONNECTED = 2
    DATA = 3
    END = 4
    SENDME = 5
    EXTEND = 6
    EXTENDED = 7
    RESOLVE = 8
    RESOLVED = 9
    DROP = 10
    MARK = 11


class BeginFlags(IntFlag):
    """Which addresses of a name the exit may use."""

    ANY = 0
    IPV4_ONLY = 1
    IPV6_ONLY = 2


class Sought(IntEnum):
    """What a RESOLVE asks for."""

    ADDRESSES = 0  # of a name
    NAME = 1  # of an address


class Direction(IntEnum):
    """What an END ends."""

    SENDING = 0  # the sender of the END sends no more; it still takes what comes
    BOTH = 1  # a reset: it takes no more either


_BEGIN = struct.Struct(">BH")
_FLAGS = {int(flags): flags for flags in (BeginFlags.ANY, BeginFlags.IPV4_ONLY, BeginFlags.IPV6_ONLY)}
_ADDRESSES: dict[int, tuple[type[IPAddress], int]] = {4: (IPv4Address, 4), 6: (IPv6Address, 16)}  # and bytes
_ENDS = {bytes([direction, reason]): (direction, reason) for direction in Direction for reason in EndReason}


def _pack(command: MessageCommand, stream_id: int, data: bytes) -> bytes:
    return HEADER.pack(command, stream_id, len(data)) + data


# What each stream says is not frozen, though nobody changes it: to freeze one costs a microsecond.


@dataclass(slots=True)
class Begin:
    """Open a stream to a target; DATA may follow at once."""

    command: ClassVar = MessageCommand.BEGIN
    stream_id: int
    host: str = field(repr=False)  # targets and users' bytes stay out of tracebacks and logs
    port: int
    flags: BeginFlags = BeginFlags.ANY

    def encode(self) -> bytes:
        """flags (1), port (2), host (length byte and 1 to 255 ASCII bytes)."""
        data = _BEGIN.pack(self.flags, self.port) + pack_short_string(self.host)
        return _pack(self.command, self.stream_id, data)

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """Raises `Malformed`; so do all the decoders below."""
        reader = Reader(data)
        (number, port), host = reader.unpack(_BEGIN), reader.short_string()
        reader.done()
        flags = _FLAGS.get(number)
        if port == 0 or flags is None:
            raise Malformed("not a BEGIN")
        return cls(stream_id, host, port, flags)


def _pack_address(address: IPAddress) -> bytes:
    return bytes([address.version]) + address.packed


def _read_address(reader: Reader) -> IPAddress:
    kind, size = _ADDRESSES.get(reader.u8(), (None, 0))
    if kind is None:
        raise Malformed("unknown address type")
    return kind(reader.take(size))


@dataclass(slots=True)
class Connected:
    """The target answered: the address that was dialled and how many seconds its name may be remembered."""

    command: ClassVar = MessageCommand.CONNECTED
    stream_id: int
    address: IPAddress
    ttl: int

    def encode(self) -> bytes:
        """version (1: 4 or 6), address (4 or 16), ttl in seconds (4)."""
        return _pack(self.command, self.stream_id, _pack_address(self.address) + U32.pack(self.ttl))

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        reader = Reader(data)
        address, ttl = _read_address(reader), int.from_bytes(reader.take(4), "big")
        reader.done()
        return cls(stream_id, address, ttl)


@dataclass(slots=True)
class Data:
    """Bytes of a stream, at least one."""

    command: ClassVar = MessageCommand.DATA
    stream_id: int
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        """The bytes as they are."""
        return _pack(self.command, self.stream_id, self.data)

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        if not data:
            raise Malformed("empty DATA")
        return cls(stream_id, data)


@dataclass(slots=True)
class End:
    """The sender's direction of a stream ended, or both."""

    command: ClassVar = MessageCommand.END
    stream_id: int
    direction: Direction
    reason: EndReason

    def encode(self) -> bytes:
        """direction (1), reason (1)."""
        return _pack(self.command, self.stream_id, bytes([self.direction, self.reason]))

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        end = _ENDS.get(data)
        if end is None:
            raise Malformed("not an END")
        return cls(stream_id, *end)


@dataclass(slots=True)
class Sendme:
    """How many bytes of DATA may have been sent since the start; for a circuit also the proof of receipt."""

    command: ClassVar = MessageCommand.SENDME
    stream_id: int
    total: int
    proof: bytes = b""

    def encode(self) -> bytes:
        """total (8); for stream id 0 also the proof (16)."""
        return _pack(self.command, self.stream_id, U64.pack(self.total) + self.proof)

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        if len(data) != (8 if stream_id else 8 + PROOF):
            raise Malformed("not a SENDME")
        return cls(stream_id, U64.unpack_from(data)[0], data[8:])


@dataclass(frozen=True, slots=True)
class Extend:
    """Make the circuit one hop longer."""

    command: ClassVar = MessageCommand.EXTEND
    stream_id: ClassVar = 0
    host: str
    port: int
    identity: bytes
    create: bytes

    def encode(self) -> bytes:
        """port (2), identity (32), CREATE body (1,282), host (length byte and name)."""
        data = U16.pack(self.port) + self.identity + self.create + pack_short_string(self.host)
        return _pack(self.command, 0, data)

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        reader = Reader(data)
        port, identity, create = reader.u16(), reader.take(IDENTITY), reader.take(CREATE_BODY)
        host = reader.short_string()
        reader.done()
        if port == 0:
            raise Malformed("port 0")
        return cls(host, port, identity, create)


@dataclass(frozen=True, slots=True)
class Extended:
    """The new hop's answer."""

    command: ClassVar = MessageCommand.EXTENDED
    stream_id: ClassVar = 0
    created: bytes

    def encode(self) -> bytes:
        """The CREATED body (1,152)."""
        return _pack(self.command, 0, self.created)

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        if len(data) != CREATED_BODY:
            raise Malformed("not an EXTENDED")
        return cls(data)


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look up at the exit: the addresses of a name, or the name of an address."""

    command: ClassVar = MessageCommand.RESOLVE
    stream_id: int
    host: str = field(repr=False)
    sought: Sought = Sought.ADDRESSES

    def encode(self) -> bytes:
        """what is sought (1), host (length byte and name, or address in its usual form); raises `Malformed`."""
        if self.sought is Sought.NAME and not _is_address(self.host):
            raise Malformed("the name of what is not an address")
        return _pack(self.command, self.stream_id, bytes([self.sought]) + pack_short_string(self.host))

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        reader = Reader(data)
        sought, host = reader.u8(), reader.short_string()
        reader.done()
        if sought not in (Sought.ADDRESSES, Sought.NAME):
            raise Malformed("not a RESOLVE")
        if sought == Sought.NAME and not _is_address(host):
            raise Malformed("the name of what is not an address")
        return cls(stream_id, host, Sought(sought))


def _is_address(host: str) -> bool:
    """Whether `host` is an address in its one usual form, without a zone."""
    try:
        return "%" not in host and str(ip_address(host)) == host
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Resolved:
    """The addresses of a name, or the name of an address, or why there is no answer."""

    command: ClassVar = MessageCommand.RESOLVED
    stream_id: int
    reason: EndReason
    addresses: tuple[IPAddress, ...] = ()
    ttl: int = 0
    name: str = field(default="", repr=False)

    def encode(self) -> bytes:
        """reason (1), ttl (4), count (1), addresses (version byte and 4 or 16 bytes each), then any name."""
        data = bytes([self.reason]) + U32.pack(self.ttl) + bytes([len(self.addresses)])
        data += b"".join(map(_pack_address, self.addresses))
        if self.name:
            data += pack_short_string(self.name)
        return _pack(self.command, self.stream_id, data)

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        reader = Reader(data)
        try:
            reason = EndReason(reader.u8())
        except ValueError:
            raise Malformed("unknown reason") from None
        ttl, count = int.from_bytes(reader.take(4), "big"), reader.u8()
        if count > MAX_ANSWERS:
            raise Malformed("too many addresses")
        addresses = tuple(_read_address(reader) for _ in range(count))
        name = reader.short_string() if reader.left else ""
        reader.done()
        if name and addresses:
            raise Malformed("both a name and addresses")
        return cls(stream_id, reason, addresses, ttl, name)


@dataclass(frozen=True, slots=True)
class Drop:
    """Padding inside the layers: legal for any hop at any time, and then thrown away."""

    command: ClassVar = MessageCommand.DROP
    stream_id: ClassVar = 0
    size: int

    def encode(self) -> bytes:
        """`size` zero bytes."""
        return _pack(self.command, 0, bytes(self.size))

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        return cls(len(data))


@dataclass(frozen=True, slots=True)
class Mark:
    """The sender wants to be told, by a circuit SENDME, that the cell with this message has arrived."""

    command: ClassVar = MessageCommand.MARK
    stream_id: ClassVar = 0

    def encode(self) -> bytes:
        """No data."""
        return _pack(self.command, 0, b"")

    @classmethod
    def decode(cls, stream_id: int, data: bytes) -> Self:
        """See `Begin.decode`."""
        if data:
            raise Malformed("not a MARK")
        return cls()


Message = Begin | Connected | Data | End | Sendme | Extend | Extended | Resolve | Resolved | Drop | Mark
_DATA = int(MessageCommand.DATA)
_OF_CIRCUIT: tuple[type[Message], ...] = (Extend, Extended, Drop, Mark, Sendme)
_OF_STREAM: tuple[type[Message], ...] = (Begin, Connected, Data, End, Resolve, Resolved, Sendme)
_Decoder = Callable[[int, bytes], Message]
_CIRCUIT_DECODERS: dict[int, _Decoder] = {int(kind.command): kind.decode for kind in _OF_CIRCUIT}
_STREAM_DECODERS: dict[int, _Decoder] = {int(kind.command): kind.decode for kind in _OF_STREAM}


# The five bytes before a stream's DATA, of its id and the length: senders of much data join them to it themselves.
encode_data_header = partial(HEADER.pack, _DATA)


def only_data(body: Bytes) -> tuple[int, Bytes] | None:
    """Stream id and bytes of a DELIVER body that is one DATA, as most are; None for any other, also a wrong one.

    What nearly fills a cell is a view of `body`: no copy, and it keeps little more in memory than itself.
    """
    if len(body) <= _HEADER_SIZE:
        return None
    command, stream_id, length = HEADER.unpack_from(body)
    if command != _DATA or length != len(body) - _HEADER_SIZE or not stream_id:
        return None
    data = body[_HEADER_SIZE:]
    return stream_id, data if length > MAX_SHORT_BODY else bytes(data)


def decode_messages(body: Bytes) -> list[Message]:
    """All messages of one DELIVER body, at least one; raises `Malformed`."""
    messages: list[Message] = []
    at, end = 0, len(body)
    while at < end:
        if end - at < _HEADER_SIZE:
            raise Malformed("truncated message")
        command, stream_id, length = HEADER.unpack_from(body, at)
        at += _HEADER_SIZE
        if length > end - at:
            raise Malformed("truncated message")
        decode = (_STREAM_DECODERS if stream_id else _CIRCUIT_DECODERS).get(command)
        if decode is None:
            raise Malformed("unknown message, or one that its stream id does not fit")
        messages.append(decode(stream_id, bytes(body[at : at + length])))
        at += length
    if not messages:
        raise Malformed("no message")
    return messages
