"""Parquet as an INPUT: a record says which row of a file it is, and workers read the rows.

The parent reads no more than a file's footer. Its feed gives the numbers of rows, a line each of one width, under a
header that says which file and what it was like then: so blocks are cut, told apart and found again as those of any
other format, and a row is known as done without being read. pyarrow is imported where a file is opened, never before.
"""

from __future__ import annotations

import copy
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from zlib import crc32

from batchmill.codec.ids import checksum
from batchmill.codec.pack import pack_value
from batchmill.codec.unpack import unpack_value
from batchmill.errors import BatchmillError, InputBroken, InputMissing, InvalidUsage
from batchmill.files.conflicts import OwnFiles
from batchmill.input.folders import Walk
from batchmill.input.foreign import remedy_for_parquet
from batchmill.input.pyarrow_extra import need_pyarrow
from batchmill.input.row_tables import TableRow, columns_with_gaps
from batchmill.input.tables import named
from batchmill.text import name_some, nearest, option

SUFFIX = ".parquet"
WIDTH = 13  # bytes of a record, with the newline
_STEP = 1000  # rows whose numbers are made together
_AHEAD = 64 * _STEP  # rows whose numbers are given at once
_BLANK = b"#" * (WIDTH - 4)
_NUMBERS = b"".join(b"%b%03d\n" % (_BLANK, number) for number in range(_STEP))


class Identity(NamedTuple):
    """Which file a header stands for: its absolute path, its size and time of change, and the columns that are read
    (none: all)."""

    path: str
    size: int
    changed: int
    columns: tuple[str, ...]

    def pack(self) -> bytes:
        """It as a header."""
        return pack_value([self.path, self.size, self.changed, list(self.columns)])

    @classmethod
    def unpack(cls, header: bytes) -> Identity:
        """What `pack` made a header of."""
        path, size, changed, columns = unpack_value(header)
        return cls(path, size, changed, tuple(columns))


