"""One round of one cell: the engine's own loop on warm workers, and what it came to.

What happens is what happens in a run, less the checkpoint and the output; results are digested, and thrown away.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from batchmill.benchmark.sample import Record, SampleSource
from batchmill.benchmark.schedule import RoundTask
from batchmill.benchmark.warm_pool import WarmPool
from batchmill.codec.outcome_block import Failure, OutcomeBlock
from batchmill.input import formats
from batchmill.model import Chunk, StopReason
from batchmill.plan import Plan
from batchmill.pool.worker_limits import WorkerLimits
from batchmill.scheduler.chunk_size import ChunkSizer
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.loop import TICK, Callbacks, Loop
from batchmill.scheduler.rendering import OutputMaker
from batchmill.scheduler.retrier import Retrier
from batchmill.scheduler.work_queue import WorkQueue
from batchmill.system.machine import Monitor
from batchmill.worker.command import essence
from batchmill.worker.reply import ReplySummary
from batchmill.worker.sealer import Sealer

_LOOK = 0.25  # seconds between looks at the workers' memory
_HELD = 32 << 20  # bytes of replies kept until a round is over


class CellRun:
    """One round of a cell, and who watches it. `run` it once, until `deadline` (monotonic seconds).

    `seconds` ends with the last outcome; `worked` are the workers' own seconds. `digests` and `failures` (line, error
    type, message) go by an item's position in the input; they are there after `digest`, and so is all of `peak_rss`.
    """

    def __init__(
        self,
        plan: Plan,
        warm_pool: WarmPool,
        task: RoundTask,
        records: Sequence[Record],
        *,
        events: queue.SimpleQueue[Any],
        deadline: float,
        on_message: Callable[[str], None],
        on_end: Callable[[str], None],
        window: int | None,
    ) -> None:
        assert plan.cut is not None
        self._records = records
        self._is_command = plan.command is not None
        self._is_many = plan.command is not None and plan.command.many
        self._warm_pool = warm_pool
        self._deadline = deadline
        self._replies: list[tuple[int, bytes]] = []
        self._held = 0
        self._next_look = 0.0
        self._last = 0.0
        self._idle_rss = self._largest_command = 0
        self.seconds = self.worked = self.used_before = 0.0
        self.ok = self.failed = 0
        self.digests: list[tuple[int, int]] = []
        self.failures: dict[int, tuple[int, str, str]] = {}
        self.monitor = Monitor(offspring=self._is_command)
        batch = task.batch_size if isinstance(task.batch_size, int) else 0
        chunk_sizer = ChunkSizer(task.workers, task.chunk_size, batch or 1)
        in_flight = InFlight(partial(formats.divide, format=plan.cut), plan.settings.crash_retries)
        source = SampleSource(records, task.passes, plan.cut, numbered=self._is_command)
        self._loop = Loop(
            pool=warm_pool,
            events=events,
            work_queue=WorkQueue(
                source, plan.cut, in_flight=in_flight, chunk_sizer=chunk_sizer, matcher=None, settled=_ignore
            ),
            in_flight=in_flight,
            chunk_sizer=chunk_sizer,
            limits=WorkerLimits(warm_pool, plan.watched, TICK, on_message),
            retrier=Retrier(0, 0.0, in_flight, _ignore, plan.cut),
            progress=self,
            output_maker=OutputMaker(warm_pool, None),
            sealer=Sealer(plan.identifier(), None, 1, keeps_items=False),
            callbacks=Callbacks(
                commit=self._commit, strike=_ignore, generation=lambda: 1, message=on_message, ended=on_end
            ),
            window=window or plan.settings.window,
            grace=plan.settings.grace,
            start_timeout=plan.settings.start_timeout,
            batch_size=batch,
        )

    @property
    def items(self) -> int:
        """Items with an outcome."""
        return self.ok + self.failed

    @property
    def stopped(self) -> str:
        """What ended the round early: a signal's name, "seconds", or "" for nothing."""
        return self._loop.stopped

    @property
    def peak_rss(self) -> int:
        """The most memory seen, in bytes; at least that of the idle workers and of the largest command."""
        return max(self.monitor.peak_rss, self._idle_rss + self._largest_command)

    def run(self) -> None:
        """Run to the end; raises BatchmillError where workers die faster than they can be replaced."""
        self._idle_rss = self.monitor.sample(self._warm_pool.pids).rss
        self.used_before = self.monitor.cpu_seconds
        begun = time.perf_counter()
        self._loop.run()
        if self._loop.error is not None:
            raise self._loop.error
        self.seconds = self._last - begun
        self.monitor.sample(self._warm_pool.pids)

    def tick(self, now: float, pids: list[int], workers: int) -> None:
        """Look at memory, and at whether the time is over."""
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self.monitor.sample(pids)
        if now > self._deadline and not self._loop.stopped:
            self._loop.stop(StopReason.SECONDS)

    def worker_ended(self, worker: int, pid: int, exit: int | None, why: str) -> None:
        """Its item is a failed one, and is counted as that."""

    def _commit(self, chunk: Chunk, payload: bytes, summary: ReplySummary) -> None:
        self._last = time.perf_counter()
        self.ok += summary.ok
        self.failed += summary.failed
        self.worked += summary.seconds
        self._replies.append((chunk.first, payload))
        self._held += len(payload)
        if self._held > _HELD:
            self.digest()

    def digest(self) -> None:
        """Digest the replies held: results by their bytes, failures by their type, commands by their essence."""
        digest = self._digest_command if self._is_command else _digest_call
        for first, payload in self._replies:
            block = OutcomeBlock(payload)
            for index, offset in enumerate(block.offsets):
                record = self._records[(first + offset) % len(self._records)]
                failure = block.failures.get(index)
                if failure is not None:
                    self.failures.setdefault(record.position, (record.line, failure.type, failure.message))
                self.digests.append((record.position, digest(block, index, failure)))
        self._replies, self._held = [], 0

    def _digest_command(self, block: OutcomeBlock, index: int, failure: Failure | None) -> int:
        if failure is not None:
            return hash(essence(failure))
        result = block.result(index)
        self._largest_command = max(self._largest_command, result["peak_rss"] or 0)
        return hash(essence(result, many=self._is_many))


def _digest_call(block: OutcomeBlock, index: int, failure: Failure | None) -> int:
    return hash(bytes(block.packed(index)) if failure is None else failure.type)


def _ignore(*_: Any) -> Any:
    """Nobody listens."""
    return None
