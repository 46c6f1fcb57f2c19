"""SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both sides: a password proves itself and is never sent.

    client -> server   p=tls-server-end-point,,n=NAME,r=NONCE
    server -> client   r=NONCE+NONCE,s=SALT,i=ITERATIONS
    client -> server   c=BINDING,r=NONCE+NONCE,p=PROOF
    server -> client   v=SIGNATURE

    SaltedPassword = PBKDF2-HMAC-SHA256(SASLprep(password), SALT, ITERATIONS)
    ClientKey = HMAC(SaltedPassword, "Client Key")     StoredKey = SHA256(ClientKey)
    ServerKey = HMAC(SaltedPassword, "Server Key")
    AuthMessage = the first three messages without the gs2 header and the proof, joined by commas
    PROOF     = ClientKey xor HMAC(StoredKey, AuthMessage)
    SIGNATURE = HMAC(ServerKey, AuthMessage)

* The server stores StoredKey and ServerKey: neither is enough to log in, and neither is the password.
* Both sides put a fresh nonce into each exchange, so nothing recorded fits another one.
* BINDING holds the hash of the certificate that each side sees on its own end of the connection: who relays an
  exchange under another certificate fails. There is no exchange without it (`n` and `y` are refused).
* A server that does not know the verifier cannot make SIGNATURE, so it is found out by `ScramClient.verify`.
* A stage used twice, or out of order, is `Unexpected`; it is used up even when it fails.
* Every failure in `ScramServer.finish` is the same `AuthenticationFailed`.

Optional extensions are passed over, a mandatory one (`m=`) is refused, and so is an authorisation name (`a=`).
"""

import base64
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, auto
from hashlib import sha256
from os import urandom

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from common.crypto.saslprep import saslprep
from common.crypto.scram_syntax import (
    attributes,
    decode_text,
    escape,
    is_nonce,
    positive_number,
    refuse_error,
    strict_base64,
    unescape,
)
from common.errors import AuthenticationFailed, Malformed, Unexpected

MIN_ITERATIONS = 600_000  # about 0.1 s; it stays when a server asks for more, or old accounts could not log in
MAX_ITERATIONS = 10_000_000  # a server that asks for more wants the client's time, not its proof
MIN_SALT, MAX_SALT = 16, 64
KEY_SIZE = 32
BINDING_SIZE = 32
MAX_NAME = 256  # characters before SASLprep: four times what the server's own rules allow afterwards
GS2_HEADER = b"p=tls-server-end-point,,"
_FAILED = "login"  # all that an `AuthenticationFailed` of the server says


@dataclass(frozen=True, slots=True, eq=False)
class Verifier:
    """What a server stores of a password: salt (16 to 64 bytes), iterations, StoredKey and ServerKey (32 bytes).

    Raises `Malformed` for other sizes, or for iterations outside 1 to `MAX_ITERATIONS`; whether they are enough is
    for the caller to say (`MIN_ITERATIONS`).
    """

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_cost(self.salt, self.iterations)
        if len(self.stored_key) != KEY_SIZE or len(self.server_key) != KEY_SIZE:
            raise Malformed("a key of a verifier is 32 bytes")

    def __eq__(self, other: object) -> bool:
        """In a time that does not tell how much of the keys is alike."""
        if not isinstance(other, Verifier):
            return NotImplemented
        same_cost = (self.salt, self.iterations) == (other.salt, other.iterations)
        same_keys = hmac.compare_digest(self.stored_key + self.server_key, other.stored_key + other.server_key)
        return same_cost and same_keys

    def __hash__(self) -> int:
        return hash((self.salt, self.iterations))


def binding_of(certificate: bytes) -> bytes:
    """The channel binding tls-server-end-point (RFC 5929) of a certificate in DER: its SHA-256 in any case."""
    return sha256(certificate).digest()


def make_verifier(password: str, salt: bytes, iterations: int) -> Verifier:
    """The verifier of a new password; takes 0.15 ms for each 1,000 iterations, and other threads run meanwhile.

    Raises `Malformed` for a password that SASLprep refuses (its text says why), and as `Verifier`.
    """
    return _verifier(salted_password(saslprep(password).encode(), salt, iterations), salt, iterations)


