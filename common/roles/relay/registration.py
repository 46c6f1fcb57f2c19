"""A relay's side of the directory: keeps the relay in a gateway's list for as long as it runs.

* One thread per gateway. It holds the connection over which it registered and answers the gateway's pings.
* When the connection ends, or is silent for three heartbeats, it connects anew: after a moment at first, then
  after ever longer ones, jittered, so that the relays of a network do not come back all at once.
* The gateway's name is looked up at each attempt, and the descriptor is made anew.
"""

import enum
import logging
import secrets
import selectors
import socket
import threading
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.directory.addresses import Address
from common.directory.descriptor import registration_proof, removal_proof, sign_proof
from common.errors import Closed, DirectoryError, ProtocolError, Unexpected
from common.net.deadline import Deadline
from common.net.tls import client_context
from common.roles.gateway_link import Error, GatewayConnection, Message, Ok, Ping, Pong, Register, Unregister

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1  # seconds: a network that starts all at once must be usable within a few
LONGEST_PAUSE = 30.0
OPEN_TIME = 5.0  # seconds to connect to and greet a gateway
ANSWER_TIME = 10.0  # seconds for REGISTER: the gateway dials back before it answers
SEND_TIME = 5.0
GOODBYE_TIME = 1.0
MISSED_BEATS = 3  # heartbeats without a word, after which the gateway is taken for dead
SHORTEST_SILENCE = 2.0  # seconds: however fast the heartbeat, a busy machine is not a dead one


class RegistrationState(enum.Enum):
    """Where the relay stands with one gateway."""

    CONNECTING = "connecting"
    LISTED = "listed"
    REFUSED = "refused"
    LOST = "lost"
    STOPPED = "stopped"


class _Refused(DirectoryError):
    """The gateway answered ERROR; the text is its own."""


