"""Reading a checkpoint: outcomes in order, failures, status, output files.

By default of the items that the last complete input had: those of items removed from it (`checkpoint/removed`) are
counted, and read where `removed` asks for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any

from batchmill.checkpoint.frames import Kind, Verdict
from batchmill.checkpoint.history import History
from batchmill.checkpoint.index import Extent, Piece
from batchmill.checkpoint.reader import NOBODY, Holder, damaged, naming, open_reader
from batchmill.codec.outcome_block import OutcomeBlock, excerpts, outcomes
from batchmill.codec.unsaid import NOTHING, Unsaid
from batchmill.errors import CheckpointDamaged
from batchmill.input.formats import Format, find_format
from batchmill.input.kept_items import reader_of_kept
from batchmill.model import Outcome, Report
from batchmill.output.external_sort import MergeJob, SortJob, merge, sort
from batchmill.output.layout import layouts_of
from batchmill.output.ordering import Part, RenderJob, in_order
from batchmill.secrecy import mask_facts
from batchmill.text import option, plural


@dataclass(frozen=True)
class Status:
    """How a checkpoint stands.

    `live` is who holds it now, or None. `done` counts ok results, `failed` failed items, `total` the items of the input
    (None: unknown), `removed` the outcomes beside these of items that the last complete input did not have. `runs` are
    the RUN maps in order, `report` is the last run's (None: it is live, or was killed), `sample` the last SAMPLE map of
    the last run, `verdict` what reading the file to its end found. `tried` counts the outcomes that the last run has
    committed, `hosts` those of all runs by where they were made, `older_source` the ok results of other code than the
    last run's.
    """

    path: str
    size: int
    meta: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    live: Holder | None
    done: int
    failed: int
    total: int | None
    report: Report | None
    sample: Mapping[str, Any] | None
    verdict: Verdict | None
    tried: int = 0
    hosts: Mapping[str, int] = field(default_factory=dict)
    older_source: int = 0
    removed: int = 0

    @property
    def estimate(self) -> int | None:
        """About how many items there are in a shard, None where that is not known, or the total is."""
        return self.sample.get("estimate") if self.sample and self.total is None else None

    @property
    def is_finished(self) -> bool:
        """Whether the last run came to the end of its input."""
        return self.live is None and self.report is not None and not self.report.stopped


class Results:
    """A checkpoint for reading, live or not, as it was when opened. Close it, or use it in a `with` block.

    With `removed`, the outcomes of items that the last complete input did not have are among those it gives.
    """

    def __init__(self, path: str, *, removed: bool = False) -> None:
        self._with_removed = removed
        self._reader = open_reader(path)
        self._history = History()
        self._item_of = reader_of_kept(self.format)
        try:
            with naming(path):
                for ref, peek in self._reader.frames():
                    self._history.note(ref, peek)
                self._history.load(self._reader.payload)
        except BaseException:
            self._reader.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def outcomes(self, all: bool = True) -> Iterator[Outcome]:
        """Every item's outcome, in input order (by run, where the input changed between runs); ok ones unless `all`."""
        return self._chosen(self.pieces(), lambda block, index: all or index not in block.failures)

    def failures(self) -> Iterator[Outcome]:
        """The failed items, in the same order."""
        return self._chosen(self._failing(), lambda block, index: index in block.failures)

    def failed(self) -> Iterator[tuple[OutcomeBlock, int]]:
        """The same, as what the checkpoint has of each: a block, and the index in it."""
        for block, indices in self._groups(self._failing(), lambda block, index: index in block.failures):
            for index in range(len(block)) if indices is None else indices:
                yield block, index

    def reports(self) -> Mapping[int, Report]:
        """What each run came to, by its number; a run that is live, or was killed, has none."""
        return self._history.ends

    def run(self, number: int) -> Mapping[str, Any]:
        """What was written down of a run."""
        return self._history.runs.get(number, {})

    def _failing(self) -> Iterator[Piece]:
        failing = {row.seq for row in self._history.index if row.failed}
        return (piece for piece in self.pieces() if piece.seq in failing)

    def _chosen(self, pieces: Iterable[Piece], is_wanted: Callable[[OutcomeBlock, int], bool]) -> Iterator[Outcome]:
        for block, indices in self._groups(pieces, is_wanted):
            yield from self._named(block, indices)

    def _groups(
        self, pieces: Iterable[Piece], is_wanted: Callable[[OutcomeBlock, int], bool]
    ) -> Iterator[tuple[OutcomeBlock, list[int] | None]]:
        """The wanted items in their order: indices (None: all) in a block after another."""
        for layout in layouts_of(pieces, self, _plain_order):
            with layout, naming(self._reader.path):
                for job in layout.jobs():
                    if isinstance(job, SortJob):
                        layout.sorted(sort(job, partial(_excerpts, is_wanted))[0])
                    elif isinstance(job, MergeJob):
                        for line in merge(job):
                            yield OutcomeBlock(line), None
                    elif isinstance(job, RenderJob):
                        blocks = [OutcomeBlock(part.payload) for part in job.parts]
                        ordered = in_order(job.parts, blocks, job.low, job.high)
                        for number, group in groupby(ordered, key=itemgetter(1)):
                            block = blocks[number]
                            yield block, [index for _, _, index in group if is_wanted(block, index)]

    def _named(self, block: OutcomeBlock, indices: Iterable[int] | None = None) -> Iterator[Outcome]:
        """The outcomes at those indices, or all, with the name of their INPUT where a line needs one."""
        file = self._history.file_of(block.head.run, block.head.input, self.source)
        for _, outcome in outcomes(block, indices):
            is_bare = not file and outcome.raw is None
            yield outcome if is_bare else replace(outcome, file=file, item=self._item_of(outcome.raw))

    def to_arrow(self, *, all: bool = False) -> Any:
        """The results as a pyarrow Table: the ids, and a column for each field of the results, as an output in Parquet
        has them; the failed items' errors too with `all`. Raises InvalidUsage where pyarrow is not installed."""
        from batchmill.output.merged import as_arrow

        return as_arrow([self], all=all)

    def to_pandas(self, *, all: bool = False) -> Any:
        """The same as a pandas DataFrame."""
        return self.to_arrow(all=all).to_pandas()

    def status(self) -> Status:
        """How the checkpoint stands."""
        history, index = self._history, self._history.index
        live = self._reader.live()
        is_new = live is not None and history.last_report is not None  # it has not said yet who it is
        report = None if live else history.last_report
        last = max(history.runs, default=0)
        done, failed = index.current
        return Status(
            path=self._reader.path,
            size=self._reader.size,
            meta=mask_facts(self._reader.meta),
            runs=tuple(mask_facts(history.runs[number]) for number in sorted(history.runs)),
            live=NOBODY if is_new else live,
            done=done,
            failed=failed,
            removed=index.removed.items,
            total=None if is_new else history.total,
            report=report,
            sample=None if is_new else history.sample,
            verdict=self._reader.verdict if live else self._verdict(),
            hosts=history.hosts,
            older_source=history.older_results(history.runs.get(last, {}).get("source", ""), self._block),
            tried=0 if is_new else sum(row.items for row in index if row.run == last),
        )

    def _block(self, seq: int) -> OutcomeBlock:
        return OutcomeBlock(self._reader.payload(self._history.index.row_of(seq).ref))

    def _verdict(self) -> Verdict | None:
        """The verdict of the pass, and on payloads that it left unread and that a power failure may have hurt."""
        verdict = self._reader.verdict
        if verdict is None or verdict.kind is not Kind.CLEAN:
            return verdict
        try:
            for row in self._history.index:
                if row.ref.end > verdict.synced:
                    self._reader.payload(row.ref)
        except CheckpointDamaged:
            return self._reader.scan(verify=True).run()
        return verdict

    @property
    def path(self) -> str:
        """The file's path, as it was given."""
        return self._reader.path

    @property
    def source(self) -> str:
        """The name of the format that items came in, or "items" for Python's own."""
        return str(self._reader.meta.get("format", "items"))

    @property
    def format(self) -> Format | None:
        """How the INPUTs were cut and parsed; None for Python items."""
        return find_format(self.source)

    @property
    def left_out(self) -> tuple[int, int]:
        """How many outcomes are not given, for their items were removed from the input: ok, failed."""
        removed = self._history.index.removed
        return (0, 0) if self._with_removed else (removed.items - removed.failed, removed.failed)

    @property
    def keeps_items(self) -> bool:
        """Whether a run kept items beside their results."""
        return any(run.get("settings", {}).get("with_item") for run in self._history.runs.values())

    @property
    def input(self) -> Any:
        """The INPUTs that the checkpoint belongs to, as META has them."""
        return self._reader.meta.get("input")

    def pieces(self) -> Iterator[Piece]:
        """All outcomes as pieces, for `ordering.stretches`; raises CheckpointDamaged where some cannot be read."""
        verdict = self._reader.verdict
        if verdict is not None and verdict.kind is Kind.CORRUPT:  # those before the damage must not pass for all
            raise damaged(self._reader.path, verdict)
        return self._history.index.pieces()

    # As layout.Frames

    def payload(self, seq: int) -> bytes:
        """The payload of frame `seq`; raises CheckpointDamaged."""
        return self._reader.payload(self._history.index.row_of(seq).ref)

    def extent(self, seq: int) -> Extent:
        """How large it is."""
        return self._history.index.extent(seq)

    def gone(self, seq: int) -> Collection[int]:
        """The outcomes in it that do not count."""
        index = self._history.index
        return index.gone.get(seq, ()) if self._with_removed else index.not_current(seq)

    def moved(self, seq: int) -> Collection[int]:
        """The outcomes in it that lie elsewhere than where the frame does."""
        return self._history.index.moved(seq)


