"""What can go wrong with a login, as sentences for the person who logs in."""

from common.errors import OnionError
from common.wire.login import EndedReason, ErrorCode

_SENTENCES = {
    ErrorCode.BAD_REQUEST: "the login server did not understand what it was asked, and ended the connection",
    ErrorCode.VERSION: "the login server speaks another version: update this program, or the server",
    ErrorCode.BUSY: "the login server has no room now: try again in a minute",
    ErrorCode.CLOSED: "this login server takes no new users",
    ErrorCode.BAD_NAME: "this name cannot be used: take 1 to 64 letters of one script, digits, . _ and -",
    ErrorCode.NAME_TAKEN: "this name is taken, or looks like one that is: choose another",
    ErrorCode.WEAK: "the login server wants more iterations than this program used: update it",
    ErrorCode.WRONG: "wrong name or password",
    ErrorCode.EXPIRED: "the login took too long: try again",
    ErrorCode.TOO_MANY_TRIES: "too many tries on one connection: begin anew",
    ErrorCode.NO_SUCH_USER: "there is no such user",
    ErrorCode.FULL: "this mailbox has no room for more from you until its owner has read some",
    ErrorCode.TOO_LONG: "this text is too long",
    ErrorCode.PROOF_NEEDED: "the password is needed once more for this: try again",
    ErrorCode.NO_SUCH_SESSION: "you have no such session: sessions lists them",
}
_ENDS = {
    EndedReason.LOGOUT: "you were logged out here from another session",
    EndedReason.PASSWORD_CHANGED: "the password was changed from another session: log in with the new one",
    EndedReason.DELETED: "this account was deleted from another session",
    EndedReason.IDLE: "you were logged out because nothing was asked for a long time: log in again",
    EndedReason.REPLACED: "you were logged out because there were too many newer sessions of yours",
    EndedReason.SHUTTING_DOWN: "the login server shuts down: log in again later",
}


class LoginRefused(OnionError):
    """The login server said no; `code` says to what, `wait` (seconds) when to try again."""

    def __init__(self, code: ErrorCode, wait: int = 0, more: str = "") -> None:
        many = "s" * (wait != 1)
        text = _SENTENCES.get(code) or f"too many tries: wait {wait} second{many} and try again"
        super().__init__(text + more)
        self.code = code
        self.wait = wait


class LoginEnded(OnionError):
    """The session is over, and why."""

    def __init__(self, reason: EndedReason) -> None:
        super().__init__(_ENDS[reason])
        self.reason = reason


class ServerLost(OnionError):
    """The login server cannot be reached any more, or does not answer as it must."""


class FakeServer(OnionError):
    """The server does not know the account that it lets in."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"what answers there does not prove that it knows {name}: it is not the login server where {name} "
            "signed up. Nothing more was said to it; do not trust what it shows"
        )
