"""Tables out: which columns results have together, what stands in them, which kinds of values are of one kind."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from columns_kit import FAILED, payload_of, shaped
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.errors import InvalidUsage
from batchmill.output.columns import Asked, check_asked, table_of, unknown
from batchmill.output.kinds import JSON, NULL, TEXT, in_kind, kind_of, merged, of_column, together
from batchmill.output.parquet import batch_of
from batchmill.output.rows import opening, render
from batchmill.output.shape import MOST_FIELDS, Shape

pa = pytest.importorskip("pyarrow")
CSV = Asked("csv")


def table(*results: Any, asked: Asked = CSV) -> list[list[str]]:
    payload = payload_of(*results)
    columns = table_of(asked, shaped(payload, asked))
    data, _ = render(OutcomeBlock(payload), None, format=asked.format, all=asked.all, with_item=False, source="jsonl",
                     table=columns)  # fmt: skip
    text = io.StringIO((opening(asked, columns) + data).decode(), newline="")
    return list(csv.reader(text, delimiter="\t" if asked.format == "tsv" else ","))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([{"a": 1, "b": None}, {"c": [1], "a": "x"}],
         [["id", "a", "b", "c"], ["0", "1", "", ""], ["1", "x", "", "[1]"]]),
        ([{"a": 1}, 7, None], [["id", "a", "result"], ["0", "1", ""], ["1", "", "7"], ["2", "", ""]]),
        ([{"a": 1}, {1: 2}], [["id", "a", "result"], ["0", "1", ""], ["1", "", '{"1": 2}']]),
        ([{"id": 0, "a": 1}, {"id": 1, "a": 2}], [["id", "a"], ["0", "1"], ["1", "2"]]),
        ([{"id": 9, "a": 1}], [["id", "result_id", "a"], ["0", "9", "1"]]),
        ([{"a": 1}, FAILED], [["id", "a"], ["0", "1"]]),
        ([{}, {}], [["id", "result"], ["0", "{}"], ["1", "{}"]]),
        ([], [["id", "result"]]),
        ([{"result": 1}], [["id", "result"], ["0", "1"]]),
        ([{"result": 1}, 2], [["id", "result_result", "result"], ["0", "1", ""], ["1", "", "2"]]),
        ([{str(n): n for n in range(MOST_FIELDS + 1)}], None),
    ],
)  # fmt: skip
def test_fields_of_results_are_columns(results: list[Any], expected: list[list[str]] | None) -> None:
    found = table(*results)
    assert found[0] == ["id", "result"] if expected is None else found == expected


@pytest.mark.parametrize(
    "results",
    [
        [{}, {}],
        [{}, "text"],
        [None, {}],
        [{"a": 1}, {}],
        [{str(n): n for n in range(600)}, {str(-n): n for n in range(600)}],
    ],
)
def test_every_result_has_a_place_in_a_typed_table(results: list[Any]) -> None:
    asked = Asked("parquet")
    payloads = [payload_of(result) for result in results]
    shape = sum((shaped(payload, asked, first) for first, payload in enumerate(payloads)), Shape())
    columns = table_of(asked, shape)
    rows: list[Any] = []
    for payload in payloads:
        data, _ = render(OutcomeBlock(payload), None, format="parquet", all=False, with_item=False, source="jsonl",
                         table=columns)  # fmt: skip
        rows += pa.ipc.open_stream(batch_of(data, columns)).read_all().to_pylist()
    names = [column.name for column in columns.columns[1:]]
    if names == ["result"]:
        found = [row["result"] and json.loads(row["result"]) for row in rows]
        assert found == results
    else:
        assert [row["a"] for row in rows] == [result.get("a") for result in results]


def test_columns_are_chosen_failures_shown_and_formulas_left() -> None:
    rows = [{"b": "=1", "a": "x\ty"}, FAILED]
    assert table(*rows, asked=Asked("tsv", chosen=("a", "id"))) == [["a", "id"], ["x\ty", "0"]]
    assert table(*rows, asked=Asked("csv", guard=False, chosen=("b",))) == [["b"], ["=1"]]
    assert table(*rows, asked=Asked("csv", chosen=("result", "zz"))) == [
        ["result", "zz"],
        ['{"b": "=1", "a": "x\\ty"}', ""],
    ]
    whole = table(*rows, asked=Asked("csv", all=True, mark=True))
    assert whole == [
        ["\ufeffid", "b", "a", "error_type", "error_message"],
        ["0", "'=1", "x\ty", "", ""],
        ["1", "", "", "E", "bad"],
    ]
    asked = Asked("csv", chosen=("a", "zz", "result", "id"))
    assert unknown(asked, shaped(payload_of(*rows), asked)) == ["zz"]


def test_names_of_a_database_differ_by_more_than_capitals() -> None:
    asked = Asked("sqlite")
    names = [column.name for column in table_of(asked, shaped(payload_of({"A": 1, "a": 2, "OK": 3}), asked)).columns]
    assert names == ["id", "ok", "A", "a_2", "result_OK", "error", "seconds", "attempts"]


@pytest.mark.parametrize(
    "asked", [Asked("jsonl", chosen=("a",)), Asked("sqlite", mark=True), Asked("raw", guard=False)]
)
def test_what_only_tables_have_is_refused_elsewhere(asked: Asked) -> None:
    with pytest.raises(InvalidUsage, match="is for "):
        check_asked(asked)


def test_shapes_are_the_same_in_any_order_and_go_through_bytes() -> None:
    asked = Asked("parquet")
    parts = [
        shaped(payload_of(*rows), asked, first) for first, rows in ((0, [{"b": 1}, 5]), (2, [{"a": 2.5, "b": None}]))
    ]
    one, other = parts[0] + parts[1], Shape() + parts[1] + parts[0]
    assert one == other == Shape.unpack(one.pack())
    assert one.names() == ["b", "a"]
    assert dict(one.kinds) == {"a": ["float"], "b": ["int", 1, 1]}


ZONE = dt.timezone(dt.timedelta(hours=-3, minutes=-30))
VALUES: list[Any] = [
    *(None, True, 1, -5, 1 << 60, 1 << 63, 1 << 70, 1.5, "a", b"a", Decimal("1.50"), Decimal("NaN"), Decimal("1E+3")),
    *(dt.date(2020, 1, 2), dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 2, tzinfo=ZONE), dt.time(1), dt.timedelta(1)),
    *(dt.datetime(2020, 1, 2, tzinfo=dt.UTC), [], [1, None], [[1.5]], (1, "x"), {}, {"a": 1}, {"b": [{}], "a": 2}),
    *({"b": 1}, {1: 2}, {1, 2}),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(VALUES), max_size=5), st.randoms())
def test_a_column_has_one_kind_whatever_the_order_and_each_value_fits_it(values: list[Any], random: Any) -> None:
    kind = merged(map(kind_of, values))
    shuffled = [*values]
    random.shuffle(shuffled)
    assert kind == of_column(values)
    assert repr(kind) == repr(of_column(shuffled))
    parts = together(of_column(values[:2]), of_column(values[2:]))
    assert repr(parts) == repr(kind)
    for value in values:
        made = in_kind(value, kind)
        assert value is None or kind != JSON or isinstance(made, str)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([None, None], NULL), ([1, None, 1.5], ["float"]), ([1 << 60, 1.5], JSON), ([1, True], JSON), ([1, "1"], JSON),
        ([-1, 1 << 63], JSON), ([1, 1 << 63], ["int", 1, 1 << 63]),
        ([Decimal("1.50"), Decimal("20")], ["decimal", 2, 2]),
        ([dt.datetime(2020, 1, 2, tzinfo=ZONE)], ["zoned", "-03:30"]),
        ([dt.datetime(2020, 1, 2, tzinfo=ZONE), dt.datetime(2020, 1, 2, tzinfo=dt.UTC)], ["zoned", "UTC"]),
        ([dt.datetime(2020, 1, 2, tzinfo=ZONE), dt.datetime(2020, 1, 2)], JSON),
        ([{"a": 1}, {"b": [2]}], ["map", {"a": ["int", 1, 1], "b": ["list", ["int", 2, 2]]}]), (["\ud800"], TEXT),
    ],
)  # fmt: skip
def test_kinds(values: list[Any], kind: Any) -> None:
    assert of_column(values) == kind
