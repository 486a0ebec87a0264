"""What workers call when they have nothing more to do, at the end of a run: the wait for it, and what came of it."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from typing import Any

from batchmill.model import Stop
from batchmill.pool.base import WorkerPool
from batchmill.scheduler.loop import TICK
from batchmill.text import in_words, option, plural


class Farewell:
    """`note` gets a sentence for the report, each once. Who insists by `events` is not kept waiting."""

    def __init__(self, pool: WorkerPool, events: queue.SimpleQueue[Any], note: Callable[[str], None]) -> None:
        self._pool, self._events, self._note = pool, events, note
        self._noted: set[str] = set()

    def expect(self, within: float) -> None:
        """Something is to be called, and may take so many seconds."""
        self._pool.calls_end, self._pool.ends_within = True, within

    def hear(self, error: str) -> None:
        """A worker has called it, with that error if any."""
        if error and error not in self._noted:
            self._noted.add(error)
            self._note(error)

    def say(self) -> None:
        """Have the workers call it, and wait for that."""
        waiting = set(self._pool.end_idle())
        deadline = time.monotonic() + self._pool.ends_within
        while waiting and time.monotonic() < deadline and not self._is_insisted():
            done, waiting = futures.wait(waiting, TICK)
            for future in done:
                raised = future.exception()
                self.hear(future.result().error if raised is None else in_words(raised))
        if waiting:
            self.hear(f"{option('end')} did not return in {plural(len(waiting), 'worker')}, and was cut off")

    def _is_insisted(self) -> bool:
        with suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                if isinstance(event, Stop) and event.insist:
                    return True
        return False
