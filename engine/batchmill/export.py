"""Owns how outcomes read outside of batchmill: as JSON lines, as msgpack, on a screen. Never touches a file.

What JSON cannot say becomes: tuple, set, frozenset, array: an array (sets sorted); datetime, date, time: ISO 8601;
timedelta: seconds; bytes: base64; Decimal, Fraction, complex, UUID, Path: text; a number that is not finite: null;
an integer of more than 4300 digits (which Python's own json refuses to read): hexadecimal text; a key that is no text:
its text.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import json
import json.encoder
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgpack import Timestamp

from batchmill.codec import Block, pack_value, unpack_outcomes
from batchmill.errors import CheckpointDamaged
from batchmill.formats import kept_item
from batchmill.imported import imported
from batchmill.model import plural

_MAX_INT_BITS = 14_000  # below Python's limit of 4300 digits
ABSENT = object()


def render(
    payload: bytes | memoryview | Block,
    picks: Sequence[int] | None = None,
    *,
    format: str,
    all: bool,
    with_item: bool,
    source: str = "jsonl",
) -> tuple[bytes, int]:
    """The output of an OUTCOMES payload (or its Block), and how much of it is not what it was: numbers that were not
    finite became null, and of what a command printed only the beginning may have been kept (`odd_sentence` says it).

    `picks` are item indices in the order wanted; None: every item in its order. Failed items are left out unless `all`.
    `format` is "jsonl" (one object a line), "msgpack" (one map an item, one after another) or "raw" (see `_raw`). With
    `with_item` the item stands beside its outcome where it was kept: as its function saw it, `source` being the format
    it came in.
    Raises CheckpointDamaged for a payload that is none.
    """
    block = payload if isinstance(payload, Block) else unpack_outcomes(payload)
    order, items = chosen(block, picks, all), source if with_item else None
    try:
        if format == "raw":
            return _raw(block, order)
        if format == "msgpack":
            return b"".join(_packed_entry(block, index, items) for index in order), 0
        return _lines(block, order, items)
    except RecursionError as error:
        raise CheckpointDamaged("a result is nested too deeply to be written") from error


def chosen(block: Block, picks: Sequence[int] | None, all: bool) -> Sequence[int]:
    """The item indices to write, in order."""
    order: Sequence[int] = range(len(block)) if picks is None else picks
    if all or not block.head.failed:
        return order
    failures = block.failures
    return [index for index in order if index not in failures]


def odd_sentence(count: int, format: str) -> str:
    """What to tell of what `render` counted."""
    is_one = count == 1
    if format == "raw":
        beginning = "is cut off, for only its" if is_one else "are cut off, for only their"
        return f"{plural(count, 'output')} {beginning} beginning was kept (see --keep-output of exec)"
    were = "was" if is_one else "were"
    return f"{plural(count, 'number')} that JSON cannot say (NaN, infinity) {were} written as null"


# --- raw --------------------------------------------------------------------------------------------------------------


def _raw(block: Block, order: Iterable[int]) -> tuple[bytes, int]:
    """What commands printed, one after the other, nothing in between; a text or bytes as they are, else a JSON line."""
    pieces, cut = [], 0
    failures = block.failures
    for index in order:
        if index in failures:
            continue
        result = block.result(index)
        if isinstance(result, dict) and {"exit", "stdout"} <= result.keys():
            cut += "stdout_dropped" in result
            result = result["stdout"]
        if isinstance(result, str):
            result = result.encode("utf-8", "surrogatepass")
        pieces.append(result if isinstance(result, bytes) else _encode_line(_line(result)[0]))
    return b"".join(pieces), cut


# --- msgpack ---------------------------------------------------------------------------------------------------------


def _packed_entry(block: Block, index: int, items: str | None) -> bytes:
    item = ABSENT if items is None else item_of(block, index, items)
    failure = block.failures.get(index)
    return b"".join(
        (
            b"\x82\xa2id" if item is ABSENT else b"\x83\xa2id",
            pack_value(block.ids[index]),
            b"\xa6result" if failure is None else b"\xa5error",
            block.packed(index) if failure is None else pack_value(_error(failure.type, failure.message)),
            b"" if item is ABSENT else b"\xa4item" + pack_value(item),
        )
    )


def _error(type: str, message: str) -> dict[str, str]:
    return {"type": type, "message": message}


def item_of(block: Block, index: int, source: str) -> Any:
    """The item as its function saw it, `source` being the format it came in; ABSENT where it was not kept."""
    raw = block.raw(index)
    return ABSENT if raw is None else kept_item(source, raw)


# --- JSON lines ------------------------------------------------------------------------------------------------------


def _lines(block: Block, order: Sequence[int], items: str | None) -> tuple[bytes, int]:
    lines = _plain_lines(block, order) if items is None else None
    nonfinite = 0
    if lines is None:
        lines = []
        for index in order:
            line, count = _line(_entry(block, index, items))
            lines.append(line)
            nonfinite += count
    try:
        return "".join(lines).encode(), nonfinite
    except UnicodeEncodeError:
        return b"".join(map(_encode_line, lines)), nonfinite


def _plain_lines(block: Block, order: Sequence[int]) -> list[str] | None:
    """The lines of ok items, at 1 µs each; None where one is not that simple, and all go the slower way."""
    ids, results, failures = block.ids, block.results, block.failures if block.head.failed else ()
    if results is None or (failures and any(index in failures for index in order)):
        return None
    try:
        return [
            f'{{"id": {id if type(id := ids[index]) is int else _encode(id)}, '
            f'"result": {"".join(_chunks(results[index], 0))}}}\n'
            for index in order
        ]
    except (TypeError, ValueError):
        return None


def _entry(block: Block, index: int, items: str | None) -> dict[str, Any]:
    failure = block.failures.get(index)
    entry = {"id": block.ids[index]}
    if failure is None:
        entry["result"] = block.result(index)
    else:
        entry["error"] = _error(failure.type, failure.message)
    if items is not None and (item := item_of(block, index, items)) is not ABSENT:
        entry["item"] = item
    return entry


def _line(entry: Any) -> tuple[str, int]:
    """A line that may need the slow way, and the count of numbers that are not finite."""
    try:
        return _encode(entry) + "\n", 0
    except (TypeError, ValueError):
        plain = _Plain()
        return _encode(plain.of(entry)) + "\n", plain.nonfinite


def _encode_line(line: str) -> bytes:
    try:
        return line.encode()
    except UnicodeEncodeError:
        # A lone surrogate, which UTF-8 cannot carry: JSON's escapes can. Outside of strings a line is ASCII.
        return _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], line).encode()


_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def plain(value: Any) -> tuple[Any, int]:
    """A value as what JSON says natively, and how many numbers in it are null now."""
    made = _Plain()
    return made.of(value), made.nonfinite


def json_text(value: Any) -> str:
    """What JSON says natively, as text; lone surrogates stay."""
    return _encode(value)


class _Plain:
    """Turns any value of the codec into what JSON says natively, counting the numbers it has no word for."""

    def __init__(self) -> None:
        self.nonfinite = 0

    # One frame a level (and a comprehension would be another, before Python 3.12): values may be 500 levels deep.
    def of(self, value: Any) -> Any:
        while type(value) not in _JSON:
            value = _native(value)
        if isinstance(value, dict):
            plain_map = {}
            for key, item in value.items():
                plain_map[_key(key)] = self.of(item)
            return plain_map
        if isinstance(value, (list, tuple)):
            plain_list = []
            for item in value:
                plain_list.append(self.of(item))
            return plain_list
        return self._scalar(value)

    def _scalar(self, value: Any) -> Any:
        if type(value) is int:
            return value if value.bit_length() < _MAX_INT_BITS else hex(value)
        if type(value) is float and not math.isfinite(value):
            self.nonfinite += 1
            return None
        return value


_JSON = frozenset((type(None), bool, int, float, str, list, tuple, dict))


def _key(key: Any) -> str:
    """A key as text: what JSON would have written for it, without the quotes."""
    if type(key) is str:
        return key
    if type(key) is float:
        return repr(key)
    plain = _Plain().of(key)
    return plain if type(plain) is str else _encode(plain)


def _native(value: Any) -> Any:
    """One step from a value towards what JSON says natively; a TypeError for what is no value of the codec."""
    kind: Any = type(value)
    convert = _NATIVE.get(kind) or _native_once_imported(kind)
    if convert is not None:
        return convert(value)
    if hasattr(value, "dtype"):
        return _numpy(value)
    raise TypeError(f"no JSON for {type(value).__name__!r}")


@functools.lru_cache(maxsize=64)
def _native_once_imported(kind: Any) -> Callable[[Any], Any] | None:
    if kind is imported("fractions.Fraction"):
        return lambda value: f"{_digits(value.numerator)}/{_digits(value.denominator)}"
    is_text = kind in (imported("decimal.Decimal"), imported("uuid.UUID"))
    return str if is_text or issubclass(kind, imported("pathlib.PurePath") or ()) else None


def _numpy(value: Any) -> Any:
    if value.dtype.char in "gG":
        value = value.astype("f8" if value.dtype.char == "g" else "c16")  # tolist() gives a long double as itself
    # tolist() gives a datetime64 of nanoseconds as an int: its text says more.
    return value.astype(str).tolist() if value.dtype.kind in "mM" else value.tolist()


def _stamp(value: Timestamp) -> str:
    try:
        return str(value.to_datetime().isoformat())
    except (OverflowError, ValueError):  # beyond the year 9999
        return str(value)


def _sorted(values: Iterable[Any]) -> list[Any]:
    """A set in an order that is the same in every process, the natural one where there is one."""
    items = list(values)
    kinds = set(map(type, items))
    natural = kinds <= _NUMBERS or (len(kinds) == 1 and _is_ordered(*kinds))
    if natural and all(item == item for item in items):  # noqa: PLR0124 - not a number, and in no order
        return sorted(items)
    return sorted(items, key=lambda item: _encode(_Plain().of(item)))


def _is_ordered(kind: Any) -> bool:
    return kind in _ORDERED or kind in (imported("fractions.Fraction"), imported("uuid.UUID"))


_NUMBERS = {bool, int, float}
_ORDERED = {str, bytes, dt.date, dt.timedelta}
_NATIVE: dict[type, Callable[[Any], Any]] = {
    set: _sorted,
    frozenset: _sorted,
    dt.datetime: dt.datetime.isoformat,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.timedelta: dt.timedelta.total_seconds,
    Timestamp: _stamp,
    bytes: lambda value: base64.b64encode(value).decode("ascii"),
    complex: str,
}


def _digits(number: int) -> str:
    return str(number) if number.bit_length() < _MAX_INT_BITS else hex(number)


def _chunk_encoder() -> Callable[[Any, int], Iterable[str]]:
    """JSON in one call of the C encoder: `JSONEncoder.encode` makes one anew for every value, at twice the time."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, default=_native)
        return lambda value, _: encoder.iterencode(value)
    made: Callable[[Any, int], Iterable[str]] = make(
        None, _native, json.encoder.encode_basestring, None, ": ", ", ", False, False, False
    )
    return made


