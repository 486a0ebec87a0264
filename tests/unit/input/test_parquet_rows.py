"""Rows of Parquet by their numbers: the records of a file, and rows asked for in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.input.formats import FORMATS, find_format
from batchmill.input.parquet_rows import RowFeed, RowReader, row_numbers
from batchmill.input.row_tables import frame_of, table_of

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3500))
def test_the_numbers_of_rows_are_records_of_one_width(step: int, count: int) -> None:
    data = row_numbers(1000 * step, 1000 * step + count)
    assert [int(record) for record in FORMATS["parquet"].split(data)] == list(range(1000 * step, 1000 * step + count))
    assert FORMATS["parquet"].count(data) == count


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "t.parquet"
    pq.write_table(pa.table({"n": range(5000), "": ["x"] * 5000}), path, row_group_size=700)
    return path


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4999), st.integers(1, 1500)), min_size=1, max_size=4), st.data())
def test_rows_are_those_that_were_asked_for_whatever_came_before(
    path: Path, runs: list[tuple[int, int]], choose: st.DataObject
) -> None:
    reader = RowReader(RowFeed(str(path), ()).header)
    for first, count in runs:
        numbers = list(range(first, min(5000, first + count)))
        if choose.draw(st.booleans()):
            numbers = numbers[:: choose.draw(st.integers(1, 400))]
        reader.expect([b"%012d" % number for number in numbers])
        for number in [*numbers, numbers[0]]:
            row = reader.row(number)
            assert row == {"n": number, "column_2": "x"}
            row.clear()  # it is the function's own


def test_rows_are_parts_of_a_table_in_the_types_of_their_file_whichever_are_asked_for(tmp_path: Path) -> None:
    numbers = pa.array([None, *range(1, 40)], pa.int16())
    table = pa.table({
        "n": pa.array(range(40), pa.int32()),
        "gap": numbers,
        "t": pa.array(range(40), pa.timestamp("ns")),
        "c": pa.array(["a", "b"] * 20).dictionary_encode(),
        "": pa.nulls(40, pa.string()),
        "s": [{"n": None}] * 40,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=16)
    whole = table.rename_columns(["n", "gap", "t", "c", "column_5", "s"])
    for columns, asked in (((), range(3, 37)), ((), [1, 2, 20, 39]), (("gap", "n"), range(14, 18))):
        reader = RowReader(RowFeed(str(tmp_path / "t.parquet"), columns).header)
        reader.expect([b"%012d" % number for number in asked])
        rows = []
        for number in asked:
            assert reader.row(number)["n"] == number
            rows.append(reader.table_row(number))
        expected = whole.take(list(asked)).select(columns or whole.schema.names)
        assert table_of(rows).equals(expected)
        assert table_of(rows).schema.equals(expected.schema)
        assert frame_of(rows)["gap"].dtype == "float64"
        assert frame_of(rows)["n"].dtype == "int32"


def test_a_feed_gives_all_rows_and_a_file_that_was_written_again_is_another(path: Path) -> None:
    feed = RowFeed(str(path), ("n",))
    assert feed.read() + feed.read() == row_numbers(0, 5000)
    assert list(feed.remarks) == []
    assert list(RowFeed(str(path), ()).remarks) == ["columns without a name of their own are called column_2"]
    reader, other = RowReader(feed.header), path.with_name("u.parquet")
    reader.expect([b"1"])
    assert reader.row(1) == {"n": 1}
    pq.write_table(pa.table({"n": [1, 2]}), other)
    stale = RowReader(RowFeed(str(other), ()).header)
    pq.write_table(pa.table({"n": [1, 2, 3]}), other)
    with pytest.raises(ValueError, match="was changed while the batch ran"):
        stale.row(0)
    assert find_format("parquet --columns n") is not None
    assert find_format("parquet --quote none") is None
