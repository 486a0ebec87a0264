"""Waiting for the checkpoint of another run.

It never takes the lock itself: whoever is first when it is free has it.

The lock is looked at, and not queued for: a signal ends the waiting at once, wherever it comes in.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from typing import Any, TypeVar

from batchmill.errors import CheckpointBusy, interrupted
from batchmill.files.storage import is_held
from batchmill.model import Stop

_T = TypeVar("_T")
_LOOK, _LONGEST_LOOK = 0.02, 0.5  # seconds between looks at the lock; each is longer than the last


def seconds_of(wait: str | float | None) -> float:
    """How long the setting `wait` allows to wait."""
    return 0.0 if wait is None else math.inf if isinstance(wait, str) else wait


def patiently(
    attempt: Callable[[], _T],
    path: str,
    events: queue.SimpleQueue[Any],
    on_message: Callable[[str], None],
    *,
    wait: float,
    deadline: float,
) -> _T:
    """What `attempt` returns, tried again whenever the checkpoint at `path` is free, for `wait` seconds (--wait), and
    not after `deadline` (monotonic seconds, --time-limit).

    Raises CheckpointBusy when the time is up, and Interrupted when a Stop is among the `events`; others stay there.
    """
    told = False
    until, limit = min((time.monotonic() + wait, "--wait"), (deadline, "--time-limit"))
    while True:
        try:
            return attempt()
        except CheckpointBusy as busy:
            if time.monotonic() >= until:
                remedy = f"give more to {limit}, or name another file with -c" if wait else busy.remedy
                raise CheckpointBusy(busy.message, remedy) from None
            if not told:
                on_message(f"Waiting: {busy.message}")
                told = True
        _wait_until_free(path, until, events)


def _wait_until_free(path: str, until: float, events: queue.SimpleQueue[Any]) -> None:
    """At least one look long: what is busy may be another file, that is to be moved."""
    look = _LOOK
    while (left := until - time.monotonic()) > 0:
        _pause(min(look, left), path, events)
        if not is_held(path):
            return
        look = min(1.5 * look, _LONGEST_LOOK)


def _pause(seconds: float, path: str, events: queue.SimpleQueue[Any]) -> None:
    """Sleep; a request to stop ends it."""
    end, others = time.monotonic() + seconds, []
    try:
        while (left := end - time.monotonic()) > 0:
            event = events.get(timeout=left)
            if isinstance(event, Stop):
                raise interrupted(event.reason, f"waiting for {path}")
            others.append(event)
    except queue.Empty:
        pass
    finally:
        for event in others:
            events.put(event)
