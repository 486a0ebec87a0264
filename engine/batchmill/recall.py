"""Owns taking records back from a lane that is held up, for one that is idle. Never takes what may have been started.

A straggler holds its chunk-mates and the queued chunk hostage (TRAPS.md 11). Taking back has two steps: lower the
lane's limit, and a tick later look at its board. What the board has not reached by then, the lane never starts: it
publishes a record before it looks at the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchmill.ledger import Flight, Ledger
from batchmill.pool import Lane, Pool

SOON = 0.002  # seconds after which a lowered limit is sure to have been seen
HELD_UP = 0.005  # seconds a lane must have been at its chunk before anything is taken back from it


@dataclass
class _Recall:
    """A limit that was lowered to record `at`, and is not known yet to have been seen in time."""

    lane: Lane
    flight: Flight
    at: int
    due: float


class Recaller:
    """One recall at a time. `refund` is told how many records came back."""

    def __init__(self, pool: Pool, ledger: Ledger, refund: Callable[[int], None]) -> None:
        self._pool = pool
        self._ledger = ledger
        self._refund = refund
        self._recall: _Recall | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a limit was lowered, and `check` is to be called soon."""
        return self._recall is not None

    def forget(self, serial: int | None = None, lane: Lane | None = None) -> None:
        """The flight was answered, or the lane is gone: nothing is to be taken from it any more."""
        recall = self._recall
        if recall is not None and (recall.flight.serial == serial or recall.lane is lane):
            self._recall = None

    def plan(self, now: float) -> None:
        """Nothing is left for an idle lane: lower the limit of the one with most records that it has not started."""
        if self._recall is not None:
            return
        best: tuple[int, Lane, Flight, int] | None = None
        for flight in self._ledger:
            lane = self._pool.lanes.get(flight.lane)
            found = self._not_started(lane, flight, now) if lane is not None else None
            if lane is not None and found is not None and (best is None or found[0] > best[0]):
                best = (found[0], lane, flight, found[1])
        if best is not None:
            _, lane, flight, at = best
            self._pool.lower(lane, flight.serial, at)
            self._recall = _Recall(lane, flight, at, now + SOON)

    def _not_started(self, lane: Lane, flight: Flight, now: float) -> tuple[int, int] | None:
        """(records to take back, from which offset on) of a flight; None where there is nothing worth it.

        All of a chunk that waits behind another; half of what is left of the one that is running.
        """
        running, records = self._pool.running(lane), flight.chunk.records
        if running is None or not records or now - lane.busy_since < HELD_UP:
            return None
        serial, offset = running
        if serial < flight.serial:
            return records, 0
        half = (records - offset) // 2
        return (half, records - half) if serial == flight.serial and half else None

    def check(self, now: float) -> None:
        """A tick after the limit was lowered: what the lane has not started by now, it never will."""
        recall = self._recall
        if recall is None or now < recall.due:
            return
        running = self._pool.running(recall.lane)
        if running is None:
            return  # between records, or its reply is on the way: look again
        serial, offset = running
        if serial == recall.flight.serial and offset >= recall.at:
            recall.at = offset + 1  # it published that one before it could see the limit
        self._recall = None
        if serial <= recall.flight.serial and recall.at < recall.flight.chunk.records:
            before = recall.flight.chunk.to_run
            self._ledger.shorten(recall.flight.serial, recall.at)
            self._refund(before - recall.flight.chunk.to_run)
