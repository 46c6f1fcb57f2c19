"""What the login server does for each request, once the conversation has found it legal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from common.crypto.scram import Verifier
from common.errors import Malformed
from common.login.conversation import Conversation, Refusal
from common.login.names import normal_name, skeleton
from common.roles.auth_server.logins import Logins
from common.roles.auth_server.session_store import MAX_STORED, MailboxFull, NoSuchUser, SessionStore
from common.roles.auth_server.user_store import NameTaken, NoRoom, UserStore
from common.wire import login
from common.wire.login import ErrorCode

_CHANGING = (login.Proof, login.Send, login.Rekey, login.Delete, login.LogOut)


class Reply(NamedTuple):
    """The answer to a request, and whether the connection ends with it."""

    answer: login.Answer
    last: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What new verifiers shall have, what is taken, and whether nobody can sign up."""

    iterations: int
    fewest_iterations: int
    closed: bool


class Requests:
    """Answers requests, in any connection's thread; `rules` may be replaced by others at any time.

    Raises `Refusal`; `ProtocolError` for what no honest client says; `SessionOver`; `StoreFailed`.
    """

    def __init__(
        self,
        users: UserStore,
        sessions: SessionStore,
        logins: Logins,
        rules: Rules,
        wall: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """`wall` gives Unix time; `changed` is called when other connections have something to hear."""
        self._users = users
        self._sessions = sessions
        self.rules = rules
        self._wall = wall
        self._changed = changed
        self._handlers: dict[type[login.Message], Callable[[Conversation, Any], Reply]] = {
            login.Hello: self._hello,
            login.SignUp: self._sign_up,
            login.Scram: lambda conversation, message: Reply(logins.challenge(conversation, message)),
            login.Proof: lambda conversation, message: Reply(logins.prove(conversation, message)),
            login.WhoAmI: self._who_am_i,
            login.Send: self._send,
            login.Inbox: self._inbox,
            login.Read: self._read,
            login.Rekey: self._rekey,
            login.Delete: self._delete,
            login.Sessions: self._list_sessions,
            login.LogOut: self._log_out,
            login.Ping: lambda _conversation, _message: Reply(login.Pong()),
        }

    def answer(self, conversation: Conversation, message: login.Message) -> Reply:
        """Does what a legal message asks for."""
        reply = self._handlers[type(message)](conversation, message)
        if isinstance(message, _CHANGING):
            self._changed()
        return reply

    def _hello(self, _: Conversation, message: login.Hello) -> Reply:
        if message.version != login.VERSION:
            raise Refusal(ErrorCode.VERSION, last=True)
        return Reply(login.Welcome(login.VERSION, self.rules.iterations, login.MAX_TEXT, MAX_STORED))

    def _sign_up(self, _: Conversation, message: login.SignUp) -> Reply:
        if self.rules.closed:
            raise Refusal(ErrorCode.CLOSED)
        verifier = self._verifier(message)
        try:
            name = normal_name(message.name)
        except Malformed:
            raise Refusal(ErrorCode.BAD_NAME) from None
        try:
            self._users.sign_up(name, skeleton(name), verifier, self._wall())
        except NameTaken:
            raise Refusal(ErrorCode.NAME_TAKEN) from None
        except NoRoom:
            raise Refusal(ErrorCode.BUSY, last=True) from None
        return Reply(login.Ok())

    def _verifier(self, message: login.SignUp | login.Rekey) -> Verifier:
        if message.iterations < self.rules.fewest_iterations:
            raise Refusal(ErrorCode.WEAK)
        return Verifier(message.salt, message.iterations, message.stored_key, message.server_key)

    def _who_am_i(self, conversation: Conversation, _: login.WhoAmI) -> Reply:
        name, since = self._sessions.who(conversation.session)
        return Reply(login.You(name, since, conversation.session))

    def _send(self, conversation: Conversation, message: login.Send) -> Reply:
        if len(message.text.encode()) > login.MAX_TEXT:
            raise Refusal(ErrorCode.TOO_LONG)
        try:
            name = normal_name(message.to)
            return Reply(login.Sent(self._sessions.send(conversation.session, name, message.text, self._wall())))
        except (Malformed, NoSuchUser):
            raise Refusal(ErrorCode.NO_SUCH_USER) from None
        except MailboxFull:
            raise Refusal(ErrorCode.FULL) from None

    def _inbox(self, conversation: Conversation, message: login.Inbox) -> Reply:
        return Reply(login.MailList(*self._sessions.inbox(conversation.session, message.after)))

    def _read(self, conversation: Conversation, message: login.Read) -> Reply:
        self._sessions.read(conversation.session, message.ids)
        return Reply(login.Ok())

    def _rekey(self, conversation: Conversation, message: login.Rekey) -> Reply:
        self._sessions.rekey(conversation.session, self._verifier(message), message.keep)
        return Reply(login.Ok())

    def _delete(self, conversation: Conversation, _: login.Delete) -> Reply:
        self._sessions.delete(conversation.session)
        return Reply(login.Ok(), last=True)

    def _list_sessions(self, conversation: Conversation, _: login.Sessions) -> Reply:
        return Reply(login.SessionList(self._sessions.sessions(conversation.session)))

    def _log_out(self, conversation: Conversation, message: login.LogOut) -> Reply:
        session = message.session or conversation.session
        if not self._sessions.log_out(conversation.session, session):
            raise Refusal(ErrorCode.NO_SUCH_SESSION)
        return Reply(login.Ok(), last=session == conversation.session)
