"""The grammar of SCRAM's messages (RFC 5802, section 7): text to values, strictly.

What is not exactly as the grammar says is `Malformed`: a value twice, base64 or a number in another spelling.
"""

import base64

from common.errors import AuthenticationFailed, Malformed

MIN_NONCE, MAX_NONCE = 16, 256  # characters of one side's part; less would not be unique
MAX_MESSAGE = 4_096  # bytes; several times the longest that both sides together can need
RESERVED = set("anmrscipve")  # an extension has another letter; m says that one must be understood
SERVER_ERRORS = {
    "invalid-encoding", "extensions-not-supported", "invalid-proof", "channel-bindings-dont-match",
    "server-does-support-channel-binding", "channel-binding-not-supported", "unsupported-channel-binding-type",
    "unknown-user", "invalid-username-encoding", "no-resources", "other-error",
}  # fmt: skip


def attributes(text: str, letters: str) -> list[str]:
    """The values of the attributes `letters`, which begin the message in that order; more are extensions."""
    parts = text.split(",")
    if any(len(part) < 3 or part[1] != "=" or not (part[0].isascii() and part[0].isalpha()) for part in parts):
        raise Malformed("not a list of attributes")
    names = "".join(part[0] for part in parts)
    extensions = names.removeprefix(letters)
    if not names.startswith(letters) or set(extensions) & RESERVED or len(set(extensions)) != len(extensions):
        raise Malformed("other attributes than a login has, or a mandatory extension")
    return [part[2:] for part in parts[: len(letters)]]


def decode_text(data: bytes) -> str:
    """UTF-8 without NUL, at most `MAX_MESSAGE` bytes."""
    if len(data) > MAX_MESSAGE or b"\x00" in data:
        raise Malformed("a login message that is too long, or has a NUL")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a login message that is not UTF-8") from None


def strict_base64(text: str) -> bytes:
    """The bytes of base64 in its one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one; so is text that is not ASCII
        raise Malformed("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Malformed("base64 in another spelling")
    return data


def positive_number(text: str) -> int:
    """A number of at most 10 digits without leading zeros."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or text.startswith("0"):
        raise Malformed("an iteration count that is not a number")
    return int(text)


def escape(name: str) -> str:
    """A name as it stands in a message."""
    return name.replace("=", "=3D").replace(",", "=2C")


def unescape(text: str) -> str:
    """The name that `escape` gave `text` for."""
    plain = text.replace("=2C", ",").replace("=3D", "=")
    if escape(plain) != text:
        raise Malformed("a name with an equals sign that escapes nothing")
    return plain


def is_nonce(text: str) -> bool:
    """Whether it is one side's nonce: printable ASCII without space and comma (RFC 5802, section 7)."""
    return MIN_NONCE <= len(text) <= MAX_NONCE and all("!" <= each <= "~" and each != "," for each in text)


def refuse_error(text: str) -> None:
    """Raises `AuthenticationFailed` for a server error (`e=`), named if RFC 5802 names it."""
    if text.startswith("e="):
        value = text[2:].partition(",")[0]
        error = value if value in SERVER_ERRORS else "other-error"
        raise AuthenticationFailed(f"the server refuses the login: {error}")
