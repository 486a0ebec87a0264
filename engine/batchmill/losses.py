"""Owns what becomes of the chunks of a dead lane: they run again, and one record may be charged. Never kills a lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchmill.blame import DISCONNECTED, Blame, describe_exit, verdict
from batchmill.guard import Guard
from batchmill.ledger import Flight, Ledger
from batchmill.pool import Lane, Pool


class Losses:
    """`refund` gives items back to the intake's count; `strike` makes a charge durable before the record runs again."""

    def __init__(
        self,
        pool: Pool,
        ledger: Ledger,
        guard: Guard,
        refund: Callable[[int], None],
        strike: Callable[[dict[str, Any]], None],
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._guard = guard
        self._refund = refund
        self._strike = strike
        self._blame = Blame()

    def take_back(self, lane: Lane, *, stopped: bool) -> None:
        """Take all flights of a lane that is confirmed dead; nobody is charged once the run is `stopped`."""
        running = self._pool.running(lane)
        flights = sorted(self._ledger.on_lane(lane.slot), key=lambda flight: flight.serial)
        for flight in reversed(flights):
            current = flight.serial == running[0] if running is not None else flight is flights[0]
            self._refund(flight.chunk.to_run)
            if current:
                self._current(lane, flight, None if running is None else running[1], blame=not stopped)
            else:
                self._ledger.lost(flight.serial, None, blame=False)

    def _current(self, lane: Lane, flight: Flight, offset: int | None, *, blame: bool) -> None:
        """The lane died over this flight; record `offset` of it may be to blame."""
        code = lane.executor.exitcode
        sentence = self._guard.verdict(lane, code)
        first = flight.chunk.first + (offset or 0)
        memory = self._guard.memory_trouble(lane) if sentence is None else None
        if sentence is None and blame:
            blame = lane.disconnected or self._blame.is_its_own(first, code, memory)
        strike = self._ledger.lost(flight.serial, offset, blame=blame)
        if strike is None:
            return
        self._strike({"position": strike.first, "count": strike.count, "exit": code})
        if sentence is not None:
            self._ledger.condemn(strike.first, sentence)
        elif self._ledger.condemned(strike):
            # Status 1 between items: the executor's own code could not send the reply.
            cut_off = lane.disconnected or (offset is None and code == 1)
            how = DISCONNECTED if cut_off else describe_exit(code)
            self._ledger.condemn(strike.first, verdict(how, lane.pid, strike.count, memory))

    def why(self, lane: Lane) -> str:
        """Why a lane ended, in a word for the checkpoint."""
        code = lane.executor.exitcode
        sentence = self._guard.verdict(lane, code)
        if sentence is not None:
            return sentence.type
        return "recycled" if lane.retiring and not code else "died"