def _plain_order(low: int, high: int, parts: tuple[Part, ...]) -> RenderJob:
    return RenderJob(low, high, parts, "", all=True, with_item=True)


def _excerpts(
    is_wanted: Callable[[OutcomeBlock, int], bool], block: OutcomeBlock, indices: list[int], job: RenderJob
) -> tuple[list[bytes], Unsaid]:
    """Outcomes as frames of their own; nothing for those that are not wanted."""
    wanted = [index for index in indices if is_wanted(block, index)]
    found = dict(zip(wanted, excerpts(block, wanted)))
    return [found.get(index, b"") for index in indices], NOTHING


def open_checkpoint(path: str | os.PathLike[str], *, removed: bool = False) -> Results:
    """Open a checkpoint for reading, also one that is being written; with `removed`, with what its last complete input
    did not have any more.

    Raises InputMissing (no such file), CheckpointRefused (no regular file), CheckpointDamaged, CheckpointMismatch
    (written by a newer batchmill).
    """
    return Results(os.fspath(path), removed=removed)


def of_left_out(count: int, noun: str) -> Iterator[str]:
    """What to tell people where so many outcomes are left out of what was read, for their items were removed."""
    if count:
        them = "it" if count == 1 else "them"
        gives = f"{option('with_removed', True)} gives {them} too"
        yield f"Left out: {plural(count, noun)} of items that INPUT no longer has; {gives}"
