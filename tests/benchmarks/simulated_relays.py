"""Thousands of relays in one process and one thread, as far as a gateway can tell.

`python -m tests.benchmarks.simulated_relays GATEWAY KEY NETWORK FOLDER FIRST COUNT`. Each has its own keys and
certificate (made in FOLDER before anything is measured), its own address in 127.0.0.0/8, where it answers
dial-backs, and its own connection, over which it registers with real signatures and answers pings.

One word on standard input is one command, each answered by a line of JSON:
    report      relays listed, pings, the longest time between two pings of one relay since the last report
    mute        the first relay answers no ping any more: it looks dead, and its connection stays open
    renew       the first relay registers a new descriptor
It ends with its standard input.
"""

import json
import selectors
import socket
import ssl
import sys
import time
from io import RawIOBase
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.directory.addresses import Address, parse_address
from common.directory.descriptor import Descriptor, registration_proof, sign_descriptor, sign_proof
from common.errors import Closed, OnionError
from common.net.tls import TlsSession, client_context, server_context
from common.ops.lifecycle import raise_file_limit
from common.roles.gateway_link import Error, Hello, Ok, Ping, Pong, Register, Welcome, decode, encode
from tests.benchmarks.gateway_peer import GatewayPeer
from tests.net.certificates import make_certificate

STARTING = 64  # relays that register at once in one process
PORT = 9_001


class SimulatedRelay:
    """One relay: keys, a listener, and a connection once it is opened."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.certificate, self.key_file, self.identity = make_certificate(folder, str(number))
        key = load_pem_private_key(self.key_file.read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        self.key = key
        self.address = Address(f"127.{1 + number // 65_536}.{number // 256 % 256}.{number % 256}", PORT)
        self.listener = socket.create_server((self.address.host, PORT), backlog=8)
        self.listener.setblocking(False)
        self.peer: GatewayPeer | None = None
        self.nonce = b""
        self.pinged = 0.0
        self.muted = False

    def envelope(self) -> bytes:
        """Its descriptor of this moment, of the size of a real one."""
        descriptor = Descriptor(
            nickname=f"simulated{self.number}",
            address=self.address,
            identity=self.identity,
            onion_keys=(self.identity,),
            exit_policy="default",
            family="",
            bandwidth=1_000_000 + self.number,
            software="onion-network 0.1.0",
            versions=(1,),
            published=time.time(),
        )
        return sign_descriptor(descriptor, self.key)


class DialBack:
    """One dial-back that is being answered: a TLS handshake, then the gateway hangs up."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._tls = TlsSession(context, server_side=True)
        self._shaken = False

    def step(self) -> bool:
        """Whether it goes on."""
        try:
            data = self.sock.recv(16_384)
            self._tls.feed(data)
            self._shaken = self._shaken or self._tls.handshake()
            if answer := self._tls.outgoing():
                self.sock.send(answer)
            return bool(data)
        except BlockingIOError:
            return True
        except (Closed, OSError):
            return False


class Simulator:
    """All relays of this process."""

    def __init__(
        self, gateway: Address, key: bytes, network: str, relays: list[SimulatedRelay], commands: RawIOBase
    ) -> None:
        self._commands = commands
        self._gateway = gateway
        self._key = key
        self._network = network
        self._relays = relays
        self._context = client_context()
        self._selector = selectors.DefaultSelector()
        self._to_start = list(reversed(relays))
        self._starting = 0
        self._listed = 0
        self._lost = 0
        self._pings = 0
        self._longest = 0.0
        self._since = time.monotonic()
        for relay in relays:
            self._selector.register(relay.listener, selectors.EVENT_READ, relay)
        self._selector.register(commands, selectors.EVENT_READ, "command")

    def run(self) -> None:
        """Until standard input ends."""
        while True:
            while self._to_start and self._starting < STARTING:
                self._start(self._to_start.pop())
            for key, events in self._selector.select(1.0):
                match key.data:
                    case "command":
                        line = self._commands.readline()
                        if not line:
                            return
                        self._command(line.decode().strip())
                    case SimulatedRelay():
                        self._accept(key.data)
                    case DialBack():
                        if not key.data.step():
                            self._selector.unregister(key.data.sock)
                            key.data.sock.close()
                    case (SimulatedRelay() as relay, GatewayPeer() as peer):
                        self._serve(relay, peer, events)

    def _start(self, relay: SimulatedRelay) -> None:
        relay.peer = GatewayPeer((self._gateway.host, self._gateway.port), self._key, self._context)
        self._selector.register(relay.peer.sock, selectors.EVENT_READ, (relay, relay.peer))
        self._starting += 1

    def _accept(self, relay: SimulatedRelay) -> None:
        try:
            sock, _ = relay.listener.accept()
        except BlockingIOError:
            return
        # A context of its own would cost each relay 100 kB: it is made for the dial-back, and goes with it.
        answer = DialBack(sock, server_context(relay.certificate, relay.key_file))
        self._selector.register(sock, selectors.EVENT_READ, answer)

    def _serve(self, relay: SimulatedRelay, peer: GatewayPeer, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                peer.flush()
            before = peer.shaken
            bodies = peer.receive()
            if peer.shaken and not before:
                peer.send(encode(Hello(1, self._network, "relay")))
            for body in bodies:
                self._handle(relay, peer, body)
        except (OnionError, OSError) as error:
            self._lost += 1
            print(f"relay {relay.number}: {error}", file=sys.stderr)
            self._selector.unregister(peer.sock)
            peer.sock.close()

    def _handle(self, relay: SimulatedRelay, peer: GatewayPeer, body: bytes) -> None:
        match decode(body):
            case Ping(number):
                self._pinged(relay)
                if not relay.muted:
                    peer.send(encode(Pong(number)))
            case Welcome(_, _, nonce, _):
                relay.nonce = nonce
                self._register(relay, peer)
            case Ok():
                if not relay.pinged:
                    self._listed += 1
                    self._starting -= 1
            case Error(code, text):
                raise OnionError(f"{code}: {text}")

    def _register(self, relay: SimulatedRelay, peer: GatewayPeer) -> None:
        envelope = relay.envelope()
        proof = registration_proof(self._network, self._key, relay.nonce, envelope)
        peer.send(encode(Register(envelope, sign_proof(proof, relay.key))))

    def _pinged(self, relay: SimulatedRelay) -> None:
        now = time.monotonic()
        self._pings += 1
        if relay.pinged >= self._since:
            self._longest = max(self._longest, now - relay.pinged)
        relay.pinged = now

    def _command(self, word: str) -> None:
        first = self._relays[0]
        if word == "mute":
            first.muted = True
        elif word == "renew" and first.peer is not None:
            self._register(first, first.peer)
        report = {"listed": self._listed, "lost": self._lost, "pings": self._pings, "longest": self._longest}
        print(json.dumps(report), flush=True)
        self._pings, self._longest, self._since = 0, 0.0, time.monotonic()


def main() -> None:
    gateway, key, network, folder, first, count = sys.argv[1:]
    raise_file_limit()
    relays = [SimulatedRelay(number, Path(folder)) for number in range(int(first), int(first) + int(count))]
    print(json.dumps({"made": len(relays)}), flush=True)
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as commands:  # a buffer would hide the next one
        commands.readline()  # all processes begin together
        Simulator(parse_address(gateway), bytes.fromhex(key), network, relays, commands).run()


if __name__ == "__main__":
    main()
