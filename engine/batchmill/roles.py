"""What the arguments of the Python API may be: refused in a sentence where they are something else.

Values of settings are Settings' own; here are the arguments that stand for a function, a file, items.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from batchmill.errors import InvalidUsage
from batchmill.settings import Settings


def _is_callable(value: Any) -> bool:
    return callable(value)


def _is_callable_or_text(value: Any) -> bool:
    return callable(value) or isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value))


_ROLES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "id": (_is_callable_or_text, "cannot be called", "give the name of a field, or a function that takes an item"),
    "init": (_is_callable_or_text, "cannot be called", "give a function, or its name"),
    "end": (_is_callable_or_text, "cannot be called", "give a function without arguments, or its name"),
    "on_progress": (_is_callable, "cannot be called", "give a function that takes a Snapshot"),
    "on_message": (_is_callable, "cannot be called", "give a function that takes a text"),
    "progress": (lambda value: value in (True, False, "auto"), "is no choice", 'give True, False or "auto"'),
    "checkpoint": (_is_path, "is no path", "give the path of a file"),
    "output": (_is_path, "is no path", "give the path of a file"),
    "name": (lambda value: isinstance(value, str) and bool(value), "is no name", "give a text"),
    "kwargs": (lambda value: isinstance(value, Mapping), "is no mapping", "give parameter names and their values"),
    "init_kwargs": (lambda value: isinstance(value, Mapping), "is no mapping", "give parameter names and their values"),
    "settings": (
        lambda value: isinstance(value, Settings),
        "is no Settings",
        "give batchmill.Settings(...), or its fields as keywords",
    ),
}


def check_roles(**given: Any) -> None:
    """Raise InvalidUsage for an argument that cannot be what it stands for, before anything starts. None is none."""
    for name, value in given.items():
        if value is None or name not in _ROLES:
            continue
        fits, wrong, remedy = _ROLES[name]
        if not fits(value):
            raise InvalidUsage(f"{name}={_shown(value)} {wrong}", remedy)


def check_items(items: Any) -> None:
    """Raise InvalidUsage for what is neither items nor the path of an INPUT."""
    if not isinstance(items, (str, os.PathLike, Iterable)) and not hasattr(type(items), "__getitem__"):
        raise InvalidUsage(f"items={_shown(items)} is not iterable", "give a list or another iterable, or a path")
    if isinstance(items, (bytes, bytearray)):
        raise InvalidUsage(f"items={_shown(items)} is one value", "give a list or another iterable, or a path")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} object"
