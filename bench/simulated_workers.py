"""Workers that only pretend to work: a clock that is a number, a queue that moves it, a pool with the face of
batchmill.pool.local.Pool.

A worker does what worker.run_chunk does, in no time: publish a record, look at the limit, run it, stop after one that
ends past the order's seconds. What the parent spends moves its clock, and nobody else's.
"""

from __future__ import annotations

import heapq
import queue
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple, cast

from batchmill.model import Chunk
from batchmill.pool.base import Event, Executor, Worker
from batchmill.worker.main import Ready
from batchmill.worker.records import NO_LIMIT, RECORD_BITS, Answer, ChunkJob
from batchmill.worker.reply import ReplySummary


class Overhead(NamedTuple):
    """What the engine costs beside the items, in seconds.

    `chunk` and `item` are the parent's CPU time per chunk and per item, `tick` that of a look without events;
    `worker_chunk` and `worker_item` are a worker's own; `hop` is how long a message is under way.
    """

    chunk: float = 0.0004
    item: float = 2e-7
    tick: float = 0.00005
    worker_chunk: float = 0.0002
    worker_item: float = 2e-6
    hop: float = 0.0002


class Answered(NamedTuple):
    """A future that is done."""

    value: Any

    def result(self) -> Any:
        """What the call returned."""
        return self.value


class SimulatedWorker(Worker):
    """A worker, and what its process would know: the orders that reached it, and how far it is with the first."""

    def __init__(self, slot: int, started: float) -> None:
        super().__init__(slot, cast("Executor", None))
        self.started = started
        self.pid = slot + 1
        self.limit = NO_LIMIT
        self.waiting: deque[tuple[float, Any, ChunkJob]] = deque()  # when it arrives, and what
        self.tag: Any = None  # of the order that runs
        self.order: ChunkJob | None = None
        self.begun = 0.0  # may lie ahead: the order is on its way
        self.free = 0.0  # when it can begin another
        self.stop = 0  # records of it that will be run
        self.ends = 0.0
        self.moves = 0  # tells an end that was moved from the real one


class World:
    """Simulated time, and everything that happens in it but for the parent's own steps.

    `costs` are the seconds of each item, in input order.
    """

    def __init__(self, costs: list[float], overhead: Overhead) -> None:
        self.now = 0.0
        self.overhead = overhead
        self.sums = list(accumulate((cost + overhead.worker_item for cost in costs), initial=0.0))
        self.inbox: deque[Event] = deque()
        self.chunks = 0
        self.parent = 0.0  # seconds the parent was busy
        self.last_end = 0.0  # when the last record was run
        self.done = 0  # records that were run
        self._future: list[tuple[float, int, SimulatedWorker, int, Event | None]] = []
        self._number = 0

    def clock(self) -> float:
        """Monotonic seconds, as the engine asks for them."""
        return self.now

    def spend(self, seconds: float) -> None:
        """The parent is busy for so long."""
        self.now += seconds
        self.parent += seconds

    def plan(self, at: float, worker: SimulatedWorker, event: Event | None = None) -> None:
        """Something happens at a worker, or (`event`) reaches the parent, at that time."""
        self._number += 1
        heapq.heappush(self._future, (at, self._number, worker, worker.moves, event))

    def settle(self, until: float | None = None) -> None:
        """Let happen what is due by now."""
        limit = self.now if until is None else until
        while self._future and self._future[0][0] <= limit:
            self._happen()

    def _happen(self) -> float:
        at, _, worker, moves, event = heapq.heappop(self._future)
        if event is not None:
            self.inbox.append(event)
        elif moves == worker.moves:
            self._answer(worker, at)
            if worker.waiting:
                self._begin(worker, at)
        return at

    def wait(self, seconds: float) -> bool:
        """Move on to the next message for the parent, at most so far; whether there is one."""
        until = self.now + seconds
        self.settle()
        while not self.inbox:
            if not self._future or self._future[0][0] > until:
                self.now = until
                return False
            self.now = max(self.now, self._happen())
        return True

    # A worker

    def send(self, worker: SimulatedWorker, tag: Any, order: ChunkJob) -> None:
        """An order is on its way to a worker."""
        worker.waiting.append((self.now + self.overhead.hop, tag, order))
        if worker.order is None:
            self._begin(worker, self.now)

    def _begin(self, worker: SimulatedWorker, at: float) -> None:
        arrives, worker.tag, order = worker.waiting.popleft()
        worker.order, worker.begun = order, max(at, arrives, worker.free)
        worker.stop = min(self._in_time(order), max(0, self._allowed(worker, order)))
        self._end_at(worker, worker.stop)

    def _in_time(self, order: ChunkJob) -> int:
        """Records run before the order's seconds are over, the one that ends past them included."""
        first, records = order.chunk.first, order.chunk.records
        if not order.seconds:
            return records
        return bisect_right(self.sums, self.sums[first] + order.seconds, first + 1, first + records) - first

    @staticmethod
    def _allowed(worker: SimulatedWorker, order: ChunkJob) -> int:
        return worker.limit - ((order.serial << RECORD_BITS) + 1)

    def _end_at(self, worker: SimulatedWorker, stop: int) -> None:
        assert worker.order is not None
        first = worker.order.chunk.first
        worker.stop, worker.ends = stop, worker.begun + self.sums[first + stop] - self.sums[first]
        worker.moves += 1
        self.plan(worker.ends, worker)

    def _answer(self, worker: SimulatedWorker, at: float) -> None:
        order, done = worker.order, worker.stop
        assert order is not None
        self.chunks += 1
        self.done += done
        self.last_end = max(self.last_end, at) if done else self.last_end
        summary = ReplySummary(done, done, done, 0, 0, at - worker.begun, None, None, ())
        answer = Answer(order.serial, done, [(b"", summary)])
        event = Event(worker, worker.tag, cast("Any", Answered(answer)))
        worker.order, worker.free = None, at + self.overhead.worker_chunk
        self.plan(worker.free + self.overhead.hop, worker, event)

    def offset(self, worker: SimulatedWorker) -> int | None:
        """The offset in its chunk of the record that a worker is running, None between chunks."""
        order = worker.order
        if order is None or not worker.stop or not worker.begun <= self.now < worker.ends:
            return None
        first = order.chunk.first
        reached = bisect_right(self.sums, self.sums[first] + self.now - worker.begun, first, first + worker.stop)
        return max(0, reached - 1 - first)

    def lower(self, worker: SimulatedWorker, number: int) -> None:
        """Lower a worker's limit: what it has published by now it still runs."""
        worker.limit = min(worker.limit, number)
        offset = self.offset(worker)
        if worker.order is not None and (offset is not None or self.now < worker.begun):
            stop = min(worker.stop, max(self._allowed(worker, worker.order), 0 if offset is None else offset + 1))
            if stop < worker.stop:
                self._end_at(worker, stop)


