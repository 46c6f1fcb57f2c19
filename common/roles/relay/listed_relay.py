"""A relay that keeps itself in the directory: one registration per gateway, and a new onion key every day.

Each registration goes its own way: a gateway that is away, hangs or refuses holds up none of the others, and is
tried again for as long as the relay runs. Clients use the relay once more than half of their gateways list it.
Its descriptor says what the relay has really carried, and is made anew when that has grown or shrunk by a half.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from common.directory.addresses import Address
from common.directory.descriptor import Descriptor, sign_descriptor
from common.directory.exit_policy import ExitPolicy
from common.directory.family import family_proof
from common.errors import ConfigError
from common.net.deadline import Deadline
from common.ops.keystore import Identity, load_or_create_onion_keys, load_succession
from common.roles.relay.bandwidth import WINDOW, Bandwidth
from common.roles.relay.counts import Counts
from common.roles.relay.registration import Registration, RegistrationState
from common.roles.relay.relay import Relay, RelayIdentity
from common.roles.relay.snapshot import RelaySnapshot
from common.wire.cells import VERSIONS

SOFTWARE = "onion-network 0.1.0"
KEY_CHECK = 60.0  # seconds between looks whether the onion keys or the bandwidth are due for a new descriptor
NOTED_CHANGE = 1.5  # the factor
_UNSPECIFIED = frozenset({"0.0.0.0", "::"})
LEAVE_TIME = 2.0  # seconds for the good-byes to all gateways, side by side
LOOK = 0.2  # seconds from look to look whether a circuit is left

_logger = logging.getLogger(__name__)

# What the log says of each state; each a line of its own kind, so that none holds another back.
_LINES = {
    RegistrationState.CONNECTING: (logging.DEBUG, "directory: %s (%d of %d list this relay)"),
    RegistrationState.LISTED: (logging.INFO, "directory: %s (%d of %d)"),
    RegistrationState.LOST: (logging.WARNING, "directory: %s (%d of %d still list this relay)"),
    RegistrationState.REFUSED: (logging.WARNING, "directory: %s (%d of %d do)"),
    RegistrationState.STOPPED: (logging.DEBUG, "directory: %s (%d of %d still list this relay)"),
}


class Server(Protocol):
    """What carries the circuits of a listed relay: a `Relay` in this process, or `Workers`."""

    address: Address

    def start(self) -> None:
        """Returns when links are accepted."""

    def call_every(self, seconds: float, function: Callable[[], object]) -> None:
        """Calls it again and again until `stop`."""

    def carried(self) -> int:
        """Bytes carried since the start."""

    def counts(self) -> Counts:
        """What is open, and was counted since the start; may wait for a second."""

    def keys_renewed(self) -> None:
        """The onion keys on disk are not what they were; returns when CREATE is answered with them."""

    def reconfigure(self, exit_policy: str) -> None:
        """Returns when streams that begin go by this policy (and everybody logs at this process's level)."""

    def stop_accepting(self, deadline: Deadline) -> None:
        """Takes no more links, circuits or streams; those that are up live on."""

    def stop(self, deadline: Deadline) -> None:
        """Gives what is queued to the kernel, and ends everything."""


class ListedRelay:
    """`start` listens and registers; `leave` unregisters and lets what is up go on; `stop` ends it."""

    def __init__(
        self,
        identity: Identity,
        keys: Path,
        listen: Address,
        advertise: Address | None,
        gateways: Sequence[tuple[Address, bytes]],
        *,
        network: str,
        nickname: str,
        exit_policy: str,
        family_key: Ed25519PrivateKey | None = None,
        workers: int = 1,
        private: Sequence[Address] = (),
    ) -> None:
        """`keys`: the folder of the onion keys; `family_key`: what all relays of one owner share.

        `private`: what else this program listens on, as its status page, which the relay's exit does not dial.
        With more than one worker `keys` holds the identity too: they are processes, which read it there.

        Raises `ConfigError`: an address that cannot be used, the disk.
        """
        self._identity = identity
        self._keys = keys
        self._nickname = nickname
        self._exit_policy = exit_policy
        self._lock = threading.Lock()  # guards `_onion_keys` and `_exit_policy`
        self._onion_keys = load_or_create_onion_keys(keys, time.time())
        self._started = time.time()
        self._gateways = [address for address, _ in gateways]
        ports = [*self._gateways, *_reached_at(private, (advertise or listen).host)]
        self._server: Server
        if workers > 1:
            from common.roles.relay.workers import Workers  # noqa: PLC0415  a client, which is no relay, loads none of it

            self._server = Workers(workers, nickname, keys, listen, exit_policy, ports, advertise)
        else:
            own = RelayIdentity(identity.public, identity.certificate, identity.key)
            policy = ExitPolicy.parse(exit_policy)
            self._server = Relay(own, self._accepted_keys, listen, policy, ports, advertise)
        self.address = self._server.address
        if self.address.host in _UNSPECIFIED:
            raise ConfigError(f"listen: {listen} tells nobody where the relay is: set advertise too")
        self._family = family_proof(family_key, network, identity.public) if family_key is not None else ("", b"")
        self._bandwidth = Bandwidth(self._server.carried, time.monotonic())
        self._said_bandwidth = 0
        self._left = False
        succession = load_succession(keys)
        self._registrations = [
            Registration(
                address,
                key,
                self._describe,
                identity_key=identity.private_key,
                network=network,
                succession=succession,
                on_state=self._registration_changed,
            )
            for address, key in gateways
        ]

    def start(self) -> None:
        """Listens first: the gateways dial back before they list a relay. Raises `OnionError`: it cannot."""
        self._server.start()
        for registration in self._registrations:
            registration.start()
        self._server.call_every(KEY_CHECK, self._renew)
        self._server.call_every(WINDOW, self._sample)

    def reconfigure(self, exit_policy: str) -> None:
        """Streams that begin from now on go by this policy, which clients are told of. Any thread; may wait."""
        self._server.reconfigure(exit_policy)  # first who opens streams, then those who tell clients
        with self._lock:
            before, self._exit_policy = self._exit_policy, exit_policy
        if before != exit_policy:
            for registration in self._registrations:
                registration.renew()

    def snapshot(self) -> RelaySnapshot:
        """What it shows of itself now; any thread that may wait for a second."""
        with self._lock:
            key_created = self._onion_keys.current.created
        return RelaySnapshot(
            nickname=self._nickname,
            software=SOFTWARE,
            started=self._started,
            onion_key_created=key_created,
            listed={
                str(gateway): registration.state is RegistrationState.LISTED
                for gateway, registration in zip(self._gateways, self._registrations, strict=True)
            },
            counts=self._server.counts(),
        )

    @property
    def public(self) -> bytes:
        """Its public identity (32 bytes)."""
        return self._identity.public

    @property
    def relay(self) -> Relay:
        """The relay in this process; with several workers there is none."""
        assert isinstance(self._server, Relay)
        return self._server

    def leave(self, wait: float = 0.0) -> None:
        """Accepts no more and leaves the directory; then circuits that are up go on for up to `wait` seconds."""
        self._left = True
        self._server.stop_accepting(Deadline(LEAVE_TIME))
        for registration in self._registrations:
            registration.begin_stop()
        deadline = Deadline(LEAVE_TIME)
        for registration in self._registrations:
            registration.stop(deadline.left())
        if wait:
            self._wait_until_unused(Deadline(wait))

    def stop(self, timeout: float) -> None:
        """Leaves, if it has not, and ends everything; what is queued may be sent for `timeout` seconds."""
        if not self._left:
            self.leave()
        self._server.stop(Deadline(timeout))

    def _wait_until_unused(self, deadline: Deadline) -> None:
        """Until no circuit is left, and nothing that has still to be delivered.

        Clients end circuits that carry no stream when they hear that the relay has left.
        """
        _logger.info("circuits that are up may go on for %.0f s; a second signal ends them", deadline.left())
        while not deadline.expired:
            now = self._server.counts().now
            if not any(now[name] for name in ("circuits", "waiting_bytes", "silent_processes")):
                _logger.info("no circuit is left")
                return
            time.sleep(min(LOOK, deadline.left()))
        _logger.info("their time is over")

    def _accepted_keys(self) -> Mapping[bytes, X25519PrivateKey]:
        with self._lock:
            return self._onion_keys.accepted()

    def _sample(self) -> None:
        self._bandwidth.sample(time.monotonic())

    def _renew(self) -> None:
        keys = load_or_create_onion_keys(self._keys, time.time())
        with self._lock:
            before = self._onion_keys
            self._onion_keys = keys
        if keys.accepted().keys() != before.accepted().keys():
            self._server.keys_renewed()  # first all who answer CREATE, then those who tell clients
        renewed = keys.current.public != before.current.public
        low, high = sorted((self._said_bandwidth, self._bandwidth.peak))
        if renewed or high > NOTED_CHANGE * low:
            for registration in self._registrations:
                registration.renew()

    def _describe(self) -> bytes:
        with self._lock:
            current, policy = self._onion_keys.current, self._exit_policy
        self._said_bandwidth = self._bandwidth.peak
        family, proof = self._family
        descriptor = Descriptor(
            nickname=self._nickname,
            address=self.address,
            identity=self._identity.public,
            onion_keys=(current.public,),
            exit_policy=str(ExitPolicy.parse(policy)),
            family=family,
            bandwidth=self._said_bandwidth,
            software=SOFTWARE,
            versions=VERSIONS,
            published=time.time(),
            family_proof=proof,
        )
        return sign_descriptor(descriptor, self._identity.private_key)

    def _registration_changed(self, state: RegistrationState, text: str) -> None:
        level, line = _LINES[state]
        listed = sum(each.state is RegistrationState.LISTED for each in self._registrations)
        _logger.log(level, line, text, listed, len(self._registrations))


def _reached_at(private: Sequence[Address], host: str) -> list[Address]:
    """Where these are reached: what listens on every address is also where others dial the relay."""
    return [*private, *(Address(host, each.port) for each in private if each.host in _UNSPECIFIED)]
