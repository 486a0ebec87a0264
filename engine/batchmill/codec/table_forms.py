"""Values of pandas and pyarrow as what msgpack carries, and back.

    Timestamp, Timedelta    a number, its unit, and of a Timestamp its zone
    DataFrame, Series, Index, pyarrow.Table    an Arrow IPC stream, and what that does not say

A value is kept only if it comes back as it was: that is tried when it is packed. What is read may be of any origin: a
table is refused whose types would let a few bytes become many (compressed, run-end encoded, views, without any bytes).
"""

from __future__ import annotations

import re
import struct
import sys
import warnings
from typing import Any

from batchmill.errors import CheckpointMismatch, ResultNotKept

Parts = list[Any]
_UNITS = ("s", "ms", "us", "ns")
_ZONE = re.compile(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*")
_ROWS = 1 << 16  # of a table that takes no bytes for them
_INSTEAD = {"DataFrame": "to_dict('records')", "Table": "to_pylist()", "Series": "tolist()"}


# --- moments ----------------------------------------------------------------------------------------------------------


def parts_of_moment(value: Any) -> Parts:
    """A pandas Timestamp, or Timedelta, as [number, unit] and its zone; raises ResultNotKept."""
    raw = value.asm8
    parts = [int(raw.view("i8")), raw.dtype.str[4:-1]]
    if getattr(value, "tzinfo", None) is not None:
        parts.append(_zone_of(value.tzinfo))
    back = moment_of(parts, type(value).__name__)
    if back != value or repr(back) != repr(value) or _fold(back) != _fold(value):
        raise ResultNotKept(f"the zone of the Timestamp {value} cannot be kept; return its isoformat()")
    return parts


def _fold(value: Any) -> int:
    return getattr(value, "fold", 0)


def _zone_of(zone: Any) -> str | int:
    """The name of a zone, or seconds from UTC."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    offset = None if name else zone.utcoffset(None)
    return name or ("UTC" if not offset else int(offset.total_seconds()) if offset else str(zone))


def moment_of(parts: Parts, kind: str) -> Any:
    """The Timestamp or Timedelta; raises ValueError for what is none."""
    number, unit, *zones = parts
    if type(number) is not int or unit not in _UNITS or len(zones) > 1:
        raise ValueError(f"a {kind} that is none")
    pd, np = _needed("pandas"), _needed("numpy")
    if kind == "Timedelta":
        return pd.Timedelta(np.timedelta64(number, unit))
    moment = pd.Timestamp(np.datetime64(number, unit))
    return moment if not zones else moment.tz_localize("UTC").tz_convert(_read_zone(zones[0]))


def _read_zone(zone: Any) -> Any:
    import datetime as dt

    if type(zone) is int:
        return dt.timezone(dt.timedelta(seconds=zone))
    if zone == "UTC":
        return dt.UTC
    if type(zone) is not str or not _ZONE.fullmatch(zone) or zone.startswith("dateutil/"):
        raise ValueError("a zone that is none")
    return zone


# --- tables -----------------------------------------------------------------------------------------------------------


def parts_of_table(value: Any) -> Parts:
    """A DataFrame, Series, Index or pyarrow Table as [kind, Arrow IPC stream, what that leaves out]; raises
    ResultNotKept for one that would not come back as it is."""
    kind = "Index" if _is_index(value) else type(value).__name__
    instead = _INSTEAD.get(kind, "tolist()")
    try:
        pa = _needed("pyarrow")
    except CheckpointMismatch:
        raise ResultNotKept(
            f"a {kind} is kept where pyarrow is installed: pip install pyarrow, or return its {instead}"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table, rest = _as_table(value, kind, pa)
            parts = [kind, _written(table, pa), rest]
            _refuse_others(value, table_of(parts), kind)
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise ResultNotKept(f"this {kind} cannot be kept as it is ({why}); return its {instead}") from None
    return parts


def _is_index(value: Any) -> bool:
    return isinstance(value, getattr(sys.modules.get("pandas"), "Index", ()))


def _as_table(value: Any, kind: str, pa: Any) -> tuple[Any, dict[str, Any]]:
    if kind == "Table":
        return value, {}
    frame, rest = value, {}
    if kind == "Index":
        frame, rest = _needed("pandas").DataFrame(index=value), {"names": list(value.names)}
    elif kind == "Series":
        frame, rest = value.to_frame(name="0"), {"name": value.name}
    freq = getattr(frame.index, "freq", None)
    if freq is not None and not _is_of_periods(frame.index):
        rest["freq"] = freq.freqstr
    return pa.Table.from_pandas(frame), rest


def _is_of_periods(index: Any) -> bool:
    return type(index).__name__ == "PeriodIndex"  # its frequency is its type's


def _written(table: Any, pa: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _refuse_others(value: Any, back: Any, kind: str) -> None:
    """Raise an exception where the value that was read back is another one."""
    if kind == "Table":
        if not back.equals(value, check_metadata=True):
            raise ValueError("it does not read back")
        return
    testing = _needed("pandas").testing
    check = {"DataFrame": testing.assert_frame_equal, "Series": testing.assert_series_equal}
    if kind == "Index":
        testing.assert_index_equal(back, value, exact="equiv", check_exact=True)
        is_same = getattr(back, "freq", None) == getattr(value, "freq", None)
    else:
        check[kind](back, value, check_exact=True)
        is_same = back.attrs == value.attrs
    if not is_same:
        raise ValueError("its attributes do not read back")


def table_of(parts: Parts) -> Any:
    """The DataFrame, Series, Index or Table; raises ValueError for what is none, CheckpointMismatch where a library is
    missing."""
    kind, written, rest = parts
    if type(kind) is not str or type(written) is not bytes or type(rest) is not dict:
        raise ValueError("a table without its kind or bytes")
    pa = _needed("pyarrow")
    table = _read_table(written, pa)
    if kind == "Table":
        return table
    _needed("pandas")
    frame = table.to_pandas()
    if "freq" in rest:
        frame.index.freq = rest["freq"]
    if kind == "Index":
        frame.index.names = rest["names"]
        return frame.index
    return frame["0"].rename(rest["name"]) if kind == "Series" else frame


def _read_table(written: bytes, pa: Any) -> Any:
    """The table of an Arrow IPC stream of any origin, at most some times as large in memory."""
    messages = pa.ipc.MessageReader.open_stream(written)
    for message in messages:
        if message.type in ("record batch", "dictionary") and _is_compressed(message.metadata.to_pybytes()):
            raise ValueError("a compressed table")
    with pa.ipc.open_stream(written) as reader:
        for field in reader.schema:
            _check_type(field.type, pa)
        table = reader.read_all()
    if table.num_rows > max(8 * len(written), _ROWS) or table.num_rows * table.num_columns > 64 * len(written) + _ROWS:
        raise ValueError("a table of more rows than it has bytes for")
    table.validate(full=True)
    return table


def _check_type(kind: Any, pa: Any) -> None:
    """Raise ValueError for a type of which values may share their bytes, or need none, or are made by code."""
    if getattr(kind, "extension_name", "") in ("pandas.period", "pandas.interval"):
        kind = kind.storage_type
    plain = pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if plain or any(is_one(kind) for is_one in texts) or pa.types.is_fixed_size_binary(kind):
        return
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _check_type(kind.value_type, pa)
    elif pa.types.is_struct(kind):
        for field in kind:
            _check_type(field.type, pa)
    else:
        raise ValueError(f"a column of type {kind}")


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message of a record batch, or of a dictionary, has the field that says how its body is compressed."""

    def field(table: int, number: int) -> int:
        slots = table - struct.unpack_from("<i", metadata, table)[0]
        size: int = struct.unpack_from("<H", metadata, slots)[0]
        at = 4 + 2 * number
        return table + struct.unpack_from("<H", metadata, slots + at)[0] if at < size else table

    def follow(table: int, number: int) -> int:
        at = field(table, number)
        return at + int(struct.unpack_from("<I", metadata, at)[0]) if at != table else 0

    message: int = struct.unpack_from("<I", metadata, 0)[0]
    batch = follow(message, 2)
    if metadata[field(message, 1)] == 2:  # a dictionary: its batch is its second field
        batch = follow(batch, 1)
    return field(batch, 3) != batch


def _needed(library: str) -> Any:
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError:
        said = f"a result is a value of {library}, and {library} is not installed here"
        raise CheckpointMismatch(said, f"pip install {library}") from None
