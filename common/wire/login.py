"""What is said to the login server: JSON in frames of at most 64 KiB, over TLS 1.3 with the server's own key.

    request             answer
    hello               welcome                 always first
    signup              ok                      the password's verifier (RFC 5802), never the password
    scram               challenge               client-first-message for server-first-message
    proof               done                    client-final-message for server-final-message: logged in
    whoami              you
    send                sent
    inbox               mail_list               a page; nothing is deleted by reading
    read                ok                      these are deleted
    rekey, delete       ok                      need a proof on this connection that is `FRESH` or newer
    sessions            session_list
    logout              ok
    ping                pong

Every request has one answer, in order; instead of the one above it may be `error` with a code of `ErrorCode`.
Once logged in, `new_mail` and `ended` may come before any answer. What is not in the table, or not legal now, is
answered by `bad_request`, and that is the end of the connection.

Times are Unix seconds. Names and texts are Unicode; everything else is ASCII, bytes in base64. The codec, with the
limit of each field, is `login_codec`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

VERSION = 1
MAX_FRAME = 65_536  # bytes of a frame's body: the largest text takes 24,600 if JSON escapes each of its bytes
MAX_TEXT = 4_096  # bytes of a text in UTF-8: a page of writing; files go elsewhere
FRESH = 60  # seconds for which a proof on a connection allows `rekey` and `delete`

MAX_RAW_NAME = 1_024  # characters of a name as it was typed: room for letters and marks that become one
MAX_SCRAM = 2_048  # bytes of a SCRAM message: the longest name, escaped, and two nonces are 1,000
SALT_SIZE = 16  # bytes; of one size, or the salt of a name that nobody has could be told from others
KEY_SIZE = 32  # bytes of StoredKey and ServerKey: SHA-256's
MAX_ITERATIONS = 2**31 - 1  # what is a sensible number is the receiver's to judge
MAX_DEVICE = 64  # bytes of a device token: a random id and a tag
MAX_SESSION = 32  # characters of a session's id
MAX_PAGE = 100  # texts in one answer to `inbox`
MAX_IDS = 1_000  # texts that one `read` names: a whole mailbox
MAX_SESSIONS = 64  # sessions in a list


class ErrorCode(StrEnum):
    """Why a request was refused: all that the other side is told."""

    BAD_REQUEST = "bad_request"  # malformed, unknown or not legal now; ends the connection
    VERSION = "version"  # a version that the server does not speak; ends the connection
    BUSY = "busy"  # the server has no room for this now; ends the connection
    CLOSED = "closed"  # this server takes no new users
    BAD_NAME = "bad_name"
    NAME_TAKEN = "name_taken"  # or one that looks like it
    WEAK = "weak"  # fewer iterations than the server takes
    WRONG = "wrong"  # name, password or channel: which, is not said
    EXPIRED = "expired"  # the challenge is too old; ask for another
    SLOW_DOWN = "slow_down"  # too many tries: `wait` says for how many seconds
    TOO_MANY_TRIES = "too_many_tries"  # on this connection; ends it
    NO_SUCH_USER = "no_such_user"
    FULL = "full"  # the mailbox, or its share for one sender
    TOO_LONG = "too_long"
    PROOF_NEEDED = "proof_needed"  # scram and proof first, on this connection
    NO_SUCH_SESSION = "no_such_session"


class EndedReason(StrEnum):
    """Why a session is over."""

    LOGOUT = "logout"  # by its owner, from another session
    PASSWORD_CHANGED = "password_changed"  # noqa: S105
    DELETED = "deleted"  # the account
    IDLE = "idle"
    REPLACED = "replaced"  # its owner has as many as allowed, and this one was quiet longest
    SHUTTING_DOWN = "shutting_down"


# ---- requests ----


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of who dials."""

    type: ClassVar = "hello"
    version: int


@dataclass(frozen=True, slots=True)
class SignUp:
    """A new user and the verifier of the password (RFC 5802, section 3)."""

    type: ClassVar = "signup"
    name: str = field(repr=False)
    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scram:
    """The client-first-message, and the device token of an earlier login on this device, or nothing."""

    type: ClassVar = "scram"
    data: bytes = field(repr=False)
    device: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """The client-final-message."""

    type: ClassVar = "proof"
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """Asks for the account and session of this connection."""

    type: ClassVar = "whoami"


