"""Owns lanes on this machine that make output, for a run whose items are elsewhere. Never runs an item.

What is to be made is in the checkpoint, which is here: on the machines of the items it would go there and back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from batchmill.lanes import Event, Lane
from batchmill.pool import Pool
from batchmill.worker import LaneSetup

_PAUSE = 0.01  # seconds for a dying lane to be dead


class Desk:
    """`setup` is that of the run's lanes, `size` how many there are to be here; they start when there is work.

    What they answer comes to `put` as if the lane had answered that it was asked for.
    """

    def __init__(self, setup: LaneSetup, size: int, put: Callable[[Event], None]) -> None:
        self._put = put
        self._lanes_of: dict[Any, Lane] = {}
        self._lock = threading.RLock()  # answers come in threads of their own
        setup = replace(setup, spec=None, init=None, preload=(), output="none")
        self._pool = Pool(setup, {}, size, self._answered)

    def submit(self, lane: Lane, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Have `function` called here, in place of `lane`. Raises OSError where no process can be started."""
        while (idlest := self._idlest()) is None:
            time.sleep(_PAUSE)
        with self._lock:
            self._lanes_of[tag] = lane
            self._pool.submit(idlest, tag, function, *arguments)

    def _idlest(self) -> Lane | None:
        """A lane, after starting those that are missing; None while all that there can be are still dying."""
        with self._lock:
            list(self._pool.gone())
            for slot in self._pool.vacant():
                self._pool.start(slot)
            return min(self._pool.lanes.values(), key=lambda own: len(own.outstanding), default=None)

    def _answered(self, event: Event) -> None:
        with self._lock:
            lane = self._lanes_of.pop(event.tag, None)
            self._pool.answered(event.lane, event.tag)
            error = event.future.exception()
            if isinstance(error, RuntimeError):  # it died, of memory perhaps: the work goes out again
                self._pool.broke(event.lane, error)
        if lane is not None:  # else it was a hello
            self._put(Event(lane, event.tag, event.future))

    def close(self, patience: float) -> None:
        """See Lanes.close."""
        self._pool.close(patience)
