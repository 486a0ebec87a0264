"""Items and arguments on their way to workers: by name what a worker can import, by value, with cloudpickle, what it
cannot: what a notebook defines, or a function inside of it."""

from __future__ import annotations

import pickle
from functools import lru_cache
from types import FunctionType
from typing import Any

from batchmill.files.mapped_pickle import Pickled, Pickler
from batchmill.worker.function import MAIN, is_of_script

_is_there = lru_cache(512)(is_of_script)  # by class


def pickled(value: Any, *, is_whole: bool = False) -> Pickled:
    """A value for a worker; `is_whole`: with its buffers in it. Raises what pickling it raises."""
    try:
        return Pickled.of(value, _ByName, is_whole=is_whole)
    except (pickle.PicklingError, AttributeError) as error:
        try:
            from batchmill.worker import by_value
        except ImportError:
            remedy = "move it to the top level of a module, or: pip install 'batchmill[cloudpickle]'"
            raise pickle.PicklingError(f"{error}; {remedy}") from None
        try:
            return by_value.pickled(value, _is_there, is_whole=is_whole)
        except Exception:
            raise error from None


class _ByName(Pickler):
    """Refuses what the program's main module has under a name, and a worker has not."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, FunctionType)) and value.__module__ in MAIN and not _is_there(value):
            raise pickle.PicklingError(f"a worker cannot import {value.__qualname__} of the main module")
        return super().reducer_override(value)
