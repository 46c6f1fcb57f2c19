"""Who owns which nickname, and which identity has followed which."""

from collections.abc import Mapping

from common.directory.descriptor import Descriptor
from common.directory.registry_actions import BindNickname, Refusal, RegistrationRefused, StoreSuccession
from common.directory.succession import Succession

MAX_NICKNAMES = 100_000  # names ever bound; each needed a relay that could be dialled
MAX_SUCCESSIONS = 100_000  # identities ever replaced; each owned a name


class Owners:
    """Nicknames (in lower case) with their identities, and replaced identities with their successors."""

    def __init__(
        self, nicknames: Mapping[str, bytes] | None = None, successors: Mapping[bytes, bytes] | None = None
    ) -> None:
        self._nicknames = dict(nicknames or {})
        self._successors = dict(successors or {})
        self._names: dict[bytes, set[str]] = {}  # identity -> its nicknames
        for nickname, identity in self._nicknames.items():
            self._names.setdefault(identity, set()).add(nickname)

    def refuse(self, descriptor: Descriptor) -> None:
        """Raises `RegistrationRefused` when the name is another's, or the identity has been replaced."""
        self._refuse_replaced(descriptor.identity)
        nickname = descriptor.nickname.lower()
        owner = self._nicknames.get(nickname)
        if owner is not None and owner != descriptor.identity:
            text = f"the nickname {descriptor.nickname} belongs to another relay: choose another one"
            raise RegistrationRefused(Refusal.NICKNAME, text)
        if owner is None and len(self._nicknames) >= MAX_NICKNAMES:
            raise RegistrationRefused(Refusal.FULL, "this gateway has given away as many nicknames as it can")

    def bind(self, descriptor: Descriptor) -> list[BindNickname]:
        """The name is the relay's from now on; nothing to store when it was before."""
        nickname = descriptor.nickname.lower()
        if nickname in self._nicknames:
            return []
        return [self._give(nickname, descriptor.identity)]

    def succeed(self, succession: Succession) -> list[StoreSuccession | BindNickname]:
        """All names of the old identity go to the new one; nothing when it has none, or this was done before.

        Raises `RegistrationRefused`: one of the two was replaced by another identity, or the table is full.
        """
        old, new = succession.old, succession.new
        if self._successors.get(old) == new:
            return []
        self._refuse_replaced(old)
        self._refuse_replaced(new)
        names = self._names.pop(old, None)
        if names is None:
            return []
        if len(self._successors) >= MAX_SUCCESSIONS:
            self._names[old] = names
            raise RegistrationRefused(Refusal.FULL, "this gateway has seen as many new identities as it can")
        self._successors[old] = new
        return [StoreSuccession(old, new), *(self._give(name, new) for name in sorted(names))]

    def _give(self, nickname: str, identity: bytes) -> BindNickname:
        self._nicknames[nickname] = identity
        self._names.setdefault(identity, set()).add(nickname)
        return BindNickname(nickname, identity)

    def _refuse_replaced(self, identity: bytes) -> None:
        if identity in self._successors:
            text = "this identity was replaced by another one, for ever: use that one's keys"
            raise RegistrationRefused(Refusal.REPLACED, text)
