"""Sending a function by value, for which it needs cloudpickle.

It never evaluates an annotation.

From Python 3.14 on annotations are code that runs when somebody asks for them: they may name what is imported for a
type checker alone, and cloudpickle asks.
"""

from __future__ import annotations

import io
import sys
from types import FunctionType
from typing import Any

import cloudpickle

_COPIED = ("__kwdefaults__", "__qualname__", "__module__", "__doc__")


def dumps(function: Any) -> bytes:
    """A callable as bytes that `pickle.loads` makes it of again; raises whatever pickling it raises."""
    file = io.BytesIO()
    _Pickler(file).dump(function)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends the code of annotations in their place, where they are not evaluated yet."""

    def _dynamic_function_reduce(self, function: FunctionType) -> Any:
        annotate = getattr(function, "__annotate__", None)
        if annotate is None or sys.version_info < (3, 14):
            return super()._dynamic_function_reduce(function)
        make, arguments, (state, slots), *rest = super()._dynamic_function_reduce(_without_annotations(function))
        del slots["__annotations__"]
        # Those of a method refer to the namespace of its class, which cannot be sent.
        if "__classdict__" not in annotate.__code__.co_freevars:
            slots["__annotate__"] = annotate
        return make, arguments, (state, slots), *rest


def _without_annotations(function: FunctionType) -> FunctionType:
    bare = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    for name in _COPIED:
        setattr(bare, name, getattr(function, name))
    bare.__dict__.update(function.__dict__)
    return bare
