"""What a function of many items is called with, and what it returns: a list of items there, a result an item back.

It may return whatever has a first axis: a list, a tuple, a generator, a numpy array, a pandas Series; of a DataFrame or
a pyarrow Table each row is a map. An exception in the place of a result fails that item. (The contract is that of
Hugging Face's `map(batched=True)` and Ray's `map_batches`, but for the exceptions.)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batchmill.errors import FunctionFailed, ItemFailed
from batchmill.input.row_tables import TableRow, frame_of, table_of
from batchmill.settings import BATCH_FORMATS
from batchmill.text import describe, option, plural

LIST, PANDAS, ARROW = BATCH_FORMATS
_MODULES = {PANDAS: "pandas", ARROW: "pyarrow"}


def taking(function: Callable[[Any], Any], format: str) -> Callable[[Sequence[Any]], Any]:
    """`function`, to be called with a list of items: as a DataFrame or a Table it has their fields as columns, those of
    rows of Parquet in the types of their file.

    Raises FunctionFailed where the library for that is not installed.
    """
    if format == LIST:
        return function
    name = _MODULES[format]
    try:
        module = importlib.import_module(name)
    except ImportError:
        message = f"{option('batch_format', format)} needs {name}, which is not installed here"
        raise FunctionFailed(message, f"pip install {name}") from None
    make = module.DataFrame if format == PANDAS else module.Table.from_pylist

    from_rows = frame_of if format == PANDAS else table_of

    def call(items: Sequence[Any]) -> Any:
        if isinstance(items[0], TableRow):
            return function(from_rows(items))
        for item in items:
            if not isinstance(item, Mapping):
                raise TypeError(f"an item is a {type(item).__name__}, and has no fields to be columns")
        return function(make(list(items)))

    return call


def result_of(function: Callable[[Sequence[Any]], Any], item: Any) -> Any:
    """The result of one item, of a function of many; raises what the function raises, or returns in its place."""
    results: list[Any] = []
    take_results(function([item]), 1, results)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def of_one(function: Callable[[Sequence[Any]], Any]) -> Callable[[Any], Any]:
    """`function` of many items as one of an item, which fails where an exception comes in the place of a result."""

    def call(item: Any) -> Any:
        results: list[Any] = []
        take_results(function([item]), 1, results)
        if isinstance(results[0], BaseException):
            raise ItemFailed(describe(results[0]))
        return results[0]

    return call


def take_results(returned: Any, count: int, into: list[Any]) -> None:
    """Append the results of `count` items to `into`, one by one as they come. Raises ValueError for another number of
    them, TypeError for what is no sequence of results, and whatever a generator raises."""
    if type(returned) is list and len(returned) == count:
        into += returned
        return
    for result in _each(returned):
        if len(into) == count:
            into.clear()
            raise ValueError(f"more results than the {plural(count, 'item')} that it was called with")
        into.append(result)
    if len(into) != count:
        number = len(into)
        into.clear()
        raise ValueError(f"{plural(number, 'result')} for the {plural(count, 'item')} that it was called with")


def _each(returned: Any) -> Iterable[Any]:
    if hasattr(returned, "to_pylist"):  # a pyarrow Table, RecordBatch or Array
        return returned.to_pylist()  # type: ignore[no-any-return]
    if hasattr(returned, "to_dict") and hasattr(returned, "columns"):  # a pandas DataFrame
        return returned.to_dict("records")  # type: ignore[no-any-return]
    if isinstance(returned, (str, bytes, bytearray, Mapping, set, frozenset)) or not hasattr(returned, "__iter__"):
        raise TypeError(f"a {type(returned).__name__} is no list of results, one an item")
    return returned  # type: ignore[no-any-return]
