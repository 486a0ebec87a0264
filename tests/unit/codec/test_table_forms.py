"""Values of pandas and pyarrow come back as they were or are refused; of other origin, a few bytes stay a few."""

from __future__ import annotations

import datetime as dt
import json
import sys
import zoneinfo
from typing import Any

import msgpack
import pytest

from batchmill.codec.codes import Ext
from batchmill.codec.json_form import encode
from batchmill.codec.pack import pack_result
from batchmill.codec.unpack import unpack_value
from batchmill.errors import CheckpointDamaged, CheckpointMismatch, ResultNotKept

pd: Any = pytest.importorskip("pandas")
pa: Any = pytest.importorskip("pyarrow")

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def moments() -> list[Any]:
    fixed = dt.timezone(dt.timedelta(hours=2))
    autumn = [pd.Timestamp(f"2024-10-27 0{hour}:30", tz="UTC").tz_convert("Europe/Berlin") for hour in (0, 1)]
    return [
        pd.Timestamp("2024-01-01 02:00:00.123456789"),
        pd.Timestamp(dt.datetime(2024, 7, 1, tzinfo=BERLIN)),
        *autumn,  # the same clock time twice
        pd.Timestamp(dt.datetime(2024, 1, 1, tzinfo=fixed)),
        pd.Timestamp(dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
        pd.Timedelta("-1D"),
        pd.Timedelta(5, unit="ns"),
        pd.NaT,
    ]


def tables() -> list[Any]:
    days = pd.date_range("2024", periods=2, freq="D")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, None], "d": pd.Categorical(["u", "v"])}, index=days)
    return [
        frame,
        frame.set_index(["a", "b"]),
        pd.DataFrame(),
        pd.DataFrame([[1, 2]]),
        pd.DataFrame({("a", "b"): pd.period_range("2024-01", periods=2, freq="M")}),
        pd.Series([1, 2], name=("q", 1), index=["a", "b"]),
        pd.Series(days),
        pd.Index([1, 2], name="k"),
        pd.Index([], dtype=object),
        pd.RangeIndex(3),
        pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["x", None]),
        pd.date_range("2024", periods=3, freq="h", tz="Europe/Berlin"),
        pd.interval_range(0, 3),
        pa.table({"a": [1, None], "b": [["x"], []], "s": [{"q": 1}, None], "n": pa.nulls(2)}),
    ]


@pytest.mark.parametrize("value", [*moments(), *tables()], ids=lambda value: type(value).__name__)
def test_a_value_of_pandas_comes_back_as_it_was(value: Any) -> None:
    packed = pack_result([value])
    (back,) = unpack_value(packed)
    assert (type(back), repr(back)) == (type(value), repr(value))
    assert getattr(back, "fold", 0) == getattr(value, "fold", 0)
    assert pack_result([back]) == packed


class Frame(pd.DataFrame):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (pd.DataFrame({"a": [1, "x"]}), r"this DataFrame cannot be kept .*; return its to_dict\('records'\)"),
        (pd.Series([object()]), r"this Series cannot be kept as it is \(.*\); return its tolist\(\)"),
        (Frame({"a": [1]}), r"a result of type 'Frame' cannot be kept; return its to_dict\(\)"),
        (pd.Timestamp(dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2), "X"))), "zone .* isoformat"),
    ],
)
def test_what_would_not_come_back_is_refused_with_what_to_return(value: Any, sentence: str) -> None:
    with pytest.raises(ResultNotKept, match=sentence):
        pack_result({"a": value})


def test_a_library_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_result(pd.DataFrame({"a": [1]}))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ResultNotKept, match="kept where pyarrow is installed: pip install pyarrow, or return its to_"):
        pack_result(pd.DataFrame({"a": [1]}))
    with pytest.raises(CheckpointMismatch, match="pip install pyarrow"):
        unpack_value(packed)


def test_tables_are_rows_in_json() -> None:
    rows = [{"a": 1, "t": "2024-01-01T00:00:00"}]
    frame = pd.DataFrame({"a": [1], "t": [pd.Timestamp("2024-01-01")]})
    said = encode([frame, frame["a"], frame.index, pa.table({"a": [1]}), pd.Timedelta("1s")])
    assert json.loads(said) == [rows, [1], [0], [{"a": 1}], 1.0]


def stream_of(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "stream",
    [
        stream_of(pa.table({"a": [0] * 9000}), compression="zstd"),
        stream_of(pa.table({"a": pa.array(["x"] * 99).dictionary_encode()}), compression="lz4"),
        stream_of(pa.table({"a": pa.nulls(1 << 30)})),
        stream_of(pa.table({"a": pa.RunEndEncodedArray.from_arrays([1 << 30], [1])})),
        *([stream_of(pa.table({"a": pa.array(["x"], pa.string_view())}))] if hasattr(pa, "string_view") else []),
        stream_of(pa.table({"a": [1]}))[:-40],
    ],
)
def test_a_table_of_other_origin_is_bounded(stream: bytes) -> None:
    payload = msgpack.packb(msgpack.ExtType(Ext.TABLE, msgpack.packb(["Table", stream, {}])))
    with pytest.raises(CheckpointDamaged):
        unpack_value(payload)


@pytest.mark.parametrize("zone", ["dateutil//etc/passwd", "../../etc/passwd", "", 1.5, 10**9])
def test_a_zone_of_other_origin_is_a_zone(zone: Any) -> None:
    payload = msgpack.packb(msgpack.ExtType(Ext.TIMESTAMP, msgpack.packb([0, "ns", zone])))
    with pytest.raises(CheckpointDamaged):
        unpack_value(payload)
