"""What is said to a gateway: frames of a 4-byte length and a JSON object, over TLS 1.3 with a pinned key.

    client or relay          gateway
    HELLO                    WELCOME            always first
    REGISTER, UNREGISTER     OK or ERROR        a relay, with proofs signed for this connection's nonce
    PONG                     PING               each heartbeat, over the connection that registered
    LIST                     DOCUMENT or UNCHANGED

A request is at most 64 KiB; only DOCUMENT may be larger. Anything else that arrives is a `ProtocolError`, and ends
the connection. Messages are dataclasses; `encode` and `decode` are pure; the frames are `common/wire/frames`'.
"""

import re
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from common.directory.addresses import Address
from common.directory.descriptor import MAX_ENVELOPE as MAX_DESCRIPTOR
from common.directory.descriptor import MAX_PROOF, NONCE_SIZE
from common.directory.document import MAX_ENVELOPE as MAX_DOCUMENT
from common.directory.succession import MAX_SUCCESSION
from common.errors import (
    AuthenticationFailed,
    Closed,
    DirectoryError,
    Malformed,
    OnionError,
    TooLarge,
    Unexpected,
    Unreachable,
)
from common.net.deadline import Deadline
from common.net.tls_stream import TlsStream
from common.wire.frames import FrameReader, encode_frame
from common.wire.strict_json import Fields, decode_json, encode_base64, encode_json

VERSION = 1
MAX_REQUEST = 65_536  # bytes of a frame: a registration has about 3,000
MAX_REPLY = MAX_DOCUMENT // 3 * 4 + 1_024  # bytes of a frame: a document that does not compress, in base64

# ---- messages ----


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of who dials; `role` is "client" or "relay"."""

    version: int
    network: str
    role: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to HELLO: the nonce that proofs on this connection must name, and the heartbeat in ms."""

    version: int
    network: str
    nonce: bytes
    ping_ms: int


@dataclass(frozen=True, slots=True)
class Register:
    """A relay's signed descriptor, and the signed proof that it is the relay who asks.

    `succession` is a statement by its former identity, empty for most relays.
    """

    descriptor: bytes
    proof: bytes
    succession: bytes = b""


@dataclass(frozen=True, slots=True)
class Unregister:
    """A relay's good-bye with its proof."""

    proof: bytes


@dataclass(frozen=True, slots=True)
class List:
    """Asks for the document; `held` is the digest of the one held, or empty."""

    held: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """A heartbeat, to be answered by PONG with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to PING."""

    number: int


@dataclass(frozen=True, slots=True)
class Ok:
    """Done: REGISTER (the relay is listed) or UNREGISTER."""


@dataclass(frozen=True, slots=True)
class Error:
    """Refused: a fixed code and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A signed directory document, compressed with zlib."""

    compressed: bytes


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The document held is the newest."""


Message = Hello | Welcome | Register | Unregister | List | Ping | Pong | Ok | Error | Document | Unchanged

# For each type its class, and how each field is written, with its limit: characters, bytes, or the highest number.
_TYPES: dict[str, tuple[Callable[..., Message], dict[str, tuple[str, int]]]] = {
    "HELLO": (Hello, {"version": ("integer", 2**16 - 1), "network": ("text", 64), "role": ("text", 16)}),
    "WELCOME": (
        Welcome,
        {
            "version": ("integer", 2**16 - 1),
            "network": ("text", 64),
            "nonce": ("binary", NONCE_SIZE),
            "ping_ms": ("integer", 3_600_000),
        },
    ),
    "REGISTER": (
        Register,
        {
            "descriptor": ("binary", MAX_DESCRIPTOR),
            "proof": ("binary", MAX_PROOF),
            "succession": ("binary", MAX_SUCCESSION),
        },
    ),
    "UNREGISTER": (Unregister, {"proof": ("binary", MAX_PROOF)}),
    "LIST": (List, {"held": ("binary", 32)}),
    "PING": (Ping, {"number": ("integer", 2**63 - 1)}),
    "PONG": (Pong, {"number": ("integer", 2**63 - 1)}),
    "OK": (Ok, {}),
    "ERROR": (Error, {"code": ("text", 32), "text": ("text", 500)}),
    "DOCUMENT": (Document, {"compressed": ("binary", MAX_DOCUMENT)}),
    "UNCHANGED": (Unchanged, {}),
}
_PONG = re.compile(rb'\{"type":"PONG","number":(0|[1-9][0-9]{0,17})\}')
_NAMES: dict[object, str] = {kind: name for name, (kind, _) in _TYPES.items()}


def encode(message: Message) -> bytes:
    """The frame of a message."""
    name = _NAMES[type(message)]
    members: dict[str, object] = {"type": name}
    for field in _TYPES[name][1]:
        value = getattr(message, field)
        members[field] = encode_base64(value) if isinstance(value, bytes) else value
    return encode_frame(encode_json(members))


def encode_ping(number: int) -> bytes:
    """`encode(Ping(number))`, four times as fast: a gateway sends thousands a second."""
    return encode_frame(b'{"type":"PING","number":%d}' % number)


def decode(body: bytes) -> Message:
    """The message in a frame's body; raises `Malformed`."""
    if (pong := _PONG.fullmatch(body)) is not None:  # in its usual spelling, without the way through JSON
        return Pong(int(pong[1]))
    value = decode_json(body)
    name = value.get("type") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _TYPES:
        raise Malformed("no known message type")
    kind, spec = _TYPES[name]
    fields = Fields(value, name, ("type", *spec))
    return kind(**{field: _read(fields, field, how, limit) for field, (how, limit) in spec.items()})