_chunks = _chunk_encoder()


def _encode(value: Any) -> str:
    return "".join(_chunks(value, 0))


# --- screens ---------------------------------------------------------------------------------------------------------

# Controls (ESC, CR, LF and NUL among them), marks that turn the direction of text, line separators, lone surrogates.
_MARKS = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_UNSAFE = re.compile(f"[\x00-\x1f{_MARKS}]")
_UNSAFE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_MARKS}]")


def escape(text: str, limit: int = 200) -> str:
    """`text` fit for a terminal, a log line or a cell, in at most `limit` characters ("…" where it was cut).

    What could move the cursor, turn the direction of text or end the line becomes \\xNN or \\uNNNN.
    """
    shown = _UNSAFE.sub(_escaped, text[: limit + 1])
    return shown if len(shown) <= limit else shown[: max(0, limit - 1)] + "…"


def harmless(data: bytes) -> bytes:
    """Lines of text or JSON fit for a terminal: all but line ends and tabs becomes \\uNNNN, which JSON reads back.

    Bytes that are no UTF-8 become \\xNN.
    """
    return _UNSAFE_IN_LINES.sub(_as_json, data.decode("utf-8", "surrogateescape")).encode()


def _as_json(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if code >= 0xDC00 and code < 0xDD00 else f"\\u{code:04x}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
