"""`make fuzz`: a minute of hostile peers at the port of a real gateway, which then must have lost no relay.

`python -m tests.fuzz.gateway_port [SECONDS [SEED]]`. Four threads do, over and over, one of: bytes that are no
TLS; random bytes inside TLS; a conversation of valid messages with some bytes changed, cut short, doubled or sent
one by one; a greeting, and then silence. All the while relays are registered, and a client asks for the list. In
the end the relays must be listed as ever, and the gateway must not have logged a traceback.
"""

import contextlib
import secrets
import socket
import sys
import tempfile
import threading
from pathlib import Path
from random import Random

from common.directory.descriptor import registration_proof, removal_proof, sign_proof
from common.directory.succession import sign_succession
from common.errors import OnionError
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
from tests.net.gateway_process import GatewayProcess, gateway_process
from tests.net.registering import NETWORK, PATIENCE, RegisteringRelay, registered
from tests.unit.directory.relays import FakeRelay

RELAYS = 3
THREADS = 4
SECONDS = 60.0
SHORT = 0.2  # seconds that a hostile peer waits for an answer


class Attacker:
    """One thread's worth of hostility, the same for the same seed."""

    def __init__(self, gateway: GatewayProcess, victim: RegisteringRelay, seed: int) -> None:
        self.attacks = 0
        self._target = gateway.address.host, gateway.address.port
        self._key = gateway.identity
        self._victim = victim
        self._random = Random(seed)
        self._context = client_context()

    def run(self, until: Deadline) -> None:
        """Attacks until the time is over."""
        while not until.expired:
            attack = self._random.choice([self._raw, self._inside_tls, self._almost_right, self._almost_right, self._slow])
            with contextlib.suppress(OSError, OnionError):
                attack()
            self.attacks += 1

    def _raw(self) -> None:
        with socket.create_connection(self._target, SHORT) as sock:
            sock.sendall(self._random.choice([b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"]) + self._noise())

    def _inside_tls(self) -> None:
        self._talk([self._random.choice([b"", encode(Hello(1, NETWORK, "relay"))]) + self._noise()])

    def _almost_right(self) -> None:
        frames = [encode(message) for message in self._conversation()]
        self._talk([self._spoil(frame) if self._random.random() < 0.4 else frame for frame in frames])

    def _slow(self) -> None:
        whole = b"".join(encode(message) for message in self._conversation())
        self._talk([bytes([byte]) for byte in whole[: self._random.randrange(1, 400)]])

    def _conversation(self) -> list[Message]:
        """Messages as a relay or a client might say them, in no sensible order."""
        stranger = FakeRelay(self._random.randrange(1_000))
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
            Pong(self._random.randrange(100)),
            Ping(1),
            Ok(),
            Unchanged(),
            Welcome(1, NETWORK, nonce, 5_000),
        ]
        greeting = Hello(1, NETWORK, self._random.choice(["relay", "client", "gateway"]))
        return [greeting, *self._random.choices(choices, k=self._random.randrange(1, 8))]

    def _spoil(self, frame: bytes) -> bytes:
        at = self._random.randrange(len(frame))
        return self._random.choice(
            [
                frame[:at],
                frame[:at] + self._random.randbytes(self._random.randrange(1, 9)) + frame[at + 1 :],
                frame + frame[:at],
                self._random.randrange(2**32).to_bytes(4, "big") + frame[4:],
                frame[:4] + frame[4:].replace(b'"', b"'", 1),
            ]
        )

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 1, 5, 100, 3_000, 100_000]))

    def _talk(self, pieces: list[bytes]) -> None:
        stream = TlsStream.dial(self._target, self._context, self._key, Deadline(PATIENCE))
        with contextlib.closing(stream):
            for piece in pieces:
                stream.send(piece, Deadline(SHORT))
            if self._random.random() < 0.5 and stream.wait_readable(Deadline(SHORT)):
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
        until = Deadline(seconds)
        attackers = [Attacker(gateway, relays[0], seed + number) for number in range(THREADS)]
        threads = [threading.Thread(target=attacker.run, args=(until,)) for attacker in attackers]
        for thread in threads:
            thread.start()
        while not until.expired:
            assert listed(gateway) == set(names)
        for thread in threads:
            thread.join(PATIENCE)
        assert listed(gateway) == set(names)
        assert [len(relay.said) for relay in relays] == said_before, "a relay lost its connection"
        assert gateway.process is not None
        assert gateway.process.poll() is None
        assert "Traceback" not in gateway.said(), gateway.said()
        return sum(attacker.attacks for attacker in attackers)


def listed(gateway: GatewayProcess) -> set[str]:
    """The nicknames in the list."""
    client = DirectoryClient([(gateway.address, gateway.identity)], NETWORK)
    return {entry.descriptor.nickname for entry in client.fetch(Deadline(PATIENCE)).relays}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(f"{seconds:.0f} seconds, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-gateway-") as folder:
        attacks = fuzz(Path(folder), seconds, seed)
    print(f"{attacks} attacks: all relays are still listed")


if __name__ == "__main__":
    main()
