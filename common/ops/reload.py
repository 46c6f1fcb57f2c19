"""SIGHUP: a running program reads its configuration again, from where it was read at the start.

What may change while the program runs is marked `live` in the table of options; the rest stays as it was, and the
log names what needs a restart. With anything wrong in it nothing changes.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from common.ops import logs
from common.ops.config import Config
from common.ops.options import OPTIONS

_logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Config)


class Reload(Generic[C]):
    """Called for each SIGHUP, always by the same thread."""

    def __init__(
        self, role: str, config: C, read: Callable[[], C], use: Callable[[C], None] = lambda _: None
    ) -> None:
        """`config` is what the program runs with, `read` gives what its sources say now or raises `ConfigError`.

        `use` makes the program do as its argument says, which differs from `config` in live options only; the
        level of the log is no business of its own.
        """
        self._options = OPTIONS[role]
        self._config = config
        self._read = read
        self._use = use

    def __call__(self) -> None:
        """Raises `ConfigError`."""
        read = self._read()
        changed = [each for each in self._options if getattr(read, each.name) != getattr(self._config, each.name)]
        live = [option.name for option in changed if option.live]
        if live:
            self._config = dataclasses.replace(self._config, **{name: getattr(read, name) for name in live})
            logs.set_level(self._config.log_level)
            self._use(self._config)
        _logger.info("configuration read again; changed: %s", ", ".join(live) or "nothing")
        if len(changed) > len(live):
            others = ", ".join(option.name for option in changed if not option.live)
            _logger.warning("configuration read again; these need a restart to change: %s", others)
