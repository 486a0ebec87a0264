"""Reading a checkpoint's Timeline.

Frames are read in the order of the file, heads and the columns after the results; those with failed items once
more, at the end, when it is known which of these were tried again. What is kept does not grow with the items.

Columns are read without the checksum of the results before them, which would mean to read these too; but for the last
frames, which nobody says were on disk. Where a frame cannot be made sense of, all checksums are looked at: damage that
a crash explains ends the timeline there.
"""

from __future__ import annotations

import heapq
import math
import re
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from batchmill.checkpoint.frames import FrameRef, FrameType, Kind, Verdict
from batchmill.checkpoint.histogram import Clock, Durations, Thinned
from batchmill.checkpoint.history import History, file_in
from batchmill.checkpoint.reader import Holder, Reader, damaged, naming, open_reader
from batchmill.checkpoint.timeline import ENDINGS, Slow, Timeline, TimelineRun, TimelineWorker
from batchmill.codec.outcome_block import OutcomeBlock, glance
from batchmill.codec.outcomes import PEEK, Head, read_head
from batchmill.errors import CheckpointDamaged
from batchmill.failure_groups import FailureGroups, TypeGroup, commonest
from batchmill.secrecy import mask_facts

MOST_WORKERS = 1024  # told apart; those above are counted with the last one
MOST_TYPES = 50  # of errors told apart, and kinds of message of each
MOST_MESSAGES = 100
MESSAGE = 200  # characters of a message
SLOWEST = 15
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+")
_FAR_OFF = 1e11  # seconds since the epoch: beyond what calendars know
_FAR = 3e8  # seconds, ten years: a time further off is not from a clock


def read_timeline(path: str, clock: Callable[[], float] = time.time) -> Timeline:
    """The timeline of the checkpoint at `path`, live or dead. `clock` gives epoch seconds.

    Raises InputMissing, CheckpointRefused, CheckpointMismatch and CheckpointDamaged as opening it for reading does, and
    CheckpointDamaged where it holds damage that no crash explains.
    """
    with open_reader(path) as reader:
        before = reader.live()
        timeline = _TimelineReader(reader)
        verdict = timeline.read()
        if verdict.kind is Kind.CORRUPT:
            raise damaged(path, verdict)
        # A run that ends while it is read about must not pass for one that was killed.
        live = reader.live() if timeline.is_ended else before or reader.live()
        return timeline.made(live, verdict, clock())


