"""Rows: what is written as CSV is read back, and no spreadsheet runs it; a database keeps values and is whole."""

from __future__ import annotations

import csv
import datetime as dt
import io
import os
import re
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import Head, pack_outcomes
from batchmill.codec.pack import pack_result
from batchmill.errors import InvalidUsage, OutputLost
from batchmill.output import rows
from batchmill.output.columns import Asked, table_of
from batchmill.output.rows import opening
from batchmill.output.sinks import check_format, open_target

TEXT = st.text(st.sampled_from("a=+-@1.e\t\r\n\"',\x1b\ud800\u202eé"), max_size=8)
VALUE = TEXT | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(TEXT, max_size=2)


def block_of(ids: list[Any], results: list[Any], failures: list[Any] | None = None) -> OutcomeBlock:
    count, failed = len(ids), len(failures or [])
    head = Head(records=count, items=count, ok=count - failed, failed=failed)
    numbers = [0.5] * count
    return OutcomeBlock(pack_outcomes(head, ids, list(map(pack_result, results)), failures or (), numbers, [0] * count))


def as_csv(block: OutcomeBlock, all: bool = False) -> list[list[str]]:
    data, _ = rows.render(block, None, format="csv", all=all, with_item=False, source="jsonl")
    table = list(
        csv.reader(io.StringIO((opening(Asked("csv", all), table_of(Asked("csv", all))) + data).decode(), newline=""))
    )
    assert table[0] == ["id", "result", *(["error_type", "error_message"] if all else [])]
    return table[1:]


def as_rows(block: OutcomeBlock, all: bool = True) -> list[list[Any]]:
    data, _ = rows.render(block, None, format="sqlite", all=all, with_item=False, source="jsonl")
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return list(unpacker)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXT, VALUE), max_size=5))
def test_every_row_of_csv_has_its_cells_and_none_begins_a_formula(pairs: list[tuple[str, Any]]) -> None:
    table = as_csv(block_of([id for id, _ in pairs], [value for _, value in pairs]))
    assert [len(row) for row in table] == [2] * len(pairs)
    for cell in (cell for row in table for cell in row):
        assert re.match(r"[=+\-@\t\r\n]", cell) is None or float(cell) is not None
    for row, (id, _) in zip(table, pairs):
        assert not re.search("[\x00-\x1f\u202e\ud800]", row[0])
        if id.isalnum():
            assert row[0] == id


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT.filter(lambda text: "\ud800" not in text and not re.match(r"[=+\-@\t\r\n]", text)), max_size=5))
def test_harmless_results_are_the_same_text_in_csv(texts: list[str]) -> None:
    assert [row[1] for row in as_csv(block_of(list(range(len(texts))), texts))] == texts


@pytest.mark.parametrize(
    ("value", "cell", "column"),
    [
        ("text", "text", "text"),
        ("=1+1", "'=1+1", "=1+1"),
        ("-1.5e3", "-1.5e3", "-1.5e3"),
        ("-1+1", "'-1+1", "-1+1"),
        ("\uff1dA1", "'\uff1dA1", "\uff1dA1"),
        (-7, "-7", -7),
        (2**63, str(2**63), str(2**63)),
        (0.1, "0.1", 0.1),
        (True, "true", 1),
        (None, "", None),
        (float("nan"), "", None),
        ({"b": [1, None]}, '{"b": [1, null]}', '{"b": [1, null]}'),
        ((1, "é"), '[1, "é"]', '[1, "é"]'),
        (b"\xff", "/w==", b"\xff"),
        (dt.date(2020, 1, 2), "2020-01-02", "2020-01-02"),
        (Decimal("-1.50"), "-1.50", "-1.50"),
        ("\ud800", "\\ud800", "\\ud800"),
    ],
)
def test_a_value_has_its_cell(value: object, cell: str, column: object) -> None:
    block = block_of([1], [value])
    assert as_csv(block) == [["1", cell]]
    assert as_rows(block) == [[1, 1, column, None, 0.5, 1]]


def test_numbers_that_are_not_finite_are_counted() -> None:
    block = block_of([1, 2], [float("inf"), [float("nan"), 1]])
    for format in ("csv", "tsv", "sqlite"):
        assert rows.render(block, None, format=format, all=False, with_item=False, source="jsonl")[1].numbers == 2


def test_failed_items_come_with_all_and_their_errors_are_escaped() -> None:
    failures = [(1, "ValueError", "=x\x1b[2J\n", "", b'{"id": 2}')]
    block = block_of(["a", "b"], [1, None], failures)
    assert as_csv(block) == [["a", "1"]]
    assert as_csv(block, all=True) == [["a", "1", "", ""], ["b", "", "ValueError", "'=x\\x1b[2J\\x0a"]]
    assert as_rows(block, all=False) == [["a", 1, 1, None, 0.5, 1]]
    assert as_rows(block)[1] == ["b", 0, None, "ValueError: =x\x1b[2J\n", 0.5, 1]


@pytest.mark.parametrize(
    ("source", "kept", "item"),
    [
        ("jsonl", b'{"a": 1}', '{"a": 1}'),
        ("csv", b'n,t\n1,"x\ny"', '{"n": "1", "t": "x\\ny"}'),
        ("csv", b"n,t\n1", "1"),
        ("lines", b"12", "12"),
        ("items", pack_result((1, 2)), "[1, 2]"),
    ],
)
def test_an_item_stands_beside_its_result_as_its_function_saw_it(source: str, kept: bytes, item: str) -> None:
    head = Head(records=1, items=1, ok=1)
    block = OutcomeBlock(pack_outcomes(head, [1], [pack_result(None)], (), [0.0], [0], items=[kept]))
    data, _ = rows.render(block, None, format="csv", all=False, with_item=True, source=source)
    assert next(csv.reader([data.decode()]))[2] == item


# --- the database ----------------------------------------------------------------------------------------------------

COLUMNS = Asked("sqlite", all=True)


def row(id: Any, result: Any) -> bytes:
    packed: bytes = msgpack.packb([id, 1, result, None, 0.5, 1])
    return packed


def test_a_database_is_there_only_when_it_is_whole_and_keeps_the_order(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    target = open_target(str(path), "sqlite")
    target.begin(COLUMNS, table_of(COLUMNS))
    for n in range(0, 100, 2):
        target.write(row(n, "x" * n) + row(n + 1, None))
    assert not path.exists()
    assert target.close("whole") == str(path)
    assert os.listdir(tmp_path) == ["out.db"]
    with sqlite3.connect(path) as database:
        assert list(database.execute("SELECT id, result FROM items ORDER BY rowid")) == [
            (n, None if n % 2 else "x" * n) for n in range(100)
        ]


@pytest.mark.parametrize(("keep", "left"), [("nothing", []), ("partial", ["out.db.partial"])])
def test_a_database_that_is_not_whole_has_not_its_name(tmp_path: Path, keep: str, left: list[str]) -> None:
    target = open_target(str(tmp_path / "out.db"), "sqlite")
    target.begin(COLUMNS, table_of(COLUMNS))
    target.write(row(1, 2))
    target.close(keep)
    assert os.listdir(tmp_path) == left


def test_a_database_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE old (n)")
        with pytest.raises(OutputLost, match="in use"):
            open_target(str(path), "sqlite")
    database.close()
    assert os.listdir(tmp_path) == ["out.db"]


def test_a_database_goes_to_a_file_and_nowhere_else() -> None:
    with pytest.raises(InvalidUsage, match="give output=FILE"):
        check_format("-", "sqlite")
    with pytest.raises(OutputLost, match="needs a regular file"):
        open_target("/dev/null", "sqlite")
