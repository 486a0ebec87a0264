"""Parquet out: the types that columns have, and each value as others read it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from columns_kit import payload_of, shaped

import batchmill
from batchmill.checkpoint.index import Piece
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.output.columns import Asked, table_of
from batchmill.output.external_sort import fulfil
from batchmill.output.ordering import Part, RenderJob
from batchmill.output.sinks import open_target

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

ASKED = Asked("parquet")
ZONE = dt.timezone(dt.timedelta(hours=2))


def written(path: Path, *results: Any) -> Any:
    """The table of a file with those results, read back."""
    payload = payload_of(*results)
    table = table_of(ASKED, shaped(payload, ASKED))
    target = open_target(str(path), "parquet")
    target.begin(ASKED, table)
    parts = (Part(0, payload, (Piece(0, 0, len(OutcomeBlock(payload)), 0, 0),)),)
    data, _ = fulfil(RenderJob(0, len(results), parts, "parquet", False, False, table=table))
    target.write(data)
    assert not path.exists()
    assert target.close("whole") == str(path)
    return pq.read_table(path)


VALUES: list[tuple[Any, Any, str]] = [
    (1, 1, "int64"), (1 << 63, 1 << 63, "uint64"), (1.5, 1.5, "double"), (True, True, "bool"), ("é", "é", "string"),
    (b"\xff", b"\xff", "binary"), (Decimal("1.50"), Decimal("1.50"), "decimal128(3, 2)"),
    (Decimal("1e40"), Decimal("1e40"), "decimal256(41, 0)"),
    (dt.date(2020, 2, 29), dt.date(2020, 2, 29), "date32[day]"),
    (dt.datetime(2020, 1, 2, 3, 4, 5, 6), dt.datetime(2020, 1, 2, 3, 4, 5, 6), "timestamp[us]"),
    (dt.datetime(2020, 1, 2, tzinfo=ZONE), dt.datetime(2020, 1, 2, tzinfo=ZONE), "timestamp[us, tz=+02:00]"),
    (dt.time(1, 2, 3, 4), dt.time(1, 2, 3, 4), "time64[us]"),
    (dt.timedelta(1, 2, 3), dt.timedelta(1, 2, 3), "duration[us]"),
    ([1, None, 2.5], [1.0, None, 2.5], "list<element: double>"), ((1, 2), [1, 2], "list<element: int64>"),
    ({"a": [{"b": "x"}]}, {"a": [{"b": "x"}]}, "struct<a: list<element: struct<b: string>>>"),
    ([], [], "list<element: null>"), (None, None, "null"), ({}, "{}", "string"), ({1: 2}, '{"1": 2}', "string"),
    (1 << 70, str(1 << 70), "string"), ([1, "a"], ['1', '"a"'], "list<element: string>"), ({2, 1}, "[1, 2]", "string"),
    ("\ud800", "\\ud800", "string"),
]  # fmt: skip


def test_each_value_is_read_back_as_it_was(tmp_path: Path) -> None:
    fields = {f"f{n}": value for n, (value, _, _) in enumerate(VALUES)}
    table = written(tmp_path / "out.parquet", fields, {"f0": None, "late": 1})
    assert [str(table.schema.field(f"f{n}").type) for n in range(len(VALUES))] == [kind for *_, kind in VALUES]
    first, second = table.to_pylist()
    assert [first[f"f{n}"] for n in range(len(VALUES))] == [value for _, value, _ in VALUES]
    assert (first["id"], first["late"], second["id"], second["late"], second["f0"]) == (0, None, 1, 1, None)


def test_what_is_of_no_one_kind_is_json_and_other_programs_read_it(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    table = written(path, *({"n": n, "mixed": n if n % 2 else str(n)} for n in range(2000)))
    assert table.column("mixed").slice(0, 2).to_pylist() == ['"0"', "1"]
    found = [pytest.importorskip("pandas").read_parquet(path)["n"].sum()]
    found.append(pytest.importorskip("polars").read_parquet(path)["n"].sum())
    found += pytest.importorskip("duckdb").sql(f"select sum(n) from '{path}'").fetchall()[0]
    assert found == [1999000] * 3


def test_a_file_without_rows_is_whole_and_one_that_is_not_has_no_name(tmp_path: Path) -> None:
    assert written(tmp_path / "none.parquet").schema.names == ["id", "result"]
    target = open_target(str(tmp_path / "out.parquet"), "parquet")
    target.begin(ASKED, table_of(ASKED))
    target.close("nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["none.parquet"]


def test_a_checkpoint_is_a_table_or_a_frame(tmp_path: Path) -> None:
    def halved(n: int) -> dict[str, Any]:
        if n == 3:
            raise ValueError("no")
        return {"n": n, "half": n / 2}

    checkpoint = str(tmp_path / "c.ckpt")
    batchmill.run(halved, range(5), checkpoint=checkpoint, name="halved", workers=1)
    with batchmill.open_checkpoint(checkpoint) as results:
        assert results.to_arrow().to_pydict() == {"id": [0, 1, 2, 4], "n": [0, 1, 2, 4], "half": [0.0, 0.5, 1.0, 2.0]}
        assert results.to_arrow(all=True).column("error_type").to_pylist() == [None, None, None, "ValueError", None]
        frame = results.to_pandas() if find_spec("pandas") else None
        assert frame is None or list(frame["half"]) == [0.0, 0.5, 1.0, 2.0]
