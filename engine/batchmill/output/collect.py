"""Results of checkpoints, written to a file or a stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import IO, Any

from batchmill.checkpoint.index import Extent, Piece
from batchmill.checkpoint.reader import naming
from batchmill.codec.unsaid import NOTHING
from batchmill.errors import OutputLost
from batchmill.files.conflicts import Access, Use, check, descriptor_in
from batchmill.output.by_name import AUTO, format_of_output
from batchmill.output.columns import FORMATS, Asked, TableStyle, check_asked, in_json, table_of, unknown, without_field
from batchmill.output.external_sort import fulfil
from batchmill.output.layout import Layout
from batchmill.output.ordering import Part, RenderJob
from batchmill.output.results import Results, layouts_of, of_left_out, open_checkpoint
from batchmill.output.rows import opening
from batchmill.output.shape import Shape
from batchmill.output.sinks import check_format, open_target
from batchmill.output.survey import shape_of
from batchmill.output.target import STDOUT
from batchmill.text import option

_MANY_BITS = 16  # a checkpoint's number stands below its frames' seqs
_MANY = (1 << _MANY_BITS) - 1


class _Shelf:
    """The frames of checkpoints of one input (shards), by one number each: seq first, then checkpoint."""

    def __init__(self, many: Sequence[Results]) -> None:
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


def write_results(
    paths: Sequence[str],
    out: IO[bytes] | str,
    *,
    format: str = AUTO,
    all: bool = False,
    removed: bool = False,
    columns: Sequence[str] = (),
    formula_guard: bool = True,
    bom: bool = False,
    on_message: Callable[[str], None] | None = None,
) -> int:
    """Write the results of checkpoints to a binary file object, or to a path (by renaming).

    Checkpoints of one input (shards) are merged in its order; others come one after the other. Items kept beside their
    results are written too; results of items that the last complete input did not have with `removed` alone, else
    `on_message` is told how many they are. Of a table, `columns` are those that are wanted (none: all), `formula_guard`
    keeps text from being a formula to a spreadsheet, `bom` puts a byte order mark in front. Returns the bytes written.
    Raises OutputLost, InvalidUsage where it would write over a checkpoint, and as `open_checkpoint` does.
    """
    format = format_of_output(out if isinstance(out, str) else STDOUT, format)
    check_format(out if isinstance(out, str) else STDOUT, format)
    check([*(Use("the checkpoint", path, Access.READ) for path in paths), *_used(out)])
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path, removed=removed)) for path in paths]
        # A table has its columns before the first row is known; elsewhere, items are where they were kept.
        with_item = format not in FORMATS or any(results.keeps_items for results in opened)
        asked = Asked(format, all, with_item, tuple(columns), formula_guard, bom)
        check_asked(asked)
        written = _Written(opened, asked)
        if isinstance(out, str):
            written.to_file(out)
        else:
            written.to(out.write)
    if on_message is not None:
        left_out = sum(sum(results.left_out[: 1 + all]) for results in opened)
        for sentence in (*written.sentences, *of_left_out(left_out, "outcome" if all else "result")):
            on_message(sentence)
    return written.bytes


def _used(out: IO[bytes] | str) -> list[Use]:
    where = out if isinstance(out, str) else descriptor_in(out)
    return [] if where is None else [Use(option("output"), where, Access.WRITTEN)]


class _Written:
    """Results on their way out: `bytes` of them so far, and what is `unsaid` in them."""

    def __init__(self, opened: Sequence[Results], asked: Asked) -> None:
        self._asked = asked
        of_one_input = all_equal(results.input for results in opened)
        self._groups = [opened] if of_one_input else [[results] for results in opened]
        self._table: TableStyle | None = None
        self._shape = Shape()
        self.bytes, self.unsaid = 0, NOTHING

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
