"""One list of relays from the documents of several gateways: a lying or dead one among them changes nothing.

* Each pinned gateway has one vote, given by its newest valid document. One that has none keeps its vote: more than
  half is always counted from all that are pinned, or who cuts a client off from gateways would choose its relays.
* A relay is taken when more than half list it *alike*: nickname, address, identity, onion keys, exit policy and
  family are equal. That is all by which a path is chosen and a hop is reached, so not even a relay in league with
  one gateway can show some clients another face than the others.
* The rest may differ. `published` does in every registration, and with it the signature; `bandwidth` is measured;
  `software` and `versions` change while a relay is updated. Of the descriptors that are alike the newest counts:
  only the relay itself can have made it, and a gateway that repeats an old one gains nothing.
* Of what the gateways observed, a flag needs the same majority, and a number is the median; of two in the middle
  the worse, that is the shorter time and the longer round trip.

No nickname and no identity stands in the list twice: two majorities share a gateway, whose document has each once.
When gateways disagree about who a nickname belongs to, the majority decides; without one, neither relay is taken.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from common.directory.descriptor import Descriptor
from common.directory.document import DirectoryDocument, RelayEntry
from common.errors import DirectoryError


def majority(pinned: int) -> int:
    """How many of so many gateways are more than half."""
    return pinned // 2 + 1


def agree(documents: Mapping[bytes, DirectoryDocument], pinned: int) -> DirectoryDocument:
    """What more than half of `pinned` gateways say; `documents` are verified and valid now, by gateway key.

    With one gateway it is that gateway's document. With several, nobody has signed the result: its serial is the
    highest of theirs and only tells versions apart. It is valid for as long as a majority has a valid document, so
    that no gateway can cut its life short. Raises `DirectoryError` when no majority has one now.
    """
    needed = majority(pinned)
    if len(documents) < needed:
        raise DirectoryError(f"{len(documents)} of {pinned} gateways have a valid document, {needed} are needed")
    votes = list(documents.values())
    if pinned == 1:
        return votes[0]
    alike: defaultdict[object, list[RelayEntry]] = defaultdict(list)
    for document in votes:
        for entry in document.relays:
            alike[_agreed(entry.descriptor)].append(entry)
    relays = tuple(_merge(entries, needed) for entries in alike.values() if len(entries) >= needed)
    return replace(
        votes[0],
        serial=max(document.serial for document in votes),
        valid_after=max(document.valid_after for document in votes),
        valid_until=sorted((document.valid_until for document in votes), reverse=True)[needed - 1],
        relays=relays,
    )


def _agreed(descriptor: Descriptor) -> object:
    """What must be equal; the nickname in any case of letters, as within one document."""
    return (
        descriptor.nickname.lower(),
        descriptor.address,
        descriptor.identity,
        descriptor.onion_keys,
        descriptor.exit_policy,
        descriptor.family,
    )


def _merge(entries: Sequence[RelayEntry], needed: int) -> RelayEntry:
    newest = max(entries, key=lambda entry: (entry.descriptor.published, entry.envelope))
    flags = Counter(chain.from_iterable(set(entry.flags) for entry in entries))
    return replace(
        newest,
        running_since=_median(entry.running_since for entry in entries),
        round_trip_ms=_median(entry.round_trip_ms for entry in entries),
        bandwidth=-int(_median(-entry.bandwidth for entry in entries)),  # of two in the middle the smaller
        flags=tuple(sorted(flag for flag, count in flags.items() if count >= needed)),
    )


def _median(numbers: Iterable[float]) -> float:
    """The greater of two in the middle: a later start, a longer round trip."""
    ordered = sorted(numbers)
    return ordered[len(ordered) // 2]
