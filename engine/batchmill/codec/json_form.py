"""What values become in JSON, where it has no word for them.

tuple, set, frozenset, array, deque, range, Series, Index: an array (sets sorted); DataFrame, Table: an array of maps;
datetime, date, time: ISO 8601; timedelta: seconds; bytes: base64; Decimal, Fraction, complex, UUID, Path: text; a
number that is not finite: null; an integer of more than 4300 digits (which Python's own json refuses to read):
hexadecimal text; a key that is no text: its text. A map with keys that are the same text then (1 and "1", None and
"null") is an array of [key, value] pairs: an object would lose all but one.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import json
import json.encoder
import math
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from msgpack import Timestamp

from batchmill.codec.pack import imported
from batchmill.codec.unsaid import Unsaid

_MAX_INT_BITS = 14_000  # below Python's limit of 4300 digits
_COLUMNS = 40  # of a key that is named as an example


class Plain:
    """Turns any value of the codec into what JSON says natively, and counts what it has no word for.

    `otherwise` makes one step from a value of any other type; without it, that is a TypeError.
    """

    def __init__(self, otherwise: Callable[[Any], Any] | None = None) -> None:
        self._otherwise = otherwise
        self._numbers = self._maps = 0
        self._example = ""

    @property
    def unsaid(self) -> Unsaid:
        """What was counted so far."""
        return Unsaid(numbers=self._numbers, maps=self._maps, example=self._example)

    # One frame a level (and a comprehension would be another, before Python 3.12): values may be 500 levels deep.
    def of(self, value: Any) -> Any:
        """The value as dict, list, str, int, float, bool or None."""
        while type(value) not in _JSON:
            value = _native(value, self._otherwise)
        if type(value) is dict:
            made = []
            for item in value.values():
                made.append(self.of(item))
            return self._map(list(value), made)
        if type(value) in (list, tuple):
            made = []
            for item in value:
                made.append(self.of(item))
            return made
        return self._scalar(value)

    def _map(self, keys: list[Any], values: list[Any]) -> Any:
        texts = list(map(_key, keys))
        found = dict(zip(texts, values))
        if len(found) == len(keys):
            return found
        self._maps += 1
        self._example = self._example or _example(keys, texts)
        return [[_plain_key(key), value] for key, value in zip(keys, values)]

    def _scalar(self, value: Any) -> Any:
        if type(value) is int:
            return value if value.bit_length() < _MAX_INT_BITS else hex(value)
        if type(value) is float and not math.isfinite(value):
            self._numbers += 1
            return None
        return value


_JSON = frozenset((type(None), bool, int, float, str, list, tuple, dict))


def _key(key: Any) -> str:
    """A key as text: what JSON would have written for it, without the quotes."""
    if type(key) is str:
        return key
    plain = _plain_key(key)
    return plain if type(plain) is str else encode(plain)


def _plain_key(key: Any) -> Any:
    """A key as what JSON says natively; those that are not finite as the words that Python has for them."""
    return repr(key) if type(key) is float and not math.isfinite(key) else Plain(str).of(key)


def _example(keys: list[Any], texts: list[str]) -> str:
    """Two keys that are one text."""
    seen: dict[str, Any] = {}
    for key, text in zip(keys, texts):
        if text in seen:
            return f"{_shown(seen[text])} and {_shown(key)}"
        seen[text] = key
    return ""


def _shown(key: Any) -> str:
    text = shown(key)
    return text if len(text) <= _COLUMNS else f"{text[: _COLUMNS - 1]}…"


def shown(value: Any) -> str:
    """A value of the codec as Python would write it; as JSON, where that would take too many digits."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return encode(Plain(str).of(value))


def _native(value: Any, otherwise: Callable[[Any], Any] | None = None) -> Any:
    """One step from a value towards what JSON says natively; a TypeError for what is no value of the codec."""
    kind: Any = type(value)
    convert = _NATIVE.get(kind) or _native_once_imported(kind)
    if convert is not None:
        return convert(value)
    if hasattr(value, "dtype"):
        return _numpy(value)
    if otherwise is not None:
        return otherwise(value)
    raise TypeError(f"no JSON for {type(value).__name__!r}")


@functools.lru_cache(maxsize=64)
def _native_once_imported(kind: Any) -> Callable[[Any], Any] | None:
    if kind is imported("fractions.Fraction"):
        return lambda value: f"{_digits(value.numerator)}/{_digits(value.denominator)}"
    convert = _of_pandas(kind)
    if convert is not None:
        return convert
    is_text = kind in (imported("decimal.Decimal"), imported("uuid.UUID"))
    return str if is_text or issubclass(kind, imported("pathlib.PurePath") or ()) else None


def _of_pandas(kind: Any) -> Callable[[Any], Any] | None:
    """How a value of pandas or pyarrow is said: a table as its rows."""
    name, package = kind.__name__, kind.__module__.partition(".")[0]
    if package == "pyarrow":
        return None if name != "Table" else lambda table: table.to_pylist()
    if package != "pandas":
        return None
    if name in ("Timestamp", "NaTType"):
        return lambda moment: moment.isoformat() if moment == moment else math.nan  # noqa: PLR0124
    if name == "Timedelta":
        return lambda length: length.total_seconds()
    return (lambda frame: frame.to_dict("records")) if name == "DataFrame" else lambda column: column.tolist()


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
    return sorted(items, key=lambda item: encode(Plain(str).of(item)))


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
    deque: list,
    range: list,
    array: lambda value: value.tolist(),
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


chunks = _chunk_encoder()


_LONE = "[\ud800-\udfff]"


def sound(text: str) -> str:
    r"""JSON that is no valid Unicode, made so: a lone surrogate becomes the text `\udce9`, as in the other outputs, for
    most readers refuse a whole file for JSON's own escape of it."""
    return re.sub(_LONE, lambda found: f"\\\\u{ord(found[0]):04x}", text)


def is_sound(text: str) -> bool:
    """Whether a text is valid Unicode."""
    return text.isascii() or re.search(_LONE, text) is None


def encode(value: Any) -> str:
    """What JSON says natively, as text; lone surrogates stay. Raises TypeError, ValueError for anything else."""
    return "".join(chunks(value, 0))
