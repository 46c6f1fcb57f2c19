"""Logging in at the server: a challenge for every name, known or not, and what a proof leads to.

A name that nobody has takes the same path: the same look-ups, a decoy verifier, the same throttle, the failure at
the same step with the same code. The decoy is made for known names too, so that the work is the same.
"""

import hmac
import math
from collections.abc import Callable
from hashlib import sha256
from time import monotonic

from common.crypto.scram import ClientFirst, ScramServer, decoy_verifier
from common.errors import AuthenticationFailed, Malformed
from common.login.conversation import CHALLENGE_TIME, Challenge, Conversation, Refusal
from common.login.names import normal_name
from common.roles.auth_server.session_store import SessionStore
from common.roles.auth_server.user_store import UserStore, VerifierChanged
from common.wire import login

_SPREAD_LABEL = b"decoy iterations: "


class Logins:
    """The steps `scram` and `proof`, for any connection's thread; raises `Refusal`, and `Malformed` for bad bytes.

    `server` names this process in the table of sessions, `binding` is the SHA-256 of the certificate (DER),
    `iterations` what new verifiers shall have; `wall` gives Unix time.
    """

    def __init__(
        self,
        users: UserStore,
        sessions: SessionStore,
        *,
        server: str,
        binding: bytes,
        iterations: int,
        wall: Callable[[], float],
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._server = server
        self._binding = binding
        self._iterations = iterations
        self._wall = wall
        self.look_around()

    def look_around(self) -> None:
        """Lets decoys follow users to higher iteration counts; call it now and then, never for one name."""
        self._users.follow_users(self._iterations)

    def challenge(self, conversation: Conversation, message: login.Scram) -> login.Challenge:
        """The server-first-message."""
        first = ClientFirst.parse(message.data)
        name = _normal(first.name)
        account = self._users.find(name, decoy_verifier(self._users.secret, name, self._drawn(name)))
        wait = self._users.would_wait(name, account.id, message.device, self._wall())
        if wait > 0:
            conversation.not_challenged()
            raise Refusal(login.ErrorCode.SLOW_DOWN, math.ceil(wait))
        if conversation.logged_in and self._sessions.who(conversation.session)[0] != name:
            conversation.not_challenged()  # another's name is not tried from within a session
            raise Refusal(login.ErrorCode.WRONG)
        scram = ScramServer(first, account.verifier, self._binding)
        conversation.challenged(Challenge(scram, name, account, message.device, monotonic() + CHALLENGE_TIME))
        return login.Challenge(scram.challenge())

    def prove(self, conversation: Conversation, message: login.Proof) -> login.Done:
        """The end of the exchange: a session, or the proof that the session's owner is still there."""
        challenge = conversation.take_challenge(monotonic())
        now = self._wall()
        admitted = self._users.admit(challenge.name, challenge.account.id, challenge.device, now)
        if admitted.verdict.wait > 0:
            raise Refusal(login.ErrorCode.SLOW_DOWN, math.ceil(admitted.verdict.wait))
        try:
            final = challenge.scram.finish(message.data)
            if conversation.logged_in:
                self._users.proved(challenge.account, admitted)
                session, device = conversation.session, challenge.device
                unread = self._sessions.waiting(session).unread
            else:
                new = self._users.log_in(challenge.account, admitted, challenge.device, self._server, now)
                session, device, unread = new.session, new.device, new.unread
        except (AuthenticationFailed, VerifierChanged):
            raise Refusal(login.ErrorCode.WRONG) from None
        conversation.proved(session, monotonic())
        return login.Done(final, session, device, unread, self._iterations)

    def _drawn(self, name: str) -> int:
        """An iteration count for a name, as often as it is among users; it may rise, and never falls."""
        tag = hmac.digest(self._users.secret, _SPREAD_LABEL + name.encode(), sha256)
        at = int.from_bytes(tag[:6], "big") / 2**48
        return next(iterations for iterations, share in self._users.decoys() if at < share)


def _normal(name: str) -> str:
    """The normal form; a name that can have none stands for itself, and nobody has it."""
    try:
        return normal_name(name)
    except Malformed:
        return name
