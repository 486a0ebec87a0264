"""Tables of pandas and pyarrow as items: rows as maps, known by the index where no column is the id."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import work_kit

import batchmill
from batchmill.errors import InvalidUsage
from batchmill.input.frames import rows_of

FRAME = pd.DataFrame({"a": [1, 2, 3], "when": pd.to_datetime(["2020-01-01"] * 3)}, index=["p", "q", "r"])


def test_a_frame_that_has_no_rows_yet_is_refused() -> None:
    polars = pytest.importorskip("polars")
    with pytest.raises(InvalidUsage, match=r"LazyFrame.*items\.collect\(\)"):
        rows_of(polars.LazyFrame({"n": [1]}))


def test_no_nanosecond_is_lost() -> None:
    polars = pytest.importorskip("polars")
    for first, kind in ((1001, pd.Timestamp), (2000, dt.datetime)):
        frame = polars.DataFrame({"t": polars.Series([first, None], dtype=polars.Datetime("ns")), "n": [1, 2]})
        (_, one), (_, other) = rows(frame)
        assert (one, type(one["t"]), other) == ({"t": pd.Timestamp(first), "n": 1}, kind, {"t": None, "n": 2})


def rows(table: Any) -> list[Any]:
    found = rows_of(table)
    assert found is not None
    assert len(found) == len(list(found))
    return [(found.label(row), row) for row in found]


def test_a_table_is_its_rows() -> None:
    when = pd.Timestamp("2020-01-01")
    assert rows(FRAME) == [(label, {"a": n, "when": when}) for n, label in enumerate("pqr", 1)]
    assert type(rows(FRAME)[0][1]["a"]) is int
    table = pa.table({"a": [1, 2], "b": [None, "x"]})
    assert rows(table) == rows(table.to_batches()[0]) == [(None, {"a": 1, "b": None}), (None, {"a": 2, "b": "x"})]
    assert rows_of([1, 2]) is None
    assert rows_of(pd.Series([1, 2])) is None


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidUsage, match="more than one column 'a'; give each column a name of its own"):
        batchmill.map(work_kit.identity, pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_row_is_known_by_its_label_unless_a_column_is_the_id(tmp_path: Path) -> None:
    def run(table: Any, **more: Any) -> list[Any]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ckpt"
        for part in (table[:2], table):
            report = batchmill.run(work_kit.name_of, part, checkpoint=path, resume=True, workers=1, **more)
        assert (report.skipped, report.completed) == (2, 1)
        with batchmill.open_checkpoint(path) as results:
            return [outcome.id for outcome in results.outcomes()]

    assert run(FRAME) == ["p", "q", "r"]
    assert run(FRAME, id="a") == [1, 2, 3]
    assert run(FRAME.rename(columns={"a": "id"})) == [1, 2, 3]
