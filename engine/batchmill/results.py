"""Owns reading a checkpoint: outcomes in order, failures, status, output files. Never writes a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import IO, Any

from batchmill.checkpoint import Holder
from batchmill.codec import Block, outcomes
from batchmill.disk import refuse_same_file, replacing
from batchmill.errors import CheckpointDamaged
from batchmill.export import odd_numbers
from batchmill.formats import FORMATS, Format
from batchmill.framing import FrameRef, FrameType, Kind, Verdict
from batchmill.index import Piece
from batchmill.model import Outcome, Report
from batchmill.ordering import Part, RenderOrder, in_order, render_order, stretches
from batchmill.reader import damaged, open_reader
from batchmill.resume import History
from batchmill.tracker import report_of

_SEQ_BITS = 40  # a checkpoint's number stands above its frames' seqs
_SEQ_MASK = (1 << _SEQ_BITS) - 1


@dataclass(frozen=True)
class Status:
    """How a checkpoint stands.

    `live` is who holds it now, or None. `done` counts ok results, `failed` failed items, `total` the items of the input
    (None: unknown). `runs` are the RUN maps in order, `report` is the last run's (None: it is live, or was killed),
    `sample` the last SAMPLE map of the last run, `verdict` what reading the file to its end found. `tried` counts the
    outcomes that the last run has committed.
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

    @property
    def is_finished(self) -> bool:
        """Whether the last run came to the end of its input."""
        return self.live is None and self.report is not None and not self.report.stopped


class Results:
    """A checkpoint for reading, live or not, as it was when opened. Close it, or use it in a `with` block."""

    def __init__(self, path: str) -> None:
        self._reader = open_reader(path)
        self._history = History()
        try:
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
        return self._chosen(self.pieces(), lambda block, place: all or place not in block.failures)

    def failures(self) -> Iterator[Outcome]:
        """The failed items, in the same order."""
        index = self._history.index
        failing = {row.seq for number in range(len(index)) if (row := index.row(number)).failed}
        pieces = [piece for piece in self.pieces() if piece.seq in failing]
        return self._chosen(pieces, lambda block, place: place in block.failures)

    def _chosen(self, pieces: Iterable[Piece], is_wanted: Callable[[Block, int], bool]) -> Iterator[Outcome]:
        for stretch in stretches(pieces):
            parts = [self.part(piece) for piece in stretch.pieces]
            blocks = [Block(part.payload) for part in parts]
            ordered = in_order(parts, blocks, stretch.low, stretch.high)
            for number, group in groupby(ordered, key=itemgetter(2)):
                block = blocks[number]
                places = [place for _, _, _, place in group if is_wanted(block, place)]
                for _, outcome in outcomes(block, places):
                    yield outcome

    def status(self) -> Status:
        """How the checkpoint stands."""
        history, index = self._history, self._history.index
        live = self._reader.live()
        is_new = live is not None and history.last_report is not None  # it has not said yet who it is
        report = None if live else history.last_report
        last = max(history.runs, default=0)
        return Status(
            path=self._reader.path,
            size=self._reader.size,
            meta=self._reader.meta,
            runs=tuple(history.runs[number] for number in sorted(history.runs)),
            live=Holder(0, "", 0.0) if is_new else live,
            done=index.items - index.failed,
            failed=index.failed,
            total=None if is_new else history.total,
            report=report_of(report) if report else None,
            sample=None if is_new else history.sample,
            verdict=self._reader.verdict if live else self._verdict(),
            tried=0 if is_new else sum(row.items for row in map(index.row, range(len(index))) if row.run == last),
        )

    def _verdict(self) -> Verdict | None:
        """The verdict of the pass, and on payloads that it left unread and that a power failure may have hurt."""
        verdict, index = self._reader.verdict, self._history.index
        if verdict is None or verdict.kind is not Kind.CLEAN:
            return verdict
        unsafe = (row for row in map(index.row, range(len(index))) if row.offset + row.length > verdict.synced)
        try:
            for row in unsafe:
                self._reader.payload(FrameRef(row.seq, row.offset, row.length, FrameType.OUTCOMES))
        except CheckpointDamaged:
            return self._reader.scan(verify=True).run()
        return verdict

    @property
    def format(self) -> Format | None:
        """How the INPUTs were cut and parsed; None for Python items."""
        return FORMATS.get(self._reader.meta.get("format", ""))

    @property
    def input(self) -> Any:
        """The INPUTs that the checkpoint belongs to, as META has them."""
        return self._reader.meta.get("input")

    def pieces(self) -> list[Piece]:
        """All outcomes as pieces, for `ordering.stretches`; raises CheckpointDamaged where some cannot be read."""
        verdict = self._reader.verdict
        if verdict is not None and verdict.kind is Kind.CORRUPT:  # those before the damage must not pass for all
            raise damaged(self._reader.path, verdict)
        return self._history.index.pieces()

    def part(self, piece: Piece) -> Part:
        """A piece with its frame's payload, and the indices that do not count there."""
        index = self._history.index
        gone: Any = index.gone.get(piece.seq, ())
        moved = index.moved(piece.seq) if piece.place is None else ()
        without = {*gone, *moved} if gone and moved else gone or moved
        row = index.row(index.number(piece.seq))
        payload = self._reader.payload(FrameRef(row.seq, row.offset, row.length, FrameType.OUTCOMES))
        return Part(piece, payload, without)


