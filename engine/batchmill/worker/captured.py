"""The values in a function that make it another one: a checkpoint compares them, as it does arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from batchmill.worker.function import FunctionSpec, program_script


def unwrapped(function: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What is called, and its arguments by name: a partial that has no others is its function with those."""
    while type(function) is partial and not function.args:
        kwargs = {**function.keywords, **kwargs}
        function = function.func
    return function, dict(kwargs)


def captured_in(function: Any, spec: FunctionSpec) -> dict[str, Any]:
    """The values by name in a function that is sent by value: the arguments of a partial; what it has closed over, its
    defaults, the object of its method or that it is, and the data among the globals of a notebook that it names."""
    if spec.blob is None:
        return {}
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    while isinstance(function, partial):
        arguments, keywords = (*function.args, *arguments), {**function.keywords, **keywords}
        function = function.func
    found = {f"argument {number}": value for number, value in enumerate(arguments, 1)}
    return {**_values_in(function), **found, **keywords}


def _values_in(function: Callable[..., Any]) -> dict[str, Any]:
    if not inspect.isroutine(function):
        return {} if isinstance(function, type) else {"self": function}
    owner = getattr(function, "__self__", None)
    found = {} if owner is None or isinstance(owner, (type, ModuleType)) else {"self": owner}
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return found
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        with suppress(ValueError):  # nothing is in it yet
            found[name] = cell.cell_contents
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    found.update(zip(parameters[len(parameters) - len(defaults) :], defaults))
    found.update(function.__kwdefaults__ or {})
    if function.__module__ == "__main__" and program_script() is None:
        named = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        found.update((name, value) for name, value in named.items() if value is not None and not _is_code(value))
    return {name: value for name, value in found.items() if value is not function}


def _is_code(value: Any) -> bool:
    return callable(value) or isinstance(value, ModuleType)
