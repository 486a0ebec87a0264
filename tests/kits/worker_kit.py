"""A worker without a process, the worker's code set up in this interpreter, and batches run on it. Tests nothing."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from batchmill.batch.batch import Batch
from batchmill.batch.session import Session
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.pack import Packing
from batchmill.input.formats import FORMATS, IdRule
from batchmill.input.items import ItemReader
from batchmill.model import Chunk, Report
from batchmill.output.external_sort import fulfil
from batchmill.plan import make_plan
from batchmill.settings import Settings
from batchmill.worker import main, records
from batchmill.worker.baseline import Baseline
from batchmill.worker.batch_size import BatchSize
from batchmill.worker.call_results import of_one
from batchmill.worker.calls import run_calls
from batchmill.worker.loader import Resolved
from batchmill.worker.main import WorkerSetup
from batchmill.worker.records import COLUMNS, LIMIT, NO_LIMIT, Answer, ChunkJob
from batchmill.worker.reply import ReplySummary


@contextmanager
def worker(
    function: Callable[..., Any] = repr,
    *,
    format: str | None = "jsonl",
    id_field: str | None = None,
    shard: tuple[int, int] | None = None,
    with_item: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    ids_needed: bool = True,
    run: int = 1,
    batch_size: int = 0,
) -> Iterator[array[int]]:
    """Make this interpreter a worker at slot 0; gives the board: [record, limit, ...]."""
    state, board = records.this_worker, array("q", [NO_LIMIT if column == LIMIT else 0 for column in range(COLUMNS)])
    before = dict(vars(state))
    state.board, state.slot = memoryview(board), 0
    state.setup = WorkerSetup(
        spec=None,
        init=None,
        format=format,
        id_field=id_field,
        shard=shard,
        with_item=with_item,
        run=run,
        ids_needed=ids_needed,
        environ={},
        directory="/",
        is_silent=True,
        batch_size=batch_size,
    )
    state.identifier = ItemReader(format, IdRule(id_field), shard, ids_needed)
    state.pack = Packing().result
    state.run = run_calls if state.setup.has_calls_of_many else records.run_records
    state.batch_size = BatchSize(batch_size or 1)
    state.baseline = Baseline(records.note_touch)
    state.resolved = Resolved(function, None)
    bound = main.bound(function, dict(kwargs or {}))
    state.function = of_one(bound) if batch_size == 1 else bound
    try:
        yield board
    finally:
        vars(state).clear()
        vars(state).update(before)


def chunk_of(
    data: bytes, *, first: int = 0, line: int = 1, input: int = 0, format: str = "jsonl", header: bytes = b""
) -> Chunk:
    """A block as a chunk."""
    return Chunk(first, line, input, FORMATS[format].count(data), data, header=header)


def run_chunk(
    chunk: Chunk, *, serial: int = 1, seconds: float = 0.0, generation: int = 1
) -> tuple[OutcomeBlock, ReplySummary]:
    """What the worker answers for a chunk, in one part."""
    ((payload, summary),) = answered(chunk, serial=serial, seconds=seconds, generation=generation).parts
    return OutcomeBlock(payload), summary


def answered(chunk: Chunk, *, serial: int = 1, seconds: float = 0.0, generation: int = 1) -> Answer:
    """The worker's answer for a chunk as it is."""
    return records.run_chunk(ChunkJob(serial, seconds, generation, chunk))