def _rendered(many: Sequence[Results], format: str, all: bool) -> Iterator[tuple[bytes, int]]:
    """The output of checkpoints of one input (shards), in its order: bytes, and how many numbers JSON could not say."""
    tagged = (
        piece._replace(seq=piece.seq | number << _SEQ_BITS)
        for number, results in enumerate(many)
        for piece in results.pieces()
    )
    for stretch in stretches(tagged):
        parts = (many[p.seq >> _SEQ_BITS].part(p._replace(seq=p.seq & _SEQ_MASK)) for p in stretch.pieces)
        yield render_order(RenderOrder(stretch.low, stretch.high, tuple(parts), format, all, True))


def open_checkpoint(path: str | os.PathLike[str]) -> Results:
    """Open a checkpoint for reading, also one that is being written.

    Raises InputMissing (no such file), CheckpointRefused (no regular file), CheckpointDamaged, CheckpointMismatch
    (written by a newer batchmill).
    """
    return Results(os.fspath(path))


def write_results(
    paths: Sequence[str],
    out: IO[bytes] | str,
    *,
    format: str = "jsonl",
    all: bool = False,
    on_message: Callable[[str], None] | None = None,
) -> int:
    """Write the results of checkpoints to a binary file object, or to a path (by renaming).

    Checkpoints of one input (shards) are merged in its order; others come one after the other. Items kept beside their
    results are written too. Returns the bytes written. Raises OutputLost, InvalidUsage where it would write over a
    checkpoint, and as `open_checkpoint` does.
    """
    if not isinstance(out, str):
        return _write(paths, out, format, all, on_message)
    for path in paths:
        refuse_same_file(out, path)
    with replacing(out) as file:
        return _write(paths, file, format, all, on_message)


def _write(
    paths: Iterable[str], out: IO[bytes], format: str, all: bool, on_message: Callable[[str], None] | None
) -> int:
    written = odd = 0
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path)) for path in paths]
        of_one_input = all_equal(results.input for results in opened)
        for many in [opened] if of_one_input else [[results] for results in opened]:
            for data, count in _rendered(many, format, all):
                out.write(data)
                written += len(data)
                odd += count
    if odd and on_message is not None:
        on_message(odd_numbers(odd))
    return written


def all_equal(values: Iterable[Any]) -> bool:
    """Whether there is at most one value among `values`."""
    return len({repr(value) for value in values}) <= 1
