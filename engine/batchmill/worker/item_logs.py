"""What functions log: the level, and the item that a record is about.

Where the user's code has set up nothing, records go to stderr with the id of the item that is being run; a formatter of
the user's own has it as `%(batchmill_item)s`. Nothing is installed that a `logging.basicConfig` would mind.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from batchmill.text import escape

_FORMAT = "%(levelname)s %(name)s [%(batchmill_item)s] %(message)s"


class _LastResort(logging.Handler):
    """Writes to what stderr is at the moment, a record at a time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.__stderr__.write(f"{self.format(record)}\n")  # type: ignore[union-attr]
        except Exception:
            self.handleError(record)


_own_basic_config = logging.basicConfig


def _basic_config(**keywords: Any) -> None:
    """logging.basicConfig; but without arguments, as logging.info and its like call it, all stays with what is here."""
    if keywords:
        _own_basic_config(**keywords)


def set_up(level: str | None, item: Callable[[], Any]) -> None:
    """Have records know their item, whose id `item` gives (None: there is none), and let those of that level through
    (None: warnings, and what the user's code sets)."""
    handler = _LastResort(logging.WARNING if level is None else level.upper())
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.lastResort = handler
    if level is not None:
        logging.getLogger().setLevel(level.upper())
    make = logging.getLogRecordFactory()

    def with_item(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        id = item()
        record.batchmill_item = "" if id is None else escape(str(id))
        return record

    logging.setLogRecordFactory(with_item)
    logging.basicConfig = _basic_config
