"""What becomes of the chunks of a dead worker: they run again, and one record may be charged, in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchmill.errors import ItemError
from batchmill.model import Chunk
from batchmill.pool.base import Worker, WorkerPool
from batchmill.pool.startup import KILLED, SERVER_LOST
from batchmill.pool.worker_limits import Limits
from batchmill.scheduler.in_flight import Flight, InFlight
from batchmill.text import describe_exit

KILLS = (
    10  # times an item may be on the board of a worker that somebody else seems to have killed, before it is charged
)
DISCONNECTED = "closed its connection (does the item close descriptors that are not its own?)"


class CrashHandler:
    """`refund` gives items back to the work queue's count; `strike` makes a charge durable before the record runs
    again.

    Whom the kernel kills for want of memory need not be who took it: while there is more than one worker, a record is
    charged with that only if it ran alone. As many as there are workers that did no harm alone, and none that did
    between them, are one worker too many.
    """

    def __init__(
        self,
        pool: WorkerPool,
        in_flight: InFlight,
        limits: Limits,
        refund: Callable[[int], None],
        strike: Callable[[dict[str, Any]], None],
    ) -> None:
        self._pool = pool
        self._in_flight = in_flight
        self._limits = limits
        self._refund = refund
        self._strike = strike
        self._blame = Blame()
        self._acquitted = 0
        self.splits = 0  # calls of several items that ended their worker

    def take_back(self, worker: Worker, *, stopped: bool) -> None:
        """Take all flights of a worker that is confirmed dead; nobody is charged once the run is `stopped`."""
        running = self._pool.running(worker)
        flights = sorted(self._in_flight.on_worker(worker.slot), key=lambda flight: flight.serial)
        stopped = stopped or worker.is_spared
        if worker.machine_lost:
            self._machine_lost(worker, flights, running, blame=not stopped)
            return
        for flight in reversed(flights):
            current = flight.serial == running[0] if running is not None else flight is flights[0]
            self._refund(flight.chunk.to_run)
            if current:
                # An item that closed the pipes is found out only by what it did not answer: others may have run since.
                offset = None if running is None or worker.disconnected else running[1]
                self._current(worker, flight, offset, blame=not stopped)
            else:
                self._in_flight.lost(flight.serial, None, blame=False)

    def _machine_lost(
        self, worker: Worker, flights: list[Flight], running: tuple[int, int] | None, *, blame: bool
    ) -> None:
        """All workers of a machine are gone at once, and what they ran last is known only as it was a moment before.

        Whatever may have been running is suspect, and the second time runs alone on its machine; an item that was alone
        and is lost again is charged.
        """
        for flight in reversed(flights):
            chunk, reached = flight.chunk, running if running is not None else (flights[0].serial, 0)
            first_of_call = self._pool.first_of_call(worker)
            reached = reached if first_of_call is None else (reached[0], first_of_call)
            self._refund(chunk.to_run)
            if not blame or worker.alone not in (0, flight.serial) or flight.serial < reached[0]:
                self._in_flight.lost(flight.serial, None, blame=False)
            elif flight.serial == worker.alone and chunk.records == 1:
                strike = self._in_flight.lost(flight.serial, 0)
                assert strike is not None
                self._strike({"position": strike.first, "count": strike.count, "exit": None})
                if self._in_flight.condemned(strike):
                    # Whether it had been opened nobody knows: it is once more, for its id, and alone.
                    error = machine_verdict(worker.machine_lost, strike.count)
                    self._in_flight.condemn(strike.first, error, sealed=chunk.was_sealed)
            else:
                self._in_flight.suspect(flight.serial, reached[1] if flight.serial == reached[0] else 0)

    def _current(self, worker: Worker, flight: Flight, offset: int | None, *, blame: bool) -> None:
        """The worker died over this flight; record `offset` of it may be to blame."""
        first_of_call = self._pool.first_of_call(worker)
        if first_of_call is not None and offset is not None:
            self._in_flight.split(flight.serial, first_of_call, offset)
            self.splits += blame
            return
        code = worker.executor.exitcode
        sentence = self._limits.killed_for(worker, code)
        first = flight.chunk.first + (offset or 0)
        memory = self._limits.memory_trouble(worker) if sentence is None else None
        if sentence is None and blame:
            has_begun = not worker.items or self._pool.has_begun(worker, flight.serial)
            is_clear = has_begun and bool(worker.disconnected or worker.raised)
            if code == KILLED and memory is not None and not is_clear and self._is_one_of_many(flight.chunk):
                self._in_flight.isolate(flight.serial, offset)
                return
            blame = is_clear or self._blame.is_its_own(first, code, memory, has_begun=has_begun)
        strike = self._in_flight.lost(flight.serial, offset, blame=blame)
        if strike is None:
            return
        self._acquitted = 0
        self._strike({"position": strike.first, "count": strike.count, "exit": code})
        # What the worker did not live to call the function on is not opened again.
        was_opened = self._pool.was_opened(worker, flight.serial, strike.first - flight.chunk.first)
        if sentence is not None:
            self._in_flight.condemn(strike.first, sentence, sealed=not was_opened)
        elif self._in_flight.condemned(strike):
            # Status 1 between items: the executor's own code could not send the reply.
            cut_off = worker.disconnected or (offset is None and code == 1)
            how = DISCONNECTED if cut_off else f"raised {worker.raised}" if worker.raised else describe_exit(code)
            error = worker_died(how, worker.pid, strike.count, memory, was_opened=was_opened)
            self._in_flight.condemn(strike.first, error, sealed=not was_opened)

    def _is_one_of_many(self, chunk: Chunk) -> bool:
        """Whether something else may have run beside a chunk."""
        return self._pool.size > 1 and not (chunk.alone or chunk.scan)

    def survived(self, chunk: Chunk, *, is_well: bool) -> bool:
        """Records of a chunk were answered for; whether that shows that there is a worker too many.

        Not if they failed (`is_well` is False): what a command took may have been too much for it even so.
        """
        if not chunk.alone or self._pool.isolates or chunk.condemned is not None:
            return False
        self._acquitted = self._acquitted + 1 if is_well else 0
        if not self._acquitted >= self._pool.size > 1:
            return False
        self._acquitted = 0
        return True

    def why(self, worker: Worker) -> str:
        """Why a worker ended, in a word for the checkpoint."""
        code = worker.executor.exitcode
        if worker.machine_lost:
            return "machine lost"
        sentence = self._limits.killed_for(worker, code)
        if sentence is not None:
            return sentence.type
        return "recycled" if worker.retiring and not code else "died"


class Blame:
    """Judges the deaths of workers. Keeps how often a record was on the board when its worker was killed from
    outside."""

    def __init__(self) -> None:
        self._kills: dict[int, int] = {}

    def is_its_own(self, first: int, code: int | None, memory: str | None, *, has_begun: bool = True) -> bool:
        """Whether the record at position `first` is charged with the death of its worker (exit status `code`).

        An unknown status and a lost fork server (or the item's own `exit(-1)`) are someone else's doing, and so is
        SIGKILL unless memory was short (`memory` says how), and whatever befell a worker that had worked before and had
        not begun with this; but not if it happens again and again to the same record.
        """
        if (has_begun and code not in (None, SERVER_LOST, KILLED)) or (code == KILLED and memory is not None):
            return True
        self._kills[first] = self._kills.get(first, 0) + 1
        return self._kills[first] > KILLS


def worker_died(how: str, pid: int, tries: int, memory: str | None, *, was_opened: bool = True) -> ItemError:
    """The error of an item that cost a worker (process `pid`) its life `tries` times; `how` in words."""
    cause = f"; likely out of memory: {memory}" if memory is not None and "SIGKILL" in how else ""
    times = f", {tries} times" if tries > 1 else ""
    what = "running" if was_opened else "reading"
    return ItemError("WorkerDied", f"the worker (pid {pid}) {how} while {what} it{times}{cause}")


def machine_verdict(machine: str, tries: int) -> ItemError:
    """The error of an item that ran alone on `machine` when that was lost; the same happened `tries` times in all."""
    times = f", {tries} times" if tries > 1 else ""
    return ItemError("WorkerDied", f"the worker {machine} was lost while running it and nothing else{times}")
