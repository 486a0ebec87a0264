"""What becomes of the chunks of a dead lane: they run again, and one record may be charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchmill.model import Chunk
from batchmill.pool.base import Lane, Lanes
from batchmill.pool.startup import KILLED
from batchmill.pool.worker_limits import Guard
from batchmill.scheduler.blame import DISCONNECTED, Blame, machine_verdict, verdict
from batchmill.scheduler.in_flight import Flight, Ledger
from batchmill.text import describe_exit


class Losses:
    """`refund` gives items back to the intake's count; `strike` makes a charge durable before the record runs again.

    Whom the kernel kills for want of memory need not be who took it: while there is more than one lane, a record is
    charged with that only if it ran alone. As many as there are lanes that did no harm alone, and none that did between
    them, are one lane too many.
    """

    def __init__(
        self,
        pool: Lanes,
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
        self._acquitted = 0

    def take_back(self, lane: Lane, *, stopped: bool) -> None:
        """Take all flights of a lane that is confirmed dead; nobody is charged once the run is `stopped`."""
        running = self._pool.running(lane)
        flights = sorted(self._ledger.on_lane(lane.slot), key=lambda flight: flight.serial)
        stopped = stopped or lane.is_spared
        if lane.machine_lost:
            self._machine_lost(lane, flights, running, blame=not stopped)
            return
        for flight in reversed(flights):
            current = flight.serial == running[0] if running is not None else flight is flights[0]
            self._refund(flight.chunk.to_run)
            if current:
                # An item that closed the pipes is found out only by what it did not answer: others may have run since.
                offset = None if running is None or lane.disconnected else running[1]
                self._current(lane, flight, offset, blame=not stopped)
            else:
                self._ledger.lost(flight.serial, None, blame=False)

    def _machine_lost(self, lane: Lane, flights: list[Flight], running: tuple[int, int] | None, *, blame: bool) -> None:
        """All lanes of a machine are gone at once, and what they ran last is known only as it was a moment before.

        Whatever may have been running is suspect, and the second time runs alone on its machine; an item that was alone
        and is lost again is charged.
        """
        for flight in reversed(flights):
            chunk, reached = flight.chunk, running if running is not None else (flights[0].serial, 0)
            self._refund(chunk.to_run)
            if not blame or lane.alone not in (0, flight.serial) or flight.serial < reached[0]:
                self._ledger.lost(flight.serial, None, blame=False)
            elif flight.serial == lane.alone and chunk.records == 1:
                strike = self._ledger.lost(flight.serial, 0)
                assert strike is not None
                self._strike({"position": strike.first, "count": strike.count, "exit": None})
                if self._ledger.condemned(strike):
                    # Whether it had been opened nobody knows: it is once more, for its id, and alone.
                    self._ledger.condemn(strike.first, machine_verdict(lane.machine_lost, strike.count))
            else:
                self._ledger.suspect(flight.serial, reached[1] if flight.serial == reached[0] else 0)

    def _current(self, lane: Lane, flight: Flight, offset: int | None, *, blame: bool) -> None:
        """The lane died over this flight; record `offset` of it may be to blame."""
        code = lane.executor.exitcode
        sentence = self._guard.verdict(lane, code)
        first = flight.chunk.first + (offset or 0)
        memory = self._guard.memory_trouble(lane) if sentence is None else None
        if sentence is None and blame:
            has_begun = not lane.items or self._pool.has_begun(lane, flight.serial)
            is_clear = has_begun and bool(lane.disconnected or lane.raised)
            if code == KILLED and memory is not None and not is_clear and self._is_one_of_many(flight.chunk):
                self._ledger.isolate(flight.serial, offset)
                return
            blame = is_clear or self._blame.is_its_own(first, code, memory, has_begun=has_begun)
        strike = self._ledger.lost(flight.serial, offset, blame=blame)
        if strike is None:
            return
        self._acquitted = 0
        self._strike({"position": strike.first, "count": strike.count, "exit": code})
        # What the lane did not live to call the function on is not opened again.
        was_opened = self._pool.was_opened(lane, flight.serial, strike.first - flight.chunk.first)
        if sentence is not None:
            self._ledger.condemn(strike.first, sentence, sealed=not was_opened)
        elif self._ledger.condemned(strike):
            # Status 1 between items: the executor's own code could not send the reply.
            cut_off = lane.disconnected or (offset is None and code == 1)
            how = DISCONNECTED if cut_off else f"raised {lane.raised}" if lane.raised else describe_exit(code)
            error = verdict(how, lane.pid, strike.count, memory, was_opened=was_opened)
            self._ledger.condemn(strike.first, error, sealed=not was_opened)

    def _is_one_of_many(self, chunk: Chunk) -> bool:
        """Whether something else may have run beside a chunk."""
        return self._pool.size > 1 and not (chunk.alone or chunk.scan)

    def survived(self, chunk: Chunk) -> bool:
        """Records of a chunk were answered for; whether that shows that there is a lane too many."""
        if not chunk.alone or self._pool.isolates or chunk.verdict is not None:
            return False
        self._acquitted += 1
        if not self._acquitted >= self._pool.size > 1:
            return False
        self._acquitted = 0
        return True

    def why(self, lane: Lane) -> str:
        """Why a lane ended, in a word for the checkpoint."""
        code = lane.executor.exitcode
        if lane.machine_lost:
            return "machine lost"
        sentence = self._guard.verdict(lane, code)
        if sentence is not None:
            return sentence.type
        return "recycled" if lane.retiring and not code else "died"
