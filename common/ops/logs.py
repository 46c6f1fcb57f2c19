"""Logging of a program: plain lines with time, level, role and text, to standard error or to a file.

The rule for whoever writes a log line: at info and above no target, path of relays, client address, key or
password ever appears; such things are for debug, which says so at the start. Info is rare and for the operator.
"""

import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from common.errors import ConfigError

_BURST = 5  # lines alike that are shown at once: enough to see a pattern begin
_WINDOW = 60.0  # seconds until the next of them: a line a minute says that it goes on
_MOST_KINDS = 256  # kinds of lines remembered; texts are constants in the code, so there are fewer


class RepeatFilter(logging.Filter):
    """Lets a few lines of one kind pass per minute, and says with the next how many there were in between.

    Lines are of one kind when they come from the same logger with the same text before its arguments.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()  # guards the table: handlers filter before they take their own lock
        self._kinds: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()  # window's start, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.name, str(record.msg)
        dropped = 0
        with self._lock:
            now = self._clock()
            start, count = self._kinds.pop(kind, (now, 0))
            if now - start >= _WINDOW:
                dropped, start, count = max(0, count - _BURST), now, 0
            self._kinds[kind] = start, count + 1
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
        if dropped:
            record.msg, record.args = f"{record.getMessage()} (… {dropped} more like this)", None
        return count < _BURST


def set_up(role: str, level: str, file: Path | None = None) -> None:
    """Sends everything logged at `level` (debug, info, warning, error) and above to `file`, or standard error.

    Raises `ConfigError` when the file cannot be opened. Called again, it replaces what was set up before.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be opened for the log: {error.strerror}") from None
    layout = f"%(asctime)s.%(msecs)03dZ %(levelname)s {role}: %(message)s"
    formatter = logging.Formatter(layout, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(RepeatFilter())
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its warnings name URLs, and at debug all
    set_level(level)


def set_level(level: str) -> None:
    """From now on everything logged at `level` (debug, info, warning, error) and above is written."""
    logging.getLogger().setLevel(level.upper())
    if level == "debug":
        logging.getLogger(__name__).warning("at level debug the log names targets and addresses: do not keep it")
