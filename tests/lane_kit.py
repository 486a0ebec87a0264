"""Owns a lane without a process, the worker's code set up in this interpreter, and batches run on it. Tests nothing."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from batchmill import worker
from batchmill.batch import Batch, _Session
from batchmill.codec import Block
from batchmill.formats import FORMATS, IdRule, count_records
from batchmill.function import Resolved
from batchmill.identity import Identifier
from batchmill.model import Chunk, Report
from batchmill.reply import Tally
from batchmill.settings import Settings
from batchmill.worker import NO_LIMIT, LaneSetup, Order


@contextmanager
def lane(
    function: Callable[..., Any] = repr,
    *,
    format: str | None = "jsonl",
    id_field: str | None = None,
    shard: tuple[int, int] | None = None,
    with_item: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    ids_needed: bool = True,
    run: int = 1,
) -> Iterator[array[int]]:
    """Make this interpreter a lane at slot 0; gives the board: [record, limit]."""
    state, board = worker._lane, array("q", [0, NO_LIMIT])
    before = dict(vars(state))
    state.board, state.slot = memoryview(board), 0
    state.setup = LaneSetup(
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
        output="none",
    )
    state.identifier = Identifier(format, IdRule(id_field), shard, ids_needed)
    state.kwargs = dict(kwargs or {})
    state.resolved = Resolved(function, None, "digest")
    try:
        yield board
    finally:
        vars(state).clear()
        vars(state).update(before)


def chunk_of(data: bytes, *, first: int = 0, line: int = 1, input: int = 0, format: str = "jsonl") -> Chunk:
    """A block as a chunk."""
    return Chunk(first, line, input, count_records(data, FORMATS[format].separator), data)


def run_chunk(chunk: Chunk, *, serial: int = 1, seconds: float = 0.0, generation: int = 1) -> tuple[Block, Tally]:
    """What the lane answers for a chunk."""
    payload, tally = worker.run_chunk(Order(serial, seconds, generation, chunk))
    return Block(payload), tally


class Played(NamedTuple):
    """What became of a batch: its report, the items its function was called with, what it told a person."""

    report: Report
    calls: list[Any]
    messages: list[str]


def play(
    function: Callable[[Any], Any],
    inputs: Sequence[str | Path],
    checkpoint: str | Path | None,
    *,
    output: str | Path | None = None,
    until: int | None = None,
    **settings: Any,
) -> Played | None:
    """Run a batch with all of its parts but the processes; None if it was killed after committing `until` chunks."""
    messages: list[str] = []
    calls: list[Any] = []

    def called(item: Any) -> Any:
        calls.append(item)
        return function(item)

    batch = Batch(
        repr,
        [str(path) for path in inputs],
        settings=Settings(resume=True, workers=2, **settings),
        checkpoint=None if checkpoint is None else str(checkpoint),
        no_checkpoint=checkpoint is None,
        output=None if output is None else str(output),
    )
    with ExitStack() as stack:
        session = _Session(batch, stack, None, messages.append)
        stack.enter_context(
            lane(
                called,
                format=batch._format,
                id_field=batch.settings.id_field,
                shard=batch.settings.shard,
                with_item=batch.settings.with_item,
                run=session._run["run"],
            )
        )
        for number in itertools.count():
            if number == until:
                return None
            if not _play_one(session):
                break
        if session._output is not None:
            session._place_found()
            session._output.finish()
            while (found := session._output.next_order()) is not None:
                session._output.rendered(found[0], *worker.render(found[1]))
        return Played(session._finish(), calls, messages)


def _play_one(session: _Session) -> bool:
    """Run the next chunk; False where none is left."""
    while not session._intake.is_over:
        job = session._intake.next(starved=True)
        if job is None:
            continue
        if job.scan:
            session._intake.scanned(job.chunk, worker.scan_chunk(job.chunk))
            continue
        matcher = session._matcher
        flight = session._ledger.hand(job.chunk, 0)
        generation = matcher.generation if matcher else session._index.generation
        payload, tally = worker.run_chunk(Order(flight.serial, 0.0, generation, job.chunk))
        chunk = session._ledger.returned(tally.serial, tally.lines)
        session._commit(chunk, payload, tally)
        return True
    return False