class Registration:
    """Inert until `start`. `make_descriptor` gives the relay's signed envelope of this moment, and `identity_key`
    is the key it is signed with; `succession` is the statement of the relay's former identity, if it had one;
    `on_state(state, text)` is called on this object's thread after each change.
    """

    def __init__(
        self,
        gateway: Address,
        gateway_key: bytes,
        make_descriptor: Callable[[], bytes],
        *,
        identity_key: Ed25519PrivateKey,
        network: str,
        succession: bytes = b"",
        on_state: Callable[[RegistrationState, str], None] | None = None,
    ) -> None:
        self._gateway = gateway
        self._gateway_key = gateway_key
        self._make_descriptor = make_descriptor
        self._identity_key = identity_key
        self._network = network
        self._succession = succession
        self._on_state = on_state
        self._context = client_context()
        self._changed = threading.Condition()  # guards _state
        self._state = RegistrationState.CONNECTING
        self._stopping = threading.Event()
        self._renewing = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        for sock in (self._wake_in, self._wake_out):
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    @property
    def state(self) -> RegistrationState:
        """The present state."""
        with self._changed:
            return self._state

    # ---- any thread ----

    def start(self) -> None:
        """Begins to connect; returns at once."""
        self._thread.start()

    def renew(self) -> None:
        """The descriptor has changed: registers it as soon as possible."""
        self._renewing.set()
        self._wake()

    def wait_for(self, state: RegistrationState, deadline: Deadline) -> bool:
        """Whether `state` was reached before the deadline."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is state, deadline.left())

    def begin_stop(self) -> None:
        """Lets the thread say good-bye to the gateway and end; returns at once. Idempotent."""
        self._stopping.set()
        self._wake()

    def stop(self, timeout: float = 5.0) -> None:
        """As `begin_stop`, and waits for the end."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join(timeout)
        if not self._thread.is_alive():
            self._wake_in.close()
            self._wake_out.close()

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # a wake-up is pending already, or the thread has ended

    # ---- the registration's thread ----

    def _run(self) -> None:
        pause = FIRST_PAUSE
        with selectors.DefaultSelector() as idle:
            idle.register(self._wake_in, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if self._try_once():
                    pause = FIRST_PAUSE
                idle_until = Deadline(pause * (0.5 + secrets.randbelow(1_000) / 1_000))
                pause = min(2 * pause, LONGEST_PAUSE)
                while not self._stopping.is_set() and idle.select(idle_until.left()):
                    self._wake_in.recv(64)  # renew() needs no hurry here: the next attempt makes a new descriptor
        self._set(RegistrationState.STOPPED, "stopped")

    def _try_once(self) -> bool:
        """Connects, registers and stays until that ends; whether the relay was listed."""
        self._set(RegistrationState.CONNECTING, f"connecting to the gateway {self._gateway}")
        try:
            with self._open() as connection:
                self._stay(connection)
        except _Refused as error:
            return self._lost(
                RegistrationState.REFUSED, f"the gateway {self._gateway} does not list this relay: {error}"
            )
        except (DirectoryError, ProtocolError, Closed) as error:
            return self._lost(RegistrationState.LOST, f"not listed by the gateway {self._gateway}: {error}")
        except Exception:
            log.exception("unexpected error while registering")
            return self._lost(RegistrationState.LOST, f"not listed by the gateway {self._gateway}: internal error")
        return True

    def _lost(self, state: RegistrationState, text: str) -> bool:
        was_listed = self.state is RegistrationState.LISTED
        self._set(state, text)
        return was_listed

    def _open(self) -> GatewayConnection:
        return GatewayConnection.open(
            self._gateway,
            self._gateway_key,
            Deadline(OPEN_TIME),
            network=self._network,
            role="relay",
            context=self._context,
        )

    def _stay(self, connection: GatewayConnection) -> None:
        """Serves one connection until `stop`; raises when it ends."""
        silence = max(MISSED_BEATS * connection.ping_interval, SHORTEST_SILENCE)
        self._register(connection)
        answered, heard = False, Deadline(ANSWER_TIME)
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if answered and self._renewing.is_set():
                    self._register(connection)
                    answered, heard = False, Deadline(ANSWER_TIME)
                ready = selector.select(heard.left())
                if not ready:
                    raise Closed("the gateway says nothing any more")
                if any(key.fileobj is self._wake_in for key, _ in ready):
                    self._wake_in.recv(64)
                while (message := connection.poll()) is not None:
                    answered = self._handle(connection, message) or answered
                    heard = Deadline(silence if answered else ANSWER_TIME)
        self._say_goodbye(connection)

    def _register(self, connection: GatewayConnection) -> None:
        self._renewing.clear()
        envelope = self._make_descriptor()
        proof = registration_proof(self._network, connection.gateway, connection.nonce, envelope)
        signed = sign_proof(proof, self._identity_key)
        connection.send(Register(envelope, signed, self._succession), Deadline(SEND_TIME))

    def _handle(self, connection: GatewayConnection, message: Message) -> bool:
        """Whether the message answers REGISTER."""
        match message:
            case Ping(number):
                connection.send(Pong(number), Deadline(SEND_TIME))
                return False
            case Ok():
                self._set(RegistrationState.LISTED, f"listed by the gateway {self._gateway}")
                return True
            case Error(_, text):
                raise _Refused(text)
            case _:
                raise Unexpected("the gateway said what it must not")

    def _say_goodbye(self, connection: GatewayConnection) -> None:
        proof = sign_proof(removal_proof(self._network, connection.gateway, connection.nonce), self._identity_key)
        deadline = Deadline(GOODBYE_TIME)
        try:
            connection.send(Unregister(proof), deadline)
            while not isinstance(connection.receive(deadline), Ok):
                pass  # a PING that crossed the good-bye
        except (ProtocolError, Closed):
            pass  # closing the connection says the same

    def _set(self, state: RegistrationState, text: str) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()
        log.debug("registration: %s", text)
        if self._on_state is not None:
            self._on_state(state, text)
