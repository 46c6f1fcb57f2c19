"""TLS 1.3 over memory: a session has no socket inside, so reading and writing it need not be one thread's.

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
    """One end of a TLS connection as bytes in and bytes out. Not thread-safe: the owner holds a lock."""

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

    def read(self) -> list[bytes]:
        """All plaintext that can be decrypted now, record by record; raises `Closed` at the peer's end."""
        records: list[bytes] = []
        read = self._ssl.read
        try:
            while True:
                record = read(_RECORD)
                if not record:
                    break
                records.append(record)
                # What is cut off waits inside OpenSSL. Asking once more would say so by an exception, which costs
                # as much as decrypting a small record.
                if not self._incoming.pending and not self._ssl.pending():
                    return records
        except ssl.SSLWantReadError:
            return records
        except (ssl.SSLError, OSError) as error:
            if records:
                return records  # the same error comes again at the next call
            raise Closed(f"TLS: {_reason(error)}") from None
        if records:
            return records
        raise Closed("the peer closed the link")

    def write(self, plaintext: bytes | memoryview) -> None:
        """Encrypts into the outgoing side; raises `Closed`."""
        try:
            self._ssl.write(plaintext)
        except (ssl.SSLError, OSError) as error:
            raise Closed(f"TLS: {_reason(error)}") from None

    def outgoing(self) -> bytes:
        """The ciphertext to send; it is no longer held here."""
        return self._outgoing.read()

    @property
    def unsent(self) -> int:
        """The bytes `outgoing()` would give: a peer that asks for key updates makes TLS write by itself."""
        return self._outgoing.pending

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
