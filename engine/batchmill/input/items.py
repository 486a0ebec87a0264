"""The way from a record to an item with an id and a content checksum.

Only workers use it, and a dry run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple
from zlib import crc32

from batchmill.codec.identity import digest_of
from batchmill.codec.ids import checksum, digest_id, fingerprint, shard_of
from batchmill.codec.pack import pack_value
from batchmill.errors import ItemError
from batchmill.files.mapped_pickle import is_digest, read_item
from batchmill.input.formats import PLAIN_IDS, BadItem, Format, IdRule, Parse, block_of, format_named
from batchmill.input.json_choice import VARIABLE, parser_of
from batchmill.input.parquet_rows import RowReader
from batchmill.model import Chunk
from batchmill.text import describe


class Identified(NamedTuple):
    """A record understood: its id, its raw bytes, the item, its content's checksum, and why it is no item, if so."""

    id: Any
    raw: bytes
    item: Any
    content: int
    bad: BadItem | None


Found = tuple[Any, bytes, Any, int, BadItem | None]  # the fields of Identified: a plain tuple costs a tenth as much
Identify = Callable[[Chunk, int, Any], "Found | None"]


class ItemReader:
    """Understands the records of one run.

    `format` is None for Python items; `ids_needed` says that an item without an id is a failed one (there is a
    checkpoint to find it in); else its position is its id.

    `identify(chunk, offset, record)` gives a record understood: the fields of Identified, or None for a blank record or
    one of another shard.
    """

    identify: Identify
    gives_table_rows = False  # a row of Parquet is no map, but a TableRow
    is_brief = False  # nothing is kept: a large Python item is known by the digest of its pickle

    def __init__(self, format: str | None, rule: IdRule, shard: tuple[int, int] | None, ids_needed: bool) -> None:
        self.format = self.format_named(format) if format is not None else None
        self._rule = rule
        self._shard = shard
        self._ids_needed = ids_needed
        self._header = b""
        self._rows_of = lru_cache(4)(RowReader)
        if self.format is None:
            self.identify = _of_shard(shard, self._identify_object)
        else:
            self._parser_of = parser_of(self.format, os.environ.get(VARIABLE, ""))
            self._reader_of = lru_cache(4)(self._make_reader)

    @staticmethod
    def format_named(name: str) -> Format:
        """How records of that format are read here."""
        return format_named(name)

    def _make_reader(self, header: bytes, parse: Parse | None) -> Identify:
        """`identify` for records that stand under that header, by `parse` in place of the format's own."""
        assert self.format is not None
        if self.format.wanted is not None:
            return _of_shard(self._shard, partial(self._identify_row, self._rows_of(header)))
        return _of_shard(self._shard, _reader(self.format, header, self._rule, parse or self.format.parser(header)))

    def records(self, chunk: Chunk) -> Sequence[Any]:
        """The records of a chunk, which `identify` is for from now on: bytes, or pickles of Python items."""
        if isinstance(chunk.data, tuple):
            return chunk.data
        assert self.format is not None
        self._header = chunk.header
        block = block_of(chunk, self.format)
        self.identify = self._reader_of(chunk.header, self._parser_of(block))
        if self.format.wanted is not None:
            records = self.format.split(block)
            self._rows_of(chunk.header).expect(records)
            return records
        if chunk.records == 1 and chunk.condemned is not None:  # it may be too long, and cut anywhere
            return [block.removesuffix(self.format.separator)]
        return self.format.split(block)

    def unread(self, chunk: Chunk, offset: int, record: Any, error: ItemError) -> Found | None:
        """`identify`, of a record that cannot or must not be opened: its id is its position, unless one was given.

        It belongs to the shard of that, unless it has an outcome here already.
        """
        bad = BadItem(error.type, error.message, error.traceback)
        id = chunk.first + offset if chunk.ids is None else chunk.ids[offset]
        id = chunk.first + offset if isinstance(id, ItemError) else id
        has_outcome = offset in (chunk.earlier or ())
        if self._shard is not None and not has_outcome and shard_of(id, self._shard[1]) != self._shard[0]:
            return None
        if self.format is None:
            return id, b"", None, crc32(record) if isinstance(record, bytes) else 0, bad
        raw = self.format.trim(record)
        # What a row holds is not known then.
        return id, raw if self.format.wanted is None else b"", None, checksum(raw, chunk.header), bad

    def kept(self, raw: bytes) -> bytes:
        """What the checkpoint keeps of such a record."""
        return raw if self.format is None else self.format.kept(self._header, raw)

    def is_blank(self, record: Any) -> bool:
        """Whether a record is empty, and passed over."""
        return self.format is not None and not self.format.trim(record)

    def _identify_row(self, rows: RowReader, chunk: Chunk, offset: int, record: bytes) -> Found | None:
        try:
            item: Any = rows.row(int(record))
            row = item
            raw = pack_value(item)
            if self.gives_table_rows:
                item = rows.table_row(int(record))
        except Exception as error:
            why = describe(error)
            return self.unread(chunk, offset, record, ItemError("UnreadableRow", f"{why.type}: {why.message}"))
        try:
            id = row.get(self._rule.field)  # a date or a decimal is an id too
            has_id = id is not None and not isinstance(id, (list, dict, tuple))
            return id if has_id else self._rule.id_of(row, raw), raw, item, crc32(raw), None
        except BadItem as bad:
            return digest_id(raw), raw, None, crc32(raw), bad

    def _identify_object(self, chunk: Chunk, offset: int, record: Any) -> Found | None:
        if isinstance(record, ItemError):  # the parent could not pickle it
            return self.unread(chunk, offset, record, record)
        try:
            item = read_item(record)
        except BaseException as error:
            why = describe(error)
            said = replace(why, message=f"the item cannot be read in a worker: {why.message}")
            return self.unread(chunk, offset, record, said)
        try:
            raw, mark = (b"", bytes(record)) if self.is_brief and is_digest(record) else fingerprint(item)
        except Exception:  # of the item's own methods it may be any
            raw = b""
            try:
                mark = digest_of(item)
            except Exception as error:
                if chunk.ids is None and self._rule.field_name is None and self._ids_needed:
                    return self.unread(chunk, offset, record, _without_id(error))
                mark = b""
        content = crc32(mark)
        try:
            id = self._id_of_object(chunk, offset, item, mark)
        except BadItem as bad:
            return digest_id(mark) if mark else chunk.first + offset, raw, item, content, bad
        return id, raw, item, content, None

    def _id_of_object(self, chunk: Chunk, offset: int, item: Any, mark: bytes) -> Any:
        if chunk.ids is not None:
            return _given(chunk.ids[offset])
        return self._rule.id_of(item, mark) if mark or self._rule.field_name is not None else chunk.first + offset


