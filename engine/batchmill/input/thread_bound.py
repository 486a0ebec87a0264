"""Whether an iterable must be pulled by the thread that made it: one that reads from a connection of sqlite3.

All others are pulled by a thread of their own, so that one that stalls keeps nobody waiting.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, GeneratorType, ModuleType
from typing import Any

_DEPTH = 6  # a map of a chain of generators of a function's cursor
_MOST = 1000  # objects that are looked at
_FEW = 100  # elements of what may be a part of an iterator, and not items
_OPAQUE = (type, ModuleType, CodeType, str, bytes)  # of which iterables do not consist


def is_thread_bound(items: Any) -> bool:
    """Whether that is a cursor or connection of sqlite3, or an iterator over one, as far as that can be seen."""
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return False
    kinds = (sqlite3.Cursor, sqlite3.Connection)
    seen, level = {id(items)}, [items]
    for _ in range(_DEPTH):
        if any(isinstance(value, kinds) for value in level):
            return True
        found = [part for value in level for part in _parts(value) if not isinstance(part, _OPAQUE)]
        level = [value for value in found if id(value) not in seen and gc.is_tracked(value)]
        seen.update(map(id, level))
        if len(seen) > _MOST:
            return False
    return False


def _parts(value: Any) -> Iterable[Any]:
    """What an object consists of; of a function what it has closed over, and the globals that it names."""
    if isinstance(value, FunctionType):
        return [*(value.__closure__ or ()), *_named(value.__code__, value.__globals__)]
    if isinstance(value, GeneratorType) and value.gi_frame is not None:
        return [*gc.get_referents(value), *_named(value.gi_code, value.gi_frame.f_globals)]
    if isinstance(value, (list, tuple, dict, set, frozenset)) and len(value) > _FEW:
        return ()
    return gc.get_referents(value)


def _named(code: CodeType, names: Mapping[str, Any]) -> Iterator[Any]:
    return (names[name] for name in code.co_names if name in names)
