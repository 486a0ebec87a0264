"""Failed items as they were: what the checkpoint keeps of them, or, of large ones, what their INPUT has at their line.

An INPUT may have changed since, or be gone: what is there is the item only if its bytes have the checksum that was
kept. No record is parsed here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from batchmill.checkpoint.reader import naming
from batchmill.codec.ids import checksum
from batchmill.codec.json_form import encode, is_sound
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.unpack import unpack_value
from batchmill.errors import BatchmillError, CheckpointDamaged
from batchmill.input.compression import UNREADABLE
from batchmill.input.formats import Format, line_at
from batchmill.input.parquet_rows import RowsAgain
from batchmill.input.sources import KEPT, TOO_LONG, ByteSource, chunks_of
from batchmill.input.streams import opener
from batchmill.output.results import Results
from batchmill.value_class import value_class

MOST = 1 << 30  # bytes of an item that is read at once
_RECORDS = 1000  # looked at at once
_STALE = 0.1  # seconds until an INPUT that is silent is asked again


@value_class
class Lost:
    """A failed item that cannot be given back: its `id`, its 1-based `line`, and why."""

    id: Any
    line: int
    why: str


class FailedItems:
    """The failed items of a checkpoint. `lost` are those that the last pass could not give back."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.lost: list[Lost] = []
        self._input: _InputAgain | RowsAgain | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Each item as a checkpoint keeps it; one of Python as a line of JSON."""
        self.lost = []
        try:
            for block, index in self._results.failed():
                kept = block.items[index] if block.items is not None else block.failures[index].raw
                why = "it was an item of Python, above 64 KiB or of a kind that is not kept"
                if self._results.format is None:
                    found = _as_line(kept)
                elif kept and not _is_part(block, index):
                    found = kept
                else:
                    found, why = self._read_again(self._results.format, block, index)
                if found is None:
                    self.lost.append(Lost(block.ids[index], block.head.line + block.lines[index], why))
                else:
                    yield found
        finally:
            self._close()

    def inputs(self) -> list[str]:
        """The files that they came from, those that are there."""
        results = self._results
        heads = {(block.head.run, block.head.input) for block, _ in results.failed()}
        paths = dict.fromkeys(_path(results.run(run), number) for run, number in sorted(heads))
        return [path for path in paths if path is not None]

    def _read_again(self, format: Format, block: OutcomeBlock, index: int) -> tuple[bytes | None, str]:
        path = _path(self._results.run(block.head.run), block.head.input)
        if path is None:
            return None, "its INPUT was a pipe"
        if self._input is None or self._input.path != path:
            self._close()
            self._input = _InputAgain(path, format) if format.wanted is None else RowsAgain(path, format.wanted)
        with naming(self._results.path):
            line, content, is_part = block.head.line + block.lines[index], block.contents[index], _is_part(block, index)
        try:
            found = self._input.item(line, content, is_part=is_part)
        except (BatchmillError, *UNREADABLE) as error:
            return None, f"{path} cannot be read: {error}"
        return found, f"{path} has another item there now"

    def _close(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None


def _is_part(block: OutcomeBlock, index: int) -> bool:
    """Whether what is kept is the beginning of a record that was too long to be an item."""
    failure = block.failures[index]
    return failure.type == "ItemTooLarge" and failure.message.startswith(TOO_LONG)


def _as_line(kept: bytes | None) -> bytes | None:
    """What is kept of an item of Python as JSON, where that is the same."""
    if not kept:
        return None
    try:
        value = unpack_value(kept)
        text = encode(value)
    except (CheckpointDamaged, ValueError, TypeError):
        return None
    return text.encode() if is_sound(text) else None


def _path(run: Mapping[str, Any], number: int) -> str | None:
    """Where the INPUT with that number of a run is, if it is a file."""
    names = run.get("files") or run.get("input") or ()
    if number >= len(names) or names[number] == "-":
        return None
    path = os.path.join(run.get("directory", ""), names[number])
    return path if os.path.isfile(path) else None


class _InputAgain:
    """An INPUT that is read once more, from its beginning on; quickest by ascending lines."""

    def __init__(self, path: str, format: Format) -> None:
        self.path = path
        self._format = format
        self._wake = threading.Event()
        self._source: ByteSource | None = None
        self._records: Iterator[tuple[int, bytes, bytes]] = iter(())
        self._line = 0

    def item(self, line: int, content: int, *, is_part: bool) -> bytes | None:
        """What a checkpoint keeps of the record at a line, if that has the checksum `content`; where that is of a part,
        all of the record. Raises OSError and BatchmillError."""
        found = self._record_at(line)
        if found is None:
            return None
        record, header = found
        if is_part:
            return self._long(line, content)
        raw = self._format.trim(record)
        return self._format.kept(header, raw) if checksum(raw, header) == content else None

    def _record_at(self, line: int) -> tuple[bytes, bytes] | None:
        if self._source is None or line <= self._line:
            self.close()
            self._source = ByteSource([self.path], self._format, self._wake.set)
            self._records = self._read(self._source)
        for found, record, header in self._records:
            self._line = found
            if found >= line:
                return (record, header) if found == line else None
        return None

    def _read(self, source: ByteSource) -> Iterator[tuple[int, bytes, bytes]]:
        for chunk in chunks_of(source, self._wake, _RECORDS):
            assert isinstance(chunk.data, bytes)
            records = self._format.split(chunk.data) if chunk.condemned is None else [chunk.data]
            for offset, record in enumerate(records):
                yield line_at(chunk, offset, self._format), record, chunk.header

    def _long(self, line: int, content: int) -> bytes | None:
        """A record that is too long to be an item, of a format whose records end at their separator."""
        if self._format.table is not None:
            return None
        feed = opener(self.path, self._format, self._wake.set)()
        try:
            record, left = bytearray(), line - 1
            while (block := feed.read()) != b"":
                if block is None:
                    self._wake.wait(_STALE)
                    continue
                while left and (end := block.find(self._format.separator)) >= 0:
                    block, left = block[end + 1 :], left - 1
                if left:
                    continue
                end = block.find(self._format.separator)
                record += block if end < 0 else block[:end]
                if end >= 0 or len(record) > MOST:
                    break
            is_it = len(record) <= MOST and checksum(self._format.trim(bytes(record[:KEPT])), b"") == content
            return bytes(record) if is_it else None
        finally:
            with suppress(OSError):
                feed.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._source is not None:
            self._source.close()
            self._source = None
