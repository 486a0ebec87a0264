"""A pool that is used in part: warm workers, of which a loop sees the first few.

WarmPool.start_all --hello from each--> all warm;  use(3) --> a Loop finds three workers that are ready, the rest sleep
"""

from __future__ import annotations

import queue
import time
from typing import Any

from batchmill.errors import OutOfResources
from batchmill.model import Stop
from batchmill.pool.base import LATE, Event, Worker
from batchmill.pool.local import LocalPool
from batchmill.pool.startup import died_importing, not_imported, not_started
from batchmill.text import describe_exit
from batchmill.worker.main import Ready

_LOOK = 0.5  # seconds between looks at the time while workers start


class WarmPool(LocalPool):
    """A pool whose workers are started once, and used by one loop after the other.

    `startups` has the seconds after which each worker was up, in that order.
    """

    startups: tuple[float, ...] = ()
    _resting: dict[int, Worker] | None = None

    def start_all(self, events: queue.SimpleQueue[Any], patience: float) -> None:
        """Start all workers, the first one alone: an import that fails is one error. What is no answer of a worker
        stays.

        Raises what the function's import raised, FunctionFailed where a worker died of it or it took longer than
        `patience` seconds, WorkersLost where no more workers can be started.
        """
        begun = time.monotonic()
        ready: list[float] = []
        others: list[Any] = []
        self._start_workers(range(1))
        while len(ready) < self.size:
            try:
                event = events.get(timeout=_LOOK)
            except queue.Empty:
                event = None
            if isinstance(event, Event):
                self._greet(event)
                ready.append(time.monotonic() - begun)
                if len(ready) == 1:
                    self._start_workers(range(1, self.size))
            elif event is not None:
                others.append(event)
            if isinstance(event, Stop):
                break  # the loop that follows will see it
            if time.monotonic() - begun > patience:
                raise not_imported(patience)
        for other in others:
            events.put(other)
        self.startups = tuple(ready)

    def _start_workers(self, slots: range) -> None:
        for slot in slots:
            try:
                self.start(slot)
            except OSError as error:
                what = f"only {slot} of {self.size} workers" if slot else "no worker"
                raise not_started(error, what, "-j asks for fewer" if slot else "") from error

    def _greet(self, event: Event) -> None:
        answer: Ready | None = self.heard(event)
        if answer is None:
            event.worker.executor.wait(LATE)
            code = event.worker.executor.exitcode
            if event.worker.slot:
                raise OutOfResources(f"a worker {describe_exit(code)} while starting", "-j asks for fewer")
            raise died_importing(code)
        if answer.error is not None:
            raise answer.error
        event.worker.ready = True

    def use(self, count: int) -> None:
        """Let the next loop see the first `count` workers only."""
        self.use_all()
        everyone = self.workers
        self._resting = {slot: worker for slot, worker in everyone.items() if slot >= count}
        self.workers = {slot: worker for slot, worker in sorted(everyone.items()) if slot < count}
        self.size = count

    def use_all(self) -> None:
        """Let the resting ones be seen too."""
        self.workers.update(self._resting or {})
        self._resting = {}

    def close(self, patience: float) -> None:
        """The resting ones too."""
        self.use_all()
        super().close(patience)
