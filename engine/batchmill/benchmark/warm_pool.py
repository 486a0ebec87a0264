"""A pool that is used in part: warm lanes, of which a loop sees the first few.

Crew.start_all --hello from each--> all warm;  use(3) --> a Loop finds three lanes that are ready, the rest sleep
"""

from __future__ import annotations

import queue
import time
from typing import Any

from batchmill.errors import OutOfResources
from batchmill.model import Stop
from batchmill.pool.base import LATE, Event, Lane
from batchmill.pool.local import Pool
from batchmill.pool.startup import died_importing, not_imported, not_started
from batchmill.text import describe_exit
from batchmill.worker.main import Ready

_LOOK = 0.5  # seconds between looks at the time while lanes start


class Crew(Pool):
    """A pool whose lanes are started once, and used by one loop after the other.

    `startups` has the seconds after which each lane was up, in that order.
    """

    startups: tuple[float, ...] = ()
    _resting: dict[int, Lane] | None = None

    def start_all(self, events: queue.SimpleQueue[Any], patience: float) -> None:
        """Start all lanes, the first one alone: an import that fails is one error. What is no answer of a lane stays.

        Raises what the function's import raised, FunctionFailed where a worker died of it or it took longer than
        `patience` seconds, LanesLost where no more workers can be started.
        """
        begun = time.monotonic()
        ready: list[float] = []
        others: list[Any] = []
        self._start_lanes(range(1))
        while len(ready) < self.size:
            try:
                event = events.get(timeout=_LOOK)
            except queue.Empty:
                event = None
            if isinstance(event, Event):
                self._greet(event)
                ready.append(time.monotonic() - begun)
                if len(ready) == 1:
                    self._start_lanes(range(1, self.size))
            elif event is not None:
                others.append(event)
            if isinstance(event, Stop):
                break  # the loop that follows will see it
            if time.monotonic() - begun > patience:
                raise not_imported(patience)
        for other in others:
            events.put(other)
        self.startups = tuple(ready)

    def _start_lanes(self, slots: range) -> None:
        for slot in slots:
            try:
                self.start(slot)
            except OSError as error:
                what = f"only {slot} of {self.size} workers" if slot else "no worker"
                raise not_started(error, what, "-j asks for fewer" if slot else "") from error

    def _greet(self, event: Event) -> None:
        self.answered(event.lane, event.tag)
        if isinstance(event.future.exception(), RuntimeError):
            self.broke(event.lane)
            event.lane.executor.wait(LATE)
            code = event.lane.executor.exitcode
            if event.lane.slot:
                raise OutOfResources(f"a worker {describe_exit(code)} while starting", "-j asks for fewer")
            raise died_importing(code)
        answer: Ready = event.future.result()
        if answer.error is not None:
            raise answer.error
        event.lane.ready = True

    def use(self, count: int) -> None:
        """Let the next loop see the first `count` lanes only."""
        everyone = {**self.lanes, **(self._resting or {})}
        self._resting = {slot: lane for slot, lane in everyone.items() if slot >= count}
        self.lanes = {slot: lane for slot, lane in sorted(everyone.items()) if slot < count}
        self.size = count

    def close(self, patience: float) -> None:
        """See Pool.close: the resting ones too."""
        self.lanes.update(self._resting or {})
        self._resting = {}
        super().close(patience)
