"""A relay for the gateway's tests: an identity, a TLS port that says nothing, and a `Registration`.

Run as `python -m tests.net.registering FOLDER NICKNAME GATEWAY KEY` it is a process of its own, which a test may stop.
"""

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from common.directory.addresses import Address, parse_address
from common.directory.descriptor import Descriptor, sign_descriptor
from common.net.deadline import Deadline
from common.net.tls import server_context
from common.ops.keystore import Identity, load_or_create_identity
from common.roles.relay.registration import Registration, RegistrationState
from tests.net.in_process import wait_until

NETWORK = "test"
PATIENCE = 20.0  # seconds after which a test that hangs fails


class Port:
    """Answers TLS handshakes with one identity, as a relay does, and waits for the other side to close."""

    def __init__(self, identity: Identity) -> None:
        self._context = server_context(identity.certificate, identity.key)
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._sock.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="port")
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            with contextlib.suppress(OSError, ssl.SSLError), sock:
                sock.settimeout(PATIENCE)
                with self._context.wrap_socket(sock, server_side=True) as tls:
                    tls.recv(1)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(PATIENCE)


class RegisteringRelay:
    """Registers `port`, its own unless another's is given; `changes` are fields of its descriptor."""

    def __init__(
        self, folder: Path, nickname: str, gateway: Address, gateway_key: bytes, address: Address | None = None
    ) -> None:
        self.identity = load_or_create_identity(folder)
        self.nickname = nickname
        self.onion_key = b"1" * 32
        self.port = Port(self.identity)
        self.clock_error = 0.0
        self.family, self.family_proof = "", b""
        self.said: list[tuple[RegistrationState, str]] = []
        self._address = address or self.port.address
        self.registration = Registration(
            gateway,
            gateway_key,
            self.envelope,
            identity_key=self.identity.private_key,
            network=NETWORK,
            on_state=lambda state, text: self.said.append((state, text)),
        )

    def envelope(self) -> bytes:
        """Its signed descriptor of this moment."""
        descriptor = Descriptor(
            nickname=self.nickname,
            address=self._address,
            identity=self.identity.public,
            onion_keys=(self.onion_key,),
            exit_policy="local",
            family=self.family,
            bandwidth=0,
            software="test",
            versions=(1,),
            published=time.time() + self.clock_error,
            family_proof=self.family_proof,
        )
        return sign_descriptor(descriptor, self.identity.private_key)

    def wait_for(self, state: RegistrationState) -> str:
        """The text of `state`, once it is reached; earlier visits count."""
        assert self.registration.wait_for(state, Deadline(PATIENCE)), self.said
        wait_until(lambda: any(said is state for said, _ in self.said))  # it is told of a moment later
        return next(text for said, text in reversed(self.said) if said is state)

    def stop(self) -> None:
        self.registration.stop()
        self.port.close()


@contextlib.contextmanager
def registered(
    folder: Path, nickname: str, gateway: Address, gateway_key: bytes, address: Address | None = None
) -> Iterator[RegisteringRelay]:
    """A relay that has begun to register."""
    relay = RegisteringRelay(folder, nickname, gateway, gateway_key, address)
    try:
        relay.registration.start()
        yield relay
    finally:
        relay.stop()


def main() -> None:
    folder, nickname, gateway, key = sys.argv[1:]
    with registered(Path(folder), nickname, parse_address(gateway), bytes.fromhex(key)):
        sys.stdin.read()  # until the test closes it


if __name__ == "__main__":
    main()
