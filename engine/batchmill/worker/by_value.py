"""Sending a function by value, for which it needs cloudpickle.

It never evaluates an annotation.

From Python 3.14 on annotations are code that runs when somebody asks for them: they may name what is imported for a
type checker alone, and cloudpickle asks.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from types import CodeType, FunctionType
from typing import Any

import cloudpickle

from batchmill.files.mapped_pickle import Pickled, memmap_reduced

_COPIED = ("__kwdefaults__", "__qualname__", "__module__", "__doc__")


def pickled(value: Any, is_there: Callable[[Any], bool], *, is_whole: bool = False) -> Pickled:
    """A callable, or whatever, by value; raises whatever pickling it raises.

    A class that `is_there` in a worker goes by its name: it is the same there for functions, arguments and items.
    """
    return Pickled.of(value, partial(_Pickler, is_there=is_there), is_whole=is_whole)


def source_digest(function: Any) -> str:
    """A digest of the text of a function of a notebook, and of those functions and classes of its that it names."""
    texts: dict[int, str] = {}
    waiting = [function]
    while waiting:
        found = waiting.pop()
        found = getattr(found, "__func__", getattr(found, "func", found))  # a method's, a partial's
        if id(found) not in texts:
            texts[id(found)] = _text(found)
            waiting.extend(_named_in(found))
    return blake2b("\0".join(sorted(texts.values())).encode(errors="replace"), digest_size=16).hexdigest()


def _text(found: Any) -> str:
    try:
        return inspect.getsource(found)
    except (OSError, TypeError):  # typed in, or no function at all
        return "".join(map(_shown, _codes_of(found)))


def _codes_of(found: Any) -> Iterator[CodeType]:
    """The code of a function or a class, and of what is within it."""
    members = vars(found).values() if inspect.isclass(found) else (found,)
    waiting = [member.__code__ for member in members if isinstance(member, FunctionType)]
    while waiting:
        code = waiting.pop()
        waiting.extend(value for value in code.co_consts if isinstance(value, CodeType))
        yield code


def _shown(code: CodeType) -> str:
    values = [value for value in code.co_consts if not isinstance(value, CodeType)]
    return repr((code.co_code, code.co_names, code.co_varnames, values))


def _named_in(found: Any) -> Iterator[Any]:
    members = vars(found).values() if inspect.isclass(found) else (found,)
    for function in members:
        for code in _codes_of(function):
            for name in code.co_names:
                named = function.__globals__.get(name)
                if isinstance(named, (FunctionType, type)) and named.__module__ == function.__module__:
                    yield named


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends the code of annotations in their place, where they are not evaluated yet."""

    def __init__(self, file: Any, *, is_there: Callable[[Any], bool], **options: Any) -> None:
        super().__init__(file, **options)
        self._is_there = is_there

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type) and self._is_there(value):
            return NotImplemented
        found = memmap_reduced(value)
        return super().reducer_override(value) if found is NotImplemented else found

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
