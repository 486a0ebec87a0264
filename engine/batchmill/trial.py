"""Owns `try`: one item of the input, in this process, without lanes. Never catches what the item raises."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from batchmill import formats
from batchmill.errors import InvalidUsage
from batchmill.formats import FORMATS, BadItem, IdRule
from batchmill.function import parse, resolve
from batchmill.settings import Settings
from batchmill.source import ByteSource

_LOOK = 1000  # records looked at at once


def trial(
    function: str, inputs: Sequence[str], settings: Settings, *, id: str | None = None, line: int | None = None
) -> Any:
    """Call the function on one item: the one with that id (as text), at that 1-based line, or the first; its result.

    Lets out whatever the function raises. Raises InvalidUsage where there is no such item or it is none, and as
    `function.resolve` does.
    """
    spec = parse(function, os.getcwd())
    name = settings.format if settings.format != "auto" else formats.format_of(inputs[0])
    item = _find(inputs, name, settings, id, line)
    resolved = resolve(spec, settings.init)
    if resolved.init is not None:
        resolved.init()
    return resolved.function(item, **settings.set)


def _find(inputs: Sequence[str], name: str, settings: Settings, id: str | None, line: int | None) -> Any:
    format, rule = FORMATS[name], IdRule(settings.id_field)
    source = ByteSource(inputs, format, lambda: None)
    try:
        while not source.ended:
            chunk = source.take(_LOOK)
            if chunk is None:
                continue
            assert isinstance(chunk.data, bytes)
            for offset, record in enumerate(formats.split_records(chunk.data, format.separator)):
                raw = format.trim(record)
                wanted = line is None or chunk.line + offset == line
                if not raw or not wanted:
                    continue
                found, item = _parsed(raw, name, rule, strict=id is None)
                if id is None or str(found) == id:
                    return item
    finally:
        source.close()
    if id is None and line is None:
        raise InvalidUsage(f"there is no item in {' '.join(inputs)}", "correct the input")
    which = f"with the id {id!r}" if id is not None else f"on line {line}"
    raise InvalidUsage(f"no item {which} in {' '.join(inputs)}", "check --id or --line")


def _parsed(raw: bytes, name: str, rule: IdRule, strict: bool) -> tuple[Any, Any]:
    try:
        item = FORMATS[name].parse(raw)
        return rule.id_of(item, raw), item
    except BadItem as bad:
        if strict:
            raise InvalidUsage(f"the record is no item: {bad.message}", "correct the input") from None
        return None, None
