"""What happened in a checkpoint's runs, as values: runs, workers, durations and failures, small enough for one page.

The runs are laid end to end: `at` is the time worked so far, in seconds, without the pauses between runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batchmill.checkpoint.frames import Verdict
from batchmill.checkpoint.histogram import Amounts, Durations
from batchmill.checkpoint.reader import Holder
from batchmill.failure_groups import TypeGroup
from batchmill.model import Report
from batchmill.value_class import value_class

ENDINGS = ("recycled", "killed", "died")


@dataclass
class TimelineRun:
    """One run. `started` and `ended` are epoch seconds, `ended` the last sign of life where there is no `report`.

    `at` and `seconds` are in time worked: when it began, how long it took. `items` were tried in it, `failed` of them
    failed. `facts` is its RUN map. `estimate` is about how many items a shard has.
    """

    number: int
    started: float
    at: float
    facts: Mapping[str, Any]
    ended: float = 0.0
    items: int = 0
    failed: int = 0
    strikes: int = 0
    report: Report | None = None
    total: int | None = None
    estimate: int | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return max(0.0, self.ended - self.started)


@dataclass
class TimelineWorker:
    """One worker, over all runs: `busy` are the seconds of each bin of time in which it worked; `ends` how often in
    each bin its process ended, for each of ENDINGS; `processes` how many it had."""

    busy: Amounts
    ends: Mapping[str, Amounts]
    items: int = 0
    failed: int = 0
    seconds: float = 0.0
    processes: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    pid: int = -1


class Slow(NamedTuple):
    """One of the slowest outcomes: `worker` and `run` made it, `at` in time worked, `attempts` counts tries so far;
    `file` is the INPUT of the `line`, where there were several."""

    id: Any
    line: int
    seconds: float
    ok: bool
    attempts: int
    worker: int
    run: int
    at: float
    file: str = ""


@value_class
class Timeline:
    """What happened in a checkpoint's runs.

    `done` and `failed` are outcomes that count now, `replaced` those of items that were tried again, `removed` those of
    items that the last complete input did not have. `total` is the number of items of the input, None where unknown.
    `width` is that of a bin of time, in seconds; `ok_bins` and `failed_bins` hold outcomes, `usage` points (at, CPU in
    percent of one core, resident bytes, those of the parent). `as_of` is the epoch second of reading, `live` who was
    writing then. `is_new`: a run has begun that has not yet said anything. `frames` were read, `verdict` says how the
    file ends. `failures` are by error type, the commonest first, and within it by messages that differ in numbers at
    most.
    """

    path: str
    size: int
    as_of: float
    meta: Mapping[str, Any]
    runs: tuple[TimelineRun, ...]
    live: Holder | None
    is_new: bool
    verdict: Verdict
    frames: int
    done: int
    failed: int
    replaced: int
    removed: int
    total: int | None
    seconds: float
    width: float
    ok_bins: tuple[float, ...]
    failed_bins: tuple[float, ...]
    usage: tuple[tuple[float, ...], ...]
    workers: Mapping[int, TimelineWorker]
    durations: Durations
    slowest: tuple[Slow, ...]
    failures: Mapping[str, TypeGroup]

    @property
    def last(self) -> TimelineRun | None:
        """The last run."""
        return self.runs[-1] if self.runs else None
