"""TLS 1.3 over memory: a session has no socket inside, so many records are one system call.

The listening side's certificate is self-signed and its Ed25519 key *is* its identity (32 bytes). The dialling
side shows none and compares the identity with the one it expects; TLS 1.3 proves possession of the key
(RFC 8446, section 4.4.3). There is no certificate authority and no resumption.
"""

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from common.errors import AuthenticationFailed, Closed

MAX_REPLIES = 4_096  # bytes TLS itself may want to say: an honest peer asks for a few key updates a day
_RECORD = 16_384  # the largest TLS plaintext record (RFC 8446, section 5.1)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a listening side; both files are PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    return context


def client_context() -> ssl.SSLContext:
    """The context of a dialling side: identities are compared by `TlsSession.peer_identity`, not by a CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsSession:
    """One end of a TLS connection as bytes in and bytes out. Not thread-safe."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    def feed(self, ciphertext: bytes | bytearray | memoryview) -> None:
        """Takes what the socket received."""
        self._incoming.write(ciphertext)

    def handshake(self) -> bool:
        """One step with what was fed: True when complete; afterwards send `outgoing()`. Raises `Closed`."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, OSError) as error:
            raise Closed(f"TLS handshake failed: {_reason(error)}") from None
        return True

    def read(self, received: bytes | memoryview = b"") -> list[bytes]:
        """All plaintext that can be decrypted now, `received` fed, record by record.

        Raises `Closed` at the peer's end.
        """
        records: list[bytes] = []
        read, incoming = self._ssl.read, self._incoming
        if received:
            incoming.write(received)
        end = ""
        try:
            # A read takes a whole record. To ask again when nothing is there would be answered by an exception,
            # which costs as much as decrypting a small record.
            while record := read(_RECORD):
                records.append(record)
                if not incoming.pending:
                    break
            else:
                end = "the peer closed the link"
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError) as error:
            end = f"TLS: {_reason(error)}"
        if self._outgoing.pending > MAX_REPLIES:
            raise Closed("the peer asks for too many key updates")
        if end and not records:
            raise Closed(end)  # after records, the next call comes to the same end
        return records

    def write(self, plaintext: bytes | memoryview) -> None:
        """Encrypts into the outgoing side; raises `Closed`."""
        try:
            self._ssl.write(plaintext)
        except (ssl.SSLError, OSError) as error:
            raise Closed(f"TLS: {_reason(error)}") from None

    def outgoing(self) -> bytes:
        """The ciphertext to send; it is no longer held here."""
        return self._outgoing.read()

    def peer_certificate(self) -> bytes:
        """The certificate that the peer shows, in DER; raises `AuthenticationFailed` when it shows none."""
        certificate = self._ssl.getpeercert(binary_form=True)
        if not certificate:
            raise AuthenticationFailed("no certificate")
        return certificate

    def peer_identity(self) -> bytes:
        """The peer's Ed25519 public key (32 bytes); raises `AuthenticationFailed` when it shows another kind."""
        try:
            key = x509.load_der_x509_certificate(self.peer_certificate()).public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise AuthenticationFailed("no usable certificate") from None
        if not isinstance(key, Ed25519PublicKey):
            raise AuthenticationFailed("not an Ed25519 certificate")
        return key.public_bytes_raw()


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else "connection ended"