def _without_id(error: Exception) -> ItemError:
    """Why no id could be made of an item, and what helps."""
    why, remedy = describe(error), "give run(..., id=...)"
    if isinstance(error, (ValueError, TypeError)):  # a sentence of ours
        return ItemError("ValueError", f"{why.message}: {remedy}")
    return replace(why, message=f"no id can be made of this item: {why.message}: {remedy}")


def _reader(format: Format, header: bytes, rule: IdRule, parse: Parse) -> Identify:
    """`identify` for records of bytes: all it needs is at hand here, for this runs once per item."""
    trim, content_is_bytes = format.trim, format.content_is_bytes
    under = crc32(header)  # as formats.checksum, which would be one more call
    id_of, field = rule.id_of, rule.field

    def read(chunk: Chunk, offset: int, record: bytes) -> Found | None:
        raw = trim(record)
        if not raw:
            return None
        try:
            item = parse(raw)
            id = item.get(field) if type(item) is dict else None
            if type(id) not in PLAIN_IDS:
                id = id_of(item, raw)
        except BadItem as bad:
            return digest_id(raw), raw, None, crc32(raw, under), bad
        return id, raw, item, crc32(raw, under) if content_is_bytes else _content_of_file(raw), None

    return read


def _of_shard(shard: tuple[int, int] | None, identify: Identify) -> Identify:
    """`identify` that passes over the items of other shards, if there are any."""
    if shard is None:
        return identify

    def read(chunk: Chunk, offset: int, record: Any) -> Found | None:
        found = identify(chunk, offset, record)
        return None if found is None or shard_of(found[0], shard[1]) != shard[0] else found

    return read


def _given(id: Any) -> Any:
    if isinstance(id, ItemError):  # the parent could not keep it
        raise BadItem(id.type, id.message, id.traceback)
    return id


def _content_of_file(path: bytes) -> int:
    """Size and time of change stand in for a file's bytes: reading it twice would cost too much."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return crc32(b"%d %d" % (status.st_size, status.st_mtime_ns))
