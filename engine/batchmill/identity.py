"""Owns the way from a record to an item with an id and a content checksum. Never runs a function.

Only lanes use it, and a dry run.
"""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from batchmill import formats
from batchmill.codec import canonical, digest_id
from batchmill.formats import FORMATS, BadItem, IdRule, shard_of
from batchmill.model import Chunk, ItemError


class Identified(NamedTuple):
    """A record understood: its id, its raw bytes, the item, its content's checksum, and why it is no item, if so."""

    id: Any
    raw: bytes
    item: Any
    content: int
    bad: BadItem | None


class Identifier:
    """Understands the records of one run.

    `format` is None for Python items; `ids_needed` says that an item without an id is a failed one (there is a
    checkpoint to find it in); else its position is its id.
    """

    def __init__(self, format: str | None, rule: IdRule, shard: tuple[int, int] | None, ids_needed: bool) -> None:
        self._format = FORMATS[format] if format is not None else None
        self._rule = rule
        self._shard = shard
        self._ids_needed = ids_needed

    @property
    def separator(self) -> bytes:
        """What closes a record in a block."""
        return self._format.separator if self._format is not None else b"\n"

    def records(self, chunk: Chunk) -> Sequence[Any]:
        """The records of a chunk: bytes, or pickles of Python items."""
        if isinstance(chunk.data, tuple):
            return chunk.data
        if chunk.records == 1 and chunk.verdict is not None:  # it may be too long, and cut anywhere
            return [chunk.data.removesuffix(self.separator)]
        return formats.split_records(chunk.data, self.separator)

    def is_blank(self, record: Any) -> bool:
        """Whether a record is empty, and passed over."""
        return self._format is not None and not self._format.trim(record)

    def identify(self, chunk: Chunk, offset: int, record: Any) -> Identified | None:
        """A record understood; None for a blank one, or one of another shard."""
        if self._format is None:
            found = self._identify_object(chunk, offset, record)
        else:
            raw = self._format.trim(record)
            if not raw:
                return None
            found = self._identify_record(raw)
        if self._shard is not None and shard_of(found.id, self._shard[1]) != self._shard[0]:
            return None
        return found

    def _identify_record(self, raw: bytes) -> Identified:
        assert self._format is not None
        try:
            item = self._format.parse(raw)
            id = self._rule.id_of(item, raw)
        except BadItem as bad:
            return Identified(digest_id(raw), raw, None, zlib.crc32(raw), bad)
        content = zlib.crc32(raw) if self._format.content_is_bytes else _content_of_file(raw)
        return Identified(id, raw, item, content, None)

    def _identify_object(self, chunk: Chunk, offset: int, record: Any) -> Identified:
        if isinstance(record, ItemError):  # the parent could not pickle it
            return _unreadable(chunk.first + offset, record.type, record.message)
        try:
            item = pickle.loads(record)
        except Exception as error:
            sentence = f"the item cannot be read in a worker: {error}"
            return _unreadable(chunk.first + offset, type(error).__name__, sentence)
        try:
            raw, problem = canonical(item), None
        except (ValueError, TypeError) as error:
            raw, problem = b"", error
        content = zlib.crc32(raw)
        try:
            id = self._id_of_object(chunk, offset, item, raw, problem)
        except BadItem as bad:
            return Identified(digest_id(raw) if raw else chunk.first + offset, raw, item, content, bad)
        return Identified(id, raw, item, content, None)

    def _id_of_object(self, chunk: Chunk, offset: int, item: Any, raw: bytes, problem: Exception | None) -> Any:
        if chunk.ids is not None:
            return _given(chunk.ids[offset])
        if problem is None or self._rule.field_name is not None:
            return self._rule.id_of(item, raw)
        if self._ids_needed:
            raise BadItem("ValueError", f"{problem}: give run(..., id=...)")
        return chunk.first + offset


def _given(id: Any) -> Any:
    if isinstance(id, ItemError):  # the parent could not keep it
        raise BadItem(id.type, id.message)
    return id


def _unreadable(id: int, type: str, message: str) -> Identified:
    return Identified(id, b"", None, 0, BadItem(type, message))


def _content_of_file(path: bytes) -> int:
    """Size and time of change stand in for a file's bytes: reading it twice would cost too much."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return zlib.crc32(b"%d %d" % (status.st_size, status.st_mtime_ns))
