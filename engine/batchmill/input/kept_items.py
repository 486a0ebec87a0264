"""Items as they were, from the bytes that a checkpoint keeps of them: what the function was called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from batchmill.codec.unpack import unpack_value
from batchmill.errors import CheckpointDamaged
from batchmill.input.formats import BadItem, Format, find_format


def reader_of_kept(format: Format | None) -> Callable[[bytes | None], Any]:
    """What turns kept bytes into the item; None where nothing was kept, or there never was one (bad JSON).

    `format` is None for Python items: these come as results do, a dataclass as the map of its fields.
    """
    return partial(_item, format)


def kept_item(name: str, kept: bytes) -> Any:
    """The item of a format of that name; where it never was one, its text."""
    format = find_format(name)
    try:
        return _item_of(format, kept)
    except BadItem:
        assert format is not None
        return format.of_kept(kept)[1].decode("utf-8", "surrogateescape")
    except (ValueError, CheckpointDamaged):
        return kept.decode("utf-8", "surrogateescape")


def _item(format: Format | None, kept: bytes | None) -> Any:
    try:
        return _item_of(format, kept) if kept else None
    except (BadItem, ValueError, CheckpointDamaged):
        return None


def _item_of(format: Format | None, kept: bytes) -> Any:
    if format is None or format.wanted is not None:  # it came as a value
        return unpack_value(kept)
    header, record = format.of_kept(kept)
    return format.parser(header)(format.trim(record))