def row_numbers(first: int, end: int) -> bytes:
    """The records of the rows [first, end), a multiple of _STEP the first."""
    steps = range(first // _STEP, -(-end // _STEP))
    data = b"".join(_NUMBERS.replace(_BLANK, b"%0*d" % (len(_BLANK), step)) for step in steps)
    return data[: (end - first) * WIDTH]


def files_of(names: Sequence[str], own: OwnFiles, *, follow: bool) -> list[str]:
    """The files that INPUTs stand for: themselves, or the Parquet files below directories, none whose name begins with
    a dot or an underscore (which other programs write beside them)."""
    found: list[str] = []
    for name in names:
        if os.path.isdir(name):
            below = list(Walk([name], own, follow=follow))
            found += (path for path in below if _is_data(path) and path.lower().endswith(SUFFIX))
        else:
            found.append(name)
    return found


def _is_data(path: str) -> bool:
    return not os.path.basename(path).startswith("_")


def are_parquet(folder: str) -> bool:
    """Whether the files below a directory are Parquet files."""
    files = [path for path in Walk([folder]) if _is_data(path)]
    return bool(files) and all(path.lower().endswith(SUFFIX) for path in files)


def opened(name: str, wanted: Sequence[str] = ()) -> Any:
    """A Parquet file; raises InputMissing, InputBroken for what is none, InvalidUsage where a column is not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if name == "-" or (os.path.exists(name) and not os.path.isfile(name)):
        raise InvalidUsage("Parquet is read from files alone", remedy_for_parquet(name))
    try:
        file = pq.ParquetFile(name, pre_buffer=False, buffer_size=1 << 20)
    except FileNotFoundError as error:
        raise InputMissing(f"{name}: {error.strerror or 'no such file'}", "check the path of INPUT") from None
    except (pa.ArrowException, OSError) as error:
        why = str(error).partition(". ")[0].rstrip(".")
        raise InputBroken(f"{name} is no whole Parquet file: {why}", "write it again, or leave it out") from None
    names = file.schema_arrow.names
    for column in wanted:
        if column not in names:
            file.close()
            raise InvalidUsage(f"{name} has no column {column!r} ({option('columns')})", nearest(column, names))
    return file


def columns_of(name: str, wanted: tuple[str, ...]) -> list[str]:
    """The columns that items have; raises as `opened`."""
    need_pyarrow(name)
    if name != "-" and not os.path.exists(name):
        raise InputMissing(f"{name}: No such file or directory", "check the path of INPUT")
    with opened(name, wanted) as file:
        return list(wanted) or named(list(file.schema_arrow.names))


def rows_in(name: str) -> int:
    """The rows of a file; raises as `opened`."""
    with opened(name) as file:
        return int(file.metadata.num_rows)


class RowFeed:
    """Feed of the numbers of a file's rows; `header` says which file."""

    lines = 0

    def __init__(self, name: str, wanted: tuple[str, ...]) -> None:
        with opened(name, wanted) as file:
            self._rows = int(file.metadata.num_rows)
            self._names = list(file.schema_arrow.names)
        status = os.stat(name)
        self._path, self._wanted = os.path.abspath(name), wanted
        self.header = Identity(self._path, status.st_size, status.st_mtime_ns, wanted).pack()
        self._next = 0

    @property
    def remarks(self) -> Iterator[str]:
        """What to tell people of the columns."""
        made = [name for name, was in zip(named(self._names), self._names) if name != was]
        if made and not self._wanted:
            yield f"columns without a name of their own are called {name_some(made)}"
        if any("=" in part for part in self._path.split(os.sep)[:-1]):
            yield "what stands in the names of directories (name=value) is no column"

    def read(self) -> bytes:
        """The numbers of the next rows."""
        first, self._next = self._next, min(self._rows, self._next + _AHEAD)
        return row_numbers(first, self._next) if first < self._next else b""

    def close(self) -> None:
        """Nothing is open."""


# --- in a worker ---


class RowReader:
    """The rows of one file, as maps: quickest by ascending numbers."""

    def __init__(self, header: bytes) -> None:
        self._identity = Identity.unpack(header)
        self._file: Any = None
        self._starts: list[int] = []  # of row groups
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._at = 0  # the row that the batch begins with
        self._window: list[dict[str, Any] | None] = []  # each is given once: it is the function's own then
        self._first = 0  # the row that the window begins with
        self._end = 0  # rows up to this will be asked for, one after the other
        self._sample: dict[int, tuple[dict[str, Any], TableRow]] = {}  # rows that stand alone, may be asked for again
        self._floats: frozenset[str] = frozenset()

    def expect(self, numbers: Sequence[bytes]) -> None:
        """The records that will be asked for next."""
        first, end = int(numbers[0]), int(numbers[-1]) + 1
        self._end = end if end - first == len(numbers) else 0
        if self._end:
            with suppress(Exception):  # `row` says so, of each row; but pyarrow's import is no item's time
                self._fill(first)

    def row(self, number: int) -> dict[str, Any]:
        """The row of that number. Raises OSError, ValueError and what else pyarrow does where it cannot be read."""
        if not self._end:
            return self._alone(number)
        place = number - self._first
        if not 0 <= place < len(self._window) or self._window[place] is None:
            self._fill(number)
            place = 0
        found, self._window[place] = self._window[place], None
        assert found is not None
        return found

    def table_row(self, number: int) -> TableRow:
        """The row that `row` was last asked for, as a part of a table."""
        return TableRow(self._batch, number - self._at, self._floats) if self._end else self._sample[number][1]

    def _fill(self, number: int) -> None:
        """Have the rows from that one on at hand."""
        self._window = [*self._read(number, max(1, min(_STEP, self._end - number)))]
        self._first = number

    def _alone(self, number: int) -> dict[str, Any]:
        found = self._sample.get(number)
        if found is None:
            if len(self._sample) >= _STEP:
                self._sample.clear()
            (item,) = self._read(number, 1)
            alone = self._batch.take([number - self._at])  # a slice would keep all of it
            found = self._sample[number] = item, TableRow(alone, 0, self._floats)
        return copy.deepcopy(found[0])  # it is the function's own

    def _read(self, number: int, count: int) -> list[dict[str, Any]]:
        if self._file is not None:
            with suppress(Exception):  # an item may have closed what it never opened
                return self._load(number, count)
            self._file, self._batch, self._starts = None, None, []
        return self._load(number, count)

    def _load(self, number: int, count: int) -> list[dict[str, Any]]:
        if self._file is None:
            self._open()
        group = bisect_right(self._starts, number) - 1
        if group != self._group or self._batch is None or number < self._at:
            self._begin(group)
        while number >= self._at + len(self._batch):
            self._at += len(self._batch)
            self._batch = next(self._batches)
        start = number - self._at
        return as_maps(self._batch.slice(start, min(count, len(self._batch) - start)))

    def _open(self) -> None:
        path, size, changed, wanted = self._identity
        status = os.stat(path)
        if (status.st_size, status.st_mtime_ns) != (size, changed):
            raise ValueError(f"{path} was changed while the batch ran")
        self._file = opened(path, wanted)
        self._floats = columns_with_gaps(self._file)
        start = 0
        for number in range(self._file.num_row_groups):
            self._starts.append(start)
            start += self._file.metadata.row_group(number).num_rows

    def _begin(self, group: int) -> None:
        self._group, self._batch = -1, None
        about = self._file.metadata.row_group(group)
        mean = max(1, about.total_byte_size // max(1, about.num_rows))
        wanted = list(self._identity.columns) or None
        self._batches = self._file.iter_batches(
            batch_size=max(16, min(1 << 15, (4 << 20) // mean)), row_groups=[group], columns=wanted, use_threads=False
        )
        self._batch, self._at = next(self._batches), self._starts[group]
        self._group = group


def as_maps(batch: Any) -> list[dict[str, Any]]:
    """Rows as maps. What has more digits of a second than Python's own types is left to pyarrow."""
    import pyarrow as pa

    arrays = [_in_microseconds(array) for array in batch.columns]
    names = named(batch.schema.names)
    found: list[dict[str, Any]] = pa.RecordBatch.from_arrays(arrays, names).to_pylist()
    return found


def _in_microseconds(array: Any) -> Any:
    import pyarrow as pa

    kind, made = array.type, None
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        made = pa.timestamp("us", kind.tz)
    elif pa.types.is_duration(kind) and kind.unit == "ns":
        made = pa.duration("us")
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        made = pa.time64("us")
    try:
        return array if made is None else array.cast(made)
    except pa.ArrowInvalid:
        return array


# --- failed items ---


def types_of(names: Iterable[str], wanted: tuple[str, ...]) -> dict[str, bytes]:
    """The types of the columns of files, as schemas of one field in Arrow's own bytes: those in which they agree."""
    import pyarrow as pa

    found: dict[str, set[bytes]] = {}
    for name in names:
        with suppress(BatchmillError), opened(name, wanted) as file:
            schema = file.schema_arrow
            for column, field in zip(named(schema.names), schema):
                alone = pa.schema([pa.field("", field.type)])
                found.setdefault(column, set()).add(alone.serialize().to_pybytes())
    return {column: types.pop() for column, types in found.items() if len(types) == 1}


class RowsAgain:
    """A file whose rows are read once more."""

    def __init__(self, path: str, wanted: tuple[str, ...]) -> None:
        self.path = path
        status = os.stat(path)
        self._header = Identity(os.path.abspath(path), status.st_size, status.st_mtime_ns, wanted).pack()
        self._rows = RowReader(self._header)

    def item(self, line: int, content: int, *, is_part: bool) -> bytes | None:
        """What a checkpoint keeps of the row at a line, if that has the checksum `content`; a row that was not read
        then, if the file is the same. Raises OSError, BatchmillError."""
        try:
            raw = pack_value(self._rows.row(line - 1))
        except (ValueError, TypeError, IndexError, StopIteration) as error:
            raise InputBroken(str(error), "write it again") from None
        is_it = content in (crc32(raw), checksum(b"%0*d" % (WIDTH - 1, line - 1), self._header))
        return raw if is_it else None

    def close(self) -> None:
        """Nothing is open for long."""
