"""Rows of Parquet as a table: slices of what was read, in the types of their file.

A table that is made of maps has the types that can be guessed from those rows: a column that is empty in all of them
has none, 32 bits become 64, nanoseconds microseconds. A column of integers is one of floats in a DataFrame where any
row of the file has none there, as if the file had been read whole, so that it does not depend on the rows of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from batchmill.input.tables import named


class TableRow(NamedTuple):
    """A row of a file: the `at`th of a RecordBatch; `floats` are the columns of integers that are floats in a
    DataFrame."""

    batch: Any
    at: int
    floats: frozenset[str]


def columns_with_gaps(file: Any) -> frozenset[str]:
    """The columns of integers in which a ParquetFile may have no value in some row."""
    import pyarrow as pa

    metadata = file.metadata
    integers = {field.name for field in file.schema_arrow if pa.types.is_integer(field.type)}
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    leaves = ((metadata.schema.column(place).path, place) for place in range(metadata.num_columns))
    return frozenset(
        name for name, place in leaves if name in integers and any(_has_gaps(group.column(place)) for group in groups)
    )


def _has_gaps(column: Any) -> bool:
    about = column.statistics
    return about is None or not about.has_null_count or about.null_count > 0


def table_of(rows: Sequence[TableRow]) -> Any:
    """The rows as a pyarrow Table."""
    import pyarrow as pa

    slices = []
    begin = 0
    for number, row in enumerate(rows, 1):
        following = rows[number] if number < len(rows) else None
        if following is None or following.batch is not row.batch or following.at != row.at + 1:
            slices.append(row.batch.slice(rows[begin].at, number - begin))
            begin = number
    return pa.Table.from_batches(slices).rename_columns(named(slices[0].schema.names))


def frame_of(rows: Sequence[TableRow]) -> Any:
    """The rows as a pandas DataFrame."""
    table = table_of(rows)
    for place, name in enumerate(rows[0].batch.schema.names):
        if name in rows[0].floats:
            table = table.set_column(place, table.field(place).name, table.column(place).cast("float64", safe=False))
    return table.to_pandas()
