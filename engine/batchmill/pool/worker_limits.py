"""The limits on workers while they run: time per item, memory, items per worker.

Every tick: an item that takes too long is first asked to raise, then its worker is killed; a worker above its memory,
or with its share of items done, retires at the next item boundary; one far above its memory is killed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from batchmill.errors import ItemError
from batchmill.pool.base import Worker, WorkerPool
from batchmill.pool.local import LocalPool
from batchmill.pool.watchdog import Action, Watchdog
from batchmill.settings import Settings
from batchmill.system.machine import available_memory, is_stopped, oom_kills, rss_of
from batchmill.text import format_size, option
from batchmill.worker.records import ALARM

FAR_ABOVE = 1.5  # times --worker-memory at which a worker is not waited for any more
LOOK, CALM_LOOK = 0.2, 1.0  # seconds between looks at memory, with --worker-memory and without
FIRST_LOOK = 0.1  # seconds till the first of those, without a limit: workers are up by then, and psutil takes its time
STOPPED_LOOK = 5.0  # seconds between looks for stopped workers
SHORT = 0.05  # share of all memory; less than that free is trouble
_PATIENCE = (0.5, 5.0)  # least and greatest wait between asking an item to raise and killing its worker


class Limits(ABC):
    """What the limits on workers ask of a run, wherever the workers are."""

    def __init__(self, pool: WorkerPool, most_items: int | None) -> None:
        self._of = pool
        self._most_items = most_items

    @property
    @abstractmethod
    def tick(self) -> float | None:
        """Seconds between two calls of `look` that the limits need; None where any will do."""

    @abstractmethod
    def look(self, now: float) -> None:
        """Do what is due at `now` (monotonic seconds)."""

    @abstractmethod
    def killed_for(self, worker: Worker, code: int | None) -> ItemError | None:
        """The error of the item that a dead worker (exit status `code`) was killed for; None where it was not."""

    @abstractmethod
    def memory_trouble(self, worker: Worker) -> str | None:
        """What points to memory as the cause of a worker's death, in words, or None."""

    @abstractmethod
    def may_have_more(self, worker: Worker) -> bool:
        """Whether memory allows to give the worker something: while it is short, only the first worker works on."""

    @abstractmethod
    def forget(self, worker: Worker) -> None:
        """A dead worker has been dealt with."""

    def counted(self, worker: Worker, items: int) -> None:
        """A worker has answered for `items` more."""
        worker.items += items
        if self._most_items is not None and worker.items >= self._most_items:
            self._of.retire(worker)

    def items_left(self, worker: Worker) -> int | None:
        """How many items the worker may still answer for, None for any number."""
        return None if self._most_items is None else self._most_items - worker.items


class WorkerLimits(Limits):
    """Watches the workers of a pool on this machine, and knows for which item it killed one."""

    def __init__(self, pool: LocalPool, settings: Settings, tick: float, on_message: Callable[[str], None]) -> None:
        super().__init__(pool, settings.max_items_per_worker)
        self._pool = pool
        self._settings = settings
        self._on_message = on_message
        self._watchdog: Watchdog | None = None
        if settings.timeout is not None:
            patience = min(max(settings.timeout, _PATIENCE[0]), _PATIENCE[1])
            self._watchdog = Watchdog(settings.timeout, patience, 2 * tick)
        self._next_look = self._next_stopped_look = math.inf
        self._is_new = True
        self._free: int | None = None
        self._oom_kills = oom_kills()
        self._told: set[int] = set()
        self._asked: dict[Worker, tuple[int, ItemError]] = {}
        self._condemned: dict[Worker, tuple[int, ItemError]] = {}

    @property
    def tick(self) -> float | None:
        return None if self._settings.timeout is None else max(0.01, self._settings.timeout / 20)

    def look(self, now: float) -> None:
        if self._watchdog is not None:
            self._look_at_time(self._watchdog, now)
        if self._is_new:
            self._is_new = False
            has_limit = self._settings.worker_memory is not None or self._settings.min_free_memory is not None
            self._next_look = now if has_limit else now + FIRST_LOOK
            self._next_stopped_look = now + STOPPED_LOOK
        if now >= self._next_look:
            self._next_look = now + (CALM_LOOK if self._settings.worker_memory is None else LOOK)
            self._look_at_memory()
        if now >= self._next_stopped_look:
            self._next_stopped_look = now + STOPPED_LOOK
            self._look_for_stopped()

    def _look_at_time(self, watchdog: Watchdog, now: float) -> None:
        pool = self._pool
        calls = ((slot, pool.number(worker), pool.call(worker)) for slot, worker in pool.workers.items())
        for overdue in watchdog.look(now, (call for call in calls if call[1])):
            worker = self._pool.workers[overdue.slot]
            limit = option("timeout", f"{self._settings.timeout:g}")
            sentence = f"killed after {overdue.seconds:.3g} s ({limit}, pid {worker.pid})"
            error = ItemError("Timeout", sentence)
            if overdue.action is Action.RAISE:
                self._asked[worker] = (overdue.number, error)
                self._pool.ask_to_raise(worker, overdue.number)
            else:
                self._condemn(worker, overdue.number, error)

    def _condemn(self, worker: Worker, number: int, error: ItemError) -> None:
        """Kill a worker, and let the item with that number on the board fail with `error`."""
        self._condemned[worker] = (number, error)
        self._pool.give_up(worker)

    def killed_for(self, worker: Worker, code: int | None) -> ItemError | None:
        # Not if the worker had gone on to another item before the kill reached it: that one is innocent. An item that
        # puts back the default action of our signal dies of being asked to raise.
        found = self._condemned.get(worker) or (self._asked.get(worker) if code == -ALARM else None)
        return found[1] if found is not None and found[0] == self._pool.number(worker) else None

    def forget(self, worker: Worker) -> None:
        self._asked.pop(worker, None)
        self._condemned.pop(worker, None)

    def _look_at_memory(self) -> None:
        most = self._settings.worker_memory
        if self._settings.min_free_memory is not None:
            self._free = available_memory()
        for worker in list(self._pool.workers.values()):
            rss = worker.rss = rss_of(worker.pid)
            if most is None:
                continue
            number = self._pool.number(worker)
            if rss > FAR_ABOVE * most and number:
                held = f"its worker (pid {worker.pid}) held {format_size(rss)}"
                error = ItemError("OutOfMemory", f"killed: {held} ({option('worker_memory', format_size(most))})")
                self._condemn(worker, number, error)
            elif rss > most:
                self._pool.retire(worker)

    @property
    def has_memory(self) -> bool:
        """Whether --min-free-memory is free, as far as was seen."""
        least = self._settings.min_free_memory
        return least is None or self._free is None or self._free >= least

    def may_have_more(self, worker: Worker) -> bool:
        if self.has_memory:
            return True
        busy = [other for other in self._pool.workers.values() if other.outstanding]
        return not busy

    def memory_trouble(self, worker: Worker) -> str | None:
        kills, free, rss = oom_kills(), available_memory(), worker.rss
        was_killed = kills > self._oom_kills
        self._oom_kills = kills
        if was_killed or free < SHORT * (free + rss):
            return f"RSS {format_size(rss)}, {format_size(free)} free"
        return None

    def _look_for_stopped(self) -> None:
        for worker in self._pool.workers.values():
            if worker.pid not in self._told and is_stopped(worker.pid):
                self._told.add(worker.pid)
                self._on_message(
                    f"Worker {worker.pid} is stopped; `kill -CONT {worker.pid}` lets it go on (see {option('timeout')})"
                )
