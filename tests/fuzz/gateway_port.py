"""`make fuzz`: a minute of hostile peers at the port of a real gateway, which then must have lost no relay.

`python -m tests.fuzz.gateway_port [SECONDS [SEED]]`. Four threads do, over and over, one of: bytes that are no
TLS; random bytes inside TLS; a conversation of valid messages with some bytes changed, cut short, doubled or sent
one by one; a greeting, and then silence. All the while relays are registered, and a client asks for the list. In
the end the relays must be listed as ever, and the gateway must not have logged a traceback.
"""

import contextlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from common.directory.descriptor import registration_proof, removal_proof, sign_proof
from common.directory.succession import sign_succession
from common.net.deadline import Deadline
from common.net.tls import client_context
from common.net.tls_stream import TlsStream
from common.roles.client.bootstrap import DirectoryClient
from common.roles.gateway_link import (
    Hello,
    List,
    Message,
    Ok,
    Ping,
    Pong,
    Register,
    Unchanged,
    Unregister,
    Welcome,
    encode,
)
from common.roles.relay.registration import RegistrationState
from tests.fuzz import hostile
from tests.fuzz.hostile import SHORT, THREADS
from tests.net.gateway_process import GatewayProcess, gateway_process
from tests.net.registering import NETWORK, PATIENCE, RegisteringRelay, registered
from tests.unit.directory.relays import FakeRelay

RELAYS = 3


class Attacker(hostile.Attacker):
    """A stranger to a gateway; `victim` is a relay whose descriptor it shows."""

    def __init__(self, gateway: GatewayProcess, victim: RegisteringRelay, seed: int) -> None:
        super().__init__((gateway.address.host, gateway.address.port), seed)
        self._key = gateway.identity
        self._victim = victim
        self._context = client_context()

    def choices(self) -> Sequence[Callable[[], None]]:
        """See `hostile.Attacker`."""
        return [self.raw, self._inside_tls, self._almost_right, self._almost_right, self._slow]

    def _inside_tls(self) -> None:
        self._talk([self.random.choice([b"", encode(Hello(1, NETWORK, "relay"))]) + self.noise()])

    def _almost_right(self) -> None:
        frames = [encode(message) for message in self._conversation()]
        self._talk([self.spoil(frame) if self.random.random() < 0.4 else frame for frame in frames])

    def _slow(self) -> None:
        whole = b"".join(encode(message) for message in self._conversation())
        self._talk([bytes([byte]) for byte in whole[: self.random.randrange(1, 400)]])

    def _conversation(self) -> list[Message]:
        """Messages as a relay or a client might say them, in no sensible order."""
        stranger = FakeRelay(self.random.randrange(1_000))
        nonce = secrets.token_bytes(32)
        theirs, own = self._victim.envelope(), stranger.envelope()
        proof = sign_proof(registration_proof(NETWORK, self._key, nonce, theirs), stranger.key)
        bye = sign_proof(removal_proof(NETWORK, self._key, nonce), stranger.key)
        succession = sign_succession(NETWORK, stranger.key, stranger.key)
        choices: list[Message] = [
            Register(theirs, proof),
            Register(own, proof, succession),
            Unregister(bye),
            List(b""),
            List(bytes(32)),
            Pong(self.random.randrange(100)),
            Ping(1),
            Ok(),
            Unchanged(),
            Welcome(1, NETWORK, nonce, 5_000),
        ]
        greeting = Hello(1, NETWORK, self.random.choice(["relay", "client", "gateway"]))
        return [greeting, *self.random.choices(choices, k=self.random.randrange(1, 8))]

    def spoil(self, whole: bytes) -> bytes:
        """Also JSON that is none."""
        if self.random.random() < 0.2:
            return whole[:4] + whole[4:].replace(b'"', b"'", 1)
        return super().spoil(whole)

    def _talk(self, pieces: list[bytes]) -> None:
        stream = TlsStream.dial(self.target, self._context, self._key, Deadline(PATIENCE))
        with contextlib.closing(stream):
            for piece in pieces:
                stream.send(piece, Deadline(SHORT))
            if self.random.random() < 0.5 and stream.wait_readable(Deadline(SHORT)):
                stream.receive()


def fuzz(folder: Path, seconds: float, seed: int) -> int:
    """The number of attacks that the gateway has borne; raises `AssertionError` when it has not."""
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(gateway_process(folder))
        names = [f"relay{number}" for number in range(RELAYS)]
        relays = [
            stack.enter_context(registered(folder / name, name, gateway.address, gateway.identity)) for name in names
        ]
        for relay in relays:
            relay.wait_for(RegistrationState.LISTED)
        said_before = [len(relay.said) for relay in relays]
        attackers = [Attacker(gateway, relays[0], seed + number) for number in range(THREADS)]

        def look() -> None:
            assert listed(gateway) == set(names)

        attacks = hostile.attack(attackers, Deadline(seconds), look)
        look()
        assert [len(relay.said) for relay in relays] == said_before, "a relay lost its connection"
        assert gateway.process is not None
        assert gateway.process.poll() is None
        assert "Traceback" not in gateway.said(), gateway.said()
        return attacks


def listed(gateway: GatewayProcess) -> set[str]:
    """The nicknames in the list."""
    client = DirectoryClient([(gateway.address, gateway.identity)], NETWORK)
    return {entry.descriptor.nickname for entry in client.fetch(Deadline(PATIENCE)).relays}


if __name__ == "__main__":
    hostile.main(fuzz, "all relays are still listed")