def _read(fields: Fields, name: str, how: str, limit: int) -> str | bytes | int:
    if how == "integer":
        return fields.integer(name, 0, limit)
    return fields.binary(name, limit) if how == "binary" else fields.text(name, limit)


def compress(envelope: bytes) -> bytes:
    """A document's envelope as DOCUMENT carries it; keys do not compress, so the fastest level is as good."""
    return zlib.compress(envelope, 1)


def decompress(compressed: bytes, limit: int = MAX_DOCUMENT) -> bytes:
    """The envelope; raises `TooLarge` beyond `limit` without unpacking more than that, and `Malformed`."""
    unpack = zlib.decompressobj()
    try:
        envelope = unpack.decompress(compressed, limit + 1)
    except zlib.error:
        raise Malformed("not a compressed document") from None
    if len(envelope) > limit:
        raise TooLarge("a directory document is larger than allowed")
    if not unpack.eof or unpack.unused_data:
        raise Malformed("not exactly one compressed document")
    return envelope


class GatewayConnection:
    """A connection to one gateway, greeted, used by one thread. Use `with`, or `close`.

    `nonce` and `ping_interval` (seconds) are what the gateway said in WELCOME.
    """

    def __init__(self, stream: TlsStream, gateway: bytes, network: str) -> None:
        self.gateway = gateway
        self.network = network
        self.nonce = b""
        self.ping_interval = 0.0
        self._stream = stream
        self._frames = FrameReader(MAX_REPLY)
        self._arrived: list[bytes] = []

    @classmethod
    def open(
        cls,
        address: Address,
        key: bytes,
        deadline: Deadline,
        *,
        network: str,
        role: str,
        context: ssl.SSLContext,
    ) -> "GatewayConnection":
        """Dials, checks that the holder of `key` answers, and greets it.

        A name is looked up each time. Raises `Unreachable`, or another `DirectoryError` with the gateway's words.
        """
        try:
            stream = TlsStream.dial((address.host, address.port), context, key, deadline)
        except AuthenticationFailed:
            raise Unreachable(f"what answers at {address} is not the gateway: its key is another one") from None
        except Closed as error:
            raise Unreachable(f"the gateway {address} does not answer: {error}") from None
        connection = cls(stream, key, network)
        try:
            connection._greet(role, deadline)
        except (OnionError, OSError) as error:
            connection.close()
            if isinstance(error, DirectoryError):
                raise
            raise Unreachable(f"the gateway {address} does not answer: {error}") from None
        return connection

    def _greet(self, role: str, deadline: Deadline) -> None:
        self.send(Hello(VERSION, self.network, role), deadline)
        answer = self.receive(deadline)
        if isinstance(answer, Error):
            raise DirectoryError(f"the gateway refuses: {answer.text}")
        if not isinstance(answer, Welcome) or len(answer.nonce) != NONCE_SIZE:
            raise Unexpected("no WELCOME")
        if answer.network != self.network or answer.version != VERSION:
            raise DirectoryError(f"the gateway serves the network {answer.network!r}, not {self.network!r}")
        self.nonce, self.ping_interval = answer.nonce, answer.ping_ms / 1_000

    def __enter__(self) -> "GatewayConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's descriptor, for a selector; after it, and before waiting for it, call `poll` until None."""
        return self._stream.fileno()

    def send(self, message: Message, deadline: Deadline) -> None:
        """Sends one message; raises `Closed`."""
        self._stream.send(encode(message), deadline)

    def poll(self) -> Message | None:
        """The next message that is here, without waiting; raises `Closed`, `Malformed` or `TooLarge`."""
        if not self._arrived:
            self._arrived = self._frames.feed(self._stream.receive())
        return decode(self._arrived.pop(0)) if self._arrived else None

    def receive(self, deadline: Deadline) -> Message:
        """The next message; raises as `poll`, and `Closed` when the deadline passes."""
        while True:
            message = self.poll()
            if message is not None:
                return message
            if not self._stream.wait_readable(deadline):
                raise Closed("no answer in time")

    def close(self) -> None:
        """Idempotent."""
        self._stream.close()