class _TimelineReader:
    """Takes in a checkpoint frame by frame."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._history = History()
        self._runs: list[TimelineRun] = []
        self._clock = Clock()
        self._ok, self._bad = self._clock.series(), self._clock.series()
        self._workers: dict[int, TimelineWorker] = {}
        self._usage = Thinned()
        self._durations = Durations()
        self._slowest: list[tuple[float, int, int, FrameRef, Head, float]] = []
        self._failing = array("Q")  # offset and length of the payloads that hold failed items, and their seq
        self._gone: dict[int, array[int]] = {}  # seq -> its failed outcomes that were replaced
        self._gaps: set[int] = set()
        self._frames = self._done = self._failed = self._replaced = 0

    def read(self) -> Verdict:
        """Take in all frames; how the file ends."""
        try:
            with naming(self._reader.path):
                self._take_all()
        except CheckpointDamaged:
            verdict = self._reader.scan(verify=True).run()
            if verdict.kind is Kind.CLEAN:
                raise
            return verdict
        assert self._reader.verdict is not None
        return self._reader.verdict

    def _take_all(self) -> None:
        for _ in self._reader.frames():
            pass
        assert self._reader.verdict is not None
        safe = self._reader.verdict.synced
        for ref, peek in self._reader.frames():
            if ref.end > safe:  # a power failure may have hurt any part of it
                self._reader.payload(ref)
            self._history.note(ref, peek)  # which looks at how frames fit together
            for type, values in self._history.maps(self._reader.payload, self._replacing):
                self._take_map(type, values)
            if ref.type == FrameType.OUTCOMES:
                self._take_outcomes(ref, read_head(peek))
            elif ref.type == FrameType.GAP:
                self._gaps.add(ref.seq)
            self._frames += 1

    def _replacing(self, ref: FrameRef) -> OutcomeBlock:
        return self._columns(ref, read_head(self._reader.read_at(ref.offset, min(PEEK, ref.length))))

    @property
    def is_ended(self) -> bool:
        """Whether the last run has said its last word."""
        return not self._runs or self._runs[-1].report is not None

    # Frames

    def _take_map(self, type: FrameType, values: Mapping[str, Any]) -> None:
        run = self._runs[-1] if self._runs else None
        if type == FrameType.RUN:
            self._take_run(mask_facts(self._history.runs[values["run"]]))
        elif type == FrameType.SAMPLE and run is not None:
            self._take_sample(run, values)
        elif type == FrameType.STRIKE and run is not None:
            run.strikes += 1
        elif type == FrameType.END and run is not None:
            run.report = self._history.ends[values["run"]]
            run.ended = max(run.ended, _near(run.report.ended, run.started))

    def _take_run(self, facts: Mapping[str, Any]) -> None:
        number = facts["run"]
        if self._runs and self._runs[-1].number == number:  # a later RUN frame of the same run adds to it
            self._runs[-1].facts = facts
        else:
            self._begin(number, facts.get("started", 0.0), facts)

    def _begin(self, number: int, started: float, facts: Mapping[str, Any]) -> TimelineRun:
        last = self._runs[-1] if self._runs else None
        if last is not None:
            last.facts = {**last.facts, "input": None}  # a thousand names each; those of the last run are shown
        run = TimelineRun(number, started, last.at + last.seconds if last else 0.0, facts, ended=started)
        self._runs.append(run)
        for worker in self._workers.values():
            worker.pid = -1
        return run

    def _take_sample(self, run: TimelineRun, sample: Mapping[str, Any]) -> None:
        now = _near(float(sample["time"]), run.started)
        run.ended = max(run.ended, now)
        run.total, run.estimate = sample.get("total"), sample.get("estimate")
        numbers = [float(sample.get(name) or 0) for name in ("cpu_percent", "rss", "parent_rss")]
        numbers = [number if 0 <= number < math.inf else 0.0 for number in numbers]
        if numbers[1]:  # a run of less than a second ends before it was looked at
            self._usage.add(run.at + now - run.started, *numbers)
        for when, number, _, _, why in sample.get("ends", ()):
            kind = why if why in ENDINGS else "killed"
            worker, at = self._worker(number), run.at + _near(when, run.started) - run.started
            worker.ends[kind].add(at, at, 1)
            if len(worker.ended) < MOST_TYPES:
                worker.ended[str(why)] += 1

    def _worker(self, number: int) -> TimelineWorker:
        number = min(number, MOST_WORKERS - 1)
        if number not in self._workers:
            ends = {kind: self._clock.series() for kind in ENDINGS}
            self._workers[number] = TimelineWorker(self._clock.series(), ends)
        return self._workers[number]

    def _take_outcomes(self, ref: FrameRef, head: Head) -> None:
        if not head.items:
            return
        block = self._columns(ref, head)
        _ = block.seconds, block.supersedes, block.failures  # all of them, before anything of the frame is counted
        run = self._runs[-1] if self._runs else None
        if run is None or head.run > run.number:  # its RUN frame was lost, and left out by salvage
            run = self._begin(head.run, head.started if abs(head.started) < _FAR_OFF else 0.0, {})
        began = _near(head.started, run.started)
        took = head.seconds if 0 <= head.seconds < _FAR else 0.0
        at = run.at + began - run.started
        run.ended = max(run.ended, began + took)
        run.items += head.items
        run.failed += head.failed
        self._done += head.ok
        self._failed += head.failed
        self._ok.add(at, at + took, head.ok)
        self._bad.add(at, at + took, head.failed)
        self._take_worker(head, at, took)
        self._take_columns(ref, head, at, block)

    def _take_worker(self, head: Head, at: float, took: float) -> None:
        worker = self._worker(head.worker)
        worker.busy.add(at, at + took, took)
        worker.seconds += took
        worker.items += head.items
        worker.failed += head.failed
        if head.pid != worker.pid:
            worker.pid = head.pid
            worker.processes += 1

    def _columns(self, ref: FrameRef, head: Head, *, ids: bool = False) -> OutcomeBlock:
        return glance(head, ref.length, lambda at, size: self._reader.read_at(ref.offset + at, size), ids=ids)

    def _take_columns(self, ref: FrameRef, head: Head, at: float, block: OutcomeBlock) -> None:
        seconds = block.seconds
        ordered = self._durations.add(seconds)
        slowest = self._slowest
        if ordered and (len(slowest) < SLOWEST or ordered[-1] > slowest[0][0]):
            least = ordered[-min(SLOWEST, len(ordered))]
            for index, value in enumerate(seconds):
                if least <= value <= ordered[-1]:  # not what is no duration
                    heapq.heappush(slowest, (value, ref.seq, index, ref, head, at + _sum(seconds[:index])))
                    if len(slowest) > SLOWEST:
                        heapq.heappop(slowest)
        if head.failed:
            self._failing.extend((ref.seq, ref.offset, ref.length))
        for _, seq, index, attempts in block.supersedes:
            if seq not in self._gaps:
                self._replaced += 1
                self._done -= attempts == 0
                self._failed -= attempts > 0
                if attempts:
                    self._gone.setdefault(seq, array("I")).append(index)

    # The end

    def made(self, live: Holder | None, verdict: Verdict, now: float) -> Timeline:
        """The timeline, as of `now`."""
        last = self._runs[-1] if self._runs else None
        is_new = live is not None and self.is_ended
        if live is not None and not is_new and last is not None:
            last.ended = max(last.ended, _near(now, last.started))
        seconds = last.at + last.seconds if last else 0.0
        self._clock.reach(seconds)
        removed = self._history.index.removed
        with naming(self._reader.path):
            slowest, failures = tuple(self._slowest_of_all()), self._failures()
        return Timeline(
            path=self._reader.path,
            size=self._reader.size,
            as_of=now,
            meta=mask_facts(self._reader.meta),
            runs=tuple(self._runs),
            live=live,
            is_new=is_new,
            verdict=verdict,
            frames=self._frames,
            done=self._done - (removed.items - removed.failed),
            failed=self._failed - removed.failed,
            replaced=self._replaced,
            removed=removed.items,
            total=_total(last, self._done + self._failed - removed.items),
            seconds=seconds,
            width=self._clock.width,
            ok_bins=tuple(self._ok.bins()),
            failed_bins=tuple(self._bad.bins()),
            usage=tuple(self._usage.points()),
            workers=dict(sorted(self._workers.items())),
            durations=self._durations,
            slowest=slowest,
            failures=failures,
        )

    def _slowest_of_all(self) -> Iterator[Slow]:
        for seconds, _, index, ref, head, at in sorted(self._slowest, key=lambda slow: (-slow[0], *slow[1:3])):
            block = self._columns(ref, head, ids=True)
            ok, attempts = index not in block.failures, block.attempts.get(index, 1)
            line = head.line + block.lines[index]
            file = self._file(head)
            yield Slow(block.ids[index], line, seconds, ok, attempts, head.worker, head.run, at, file)

    def _file(self, head: Head) -> str:
        """The INPUT of an outcome, where there were several."""
        facts = next((run.facts for run in self._runs if run.number == head.run), {})
        return file_in(facts, head.input, str(self._reader.meta.get("format")))

    def _failures(self) -> dict[str, TypeGroup]:
        groups = FailureGroups(key=_without_numbers, most_types=MOST_TYPES, most_messages=MOST_MESSAGES)
        for number in range(0, len(self._failing), 3):
            seq, offset, length = self._failing[number : number + 3]
            ref = FrameRef(seq, offset, length, FrameType.OUTCOMES)
            head = read_head(self._reader.read_at(offset, min(PEEK, length)))
            gone = frozenset((*self._gone.get(seq, ()), *self._history.index.removed.of(seq)))
            _add_failures(groups, self._columns(ref, head, ids=True), gone, self._file(head))
        return dict(commonest(groups.types))


def _add_failures(groups: FailureGroups, block: OutcomeBlock, gone: frozenset[int], file: str) -> None:
    ids, lines = block.ids, block.lines
    for index, failure in block.failures.items():
        if index not in gone:
            message = failure.message.strip()[:MESSAGE]
            line = block.head.line + lines[index]
            groups.add(failure.type[:MESSAGE], message, ids[index], line, failure.traceback, file=file)


def _without_numbers(message: str) -> str:
    """What messages that differ in numbers share: process ids and addresses make each another one."""
    return _NUMBER.sub("0", message)


def _sum(seconds: Iterable[float]) -> float:
    """The sum of those that are durations at all."""
    return math.fsum(value for value in seconds if 0 <= value < math.inf)


def _near(when: float, started: float) -> float:
    """`when`, if a clock that may have been set since can have told it; else `started`."""
    return max(when, started) if abs(when - started) < _FAR else started


def _total(last: TimelineRun | None, known: int) -> int | None:
    if last is None:
        return None
    total = last.report.total if last.report else last.total
    return total if total is not None and total >= known else None