@dataclass(frozen=True, slots=True)
class Send:
    """A text into another user's mailbox."""

    type: ClassVar = "send"
    to: str = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Inbox:
    """Asks for the texts with an id above `after`, oldest first."""

    type: ClassVar = "inbox"
    after: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """These texts may be deleted; ids that are not in the mailbox are nothing."""

    type: ClassVar = "read"
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rekey:
    """Another verifier: after a change of the password, or of the same one with more iterations."""

    type: ClassVar = "rekey"
    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    keep: bool  # the password is the same: other sessions and devices stay


@dataclass(frozen=True, slots=True)
class Delete:
    """The account, its mailbox and all its sessions are to go."""

    type: ClassVar = "delete"


@dataclass(frozen=True, slots=True)
class Sessions:
    """Asks for the sessions of the own account."""

    type: ClassVar = "sessions"


@dataclass(frozen=True, slots=True)
class LogOut:
    """Ends a session of the own account; empty: this one."""

    type: ClassVar = "logout"
    session: str = ""


@dataclass(frozen=True, slots=True)
class Ping:
    """Still here; does not count as use of the session."""

    type: ClassVar = "ping"


# ---- answers ----


@dataclass(frozen=True, slots=True)
class Welcome:
    """The iterations that new verifiers shall have, and the limits of texts (bytes) and mailboxes (texts)."""

    type: ClassVar = "welcome"
    version: int
    iterations: int
    max_text: int
    max_stored: int


@dataclass(frozen=True, slots=True)
class Ok:
    """Done, and where it is something to keep, on the disk."""

    type: ClassVar = "ok"


@dataclass(frozen=True, slots=True)
class Challenge:
    """The server-first-message."""

    type: ClassVar = "challenge"
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """Logged in: the server-final-message, this session's id, and the token that proves this device next time.

    `iterations` is what new verifiers shall have now: who has fewer sends `rekey`.
    """

    type: ClassVar = "done"
    data: bytes = field(repr=False)
    session: str
    device: bytes = field(repr=False)
    unread: int
    iterations: int


@dataclass(frozen=True, slots=True)
class You:
    """The account's name in its normal form, since when it is there, and this session's id."""

    type: ClassVar = "you"
    name: str = field(repr=False)
    since: int
    session: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The text is stored, under this id of the mailbox."""

    type: ClassVar = "sent"
    id: int


@dataclass(frozen=True, slots=True)
class Mail:
    """One stored text."""

    id: int
    sender: str = field(repr=False)
    at: int
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MailList:
    """A page of the mailbox; `more` says whether there are others behind it."""

    type: ClassVar = "mail_list"
    mail: tuple[Mail, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Session:
    """One session: since when it is, when it was last used, and whether it is this connection's."""

    id: str
    since: int
    seen: int
    here: bool


@dataclass(frozen=True, slots=True)
class SessionList:
    """All sessions of the account."""

    type: ClassVar = "session_list"
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `ping`."""

    type: ClassVar = "pong"


@dataclass(frozen=True, slots=True)
class Error:
    """Refused; `wait` is seconds, and 0 but for `SLOW_DOWN`."""

    type: ClassVar = "error"
    code: ErrorCode
    wait: int = 0


# ---- said by the server unasked, once logged in ----


@dataclass(frozen=True, slots=True)
class NewMail:
    """There is new mail: how many texts are stored, and whose is the newest."""

    type: ClassVar = "new_mail"
    unread: int
    newest: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """This session is over; the connection closes."""

    type: ClassVar = "ended"
    reason: EndedReason


Request = (
    Hello | SignUp | Scram | Proof | WhoAmI | Send | Inbox | Read | Rekey | Delete | Sessions | LogOut | Ping
)  # fmt: skip
Answer = Welcome | Ok | Challenge | Done | You | Sent | MailList | SessionList | Pong | Error
Push = NewMail | Ended
Message = Request | Answer | Push
