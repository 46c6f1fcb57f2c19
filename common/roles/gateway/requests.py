"""What is asked of a gateway: which message is legal when, whose signatures it needs, and what follows."""

import time
from collections.abc import Callable, Sequence

from common.directory.descriptor import registration_proof, removal_proof, verify_member, verify_proof
from common.directory.heartbeats import Heartbeats
from common.directory.registry import Registry
from common.directory.registry_actions import Action, Refusal, RegistrationRefused
from common.directory.succession import verify_succession
from common.errors import NotEnoughSignatures, Unexpected
from common.roles import gateway_link as link
from common.roles.gateway.connections import Connections
from common.roles.gateway.hand_out import HandOut
from common.roles.gateway.peer import Peer
from common.roles.gateway_link import Message


class Requests:
    """Used by the gateway's thread. `perform` carries out what the registry decides; `gateway` is its identity."""

    def __init__(
        self,
        registry: Registry,
        connections: Connections,
        heartbeats: Heartbeats,
        hand_out: HandOut,
        perform: Callable[[Sequence[Action]], None],
        *,
        gateway: bytes,
        ping_interval: float,
    ) -> None:
        self.clients_greeted = 0
        self._registry = registry
        self._connections = connections
        self._heartbeats = heartbeats
        self._hand_out = hand_out
        self._perform = perform
        self._gateway = gateway
        self._ping_interval = ping_interval
        self._handlers: dict[type[Message], Callable[[Peer, Message], None]] = {
            link.Hello: self._on_hello,
            link.Register: self._on_register,
            link.Unregister: self._on_unregister,
            link.List: self._on_list,
            link.Pong: self._on_pong,
        }

    def answer(self, peer: Peer, body: bytes) -> None:
        """One frame; raises `ProtocolError` when it is none, or says what its sender must not say now."""
        message = link.decode(body)
        handler = self._handlers.get(type(message))
        if handler is None or (peer.role is None) != isinstance(message, link.Hello):
            raise Unexpected("not now")
        handler(peer, message)

    def _on_hello(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Hello)
        if message.network != self._registry.network or message.version != link.VERSION:
            here = f"the network {self._registry.network}, version {link.VERSION}"
            self._connections.refuse(peer, "network", f"this gateway serves {here}")
            return
        if message.role not in ("client", "relay"):
            raise Unexpected("no such role")
        peer.role = message.role
        self._connections.greeted(peer)
        self.clients_greeted += message.role == "client"
        ping_ms = round(self._ping_interval * 1_000)
        welcome = link.Welcome(link.VERSION, self._registry.network, peer.nonce, ping_ms)
        self._connections.send(peer, link.encode(welcome))

    def _on_register(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Register)
        if peer.role != "relay" or peer.registering:
            raise Unexpected("one registration at a time, by relays")
        proof = registration_proof(self._registry.network, self._gateway, peer.nonce, message.descriptor)
        now = time.time()
        try:
            descriptor = verify_member(message.descriptor, self._registry.network)
            if verify_proof(message.proof, proof) != descriptor.identity:
                raise NotEnoughSignatures("proved by another key")
            if message.succession:
                succession = verify_succession(message.succession, self._registry.network)
                if succession.new != descriptor.identity:
                    raise NotEnoughSignatures("a succession of another relay")
                self._perform(self._registry.succeed(succession, now))
            actions = self._registry.register(peer.session, descriptor, message.descriptor, now)
        except RegistrationRefused as refused:
            self._connections.refuse(peer, refused.code, str(refused))
            return
        except NotEnoughSignatures:
            text = "the registration is not signed by the relay that it is about, or not by the family it names"
            self._connections.refuse(peer, Refusal.SIGNATURE, text)
            return
        peer.registering = True
        self._perform(actions)

    def _on_unregister(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Unregister)
        try:
            proof = removal_proof(self._registry.network, self._gateway, peer.nonce)
            identity = verify_proof(message.proof, proof)
        except NotEnoughSignatures:
            text = "the good-bye is not signed by the relay that it is about"
            self._connections.refuse(peer, Refusal.SIGNATURE, text)
            return
        self._perform(self._registry.unregister(identity, time.time()))
        self._connections.send(peer, link.encode(link.Ok()))

    def _on_list(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.List)
        if peer.sending or peer.asking is not None:
            raise Unexpected("the last answer is not taken yet")
        self._hand_out.answer(peer, message.held)

    def _on_pong(self, peer: Peer, message: Message) -> None:
        assert isinstance(message, link.Pong)
        if not peer.registered:
            raise Unexpected("nobody pinged")
        round_trip = self._heartbeats.answer(peer.session, message.number, time.monotonic())
        if round_trip is not None:  # a late answer to an earlier ping says nothing new
            self._perform(self._registry.answered(peer.session, round_trip, time.time()))
