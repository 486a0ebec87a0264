"""Tables of pandas, polars and pyarrow as items: their rows, each a map of the columns' names to its cells.

None of these is imported: where there is a table, its library is there.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from batchmill.errors import InvalidUsage
from batchmill.input.parquet_rows import as_maps


class Rows:
    """The rows of a table. `label` is the index's label of the row that was given last, None where it has no index."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._rows = _reader(table)
        self._label: Any = None
        names = list(getattr(table, "column_names", table.columns))
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InvalidUsage(f"items has more than one column {twice[0]!r}", "give each column a name of its own")
        self.has_labels = hasattr(table, "index") and "id" not in names

    def __len__(self) -> int:
        return len(self._table) if hasattr(self._table, "__len__") else int(self._table.num_rows)

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        for label, row in self._rows(self._table):
            self._label = label
            yield row

    def label(self, row: Any) -> Any:
        """The label of the row that was given last, which is `row`."""
        return self._label


def rows_of(items: Any) -> Rows | None:
    """The rows of a DataFrame or Table; None for all other items. Raises InvalidUsage for columns of one name, and for
    what has no rows yet."""
    if isinstance(items, getattr(sys.modules.get("polars"), "LazyFrame", ())):
        raise InvalidUsage("items is a LazyFrame, which has no rows yet", "give items.collect()")
    return Rows(items) if _reader(items) is not None else None


def _reader(items: Any) -> Any:
    for module, names, read in _READERS:
        loaded = sys.modules.get(module)
        if any(isinstance(items, getattr(loaded, name, ())) for name in names):
            return read
    return None


def _of_pandas(table: Any) -> Iterator[tuple[Any, dict[Any, Any]]]:
    columns = list(table.columns)
    for label, row in zip(table.index, table.itertuples(index=False, name=None)):
        yield label, dict(zip(columns, row))


def _of_polars(table: Any) -> Iterator[tuple[Any, dict[Any, Any]]]:
    if not any(getattr(kind, "time_unit", None) == "ns" for kind in table.dtypes):
        return ((None, row) for row in table.iter_rows(named=True))
    try:
        found = table.to_arrow()  # polars would cut nanoseconds off
    except ImportError:
        what = "items has nanoseconds, which are read by pyarrow, and that is not installed"
        raise InvalidUsage(what, "pip install pyarrow") from None
    return ((None, row) for batch in found.to_batches(_BATCH) for row in as_maps(batch))


def _of_arrow(table: Any) -> Iterator[tuple[Any, dict[Any, Any]]]:
    for batch in table.to_batches(_BATCH) if hasattr(table, "to_batches") else [table]:
        yield from ((None, row) for row in batch.to_pylist())


_BATCH = 1000  # rows that are made objects of at once
_READERS: Sequence[tuple[str, Sequence[str], Any]] = (
    ("pandas", ("DataFrame",), _of_pandas),
    ("polars", ("DataFrame",), _of_polars),
    ("pyarrow", ("Table", "RecordBatch"), _of_arrow),
)