def decoy_verifier(secret: bytes, name: str, iterations: int) -> Verifier:
    """What stands for the verifier of a name that nobody has: the same at each call, and no password fits it.

    `secret` (at least 16 bytes) is the server's own; who does not know it cannot tell the salt from a random one.
    """

    def part(purpose: bytes) -> bytes:
        return _hmac(secret, b"decoy: " + purpose + b"\x00" + name.encode())

    return Verifier(part(b"salt")[:MIN_SALT], iterations, part(b"stored key"), part(b"server key"))


class _Stage(IntEnum):
    NEW = auto()
    ASKED = auto()  # the client has sent its first message, the server its challenge
    PROVED = auto()  # the client has sent its proof
    OVER = auto()


class _Exchange:
    """The order of the stages."""

    def __init__(self) -> None:
        self._stage = _Stage.NEW

    def _step(self, expected: _Stage, following: _Stage) -> None:
        if self._stage is not expected:
            raise Unexpected("a stage of a login out of order")
        self._stage = following


class ScramClient(_Exchange):
    """The client's half of one exchange: `first`, `final`, `verify`, each once."""

    def __init__(
        self,
        name: str,
        password: str,
        binding: bytes,
        nonce: bytes | None = None,
        min_iterations: int = MIN_ITERATIONS,
        salted: Callable[[bytes, bytes, int], bytes] | None = None,
    ) -> None:
        """`binding` is that of the certificate that the connection showed (`binding_of`); `nonce` printable ASCII.

        `salted` does the work of `salted_password`; who asks again with the same password may remember its result.
        Raises `Malformed` for a name or a password that SASLprep refuses. A server that asks for fewer than
        `min_iterations` gets no proof: it would be one that is cheap to guess by.
        """
        super().__init__()
        self._binding = _checked_binding(binding)
        self._nonce = _checked_nonce(nonce)
        self._password = saslprep(password).encode()
        self._bare = f"n={escape(saslprep(name, MAX_NAME))},r={self._nonce}".encode()
        self._min_iterations = min_iterations
        self._salted = salted or salted_password
        self._verifier: Verifier | None = None
        self._signature = b""

    def first(self) -> bytes:
        """The client-first-message."""
        self._step(_Stage.NEW, _Stage.ASKED)
        return GS2_HEADER + self._bare

    def final(self, server_first: bytes) -> bytes:
        """The client-final-message, with the proof. Takes as long as `make_verifier`, and forgets the password.

        Raises `Malformed` for a message, salt or iteration count that no honest server sends, and
        `AuthenticationFailed` for an error (`e=`) or a nonce that is not the answer to ours.
        """
        self._step(_Stage.ASKED, _Stage.OVER)
        password, self._password = self._password, b""
        text = decode_text(server_first)
        refuse_error(text)
        nonce, salt64, count = attributes(text, "rsi")
        ours, theirs = nonce[: len(self._nonce)], nonce[len(self._nonce) :]
        if not hmac.compare_digest(ours.encode(), self._nonce.encode()) or not is_nonce(theirs):
            raise AuthenticationFailed("the server does not answer this login")
        salt, iterations = strict_base64(salt64), positive_number(count)
        _check_cost(salt, iterations, self._min_iterations)
        salted = self._salted(password, salt, iterations)
        self._verifier = _verifier(salted, salt, iterations)
        without_proof = b"c=%b,r=%b" % (base64.b64encode(GS2_HEADER + self._binding), nonce.encode())
        auth_message = b",".join((self._bare, server_first, without_proof))
        signature = _hmac(self._verifier.stored_key, auth_message)
        self._signature = _hmac(self._verifier.server_key, auth_message)
        self._stage = _Stage.PROVED
        return without_proof + b",p=" + base64.b64encode(_xor(_client_key(salted), signature))

    def verify(self, server_final: bytes) -> None:
        """Raises `AuthenticationFailed` unless the server proves that it knows the verifier, `Malformed` never."""
        self._step(_Stage.PROVED, _Stage.OVER)
        try:
            text = decode_text(server_final)
            refuse_error(text)
            (signature,) = attributes(text, "v")
            good = hmac.compare_digest(strict_base64(signature), self._signature)
        except Malformed:
            good = False
        if not good:
            raise AuthenticationFailed("the server does not prove that it knows this account")

    @property
    def verifier(self) -> Verifier:
        """The verifier for the salt and iterations that the server named; `Unexpected` before `final`."""
        if self._verifier is None:
            raise Unexpected("no challenge has come yet")
        return self._verifier


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """A client-first-message: the name (after SASLprep), the client's nonce, and what the proof covers of it."""

    name: str
    nonce: str
    bare: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> "ClientFirst":
        """Raises `Malformed`; also for no or another channel binding."""
        text = decode_text(data)
        header = GS2_HEADER.decode()
        if not text.startswith(header):
            raise Malformed("not the channel binding tls-server-end-point for oneself")
        bare = text.removeprefix(header)
        name, nonce = attributes(bare, "nr")
        if not is_nonce(nonce):
            raise Malformed("a nonce of the wrong length or characters")
        return cls(saslprep(unescape(name), MAX_NAME), nonce, bare.encode())


