"""What kinds of values a column has: of one value, of two together, and a value as its column's kind wants it.

A kind is a list that msgpack carries: its name, and what else tells it from others of that name. Values that do not fit
one kind are JSON, each as text; so is what a table has no type for. Two kinds together are the same in any order. The
kind "arrow" is a type that is known beforehand, as a schema of one field in Arrow's own bytes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from batchmill.codec.json_form import Plain, encode, sound
from batchmill.codec.pack import imported

if TYPE_CHECKING:
    from decimal import Decimal

Kind = list[Any]

NULL: Kind = ["null"]
JSON: Kind = ["json"]
TEXT: Kind = ["text"]
_EXACT = 1 << 53  # integers up to this are floats too
_DIGITS = 76  # of a decimal, at most
_DEEPEST = 32  # levels; what is deeper is JSON
_UTC = "UTC"


def kind_of(value: Any, depth: int = 0) -> Kind:
    """The kind of one value."""
    made = _KINDS.get(type(value))
    if made is not None:
        return made(value)
    if type(value) is imported("decimal.Decimal"):
        return _of_decimal(value)
    if depth < _DEEPEST:
        if type(value) is dict:
            return _of_map(value, depth + 1)
        if type(value) in (list, tuple):
            return ["list", merged(kind_of(part, depth + 1) for part in value)]
    if hasattr(value, "dtype"):
        return kind_of(value.tolist(), depth) if value.dtype.kind in "biufU" else JSON
    return TEXT if isinstance(_plain(value), str) else JSON


def _plain(value: Any) -> Any:
    return Plain(str).of(value)


def _of_map(value: dict[Any, Any], depth: int) -> Kind:
    if not value or not all(type(key) is str for key in value):
        return JSON
    return ["map", {key: kind_of(part, depth) for key, part in value.items()}]


def _of_decimal(value: Decimal) -> Kind:
    if not value.is_finite():
        return JSON
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    return _decimal(max(1, len(digits) + exponent), max(0, -exponent))


def _decimal(whole: int, scale: int) -> Kind:
    return ["decimal", whole, scale] if whole + scale <= _DIGITS else JSON


def _of_moment(value: dt.datetime) -> Kind:
    offset = value.utcoffset()
    if offset is None:
        return ["moment"]
    minutes, rest = divmod(offset, dt.timedelta(minutes=1))
    hours, minutes = divmod(abs(minutes), 60)
    sign = "-" if offset < dt.timedelta() else "+"
    return ["zoned", _UTC if rest or not offset else f"{sign}{hours:02}:{minutes:02}"]


_KINDS: dict[type, Callable[[Any], Kind]] = {
    type(None): lambda value: NULL,
    bool: lambda value: ["bool"],
    int: lambda value: _int(value, value),
    float: lambda value: ["float"],
    str: lambda value: TEXT,
    bytes: lambda value: ["bytes"],
    dt.datetime: _of_moment,
    dt.date: lambda value: ["date"],
    dt.time: lambda value: ["time"] if value.tzinfo is None else TEXT,
    dt.timedelta: lambda value: ["span"],
}


def _int(low: int, high: int) -> Kind:
    fits = low >= -(1 << 63) and high < (1 << 63 if low < 0 else 1 << 64)
    return ["int", low, high] if fits else JSON


def has_json(kind: Kind) -> bool:
    """Whether values of that kind are JSON, or have parts that are."""
    if kind[0] in ("list", "map"):
        return any(map(has_json, kind[1].values() if kind[0] == "map" else [kind[1]]))
    return kind == JSON


def merged(kinds: Iterable[Kind]) -> Kind:
    """The kind of values of all those kinds."""
    return reduce(together, kinds, NULL)


def together(one: Kind, other: Kind) -> Kind:
    """The kind of values of both kinds."""
    if other in (one, NULL):
        return one
    if one == NULL:
        return other
    names = {one[0], other[0]}
    if names == {"int", "float"}:
        ints = one if one[0] == "int" else other
        return ["float"] if ints[1] >= -_EXACT and ints[2] <= _EXACT else JSON
    if len(names) > 1:
        return JSON
    return _ALIKE[one[0]](one, other) if one[0] in _ALIKE else JSON


def _maps(one: Kind, other: Kind) -> Kind:
    # In the order that all of them have, else by name: which comes first must not matter.
    names = list(one[1]) if list(one[1]) == list(other[1]) else sorted({*one[1], *other[1]})
    return ["map", {name: together(one[1].get(name, NULL), other[1].get(name, NULL)) for name in names}]


_ALIKE: dict[str, Callable[[Kind, Kind], Kind]] = {
    "int": lambda one, other: _int(min(one[1], other[1]), max(one[2], other[2])),
    "decimal": lambda one, other: _decimal(max(one[1], other[1]), max(one[2], other[2])),
    "zoned": lambda one, other: ["zoned", _UTC],
    "list": lambda one, other: ["list", together(one[1], other[1])],
    "map": _maps,
}


def of_column(values: Sequence[Any]) -> Kind:
    """The kind of a column: quick where all its values are of one plain type."""
    types = set(map(type, values))
    types.discard(type(None))
    if types <= {str} or types <= {float} or types <= {bool}:
        return _KINDS[types.pop()](None) if types else NULL
    if types == {int}:
        numbers = values if None not in values else [value for value in values if value is not None]
        return _int(min(numbers), max(numbers))
    return merged(map(kind_of, values))


def in_kind(value: Any, kind: Kind) -> Any:
    """A value of a column as that kind has it."""
    make = maker_of(kind)
    return value if make is None else make(value)


def maker_of(kind: Kind) -> Callable[[Any], Any] | None:
    """What makes of a value what a column of that kind has; None where that is the value."""
    made = _MAKERS.get(kind[0])
    if made is None:
        return None

    def make(value: Any) -> Any:
        return None if value is None else made(value.tolist() if hasattr(value, "dtype") else value, kind)

    return make


def _text(value: Any) -> str:
    text: str = value if type(value) is str else _plain(value)
    return text.encode("utf-8", "backslashreplace").decode()


_MAKERS: dict[str, Callable[[Any, Kind], Any]] = {
    "json": lambda value, kind: sound(encode(_plain(value))),
    "text": lambda value, kind: _text(value),
    "float": lambda value, kind: float(value),
    "list": lambda value, kind: [in_kind(part, kind[1]) for part in value],
    "map": lambda value, kind: {key: in_kind(value.get(key), of) for key, of in kind[1].items()},
}
