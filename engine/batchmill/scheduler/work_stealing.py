"""Taking records back from a worker that is held up, for one that is not.

It never takes what may have been started.

A straggler holds its chunk-mates and the queued chunk hostage (engine/README.md#stragglers). Taking back has two steps:
lower the worker's limit, and a tick later look at its board. What the board has not reached by then, the worker never
starts: it publishes a record before it looks at the limit.

Two things call for it. Workers are idle and no input is left: they get halves of what the others have. Or a record runs
much longer than its chunk was meant to: then what waits behind it is taken back at once, while there is still time to
run it beside the straggler; with four stragglers in a row, each soon has a worker of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from batchmill.pool.base import Worker, WorkerPool
from batchmill.scheduler.in_flight import Flight, InFlight, doubling

SOON = 0.002  # seconds after which a lowered limit is sure to have been seen
HELD_UP = 0.005  # seconds a worker must have been at its chunk before anything is taken back from it
LOOK = 0.1  # seconds between looks for stragglers
RELIEFS = 4  # stragglers dealt with per look: each costs the parent a handful of chunks


class _Point(NamedTuple):
    """A record of a flight; those of one worker compare as they run."""

    serial: int
    offset: int


@dataclass
class _Recall:
    """A worker whose limit was lowered to `limit`; that it saw it in time is known at `due`. `relief`: of a
    straggler."""

    worker: Worker
    limit: _Point
    due: float
    relief: bool = False


class WorkStealer:
    """Takes records back, one recall per worker at a time. `refund` is told how many records came back."""

    def __init__(self, pool: WorkerPool, in_flight: InFlight, refund: Callable[[int], None]) -> None:
        self._pool = pool
        self._in_flight = in_flight
        self._refund = refund
        self._recalls: dict[Worker, _Recall] = {}
        self._seen: dict[int, tuple[_Point, float]] = {}  # by slot: the record that runs, and since when
        self._next_look = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether a limit was lowered, and `check` is to be called soon."""
        return bool(self._recalls)

    def forget(self, worker: Worker, serial: int | None = None) -> None:
        """The flight was answered, or (without `serial`) the worker is gone: nothing is to be taken from it any
        more."""
        recall = self._recalls.get(worker)
        if recall is not None and serial in (None, recall.limit.serial):
            del self._recalls[worker]

    def plan(self, now: float, idle: int) -> None:
        """Nothing is left for `idle` workers: lower the limits of those with most records not started."""
        wanted = idle - len(self._recalls)
        if wanted <= 0:
            return
        found = (self._not_started(flight, now) for flight in self._in_flight)
        best = heapq.nlargest(wanted, (one for one in found if one is not None), key=lambda one: one[0])
        for _, worker, point in best:
            if worker not in self._recalls:
                self._lower(worker, point, now)

    def _not_started(self, flight: Flight, now: float) -> tuple[int, Worker, _Point] | None:
        """(records to take back, the worker, from where on) of a flight; None where there is nothing worth it.

        All of a chunk that waits behind another; half of what is left of the one that is running.
        """
        worker, records = self._pool.workers.get(flight.worker), flight.chunk.records
        if worker is None or worker in self._recalls or not records or now - worker.busy_since < HELD_UP:
            return None
        running = self._running(worker)
        if running is None:
            return None
        serial, offset = running
        if serial < flight.serial:
            return records, worker, _Point(flight.serial, 0)
        half = (records - offset) // 2
        return (half, worker, _Point(serial, records - half)) if serial == flight.serial and half else None

    def _running(self, worker: Worker) -> _Point | None:
        """What the worker is running, unless it has answered for it since: the board may be that of a moment ago."""
        running = self._pool.running(worker)
        return _Point(*running) if running is not None and self._in_flight.has(running[0]) else None

    def _lower(self, worker: Worker, point: _Point, now: float, relief: bool = False) -> None:
        self._pool.lower(worker, point.serial, point.offset)
        self._recalls[worker] = _Recall(worker, point, now + SOON, relief)

    def look(self, now: float, patience: float) -> None:
        """Relieve the workers that have been at one record for more than `patience` seconds of what waits behind it."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        held_up = []
        for worker in self._pool.workers.values():
            running = self._running(worker)
            point, since = self._seen.get(worker.slot, (None, now))
            if running is None or running != point or worker.is_moving:
                self._seen[worker.slot] = (running or _Point(0, 0), now)
            elif now - since > patience and not worker.lowered:
                held_up.append((since, point, worker))
        for _, point, worker in heapq.nsmallest(RELIEFS, held_up, key=lambda one: one[0]):
            self._lower(worker, _Point(point.serial, point.offset + 1), now, relief=True)

    def check(self, now: float) -> None:
        """A tick after a limit was lowered: what the worker has not started by now, it never will."""
        for recall in [recall for recall in self._recalls.values() if now >= recall.due]:
            if not self._pool.has_seen(recall.worker):  # asked first: what the board says must be younger
                continue
            running = self._pool.running(recall.worker)
            if running is not None:  # else it is between records, or its reply is on the way: look again
                del self._recalls[recall.worker]
                # A record beyond the limit was published before it could see the limit.
                recall.limit = max(recall.limit, _Point(running[0], running[1] + 1))
                self._take_back(recall)

    def _take_back(self, recall: _Recall) -> None:
        """What the worker has from the limit on waits again, the last first: each goes to the front."""
        serial, offset = recall.limit
        flights = sorted(self._in_flight.on_worker(recall.worker.slot), key=lambda flight: flight.serial, reverse=True)
        for flight in flights:
            if flight.serial >= serial:
                at = offset if flight.serial == serial else 0
                before = flight.chunk.to_run
                for cut in _cuts(at, flight.chunk.records, recall.relief):
                    self._in_flight.shorten(flight.serial, cut)
                self._refund(before - flight.chunk.to_run)


def _cuts(at: int, records: int, relief: bool) -> list[int]:
    """Where what is taken back is cut, from the end. Stragglers come in rows: next to one go 1, 1, 2, 4, …."""
    if at >= records:
        return []
    return doubling(at, records) if relief else [at]
