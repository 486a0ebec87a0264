"""Outcomes of one or several opened checkpoints as one output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from batchmill.checkpoint.index import Extent, Piece
from batchmill.checkpoint.reader import naming
from batchmill.codec.unsaid import NOTHING
from batchmill.errors import OutputLost
from batchmill.input.pyarrow_extra import need_pyarrow
from batchmill.output.columns import Asked, Column, TableStyle, in_json, table_of, unknown, without_field
from batchmill.output.external_sort import fulfil
from batchmill.output.layout import Frames, Layout, layouts_of
from batchmill.output.ordering import Part, RenderJob
from batchmill.output.rows import opening
from batchmill.output.shape import Shape
from batchmill.output.sinks import open_target
from batchmill.output.survey import shape_of
from batchmill.text import option

_MANY_BITS = 16  # a checkpoint's number stands below its frames' seqs
_MANY = (1 << _MANY_BITS) - 1


class Opened(Frames, Protocol):
    """A checkpoint that is read."""

    @property
    def path(self) -> str:
        """The file's path."""

    @property
    def source(self) -> str:
        """The name of the format that items came in."""

    @property
    def input(self) -> Any:
        """The INPUTs that it belongs to."""

    def pieces(self) -> Iterator[Piece]:
        """All outcomes."""


class _Shelf:
    """The frames of checkpoints of one input (shards), by one number each: seq first, then checkpoint."""

    def __init__(self, many: Sequence[Opened]) -> None:
        self._many = many

    def pieces(self) -> Iterator[Piece]:
        """All outcomes."""
        for number, results in enumerate(self._many):
            for piece in results.pieces():
                yield piece._replace(seq=piece.seq << _MANY_BITS | number)

    def payload(self, seq: int) -> bytes:
        """As Results.payload; the others as theirs."""
        return self._many[seq & _MANY].payload(seq >> _MANY_BITS)

    def extent(self, seq: int) -> Extent:
        return self._many[seq & _MANY].extent(seq >> _MANY_BITS)

    def gone(self, seq: int) -> Collection[int]:
        return self._many[seq & _MANY].gone(seq >> _MANY_BITS)

    def moved(self, seq: int) -> Collection[int]:
        return self._many[seq & _MANY].moved(seq >> _MANY_BITS)


class Written:
    """Results on their way out: `bytes` of them so far, and what is `unsaid` in them."""

    def __init__(self, opened: Sequence[Opened], asked: Asked) -> None:
        self._asked = asked
        of_one_input = all_equal(results.input for results in opened)
        self._groups = [opened] if of_one_input else [[results] for results in opened]
        self._table: TableStyle | None = None
        self._shape = Shape()
        self.bytes, self.unsaid = 0, NOTHING

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a table, once it is written."""
        return () if self._table is None else self._table.columns

    @property
    def sentences(self) -> list[str]:
        """What to tell people of what was written."""
        missing = unknown(self._asked, self._shape) if self._asked.is_table else []
        mixed = in_json(self._table) if self._asked.format == "parquet" and self._table is not None else ()
        return [*self.unsaid.sentences(), *without_field(missing), *mixed]

    def to_file(self, path: str) -> None:
        """Write them to a file that has its name when it is whole; raises OutputLost."""
        target = open_target(path, self._asked.format)
        try:
            target.begin(self._asked, self._columns())
            self._write(target.write)
            target.close("whole")
        except OSError as error:
            raise OutputLost(
                f"cannot write {path}: {error.strerror}", f"check the path given to {option('output')}"
            ) from None
        finally:
            target.close("nothing")

    def to(self, write: Callable[[bytes], object]) -> None:
        """Write them."""
        write(opening(self._asked, self._columns()))
        self._write(write)

    def _columns(self) -> TableStyle:
        """The columns of a table: those that all results have together."""
        if self._asked.is_table:
            for ordering, layout in enumerate(self._layouts()):
                for job in layout.surveys(ordering):
                    self._shape += shape_of(job)
        self._table = table_of(self._asked, self._shape)
        return self._table

    def _write(self, write: Callable[[bytes], object]) -> None:
        for layout in self._layouts():
            for data, unsaid in layout.made(fulfil):
                write(data)
                self.bytes += len(data)
                self.unsaid += unsaid

    def _layouts(self) -> Iterator[Layout]:
        """Checkpoints of one input together; others come one after the other."""
        for many in self._groups:
            shelf = _Shelf(many)
            with naming(*(results.path for results in many)):
                yield from layouts_of(shelf.pieces(), shelf, partial(self._make, many[0].source))

    def _make(self, source: str, low: int, high: int, parts: tuple[Part, ...]) -> RenderJob:
        asked = self._asked
        return RenderJob(low, high, parts, asked.format, asked.all, asked.with_item, source, self._table)


def all_equal(values: Iterable[Any]) -> bool:
    """Whether there is at most one value among `values`."""
    return len({repr(value) for value in values}) <= 1


def as_arrow(opened: Sequence[Opened], *, all: bool) -> Any:
    """Their results as one pyarrow Table; raises InvalidUsage where that is not installed."""
    need_pyarrow("to_arrow()")
    import pyarrow as pa

    from batchmill.output.parquet import schema_of

    written, parts = Written(opened, Asked("parquet", all)), list[bytes]()
    written.to(parts.append)
    tables = [pa.ipc.open_stream(part).read_all() for part in parts if part]
    return pa.concat_tables([schema_of(written.columns).empty_table(), *tables])
