"""`python -m tests.system.lying_gateway LIE OPTIONS...` is gateway.py with the key that clients pin, and lies.

Only the document is changed, before it is signed; all else is the project's own code.
"""

import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.crypto.signing import sign
from common.directory.descriptor import DESCRIPTOR_TYPE
from common.directory.document import DirectoryDocument, RelayEntry
from tests.unit.directory.relays import FakeRelay

DAY = 86_400


def invent(document: DirectoryDocument) -> DirectoryDocument:
    """Relays that do not exist, beside those that do."""
    return replace(document, relays=(*document.relays, *(FakeRelay(number).entry() for number in range(50, 60))))


def hide(document: DirectoryDocument) -> DirectoryDocument:
    """Only one of all relays."""
    return replace(document, relays=document.relays[:1])


def swap(document: DirectoryDocument) -> DirectoryDocument:
    """The names and addresses of the relays, and keys of its own."""
    return replace(document, relays=tuple(_impostor(entry) for entry in document.relays))


def _impostor(entry: RelayEntry) -> RelayEntry:
    honest = entry.descriptor
    fake = FakeRelay(1, nickname=honest.nickname, address=honest.address, published=honest.published + 1)
    return fake.entry()


def forge(document: DirectoryDocument) -> DirectoryDocument:
    """The relays' identities with other onion keys, which no relay signed."""
    key = FakeRelay(1).key
    relays = []
    for entry in document.relays:
        payload = replace(entry.descriptor, onion_keys=(b"x" * 32,)).encode()
        relays.append(replace(entry, envelope=sign(DESCRIPTOR_TYPE, payload, key).encode()))
    return replace(document, relays=tuple(relays))


def yesterday(document: DirectoryDocument) -> DirectoryDocument:
    """What was right a day ago."""
    return replace(
        hide(document),
        serial=document.serial - DAY,
        valid_after=document.valid_after - DAY,
        valid_until=document.valid_until - DAY,
    )


def rewind(document: DirectoryDocument) -> DirectoryDocument:
    """Valid now, with a serial from long ago: clients that saw a newer one must not go back."""
    return replace(hide(document), serial=5)


LIES: dict[str, Callable[[DirectoryDocument], DirectoryDocument]] = {
    lie.__name__: lie for lie in (invent, hide, swap, forge, yesterday, rewind)
}


def main() -> None:
    """Runs the gateway's own script."""
    lie, honest = LIES[sys.argv[1]], DirectoryDocument.encode

    def encode(document: DirectoryDocument) -> bytes:
        return honest(lie(document))

    DirectoryDocument.encode = encode  # type: ignore[assignment, method-assign]
    script = Path(__file__).parents[2] / "gateway.py"
    sys.argv = [str(script), *sys.argv[2:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
