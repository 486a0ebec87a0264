"""`try`: one item of the input, in this process, without workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from batchmill.errors import InvalidUsage
from batchmill.files.conflicts import Access, Use, check
from batchmill.input.formats import IdRule, format_named, lines_of
from batchmill.input.items import Identified, ItemReader
from batchmill.input.sources import ByteSource
from batchmill.input.streams import choose_format
from batchmill.plan import from_environment
from batchmill.secrecy import learn
from batchmill.settings import Settings
from batchmill.worker.call_results import LIST, result_of, taking
from batchmill.worker.code_bundle import source_files
from batchmill.worker.function import here, parse
from batchmill.worker.loader import resolve

Tell = Callable[[str], None]
_LOOK = 1000  # records looked at at once


def trial(
    function: str,
    inputs: Sequence[str],
    settings: Settings,
    *,
    id: str | None = None,
    line: int | None = None,
    others: Iterable[Use] = (),
    tell: Tell | None = None,
) -> Any:
    """Call the function on one item: the one with that id (as text), at that 1-based line, or the first; its result.

    Lets out whatever the function raises. Raises InvalidUsage where there is no such item or it is none, or where
    `others`, the files that the caller writes, are among those that are read; and as `function.resolve` does. `tell`
    gets what people should know of the input.
    """
    spec = parse(function, here())
    sources = source_files(spec, {"init": settings.init, "end": settings.end}, (), here())
    check([
        *(Use("INPUT", 0 if name == "-" else name, Access.READ) for name in inputs),
        *(Use(role, path, Access.READ) for role, path in sources),
        *others,
    ])  # fmt: skip
    name = choose_format(inputs, settings)
    item = _find(_items(inputs, name, settings, tell), inputs, id, line)
    arguments = {**settings.set, **from_environment(settings.set_env)}
    learn(arguments[key] for key in settings.set_env)
    resolved = resolve(spec, settings.init, settings.end)
    if resolved.init is not None:
        resolved.init()
    function_of_item = partial(resolved.function, **arguments)
    try:
        if settings.batch_size is None:
            return function_of_item(item)
        return result_of(taking(function_of_item, settings.batch_format), item)
    finally:
        if resolved.end is not None:
            resolved.end()


def _find(items: Iterable[tuple[int, Identified]], inputs: Sequence[str], id: str | None, line: int | None) -> Any:
    for at, found in items:
        if line is not None and at != line:
            continue
        if found.bad is not None and id is None:
            raise InvalidUsage(f"the record is no item: {found.bad.message}", "correct the input")
        if id is None or (found.bad is None and str(found.id) == id):
            return found.item
    if id is None and line is None:
        raise InvalidUsage(f"there is no item in {' '.join(inputs)}", "correct the input")
    which = f"with the id {id!r}" if id is not None else f"on line {line}"
    raise InvalidUsage(f"no item {which} in {' '.join(inputs)}", "check --id or --line")


def _items(inputs: Sequence[str], name: str, settings: Settings, tell: Tell | None) -> Iterator[tuple[int, Identified]]:
    """The items of the input, each with its line."""
    format, identifier = format_named(name), ItemReader(name, IdRule(settings.id_field), None, True)
    identifier.gives_table_rows = settings.batch_format != LIST
    source = ByteSource(inputs, format, lambda: None, tell=tell)
    try:
        while not source.ended:
            chunk = source.take(_LOOK)
            if chunk is None:
                continue
            lines = lines_of(chunk, format)
            for offset, record in enumerate(identifier.records(chunk)):
                found = identifier.identify(chunk, offset, record)
                if found is not None:
                    yield lines[offset], Identified(*found)
    finally:
        source.close()
