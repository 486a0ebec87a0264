"""Outcomes as a Parquet file: the types of columns, rows as batches (made by workers), the file that they go into.

pyarrow is imported where a batch is made or written, never before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from batchmill.codec.unpack import unpack_all
from batchmill.files.atomic_file import Draft
from batchmill.output.columns import Asked, Column, TableStyle
from batchmill.output.kinds import Kind
from batchmill.output.target import Target

_ROWS = 100_000  # of a row group, about
_BYTES = 64 << 20  # or so many bytes of them, whichever comes first
_SIMPLE: Mapping[str, str] = {
    "null": "null", "bool": "bool_", "float": "float64", "text": "string", "json": "string", "bytes": "binary",
    "date": "date32",
}  # fmt: skip


def type_of(kind: Kind) -> Any:
    """The type of a column of that kind."""
    import pyarrow as pa

    name = kind[0]
    if name == "arrow":
        return pa.ipc.read_schema(pa.py_buffer(kind[1])).field(0).type
    if name in _SIMPLE:
        return getattr(pa, _SIMPLE[name])()
    if name == "int":
        return pa.uint64() if kind[2] >= 1 << 63 else pa.int64()
    if name == "decimal":
        digits = kind[1] + kind[2]
        return (pa.decimal128 if digits <= 38 else pa.decimal256)(digits, kind[2])
    if name in ("list", "map"):
        parts = [] if name == "list" else [pa.field(part, type_of(of)) for part, of in kind[1].items()]
        return pa.list_(type_of(kind[1])) if name == "list" else pa.struct(parts)
    made = {"moment": pa.timestamp("us"), "time": pa.time64("us"), "span": pa.duration("us")}
    return pa.timestamp("us", kind[1]) if name == "zoned" else made[name]


def fits(cells: list[Any], kind: Kind) -> bool:
    """Whether a column of that kind can have those values."""
    import pyarrow as pa

    try:
        pa.array(cells, type_of(kind))
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return False
    return True


def schema_of(columns: tuple[Column, ...]) -> Any:
    """The schema of a table with those columns."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, type_of(column.kind)) for column in columns])


def batch_of(data: bytes, table: TableStyle) -> bytes:
    """Rows as msgpack arrays, one after another, as a batch of Arrow; nothing where there are none."""
    if not data:
        return b""
    import pyarrow as pa

    schema = schema_of(table.columns)
    arrays = [pa.array(cells, of.type) for cells, of in zip(zip(*unpack_all(data)), schema)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    made: bytes = sink.getvalue().to_pybytes()
    return made


class ParquetFile(Target):
    """Batches on their way to a file that has no name yet. Raises OSError as files do."""

    def __init__(self, name: str, draft: Draft) -> None:
        super().__init__(name, draft)
        self._file = open(draft.fd, "wb", closefd=False)  # noqa: SIM115 - as long as the draft is
        self._writer: Any = None
        self._held: list[Any] = []

    def begin(self, asked: Asked, table: TableStyle) -> None:
        """Write what comes before all rows."""
        with _as_os_error():
            import pyarrow.parquet as pq

            self._writer = pq.ParquetWriter(self._file, schema_of(table.columns))

    def write(self, data: bytes) -> None:
        """Add rows: a batch of Arrow; raises OSError."""
        if not data:
            return
        with _as_os_error():
            import pyarrow as pa

            self._held.append(pa.ipc.open_stream(data).read_all())
            if sum(map(len, self._held)) >= _ROWS or sum(part.nbytes for part in self._held) >= _BYTES:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        rows = pa.concat_tables(self._held)
        self._held = []
        self._writer.write_table(rows, row_group_size=max(1, len(rows)))

    def _end(self, is_kept: bool) -> None:
        if not is_kept or self._writer is None:
            with suppress(Exception):
                self._writer.close()
            return
        with _as_os_error():
            if self._held:
                self._flush()
            self._writer.close()
            self._file.flush()


@contextmanager
def _as_os_error() -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise error if isinstance(error, OSError) else OSError(5, str(error)) from None
