"""The output of a run: outcomes in input order, made in the workers, copied as bytes.

It never opens an outcome.

Pieces come in as they are found or committed. To a file they are written at the end, under a temporary name; to stdout
as far as the input is settled without a gap, unless they are so mixed that this would take longer than all the rest:
then what is left comes at the end too. What is to be made (`layout`) is made by whichever worker is free, and written
in order.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from batchmill.checkpoint.index import Piece
from batchmill.codec.unsaid import NOTHING, Unsaid
from batchmill.errors import OutputLost
from batchmill.files.storage import remove
from batchmill.model import StopReason
from batchmill.output.columns import Asked, TableStyle, in_json, table_of, unknown, without_field
from batchmill.output.external_sort import SortJob, Work
from batchmill.output.layout import Frames, Layout, parts_of
from batchmill.output.ordering import Part, RenderJob, stretches
from batchmill.output.shape import Shape
from batchmill.output.sinks import open_target
from batchmill.output.survey import ShapeJob
from batchmill.output.target import STDOUT
from batchmill.text import harmless

# What becomes of -o FILE, by what ended the run; what is not here leaves nothing.
KEPT: Mapping[str, str] = {
    "": "whole",
    StopReason.LIMIT: "partial",
    StopReason.MAX_FAILURES: "partial",
    StopReason.TIME_LIMIT: "partial",
    StopReason.STOP: "partial",
}
_WASTE = 4  # a stream may decode up to 4 times the items that it writes,
_FREE = 2_000_000  # and this many in any case
_AHEAD = 64  # jobs that may be out, or made before it is their turn


class Frontier:
    """Up to which position everything is settled, from ranges that come in any order."""

    def __init__(self) -> None:
        self.position = 0
        self._ahead: list[tuple[int, int]] = []

    def settle(self, first: int, end: int) -> None:
        """The records at [first, end) are settled."""
        heapq.heappush(self._ahead, (first, end))
        while self._ahead and self._ahead[0][0] <= self.position:
            self.position = max(self.position, heapq.heappop(self._ahead)[1])


class OutputWriter:
    """Where results go; `frames` is where they are read from.

    `target` is "-" or a path, `source` the format that items came in. Raises OutputLost where it cannot be written;
    `is_unread`: stdout has no reader any more.
    """

    def __init__(self, target: str, asked: Asked, frames: Frames, *, source: str = "jsonl") -> None:
        self.target = target
        self._asked = asked
        self._table: TableStyle | None = None
        self._frames = frames
        self._streams = target == STDOUT
        self._source = source
        self._target = open_target(target, asked.format)
        self._pieces: list[Piece] = []  # of a stream
        self._frontier = Frontier()
        # What comes is kept to the end, where its columns are not known before.
        self._holds = not self._streams or (asked.is_table and not asked.chosen)
        self._layout = Layout(frames, self._make, None if self._streams else os.path.dirname(os.path.realpath(target)))
        self._decoded = 0  # items, for single outcomes of a stream
        self._jobs = self._all_jobs()
        self._finishing = False
        self._cut = 0
        self._next = 0
        self._sorts: set[int] = set()
        self._surveys: set[int] = set()
        self._shape = Shape()
        self._missing: list[str] = []
        self._rendered: dict[int, bytes] = {}
        self._exhausted = True
        self.unsaid = NOTHING
        self.is_unread = False
        self._on_screen = self._streams and os.isatty(1) and asked.format in ("jsonl", "csv", "tsv")

    def _make(self, low: int, high: int, parts: tuple[Part, ...]) -> RenderJob:
        asked = self._asked
        return RenderJob(low, high, parts, asked.format, False, asked.with_item, self._source, self._table)

    def add(self, piece: Piece) -> None:
        """Outcomes that are in the checkpoint now, at positions of this input."""
        if self._holds:
            self._layout.add(piece)
            return
        heapq.heappush(self._pieces, piece._replace(generation=0))
        if piece.start is not None:
            self._decoded += self._frames.extent(piece.seq).items
            if self._decoded > _FREE + _WASTE * piece.high:
                self._hold()

    def _hold(self) -> None:
        """Write nothing more before the end."""
        self._holds = True
        for piece in self._pieces:
            self._layout.add(piece)
        self._pieces = []

    def settle(self, first: int, end: int) -> None:
        """Nothing more will come for the records at [first, end)."""
        if self._streams:
            self._frontier.settle(first, end)

    def finish(self) -> None:
        """Everything has come: write what there is."""
        if not self._finishing:
            self._finishing = True
            if not (self._needs_shape and (self._pieces or self._layout)):
                self._begin()  # what an output begins with, be there anything in it or not

    @property
    def is_done(self) -> bool:
        """Whether all that can be written now is."""
        return self._next == self._cut and self._exhausted and not self._due()

    @property
    def is_over(self) -> bool:
        """Whether everything has come, and is written."""
        return self._finishing and self.is_done

    def _due(self) -> bool:
        if self._finishing:
            return bool(self._pieces or self._layout)
        return bool(self._pieces) and self._pieces[0].low < self._frontier.position

    def next_job(self) -> tuple[int, Work] | None:
        """What is to be made next, numbered; None where nothing is, or something must come back before."""
        if self._cut - self._next >= _AHEAD:
            return None
        job = next(self._jobs, None)
        if job is None:
            return None
        number, self._cut = self._cut, self._cut + 1
        if isinstance(job, SortJob):
            self._sorts.add(number)
        elif isinstance(job, ShapeJob):
            self._surveys.add(number)
        return number, job

    def _all_jobs(self) -> Iterator[Work | None]:
        """Without an end; None: not yet, or no more."""
        while not self._finishing:
            self._exhausted = False
            yield from self._advance()
            self._exhausted = True
            yield None
        self._exhausted = False
        self._hold()
        if self._table is None:
            yield from self._layout.surveys()
            while self._surveys:
                yield None
            self._begin()
        yield from self._layout.jobs()
        self._exhausted = True
        while True:
            yield None

    @property
    def sentences(self) -> list[str]:
        """What to tell people of what was written."""
        mixed = in_json(self._table) if self._asked.format == "parquet" and self._table is not None else ()
        return [*self.unsaid.sentences(), *without_field(self._missing), *mixed]

    @property
    def _needs_shape(self) -> bool:
        """Whether its columns are known only once all outcomes are."""
        return self._asked.is_table and not (self._streams and self._asked.chosen)

    def _begin(self) -> None:
        """Choose the columns of a table, and write what comes before the first row."""
        shape = self._shape if self._needs_shape else None
        self._table = table_of(self._asked, shape)
        self._missing = unknown(self._asked, self._shape) if self._needs_shape else []
        with self._writing():
            self._target.begin(self._asked, self._table)

    def _advance(self) -> Iterator[RenderJob]:
        """The stretches of a stream up to its frontier; what reaches beyond it waits."""
        end, due = self._frontier.position, []
        while self._pieces and self._pieces[0].low < end:
            piece = heapq.heappop(self._pieces)
            due.append(piece._replace(high=min(piece.high, end)))
            if piece.high > end:
                start = None if piece.start is None else piece.start + end - piece.low
                heapq.heappush(self._pieces, piece._replace(low=end, start=start))
        for stretch in stretches(due, lambda seq: self._frames.extent(seq).size):
            yield self._make(stretch.low, stretch.high, parts_of(stretch, self._frames))

    def rendered(self, number: int, data: bytes, unsaid: Unsaid) -> None:
        """A worker has made job `number`: write it when its turn comes."""
        self.unsaid += unsaid
        if self.is_unread:
            return
        self._rendered[number] = data
        while self._next in self._rendered:
            made = self._rendered.pop(self._next)
            if self._next in self._sorts:
                self._sorts.remove(self._next)
                self._layout.sorted(made)
            elif self._next in self._surveys:
                self._surveys.remove(self._next)
                self._shape += Shape.unpack(made)
            else:
                self._write(made)
            self._next += 1

    def _write(self, data: bytes) -> None:
        with self._writing():
            self._target.write(harmless(data) if self._on_screen else data)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_unread = True
        except OSError as error:
            # A stream is written while items run: the checkpoint is right then, but not complete.
            where, remedy = self.target, "the checkpoint is complete"
            if self._streams:
                where, remedy = "stdout", "nothing in the checkpoint is lost"
            raise OutputLost(f"cannot write {where}: {error.strerror}", remedy) from None

    def close(self, keep: str) -> str | None:
        """Close the target. A whole file also replaces the partial one of an earlier run that stopped."""
        self._layout.close()
        name = self._target.close(keep)
        if name is not None and keep == "whole" and os.path.isfile(name):
            remove(f"{name}.partial")
        return name
