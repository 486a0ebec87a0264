"""The loop that keeps workers busy and commits what they answer. Joins the parts; never knows a format or an option.

    work_queue --chunk--> [fill] --submit--> worker ... Event --> [replied] --commit--> checkpoint, progress, output
       ^                                       |
       |                                       |--> [gone] --> crashes: the chunk runs again, the suspect alone
       '--- what came back undone -------------'--> work_stealing: from a worker that is held up, for one that is idle

One thread, one queue. Workers, the feeder, the sync thread and signals put things on it; nothing else touches the
state.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from batchmill.errors import BatchmillError, CheckpointUnwritable, ClusterLost, ClusterUnfit, is_signal
from batchmill.input.ranges import OpenFile
from batchmill.model import Chunk, FileRange, Stop, StopReason
from batchmill.output.writer import KEPT
from batchmill.pool.base import Event, Worker, WorkerPool
from batchmill.pool.startup import Startup
from batchmill.pool.worker_limits import Limits
from batchmill.scheduler.chunk_size import ChunkSizer
from batchmill.scheduler.crashes import CrashHandler
from batchmill.scheduler.ending import Ending
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.rendering import Due, OutputMaker
from batchmill.scheduler.retrier import Retrier
from batchmill.scheduler.run_limits import Phase, TimeLimit
from batchmill.scheduler.work_queue import WorkQueue
from batchmill.scheduler.work_stealing import SOON, WorkStealer
from batchmill.text import plural
from batchmill.value_class import value_class
from batchmill.worker import records
from batchmill.worker.main import Ready
from batchmill.worker.records import Answer, ChunkJob, Ids
from batchmill.worker.reply import Part, ReplySummary
from batchmill.worker.sealer import Sealer

TICK = 0.1  # seconds between looks at what sends no events
BRISK = 0.02  # between looks while workers wait for input, or for a dead one to be gone
TURN = 16  # chunks handed out before the loop looks at what has come back: it tells how large the next should be


class Watcher(Protocol):
    """Who follows a run: `ok` and `failed` items so far, and what becomes of the workers."""

    ok: int
    failed: int

    def tick(self, now: float, pids: list[int], workers: int) -> None:
        """At every turn of the loop: `now` is monotonic seconds, `pids` are processes, `workers` their number."""

    def worker_ended(self, worker: int, pid: int, exit: int | None, why: str) -> None:
        pass


@value_class
class Callbacks:
    """Whom the loop tells what.

    `commit` appends an outcome frame and returns why the run must stop now, or None; `strike` makes a charge durable;
    `generation` is that of the order of the input. `ended` gets what came of what a worker called at its end.
    """

    commit: Callable[[Chunk, bytes, ReplySummary], str | None]
    strike: Callable[[dict[str, Any]], None]
    generation: Callable[[], int]
    message: Callable[[str], None]
    ended: Callable[[str], None] = lambda error: None


class Loop:
    """Runs until the work queue is over, or asked to stop, or the time is up. `grace` and `start_timeout` are seconds.
    With `is_brisk`, what runs is ended at once where a commit is why it stops.

    What ended it early is in `stopped` ("" where nothing did) or `error`; `said` tells which error it was that others
    stopped it for. `batch_size` is how many items a call had last (0: always one); where it is
    given, calls have so many whatever the workers were set up for.
    """

    def __init__(
        self,
        *,
        pool: WorkerPool,
        events: queue.SimpleQueue[Any],
        work_queue: WorkQueue,
        in_flight: InFlight,
        chunk_sizer: ChunkSizer,
        limits: Limits,
        retrier: Retrier,
        progress: Watcher,
        output_maker: OutputMaker,
        sealer: Sealer,
        callbacks: Callbacks,
        window: int,
        grace: float,
        start_timeout: float,
        batch_size: int = 0,
        time_limit: TimeLimit | None = None,
        is_brisk: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._events = events
        self._work_queue = work_queue
        self._in_flight = in_flight
        self._chunk_sizer = chunk_sizer
        self._limits = limits
        self._retrier = retrier
        self._progress = progress
        self._output_maker = output_maker
        self._sealer = sealer
        self._tell = callbacks
        self._window = self._depth = window
        self._grace = grace
        self._given_batch = batch_size
        self._time_limit = time_limit
        self._is_brisk = is_brisk
        self._clock = clock
        self._stealer = WorkStealer(pool, in_flight, work_queue.refund)
        self._startup = Startup(pool, start_timeout, callbacks.message)
        self._crashes = CrashHandler(pool, in_flight, limits, work_queue.refund, callbacks.strike)
        self._inbox: deque[Any] = deque()
        self._ending = Ending(pool, grace, callbacks.message)
        self._has_waited = False
        self.batch_size = self._splits = 0
        self.stopped = self.said = ""
        self.error: BaseException | None = None
        self.is_broken = False  # by a defect of ours

    @property
    def splits(self) -> int:
        """Calls of several items that failed, so that their items were called one by one."""
        return self._splits + self._crashes.splits

    # The loop

    def run(self) -> None:
        """Keep the workers busy until all is done.

        After an error workers still return what they have, unless there are none any more or nothing can be committed.
        """
        while True:
            try:
                self._hear(0.0)  # it may have been stopped before it began
                while not self._is_finished():
                    self._turn()
                return
            except (CheckpointUnwritable, ClusterLost, ClusterUnfit):
                raise
            except BaseException as error:
                if self.error is not None:
                    raise
                self.error, self.is_broken = error, not isinstance(error, BatchmillError)
                self.stop(StopReason.ERROR)

    def _turn(self) -> None:
        more = self._fill()
        self._tick()  # after handing out: it may take as long as starting a worker does
        self._hear(0.0 if more else self._patience())

    def _hear(self, seconds: float) -> None:
        """Deal with the events that are there, or come within `seconds`."""
        self._wait(seconds)
        while self._inbox:
            self._handle(self._inbox.popleft())

    def _is_finished(self) -> bool:
        if len(self._in_flight) or self._output_maker.is_busy or self._pool.dying:
            return self._ending.killed
        if self.stopped == StopReason.TIME_LIMIT and not self._ending.killed:
            self._guarded(self._work_queue.probe_end)
            if self._is_worked_off():
                self.stopped = ""  # the last items ended while they were waited for
        if self.stopped:
            return self._is_over_early()
        if self._work_queue.is_limited and not len(self._retrier):
            self._guarded(self._work_queue.probe_end)
            if not self._work_queue.is_over:
                self.stopped = StopReason.LIMIT
                return self._is_over_early()
        return self._is_worked_off() and self._is_written()

    def _is_worked_off(self) -> bool:
        """Whether every item has its outcome."""
        return not len(self._in_flight) and self._work_queue.is_over and not len(self._retrier)

    def _is_over_early(self) -> bool:
        """Stopped by design, the output so far is still written; a signal or an error leaves that to `results`."""
        return self._ending.killed or self.stopped not in KEPT or self._is_written()

    def _is_written(self) -> bool:
        self._output_maker.finish()
        return self._output_maker.is_done

    def _wait(self, seconds: float) -> None:
        """Move the events that are there, or come within `seconds`, to the inbox."""
        try:
            self._inbox.append(self._events.get(True, seconds))
            while True:
                self._inbox.append(self._events.get(False))
        except queue.Empty:
            pass

    def _patience(self) -> float:
        if self._stealer.is_pending:
            return SOON
        idle = any(worker.ready and not worker.outstanding for worker in self._pool.workers.values())
        waits = (self._limits.tick, self._retrier.wait(self._clock()))
        return min(BRISK if self._pool.dying or idle else TICK, *(wait for wait in waits if wait is not None), TICK)

    def _handle(self, event: Any) -> None:
        if isinstance(event, Event):
            self._answered(event)
        elif isinstance(event, Stop):
            self.said = self.said or event.error
            self.stop(event.reason, event.insist)
        elif isinstance(event, Due):
            event.action()
            self._mind_the_reader()
        elif isinstance(event, CheckpointUnwritable):
            raise event

    # Handing out

    def _fill(self) -> bool:
        """Give workers with room something to do; whether some may be left that could have more."""
        more = self._have_made()
        return (not self.stopped and self._hand_out()) or more

    def _have_made(self) -> bool:
        """Have output made. Stopped by design, what there is so far is still written."""
        if self.stopped not in KEPT:
            return False
        more = self._output_maker.fill(self._has_room)
        if self.stopped and self._output_maker.is_deserted:  # time was up, and took all workers with it
            while not self._is_time_over() and self._output_maker.make_one_here():
                more = True
        return more

    def _hand_out(self) -> bool:
        """Give items to workers with room, the idlest first."""
        given = 0
        for held in range(self._depth):
            for worker in list(self._pool.workers.values()):
                if len(worker.outstanding) != held or not self._has_room(worker):
                    continue
                if given == TURN:
                    return True
                if self._in_flight.is_to_wait and not self._pool.isolates:
                    return False
                if not self._give(worker):
                    self._share()
                    return False
                given += 1
        if not self._pool.workers and not self._pool.dying and self._has_work():
            self._startup.start_first()
        return False

    def _share(self) -> None:
        """Nothing is left to hand out: let workers that have too much share it with those that are idle."""
        workers = self._pool.workers.values()
        self._stealer.plan(
            self._clock(), sum(1 for worker in workers if not worker.outstanding and self._has_room(worker))
        )

    def _has_room(self, worker: Worker) -> bool:
        if not worker.ready or worker.retiring or len(worker.outstanding) >= self._depth:
            return False
        if worker.lowered and worker.outstanding:
            return False
        return self._limits.may_have_more(worker) and self._items_left(worker) != 0

    def _items_left(self, worker: Worker) -> int | None:
        """How many items the worker may still be given beside those it has; None for any number."""
        most = self._limits.items_left(worker)
        if most is None:
            return None
        return max(0, most - sum(flight.chunk.to_run for flight in self._in_flight.on_worker(worker.slot)))

    def _has_work(self) -> bool:
        """Whether there is something to start the first worker for."""
        if self._output_maker.needs_worker:
            return True
        chunk = self._next_chunk()
        if chunk is None:
            return False
        self._work_queue.refund(chunk.to_run)
        self._in_flight.put_first(chunk)
        return True

    def _next_chunk(self, most: int | None = None) -> Chunk | None:
        return self._guarded(lambda: self._work_queue.next(starved=not len(self._in_flight), most=most))

    def _guarded(self, look: Callable[[], Chunk | None]) -> Chunk | None:
        """Look at the input. If it breaks, what came before is still done and committed; then the error is raised."""
        try:
            return look()
        except BaseException as error:  # an iterable may raise anything
            self._work_queue.end()
            self.error = self.error or error
            return None

    def _give(self, worker: Worker) -> bool:
        chunk = self._next_chunk(self._items_left(worker))
        if chunk is None:
            return False
        # Where its id is known, a condemned record is not opened even for that.
        if chunk.sealed or (chunk.condemned is not None and chunk.ids is not None):
            self._seal(chunk, worker)
            return True
        flight = self._in_flight.hand(chunk, worker.slot)
        is_alone = chunk.alone or self._pool.size == 1
        seconds, generation = self._chunk_sizer.slice, self._tell.generation()
        job = ChunkJob(flight.serial, seconds, generation, chunk, is_alone, self._given_batch)
        if chunk.scan:
            self._pool.submit(worker, ("scan", flight.serial), records.scan_chunk, job)
        else:
            self._pool.submit(worker, ("run", flight.serial), records.run_chunk, job)
        return True

    def _seal(self, chunk: Chunk, worker: Worker) -> None:
        """A record that no worker may open again: all that is needed of it is made here, where `worker` would have
        been."""
        if chunk.scan:
            self._work_queue.scanned(chunk, self._sealer.scan(chunk))
        else:
            self._commit(chunk, [self._sealer.outcome(chunk, worker.slot, self._tell.generation())])

    # Answers

    def _answered(self, event: Event) -> None:
        worker, (kind, number) = event.worker, event.tag
        answer = self._pool.heard(event, of_items=kind in ("run", "scan"))
        if answer is None:
            return
        if kind == "hello":
            self._ready(worker, answer)
        elif kind == "end":
            self._tell.ended(answer.error)
        elif kind in ("run", "scan") and self._in_flight.has(number):
            self._replied(worker, answer)
        elif kind == "render":
            self._output_maker.made(number, *answer)
            self._mind_the_reader()
        if worker.retiring:
            self._pool.retire(worker)

    def _mind_the_reader(self) -> None:
        if self._output_maker.is_unread:
            self.stop("SIGPIPE")

    def _replied(self, worker: Worker, answer: Answer | Ids) -> None:
        done = answer.records
        if answer.trouble and not done:
            self._pool.spoiled(worker, answer.trouble)  # it counts as lost over what it had
            return
        is_suspect = isinstance(answer, Answer) and answer.suspect
        chunk = self._in_flight.returned(answer.serial, done, suspect=is_suspect)
        self._stealer.forget(worker, answer.serial)
        if answer.unread:
            self._read_here(chunk)
        elif isinstance(answer, Ids):
            if done:
                self._work_queue.scanned(self._head(chunk, done), answer.scan)
        else:
            is_well = not any(summary.failed for _, summary in answer.parts)
            if done and self._crashes.survived(chunk, is_well=is_well):
                self._startup.shrink("there is not enough memory, or processes, for more at once")
            if answer.lack and not self._has_waited:
                self._has_waited = True
                self._tell.message(f"Waiting: {answer.lack}; items run when that is over")
            self._splits += answer.splits
            self.batch_size = answer.batch_size
            self._chunk_sizer.call_has(self._given_batch or answer.batch_size)
            items = self._commit(chunk, answer.parts)
            self._limits.counted(worker, items)
        if answer.trouble:
            worker.is_spared = True
            self._pool.give_up(worker)

    def _read_here(self, chunk: Chunk) -> None:
        """A worker cannot read its chunk from the file where that is: from now on the parent sends the bytes."""
        assert isinstance(chunk.data, FileRange)
        assert isinstance(chunk.data.file, OpenFile)
        if said := chunk.data.file.leave_to_parent():
            self._tell.message(said)
        self._work_queue.refund(chunk.to_run)

    def _head(self, chunk: Chunk, records: int) -> Chunk:
        return self._in_flight.divide(chunk, records)[0] if records < chunk.records else chunk

    def _commit(self, chunk: Chunk, parts: list[Part]) -> int:
        """Commit what became of a chunk's first records; of how many items."""
        items, before = sum(summary.items for _, summary in parts), 0
        self._work_queue.refund(chunk.to_run - items)
        for payload, summary in parts:
            chunk = self._in_flight.divide(chunk, before)[1] if before else chunk
            before = summary.records
            self._chunk_sizer.seen(summary.items, summary.seconds)
            if self._time_limit is not None:
                self._time_limit.seen(summary.items, summary.seconds, len(payload))
            reason = self._tell.commit(chunk, payload, summary) if summary.records else None
            if reason is not None:
                self.stop(reason)
                if self._is_brisk:
                    self._ending.end(self._clock())
        return items

    # Workers

    def _ready(self, worker: Worker, ready: Ready) -> None:
        self._startup.greet(worker, ready)  # the others only now: an import that fails is one error

    def _gone(self, worker: Worker) -> None:
        """A worker is confirmed dead: its chunks run again, and another worker takes its place."""
        code = worker.executor.exitcode
        if worker.deaf and not self.stopped:
            self._startup.unheard()
        elif not (worker.ready or worker.machine_lost or self.stopped):
            self._startup.died(worker, self._limits.memory_trouble(worker))
        self._crashes.take_back(worker, stopped=bool(self.stopped))
        self._output_maker.lost(worker)
        if not self.stopped:
            self._progress.worker_ended(worker.slot, worker.pid, code, self._crashes.why(worker))
        self._stealer.forget(worker)
        self._limits.forget(worker)

    # Ticks and ends

    def _tick(self) -> None:
        now = self._clock()
        self._stealer.look(now, self._chunk_sizer.patience)
        self._stealer.check(now)
        for worker in self._pool.gone():
            self._gone(worker)
        self._output_maker.look()
        if not self.stopped:
            if self._pool.isolates or not self._in_flight.is_alone:
                self._startup.start_missing()
            self._chunk_sizer.fit(self._pool.size, self._pool.round_trip)
            self._depth = self._chunk_sizer.depth(self._window)
            self._work_queue.refund(self._retrier.look(now))  # another try is no other item
        self._limits.look(now)
        self._startup.watch(now)
        self._ending.look(now)
        if self._time_limit is not None:
            self._mind_the_time(self._time_limit, now)
        self._progress.tick(now, self._pool.pids, len(self._pool.workers))

    def _mind_the_time(self, limit: TimeLimit, now: float) -> None:
        phase = limit.phase(now)
        if phase >= Phase.DRAIN and not self.stopped and not self._is_worked_off():
            self.stop(StopReason.TIME_LIMIT)
        nothing_done = not self._progress.ok + self._progress.failed
        if phase is Phase.ASK and self.stopped:
            self._ending.ask(nothing_done)
        if phase >= Phase.CUT:
            self._ending.cut_off(nothing_done)
        if phase is Phase.OVER and not self._ending.killed:
            self.stopped = self.stopped or StopReason.TIME_LIMIT
            self._ending.kill()

    @property
    def is_cut_off(self) -> bool:
        """Whether nothing more is to be waited for: the workers were killed, or the time is over."""
        return self._ending.killed or self._is_time_over()

    def _is_time_over(self) -> bool:
        return self._time_limit is not None and self._time_limit.phase(self._clock()) is Phase.OVER

    def stop(self, reason: str, insist: bool = False) -> None:
        """Hand out nothing more and let workers return what they have; asked to `insist`, kill them."""
        if self.stopped and not (self.stopped == StopReason.TIME_LIMIT and is_signal(reason)):
            if insist:
                self._ending.end(self._clock())
            return
        self.stopped = reason
        if reason == StopReason.TIME_LIMIT:
            self._ending.wait_on()
        else:
            self._ending.begin(self._clock())
        running = sum(1 for worker in self._pool.workers.values() if self._pool.running(worker))
        if running and is_signal(reason) and reason != "SIGPIPE":
            waited = f"up to {self._grace:g} s for {plural(running, 'item')}"
            self._tell.message(f"Stopping: waiting {waited}; once more stops at once")
        for worker in list(self._pool.workers.values()):
            self._pool.lower(worker, 0, 0)
            if not worker.ready:
                self._pool.give_up(worker)