class SimulatedQueue:
    """The loop's queue: waiting on it is what lets time pass."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, block: bool = True, timeout: float | None = None) -> Event:
        """As SimpleQueue.get; here nobody waits without a limit."""
        seconds = timeout if block and timeout is not None else 0.0
        if not self._world.wait(seconds):
            self._world.spend(self._world.overhead.tick if seconds else 0.0)
            raise queue.Empty
        return self._world.inbox.popleft()


class SimulatedPool:
    """What the loop and the work stealer ask of batchmill.pool.local.LocalPool, answered by a World."""

    isolates = False
    kill_after = 0.0

    def __init__(self, world: World, size: int) -> None:
        self._world = world
        self.size = size
        self.round_trip = 0.0
        self.workers: dict[int, Worker] = {}
        self.dying = 0
        self.pids: list[int] = []

    def may_start(self) -> bool:
        return True

    def start(self, slot: int) -> Worker:
        """A worker that is up at once: starting up is no part of what is compared."""
        worker = SimulatedWorker(slot, self._world.now)
        worker.outstanding.append(("hello", 0))
        self.workers[slot] = worker
        self._world.inbox.append(Event(worker, ("hello", 0), cast("Any", Answered(Ready(worker.pid, None)))))
        return worker

    def submit(self, worker: SimulatedWorker, tag: Any, function: object, order: ChunkJob) -> bool:
        """See LocalPool.submit. Costs the parent half of a chunk, and its items."""
        world = self._world
        world.spend(world.overhead.chunk / 2 + world.overhead.item * order.chunk.records)
        world.settle()
        if worker.lowered and not worker.outstanding:
            worker.limit, worker.lowered = NO_LIMIT, False
        if not worker.outstanding:
            worker.busy_since = world.now
        worker.outstanding.append(tag)
        world.send(worker, tag, order)
        return True

    def heard(self, event: Event, *, of_items: bool = False) -> Any:
        """See LocalPool.heard. Costs the parent the other half of a chunk."""
        event.worker.outstanding.remove(event.tag)
        self._world.spend(self._world.overhead.chunk / 2 if event.tag[0] == "run" else 0.0)
        event.worker.busy_since = self._world.now
        return event.future.result()

    def number(self, worker: SimulatedWorker) -> int:
        self._world.settle()
        offset = self._world.offset(worker)
        return 0 if offset is None or worker.order is None else (worker.order.serial << RECORD_BITS) + 1 + offset

    def running(self, worker: SimulatedWorker) -> tuple[int, int] | None:
        number = self.number(worker)
        return (number >> RECORD_BITS, (number & ((1 << RECORD_BITS) - 1)) - 1) if number else None

    def lower(self, worker: SimulatedWorker, serial: int, offset: int) -> None:
        self._world.settle()
        self._world.lower(worker, (serial << RECORD_BITS) + 1 + offset)
        worker.lowered = True

    def machine_name(self, worker: Worker) -> str:
        return ""

    def has_seen(self, worker: Worker) -> bool:
        return True

    def vacant(self) -> list[int]:
        return [slot for slot in range(self.size) if slot not in self.workers]

    def gone(self) -> Iterator[Worker]:
        """No simulated worker ever dies."""
        return iter(())


class SimulatedSource:
    """An input of `total` items that is all there; a chunk of it is only its range."""

    def __init__(self, total: int, knows_total: bool = True) -> None:
        self.total: int | None = total
        self.position = 0
        self._end = total
        self._knows_total = knows_total

    @property
    def ended(self) -> bool:
        return self.position >= self._end

    @property
    def remaining(self) -> float | None:
        return self._end - self.position if self._knows_total else None

    def take(self, records: int) -> Chunk | None:
        records = min(records, self._end - self.position)
        if not records:
            return None
        chunk = Chunk(self.position, self.position + 1, 0, records, b"")
        self.position += records
        return chunk

    def close(self) -> None:
        """Nothing is open."""


def divide(chunk: Chunk, at: int) -> tuple[Chunk, Chunk]:
    """A chunk in two, as formats.divide does it with bytes."""
    rest = chunk._replace(first=chunk.first + at, line=chunk.line + at, records=chunk.records - at)
    return chunk._replace(records=at), rest
