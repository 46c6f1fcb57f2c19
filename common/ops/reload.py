"""SIGHUP: a running program reads its configuration again, from where it was read at the start.

What may change while the program runs is marked `live` in the table of options; the rest stays as it was, and the
log names what needs a restart. With anything wrong in it nothing changes.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from common.directory.addresses import Address
from common.ops import logs
from common.ops.config import Config
from common.ops.options import OPTIONS

_logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Config)


class Reload(Generic[C]):
    """Called for SIGHUP, always by the same thread; `config` is what the program runs with."""

    def __init__(
        self, role: str, config: C, read: Callable[[], C], use: Callable[[C], None] = lambda _: None
    ) -> None:
        """`config` is from the start, `read` gives what its sources say now or raises `ConfigError`.

        `use` makes the program do as its argument says, which differs from `config` in live options only. The log
        has the new level then, until `use` raises: nothing is changed by a reading that fails.
        """
        self._options = OPTIONS[role]
        self.config = config
        self._read = read
        self._use = use

    def __call__(self) -> None:
        """Raises `OnionError`: what `read` and `use` raise."""
        read = self._read()
        config = self.config
        changed = [each for each in self._options if _differ(getattr(config, each.name), getattr(read, each.name))]
        live = [option.name for option in changed if option.live]
        if live:
            config = dataclasses.replace(config, **{name: getattr(read, name) for name in live})
            if "log_level" in live:
                logs.set_level(config.log_level)
            try:
                self._use(config)
            except Exception:
                if "log_level" in live:
                    logs.set_level(self.config.log_level)
                raise
            self.config = config
        _logger.info("configuration read again; changed: %s", ", ".join(live) or "nothing")
        if len(changed) > len(live):
            others = ", ".join(option.name for option in changed if not option.live)
            _logger.warning("configuration read again; these need a restart to change: %s", others)


def _differ(before: object, now: object) -> bool:
    """Port 0 was any free one; who wrote the port that was taken into the file since then has changed nothing."""
    if isinstance(now, Address) and isinstance(before, Address) and not before.port:
        return now.host != before.host
    return now != before