class ScramServer(_Exchange):
    """The server's half of one exchange: `challenge`, `finish`, each once."""

    def __init__(self, first: ClientFirst, verifier: Verifier, binding: bytes, nonce: bytes | None = None) -> None:
        """`binding` is that of the server's own certificate (`binding_of`); `nonce` printable ASCII."""
        super().__init__()
        self._bare = first.bare
        self._verifier = verifier
        self._binding = _checked_binding(binding)
        self._nonce = first.nonce + _checked_nonce(nonce)
        salt = base64.b64encode(verifier.salt).decode()
        self._challenge = f"r={self._nonce},s={salt},i={verifier.iterations}".encode()

    def challenge(self) -> bytes:
        """The server-first-message."""
        self._step(_Stage.NEW, _Stage.ASKED)
        return self._challenge

    def finish(self, client_final: bytes) -> bytes:
        """The server-final-message; raises `AuthenticationFailed`, always the same, unless the proof is right."""
        self._step(_Stage.ASKED, _Stage.OVER)
        try:
            binding, nonce, proof, without_proof = _parse_final(client_final)
        except Malformed:
            raise AuthenticationFailed(_FAILED) from None
        auth_message = b",".join((self._bare, self._challenge, without_proof))
        client_key = _xor(proof, _hmac(self._verifier.stored_key, auth_message))
        right = (  # all are judged, so the time does not tell which of them is wrong
            hmac.compare_digest(sha256(client_key).digest(), self._verifier.stored_key),
            hmac.compare_digest(binding, GS2_HEADER + self._binding),
            hmac.compare_digest(nonce.encode(), self._nonce.encode()),
        )
        if not all(right):
            raise AuthenticationFailed(_FAILED)
        return b"v=" + base64.b64encode(_hmac(self._verifier.server_key, auth_message))


def _parse_final(data: bytes) -> tuple[bytes, str, bytes, bytes]:
    """Channel binding, nonce, proof (32 bytes) of a client-final-message, and what stands before the proof."""
    text = decode_text(data)
    without_proof, found, proof64 = text.rpartition(",p=")
    binding, nonce = attributes(without_proof, "cr")
    proof = strict_base64(proof64)
    if not found or len(proof) != KEY_SIZE:
        raise Malformed("no proof")
    return strict_base64(binding), nonce, proof, without_proof.encode()


def _checked_nonce(nonce: bytes | None) -> str:
    text = (base64.b64encode(urandom(24)) if nonce is None else nonce).decode("ascii")
    if not is_nonce(text):
        raise ValueError("a nonce is printable ASCII without commas")
    return text


def _checked_binding(binding: bytes) -> bytes:
    if len(binding) != BINDING_SIZE:
        raise ValueError("a channel binding is a SHA-256")
    return binding


def _check_cost(salt: bytes, iterations: int, least: int = 1) -> None:
    if not MIN_SALT <= len(salt) <= MAX_SALT:
        raise Malformed("a salt of the wrong size")
    if not least <= iterations <= MAX_ITERATIONS:
        raise Malformed(f"{iterations} iterations, not {least} to {MAX_ITERATIONS}")


def salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """SaltedPassword (32 bytes) of a password that SASLprep has prepared, as secret as that.

    By `cryptography`: half the time of `hashlib.pbkdf2_hmac`, and like it without the interpreter's lock."""
    return PBKDF2HMAC(SHA256(), KEY_SIZE, salt, iterations).derive(password)


def _client_key(salted: bytes) -> bytes:
    return _hmac(salted, b"Client Key")


def _verifier(salted: bytes, salt: bytes, iterations: int) -> Verifier:
    stored_key = sha256(_client_key(salted)).digest()
    return Verifier(salt, iterations, stored_key, _hmac(salted, b"Server Key"))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