class Stage:
    """A batch with all of its real parts but the processes; closed by `stack`. `work` is what its worker calls on an
    item, with a `batch_size` in calls of several."""

    def __init__(
        self,
        work: Callable[[Any], Any],
        inputs: Sequence[str | Path],
        checkpoint: str | Path,
        stack: ExitStack,
        *,
        output: str | Path | None = None,
        **settings: Any,
    ) -> None:
        self.messages: list[str] = []
        plan = make_plan(
            repr,  # what the checkpoint belongs to
            [str(path) for path in inputs],
            settings=Settings(resume=True, workers=2, **settings),
            checkpoint=str(checkpoint),
            output=None if output is None else str(output),
        )
        batch = Batch(plan)
        self._session = session = Session(batch.plan, batch._events, stack, self.messages.append, began=0.0)
        session.begin()
        self.in_flight = session._in_flight
        self.work_queue = session._loop._work_queue
        self.matcher = session._matcher
        batch_size = batch.plan.settings.batch_size
        assert not isinstance(batch_size, str)
        self.board = stack.enter_context(
            worker(
                (lambda items: [work(item) for item in items]) if batch_size else work,
                format=batch.plan.format,
                id_field=batch.plan.settings.id_field,
                shard=batch.plan.settings.shard,
                with_item=batch.plan.settings.with_item,
                run=session._run["run"],
                batch_size=batch_size or 0,
            )
        )

    def job(self, chunk: Chunk, at: int) -> ChunkJob:
        """Hand a chunk to worker `at`."""
        generation = self.matcher.positions.generation if self.matcher else self._session._history.index.generation
        return ChunkJob(self.in_flight.hand(chunk, at).serial, 0.0, generation, chunk)

    def answer(self, job: ChunkJob) -> tuple[int, OutcomeBlock] | None:
        """The worker's answer is taken in: (frame seq, what was committed); None where the worker covered nothing."""
        answer = records.run_chunk(job)
        ((payload, summary),) = answer.parts
        chunk = self.in_flight.returned(answer.serial, answer.records)
        self.work_queue.refund(chunk.to_run - summary.items)
        if not summary.records:
            return None
        committer = self._session._committer
        committer.commit(chunk, payload, summary)
        new = committer._frames.new
        return new.seq(len(new) - 1), OutcomeBlock(payload)

    def scan(self, job: ChunkJob) -> None:
        """The worker's answer for a chunk whose ids are to be read is taken in."""
        ids = records.scan_chunk(job)
        chunk = self.in_flight.returned(ids.serial, ids.records)
        if ids.records:
            done = self.in_flight.divide(chunk, ids.records)[0] if ids.records < chunk.records else chunk
            self.work_queue.scanned(done, ids.scan)

    def strike(self, values: dict[str, Any]) -> None:
        """A record is charged with a crash."""
        self._session._committer.strike(values)

    def finish(self) -> Report:
        """Write the output and the report."""
        output = self._session._output
        if output is not None:
            self._session._committer.settled(0, 0)
            output.finish()
            while (found := output.next_job()) is not None:
                output.rendered(found[0], *fulfil(found[1]))
            assert output.is_done
        return self._session._finish()


class Played(NamedTuple):
    """What became of a batch: its report, the items its function was called with, what it told a person."""

    report: Report
    calls: list[Any]
    messages: list[str]


def play(
    function: Callable[[Any], Any],
    inputs: Sequence[str | Path],
    checkpoint: str | Path,
    *,
    until: int | None = None,
    **options: Any,
) -> Played | None:
    """Run a batch on a Stage with one worker; None if it was killed after committing `until` chunks."""
    calls: list[Any] = []

    def called(item: Any) -> Any:
        calls.append(item)
        return function(item)

    with ExitStack() as stack:
        stage = Stage(called, inputs, checkpoint, stack, **options)
        for number in itertools.count():
            if number == until:
                return None
            if not _play_one(stage):
                return Played(stage.finish(), calls, stage.messages)
    raise AssertionError


def _play_one(stage: Stage) -> bool:
    """Run the next chunk; False where none is left."""
    while not stage.work_queue.is_over:
        chunk = stage.work_queue.next(starved=True)
        if chunk is not None and chunk.scan:
            stage.scan(stage.job(chunk, 0))
        elif chunk is not None:
            stage.answer(stage.job(chunk, 0))
            return True
    return False
