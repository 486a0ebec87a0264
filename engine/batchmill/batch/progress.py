"""The counts of a run, its snapshots, samples and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from batchmill.checkpoint.frames import FrameType
from batchmill.codec.outcomes import pack_map
from batchmill.failure_groups import FailureGroups
from batchmill.model import FailureGroup, Report, Snapshot, Usage
from batchmill.system.machine import Monitor
from batchmill.worker.reply import ReplySummary

SAMPLE_SECONDS = (1.0, 10.0)  # least and greatest time between SAMPLE frames
SAMPLE_SHARE = 0.01  # of the time the run has taken so far: between those two
MOST_ENDS = 50  # ends of workers told in one SAMPLE frame; beyond that they are counted
USAGE_SECONDS = 1.0  # between looks at the processes
MOST_TYPES = 100  # error types that are told apart


class Progress:
    """Counts outcomes as they are committed, and tells how the run stands.

    `total` gives the number of records in the input (None: unknown), of which this run has one of `shards`;
    `before` the items found done. `append` commits a frame; `on_progress` is called at most every `interval`
    seconds, and in a run that `resumes` not before the first item was found done, or done. `monitor` looks at the
    processes.
    """

    def __init__(
        self,
        *,
        total: Callable[[], int | None],
        before: Callable[[], tuple[int, int]],
        append: Callable[[FrameType, bytes], object],
        on_progress: Callable[[Snapshot], None] | None,
        interval: float,
        shards: int,
        files: Sequence[str] = (),
        resumes: bool = False,
        monitor: Monitor | None = None,
    ) -> None:
        self._total = total
        self._before = before
        self._append = append
        self._on_progress = on_progress
        self._interval = interval
        self._shards = shards
        self._files = files  # by the ordinals of INPUTs, where there are several
        self._is_matched = not resumes
        self.started = time.time()
        self._begun = time.monotonic()
        self._monitor = monitor or Monitor()
        self._usage: Usage | None = None
        self._next_usage = self._begun + USAGE_SECONDS  # a shorter look would tell of chance
        self._next_sample = self._begun + USAGE_SECONDS  # the first one soon, for `status`
        self._next_progress = self._begun + interval
        self._first_outcome: float | None = None
        self._workers = 0
        self._groups = FailureGroups(most_types=MOST_TYPES)
        self._ends: list[tuple[float, int, int, int | None, str]] = []
        self._more_ends = 0
        self.ok = 0
        self.failed = 0
        self.blank = 0

    def forget(self, type: str, line: int, input: int) -> None:
        """An item of this run that had failed with this error was tried again: what came of it counts instead."""
        self.failed -= 1
        self._groups.forget(type, line, self._file(input))

    def _file(self, input: int) -> str:
        return self._files[input] if self._files else ""

    def add(self, summary: ReplySummary, input: int) -> None:
        """A chunk of that INPUT was committed."""
        if self._first_outcome is None:
            self._first_outcome = time.monotonic() - summary.seconds
        self.ok += summary.ok
        self.failed += summary.failed
        self.blank += summary.blank
        for group in summary.groups:
            self._groups.add_group(group, self._file(input))

    @property
    def total(self) -> int | None:
        """Items in the input, records less blank ones; None where that is not known, as of a shard before its end."""
        records = self._total()
        return None if records is None or self._shards > 1 else max(records - self.blank, self.done)

    @property
    def estimate(self) -> int | None:
        """About how many items there are in a shard: which is whose is as good as drawn by lot."""
        records = self._total()
        if records is None or self._shards == 1:
            return None
        return max(round((records - self.blank) / self._shards), self.done)

    @property
    def done(self) -> int:
        """Items with an outcome, of this run or an earlier one."""
        return self.ok + self.failed + sum(self._before())

    def snapshot(self) -> Snapshot:
        """How the run stands now."""
        elapsed = time.monotonic() - self._begun
        tried = self.ok + self.failed
        busy = time.monotonic() - self._first_outcome if self._first_outcome is not None else 0.0
        rate = tried / busy if busy > 0 else 0.0
        total, done, estimate = self.total, self.done, self.estimate
        known = estimate if total is None else total
        eta = (known - done) / rate if known is not None and rate > 0 else None
        failed = self.failed + self._before()[1]
        usage = self._usage if elapsed >= USAGE_SECONDS else None
        return Snapshot(done, total, failed, self._before()[0], rate, eta, elapsed, self._workers, usage, estimate)

    def tick(self, now: float, pids: list[int], workers: int) -> None:
        """Sample and report progress if it is time; `now` is monotonic seconds."""
        if pids and workers == self._workers:  # none is being started
            self._monitor.prepare()
        self._workers = workers
        if now >= self._next_usage:
            self._next_usage = now + USAGE_SECONDS
            self._usage = self._monitor.sample(pids)
        if now >= self._next_sample:
            least, most = SAMPLE_SECONDS
            self._next_sample = now + min(max(least, SAMPLE_SHARE * (now - self._begun)), most)
            self._append(FrameType.SAMPLE, pack_map(self.sample()))
        if self._on_progress is not None and now >= self._next_progress and self._knows_what_is_done():
            self._next_progress = now + self._interval
            self._on_progress(self.snapshot())

    def _knows_what_is_done(self) -> bool:
        """Whether the input was held against the checkpoint yet: until then all of it would seem to be left."""
        self._is_matched = self._is_matched or self._first_outcome is not None or any(self._before())
        return self._is_matched

    def last_look(self, pids: list[int]) -> None:
        """Take the last sample while the workers are still there."""
        usage = self._monitor.sample(pids)
        self._usage = self._usage or usage  # the one before was of a whole second

    def worker_ended(self, worker: int, pid: int, exit: int | None, why: str) -> None:
        """A worker was replaced: `why` is "recycled", "died", or the name of the error its item was killed with."""
        if len(self._ends) < MOST_ENDS:
            self._ends.append((time.time(), worker, pid, exit, why))
        else:
            self._more_ends += 1

    def sample(self) -> dict[str, Any]:
        """The payload of the next SAMPLE frame: how the run stands, and which workers ended since the one before.

        `ends` holds [epoch second, worker, pid, exit status or None, why] for the first of them, `more_ends` counts the
        others; both are left out where there are none. `machines` tells how many workers of a cluster there are.
        """
        snapshot, usage = self.snapshot(), self._usage or Usage(0.0, 0, 0)
        ends: dict[str, Any] = {"ends": [list(end) for end in self._ends]} if self._ends else {}
        if self._more_ends:
            ends["more_ends"] = self._more_ends
        self._ends, self._more_ends = [], 0
        if usage.machines:
            ends["machines"] = usage.machines
        return {
            "time": time.time(),
            "elapsed": snapshot.elapsed,
            "done": snapshot.done,
            "failed": snapshot.failed,
            "total": snapshot.total,
            **({} if snapshot.estimate is None else {"estimate": snapshot.estimate}),
            "workers": snapshot.workers,
            "cpu_percent": usage.cpu_percent,
            "rss": usage.rss,
            "parent_rss": usage.parent_rss,
            "load": usage.load,
            **ends,
        }

    def report(self, total: int | None, **rest: Any) -> Report:
        """The report of the run, ended now, of `total` items (None: not known); `rest` are the fields that are not
        known here."""
        skipped, failed_before = self._before()
        failed = self.failed + failed_before
        failures = sorted(self._groups.reported(), key=lambda group: -group.count)
        if failed_before:
            failures.append(FailureGroup("failed in an earlier run", failed_before, ()))
        return Report(
            started=self.started,
            ended=time.time(),
            total=total,
            completed=self.ok,
            skipped=skipped,
            failed=failed,
            remaining=None if total is None else max(0, total - self.ok - skipped - failed),
            blank=self.blank,
            seconds=time.monotonic() - self._begun,
            cpu_seconds=self._monitor.cpu_seconds,
            peak_rss=self._monitor.peak_rss,
            failures=tuple(failures),
            **rest,
        )
