"""A survey of worker counts on real workers, from its arguments to its findings.

    Plan --> sample --> warm pools --> Survey --Task--> CellRun: the engine's own Loop on the first workers of a pool

Workers of a count have the environment that `run -j N` gives them (threads per worker); counts with the same one share
a pool. What a cell does is what a run does, less the checkpoint and the output.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from batchmill.benchmark.agreement import Agreement, Difference
from batchmill.benchmark.round import CellRun
from batchmill.benchmark.sample import Record, Sample, draw
from batchmill.benchmark.scaling import Cell, Round
from batchmill.benchmark.schedule import Asked, RoundTask, Schedule, Step, Survey
from batchmill.benchmark.warm_pool import WarmPool
from batchmill.errors import InputMissing, InvalidUsage, interrupted, is_signal
from batchmill.input.sources import ByteSource
from batchmill.model import Stop, StopReason
from batchmill.plan import Plan
from batchmill.pool.processes import PATIENCE
from batchmill.scheduler.farewell import Farewell
from batchmill.system.machine import (
    available_memory,
    busy_seconds,
    private_memory,
    raise_descriptor_limit,
    thread_caps,
    usable_cores,
)
from batchmill.text import format_size
from batchmill.value_class import value_class

MOST_RECORDS = 20_000  # sampled where no number is given
READING = 0.1  # share of the time that reading the input may take
ROOMY = 0.9  # share of the free memory that workers may take


@value_class
class Findings:
    """What a survey came to. `cells` may lack rounds where it was ended early: `stopped` says by what ("" for nothing).

    `unfit` are the counts that memory has no room for; `failed` how many of the `items` sampled failed, the first with
    the `failure` (line, error type, message). `differs` and `unsteady` tell of results that depend on the count of
    workers, or change from call to call.
    """

    cells: tuple[Cell, ...]
    cores: int
    cores_from: str
    sample: Sample
    schedule: Schedule | None
    unfit: tuple[int, ...] = ()
    stopped: str = ""
    failed: int = 0
    failure: tuple[int, str, str] | None = None
    differs: Difference | None = None
    unsteady: Difference | None = None

    @property
    def measured(self) -> tuple[Cell, ...]:
        """The cells with at least one round."""
        return tuple(cell for cell in self.cells if cell.rounds)


class Benchmark:
    """Measures how many workers suit a plan's function and input. `run` it once.

    `inputs` of the plan are read once, for a sample. Raises InvalidUsage for counts that cannot be started.
    """

    def __init__(self, plan: Plan, asked: Asked, clock: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._asked = asked
        self._clock = clock
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        needed = sum(max(counts) for counts in self._by_environment(asked.counts))
        if raise_descriptor_limit(needed) < needed:
            raise InvalidUsage(
                f"{max(asked.counts)} workers do not fit under the limit of open files", "raise it (ulimit -n)"
            )

    def stop(self, reason: str, *, insist: bool = False) -> None:
        """Ask to stop: what was measured stays. Safe in signal handlers and threads."""
        self._events.put(Stop(reason, insist))

    def run(
        self,
        *,
        on_message: Callable[[str], None],
        on_schedule: Callable[[Sample, Schedule], None],
        on_step: Callable[[Findings, Step], None],
    ) -> Findings:
        """Measure, in at most the seconds asked for, and a little where items are long. Raises BatchmillError."""
        deadline = self._clock() + self._asked.seconds
        with ExitStack() as stack:
            sample = self._draw(stack)
            prints = self._plan.open_prints(stack)
            pools = _Pools(self._plan, sample, self._events, on_message, self._clock)
            stack.callback(pools.close)
            unfit = pools.start(self._by_environment(self._asked.counts), prints)
            asked = replace(self._asked, counts=tuple(n for n in self._asked.counts if n not in unfit))
            survey = Survey(
                pools,
                asked,
                len(sample.records),
                deadline=deadline,
                clock=self._clock,
                startups=pools.startups,
                tell=partial(on_schedule, sample),
                on_step=lambda step: on_step(self._findings(survey, pools, sample, unfit, partial=True), step),
            )
            whole = survey.run()
            return self._findings(survey, pools, sample, unfit, partial=not whole)

    def _findings(
        self, survey: Survey, pools: _Pools, sample: Sample, unfit: tuple[int, ...], *, partial: bool
    ) -> Findings:
        cores, source = usable_cores()
        return Findings(
            cells=survey.cells,
            cores=cores,
            cores_from=source,
            sample=sample,
            schedule=survey.schedule,
            unfit=unfit,
            stopped=str(pools.stopped or (StopReason.SECONDS if partial else "")),
            failed=len(pools.failed),
            failure=pools.failure,
            differs=pools.agreement.between_counts,
            unsteady=pools.agreement.from_call_to_call,
        )

    def _draw(self, stack: ExitStack) -> Sample:
        plan, wake = self._plan, threading.Event()
        assert plan.cut is not None
        source = plan.open_source(wake.set)
        stack.callback(source.close)
        assert isinstance(source, ByteSource)
        count = self._asked.sample or MOST_RECORDS
        seconds = READING * self._asked.seconds
        sample = draw(source, plan.cut, count, seconds, wake, is_stopped=lambda: not self._events.empty())
        if not sample.records and not self._events.empty():
            raise interrupted(self._events.get().reason, "reading the input")
        if not sample.records:
            raise InputMissing("there are no items in the input", "give an INPUT that has some")
        return sample

    def _by_environment(self, counts: Sequence[int]) -> list[list[int]]:
        """The counts, least first, in groups whose workers have the same environment."""
        cores, _ = usable_cores()
        groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for count in sorted(counts):
            caps = thread_caps(count, cores, os.environ)
            groups.setdefault(tuple(sorted(caps.items())), []).append(count)
        return list(groups.values())


class _Pools:
    """The Runner of a bench: pools of warm workers, and the loop that runs a cell on the first of them."""

    def __init__(
        self,
        plan: Plan,
        sample: Sample,
        events: queue.SimpleQueue[Any],
        on_message: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._sample = sample
        self._events = events
        self._on_message = on_message
        self._clock = clock
        self._warm_pools: dict[int, WarmPool] = {}  # by count of workers
        self._farewells: dict[WarmPool, Farewell] = {}
        self._noted: set[str] = set()
        self._thinned: dict[int, tuple[Record, ...]] = {}
        self.startups: dict[int, float] = {}
        self.agreement = Agreement()
        self.failed: set[int] = set()  # positions in the input
        self.failure: tuple[int, str, str] | None = None
        self.stopped = ""

    # Workers

    def start(self, groups: Sequence[Sequence[int]], prints: int | None) -> tuple[int, ...]:
        """Start a pool for each group of counts, which prints there; the counts that memory has no room for."""
        unfit: list[int] = []
        for counts in groups:
            fitting = [count for count in counts if count not in unfit]
            if not fitting:
                continue
            size = max(fitting)
            warm_pool = WarmPool(
                self._plan.worker_setup(size),
                self._plan.arguments(),
                size,
                self._events.put,
                start_method=self._plan.settings.start_method,
                output=prints,
            )
            self._warm_pools.update(dict.fromkeys(fitting, warm_pool))
            farewell = Farewell(warm_pool, self._events, self._note)
            if self._plan.end is not None:
                farewell.expect(within=self._plan.settings.grace)
            self._farewells[warm_pool] = farewell
            warm_pool.start_all(self._events, self._plan.settings.start_timeout)
            if len(warm_pool.startups) < size:
                break  # stopped
            self.startups.update((count, warm_pool.startups[count - 1]) for count in fitting)
            if warm_pool is self._warm_pools[min(self._warm_pools)]:
                unfit = self._unfit(warm_pool, groups)
        return tuple(unfit)

    def _unfit(self, first: WarmPool, groups: Sequence[Sequence[int]]) -> list[int]:
        """The counts whose workers would not fit into memory, as the first worker tells."""
        each = private_memory(first.pids[0])
        room = int(ROOMY * available_memory() / max(1, each)) + first.size
        left_out: list[int] = []
        while True:
            fitting = [[count for count in counts if count not in left_out] for counts in groups]
            pools = sum(max(counts, default=0) for counts in fitting)
            if pools <= room or pools <= first.size:
                break
            left_out.append(max(max(counts, default=0) for counts in fitting))
        if left_out:
            counts = ", ".join(map(str, sorted(left_out)))
            self._on_message(f"Left out: {counts} workers; one holds {format_size(each)} before its first item")
        return left_out

    def close(self) -> None:
        """End all workers."""
        for warm_pool, farewell in self._farewells.items():
            warm_pool.use_all()
            farewell.say()
            warm_pool.close(0.0 if self.stopped else PATIENCE)

    def _note(self, sentence: str) -> None:
        if sentence not in self._noted:
            self._noted.add(sentence)
            self._on_message(f"Warning: {sentence}")

    # Runs

    def warm_up(self) -> float:
        """What is run here is not counted."""
        seconds, items = 0.0, 0
        for warm_pool in dict.fromkeys(self._warm_pools.values()):
            size = max(count for count, other in self._warm_pools.items() if other is warm_pool)
            for _ in range(3):  # a quick worker may take what was meant for another
                count = 2 * size if seconds < 0.01 * items else size
                cell = self._cell(
                    RoundTask(size, 1, *_passes(count, len(self._sample.records))), float("inf"), window=1
                )
                cell.run()
                self.stopped = self.stopped or cell.stopped
                seconds, items = seconds + cell.worked, items + cell.items
                if self.stopped or all(worker.items for worker in warm_pool.workers.values()):
                    break
        return seconds / max(1, items)

    def run(self, task: RoundTask, number: int, deadline: float) -> Round | None:
        cell = self._cell(task, deadline)
        elsewhere = busy_seconds()
        cell.run()
        if cell.stopped:
            self.stopped = cell.stopped if is_signal(cell.stopped) else ""
            return None
        used = cell.monitor.cpu_seconds - cell.used_before
        elsewhere = max(0.0, busy_seconds() - elsewhere - used)
        if number:
            self._compare(task.workers, cell)
        return Round(number, cell.seconds, cell.items, cell.failed, used, cell.peak_rss, elsewhere)

    def _cell(self, task: RoundTask, deadline: float, window: int | None = None) -> CellRun:
        if task.records not in self._thinned:
            self._thinned[task.records] = self._sample.thin(task.records).records
        warm_pool = self._warm_pools[task.workers]
        warm_pool.use(task.workers)
        return CellRun(
            self._plan,
            warm_pool,
            task,
            self._thinned[task.records],
            events=self._events,
            deadline=deadline,
            on_message=self._on_message,
            on_end=self._farewells[warm_pool].hear,
            window=window,
        )

    def _compare(self, workers: int, cell: CellRun) -> None:
        cell.digest()
        for position, digest in cell.digests:
            self.agreement.add(workers, position, digest)
        self.failed |= cell.failures.keys()
        if self.failure is None and cell.failures:
            self.failure = cell.failures[min(cell.failures)]


def _passes(items: int, have: int) -> tuple[int, int]:
    return min(items, have), -(-items // have)
