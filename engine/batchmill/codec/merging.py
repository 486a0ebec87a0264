"""Naming which keys or elements of a value become equal when it is kept.

Only asked when that was found out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from typing import Any

_MOST = 100_000  # parts of a value that are looked at
_COLUMNS = 120  # of a key in a sentence

Keep = Callable[[Any], Any]  # a value as it reads back once it was kept


def culprit(value: Any, keep: Keep) -> str:
    """What is wrong with the keys or elements in `value`, for the end of a sentence; "" where it is not found.

    Either two of them become equal when they are kept, or one becomes a list or a map, which cannot be a key.
    """
    try:
        found = (_trouble(members, noun, keep) for members, noun in _memberships(value))
        return next(filter(None, found), "")
    except Exception:  # whatever the value's own methods raise
        return ""


def _trouble(members: list[Any], noun: str, keep: Keep) -> str:
    seen: dict[Any, Any] = {}
    remedy = "return a list of pairs" if noun == "key" else "return a list"
    for member in members:
        try:
            kept = keep(member)
        except Exception:
            kept = member  # the trouble is inside of it, and comes by itself
        try:
            other = seen.setdefault(kept, member)
        except TypeError:
            return f"the {noun} {_shown(member)} becomes a {type(kept).__name__}, which cannot be one: {remedy}"
        if other is not member:
            return f"the {noun}s {_shown(other)} and {_shown(member)} become equal ({_shown(kept)}): {remedy}"
    return ""


def _memberships(value: Any) -> Iterator[tuple[list[Any], str]]:
    """The keys of each map in a value, the elements of each set, and what they are called."""
    open_values, seen = [value], 0
    while open_values and seen < _MOST:
        value, seen = open_values.pop(), seen + 1
        if isinstance(value, Enum):
            open_values.append(value.value)
        elif isinstance(value, Mapping):
            yield list(value), "key"
            open_values += [*value, *value.values()]
        elif isinstance(value, Set):
            yield list(value), "element"
            open_values += value
        elif isinstance(value, (list, tuple)):
            open_values += value
        elif dataclasses.is_dataclass(value):
            open_values += [getattr(value, field.name) for field in dataclasses.fields(value)]


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= _COLUMNS else f"{text[: _COLUMNS - 1]}…"
