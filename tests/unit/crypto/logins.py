"""What the tests of SCRAM share: a client, a server, and a login between them.

The iteration counts are low, for speed; `min_iterations` allows it.
"""

import base64
from dataclasses import dataclass
from hashlib import sha256

from common.crypto.scram import ClientFirst, ScramClient, ScramServer, Verifier, make_verifier

BINDING = sha256(b"the server's certificate").digest()
OTHER_BINDING = sha256(b"the certificate of somebody in the middle").digest()
SALT = bytes(range(16))
FEW = 64  # iterations
PASSWORD = "correct horse battery"
VERIFIER = make_verifier(PASSWORD, SALT, FEW)


@dataclass(frozen=True)
class Exchange:
    """The four messages of a login."""

    first: bytes
    challenge: bytes
    final: bytes
    signature: bytes


def client_of(password: str = PASSWORD, name: str = "alice", binding: bytes = BINDING) -> ScramClient:
    return ScramClient(name, password, binding, min_iterations=FEW)


def server_of(first: bytes, verifier: Verifier = VERIFIER, binding: bytes = BINDING) -> ScramServer:
    return ScramServer(ClientFirst.parse(first), verifier, binding)


def log_in(client: ScramClient, verifier: Verifier = VERIFIER, binding: bytes = BINDING) -> Exchange:
    """A whole login; raises what either side raises."""
    first = client.first()
    server = server_of(first, verifier, binding)
    challenge = server.challenge()
    final = client.final(challenge)
    signature = server.finish(final)
    client.verify(signature)
    return Exchange(first, challenge, final, signature)


def challenged(password: str = PASSWORD) -> tuple[ScramServer, bytes]:
    """A server that waits for the proof, and the right one (of this password)."""
    client = client_of(password)
    server = server_of(client.first())
    return server, client.final(server.challenge())


def nonce_of(message: bytes) -> bytes:
    return message.partition(b"r=")[2].partition(b",")[0]


def answered(client: ScramClient, salt: bytes = SALT, iterations: str = str(FEW), extra: bytes = b"abcdefghABCDEFGH") -> bytes:
    nonce = nonce_of(client.first()) + extra
    return b"r=%b,s=%b,i=%b" % (nonce, base64.b64encode(salt), iterations.encode())
