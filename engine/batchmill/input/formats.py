"""What an input format means: where items end, how one is parsed, what its id is.

A block is bytes that hold whole records, each closed by the format's separator but perhaps the last. The parent cuts
and splits blocks without looking into records; a worker parses them. Adding a format is adding a row to `FORMATS`.

In a table (csv, tsv) a separator inside of quotes closes nothing, so what is cut and counted are a block's `marks`: the
block itself for all other formats. The header of a table is no record; it travels with each chunk.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

from batchmill.codec.ids import digest_id
from batchmill.errors import CheckpointDamaged, InputBroken
from batchmill.input.dialects import Dialect, dialect_of, in_name
from batchmill.input.tables import Table
from batchmill.model import Chunk, FileRange
from batchmill.settings import FORMATS as NAMES
from batchmill.text import option, read_names, write_names
from batchmill.value_class import value_class

MAX_ITEM = 64 * 1024 * 1024  # bytes; a longer record is a failed item
MAX_OWN_ID = 1024  # bytes of UTF-8; a longer text is identified by its digest
Parse = Callable[[bytes], Any]  # a record to its item; raises BadItem
_NEAR = 64  # records; fewer than this are found one by one, more by estimate and count
_LONG = 512  # bytes; to find the ends of longer records costs less than to count them, which looks at every byte


class BadItem(Exception):
    """A record that is no item: it becomes a failed item with this type name, message and traceback (text)."""

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.traceback = traceback


@value_class
class Format:
    """How records of a format are cut and parsed.

    `separator` is one byte. `trim` takes away what surrounds a record (a carriage return, blanks) and leaves nothing
    of a blank one, which is passed over. `parse` turns a trimmed record into the item and raises BadItem where it
    cannot; a `table` has none, for its rows mean something under a header only: `parser` gives it. `content_is_bytes`
    is False where a record only names its content (files), so that equal bytes do not mean equal items. `wanted` is not
    None where records are numbers of rows (parquet): then it has the columns that are read, all where there are none.
    """

    name: str
    separator: bytes
    trim: Callable[[bytes], bytes]
    parse: Callable[[bytes], Any] | None
    content_is_bytes: bool = True
    table: Table | None = None
    wanted: tuple[str, ...] | None = None

    @property
    def base(self) -> str:
        """Its name without a dialect."""
        return self.name.partition(" ")[0]

    @property
    def again(self) -> str:
        """The name of what `rewrite` makes of items of this one."""
        return self.name if self.table is None else with_dialect(self, replace(self.table.dialect, skip_lines=0)).name

    def parser(self, header: bytes) -> Callable[[bytes], Any]:
        """`parse`, for records of an INPUT with that header (b"" where it has none)."""
        if self.table is not None:
            return _row_parser(self.table, header)
        assert self.parse is not None
        return self.parse

    def marks(self, data: bytes) -> bytes:
        """`data`, which is whole records, with the separators that close none blanked out; as long as `data`."""
        return data if self.table is None else self.table.marks(data)

    def count(self, data: bytes) -> int:
        """Records in a block."""
        return count_records(self.marks(data), self.separator)

    def head(self, data: bytes, records: int) -> bytes:
        """The first `records` records of a block that has more."""
        return data[: cut(self.marks(data), 0, records, self.separator)[0]]

    def split(self, data: bytes) -> list[bytes]:
        """The records of a block, without their separators."""
        marks = self.marks(data)
        records = split_records(marks, self.separator)
        if marks is data:
            return records
        ends = list(accumulate(len(record) + 1 for record in records))
        return [data[end - len(record) - 1 : end - 1] for record, end in zip(records, ends)]

    def lines(self, data: bytes, records: int) -> int:
        """Lines that the `records` whole records in `data` take up."""
        return records if self.table is None else data.count(b"\n")

    def line_offsets(self, data: bytes) -> Sequence[int] | None:
        """How many lines of a block come before each of its records; None where those are its records."""
        if self.table is None or self.marks(data) is data:
            return None
        return [0, *accumulate(record.count(b"\n") + 1 for record in self.split(data))]

    def is_sound(self, record: bytes) -> bool:
        """Whether a record stays what it is, whatever record is put behind it."""
        return self.table is None or self.table.is_sound(record)

    def kept(self, header: bytes, record: bytes) -> bytes:
        """What the checkpoint keeps of a record: enough to read it alone. A row comes with its header."""
        return record if self.table is None else b"%b\n%b" % (header, record)

    def of_kept(self, data: bytes) -> tuple[bytes, bytes]:
        """(header, record) of what `kept` made; raises CheckpointDamaged for anything else."""
        if self.table is None:
            return b"", data
        end = self.marks(data).find(b"\n")
        if end < 0:
            raise CheckpointDamaged("a row was kept without its header")
        return data[:end], data[end + 1 :]


_scan_json: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # half the cost of json.loads, which does what follows here in Python


def _parse_json(raw: bytes) -> Any:
    try:
        text = raw.decode()
        item, end = _scan_json(text, 0)
        return item if end == len(text) else json.loads(text)
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    except StopIteration as error:
        raise BadItem("JSONDecodeError", f"not valid JSON: Expecting value at column {error.value + 1}") from None
    except json.JSONDecodeError as error:  # its own text counts lines from this record's beginning, and misleads
        what = error.msg.removesuffix(" at").rstrip(": ")
        raise BadItem("JSONDecodeError", f"not valid JSON: {what} at column {error.pos + 1}") from None
    except ValueError as error:
        raise BadItem("JSONDecodeError", f"not valid JSON: {error}") from None
    except RecursionError:
        raise BadItem("JSONDecodeError", "not valid JSON: nested too deeply") from None


def _not_utf8(error: UnicodeDecodeError) -> BadItem:
    return BadItem("UnicodeDecodeError", f"not valid UTF-8: {error.reason} at byte {error.start}")


def _parse_line(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _parse_path(raw: bytes) -> str:
    """A file's name, or what may be one. Not all are UTF-8."""
    # What os.fsdecode does on every system with a file system of bytes: names that are not UTF-8 survive.
    return raw.decode("utf-8", "surrogateescape")


def _parse_file(raw: bytes) -> str:
    if raw.endswith(b"/"):  # see folders.py
        shown = raw.decode("utf-8", "backslashreplace")
        raise BadItem("UnreadableDirectory", f"{shown} cannot be read, and nobody knows what is below it")
    return _parse_path(raw)


def _trim_line(raw: bytes) -> bytes:
    return raw.removesuffix(b"\r") if raw.strip() else b""


def _trim_row(raw: bytes) -> bytes:  # blanks are cells
    return raw.removesuffix(b"\r")


def _row_parser(table: Table, header: bytes) -> Callable[[bytes], dict[str, str]]:
    read = table.reader(header)

    def parse(raw: bytes) -> dict[str, str]:
        try:
            return read(raw)
        except UnicodeDecodeError as error:
            raise BadItem(
                "UnicodeDecodeError", f"{table.why_no_text(error)} ({option('encoding')} names another)"
            ) from None
        except ValueError as error:
            raise BadItem("BadRow", str(error)) from None

    return parse


FORMATS = {
    "jsonl": Format("jsonl", b"\n", bytes.strip, _parse_json),
    "csv": Format("csv", b"\n", _trim_row, None, table=Table(Dialect(","))),
    "tsv": Format("tsv", b"\n", _trim_row, None, table=Table(Dialect("\t"))),
    "lines": Format("lines", b"\n", _trim_line, _parse_line),
    "null": Format("null", b"\0", bytes, _parse_path),
    "parquet": Format("parquet", b"\n", bytes, None, wanted=()),
    "files": Format("files", b"\0", bytes, _parse_file, content_is_bytes=False),
}
LINES_OF_BYTES = replace(FORMATS["lines"], parse=_parse_path)  # of a command, whose arguments are bytes
_ALL = ", ".join(NAMES[1:-1]) + f" or {NAMES[-1]}"


def give_format() -> str:
    """The remedy where a format is not known."""
    return f"give {option('format')} {_ALL}"


@lru_cache(16)
def find_format(name: str) -> Format | None:
    """The format of that name, be it that of a table with its dialect; None where there is none: of Python items."""
    if name in FORMATS:
        return FORMATS[name]
    try:
        base, *words = shlex.split(name)
        usual = FORMATS[base]
        if usual.wanted is not None:
            option, columns = words
            return replace(usual, name=name, wanted=read_names(columns)) if option == "--columns" else None
        if usual.table is None:
            return None
        return replace(usual, name=name, table=Table(dialect_of(words, usual.table.dialect)))
    except (ValueError, KeyError, LookupError):
        return None


def format_named(name: str) -> Format:
    """The format of that name; raises KeyError where there is none."""
    format = find_format(name)
    if format is None:
        raise KeyError(name)
    return format


def with_columns(format: Format, columns: tuple[str, ...]) -> Format:
    """The same format of rows, of which those columns are read."""
    return format_named(in_name(format.base, ["--columns", write_names(columns)])) if columns else format


def with_dialect(format: Format, dialect: Dialect) -> Format:
    """The same kind of table in that dialect."""
    usual = FORMATS[format.base].table
    assert usual is not None
    words = dialect.words(usual.dialect)
    return format_named(in_name(format.base, words)) if words else FORMATS[format.base]


def cut(data: bytes | bytearray, start: int, records: int, separator: bytes) -> tuple[int, int]:
    """Where the next `records` records of `data` (its marks) end: (offset after the last separator, records found).

    Finds fewer where fewer records are closed. Costs no per-record work for many records: it
    estimates an end from the mean length so far, counts separators, and corrects.
    """
    position, found, size = start, 0, len(data)
    mean = 0.0
    while found < records:
        missing = records - found
        if missing <= _NEAR or not mean or mean > _LONG:
            for _ in range(missing if mean > _LONG else min(missing, _NEAR)):
                end = data.find(separator, position)
                if end < 0:
                    return position, found
                position, found = end + 1, found + 1
        else:
            guess = data.rfind(separator, position, min(size, position + max(1, int(0.9 * missing * mean))))
            if guess < 0:
                mean = 0.0
                continue
            counted = data.count(separator, position, guess + 1)
            if counted > missing:
                mean *= 0.5 * missing / counted
                continue
            position, found = guess + 1, found + counted
        mean = (position - start) / found
    return position, found


def count_records(data: bytes, separator: bytes) -> int:
    """Records in a block: its separators, and one more where the last record has none."""
    return count_ends(data, separator) + (1 if data and not data.endswith(separator) else 0)


def count_ends(data: bytes, separator: bytes) -> int:
    """As bytes.count."""
    position, found = cut(data, 0, _NEAR, separator)
    if found < _NEAR or position <= _NEAR * _LONG:
        return found + data.count(separator, position)
    return found + cut(data, position, len(data), separator)[1]


def split_records(data: bytes, separator: bytes) -> list[bytes]:
    """The records of a block, without their separators."""
    records = data.split(separator)
    if not records[-1]:
        records.pop()
    return records


PLAIN_IDS = frozenset((str, int, float, bool))  # the types of values that are ids as they are
_SCALARS = tuple(PLAIN_IDS)


_FIELDLESS = (str, int, float, bool, type(None), list, tuple)


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's own."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") and not value.shape else value


@value_class
class IdRule:
    """How an item's id is found: the field `field_name`, or (None) the rule of engine/README.md#ids."""

    field_name: str | None = None

    @property
    def name(self) -> str:
        """The rule's name, as the checkpoint's META keeps it."""
        return "auto" if self.field_name is None else f"field:{self.field_name}"

    @property
    def field(self) -> str:
        """The field of an object that is its id, where it has one of PLAIN_IDS."""
        return self.field_name or "id"

    def id_of(self, item: Any, raw: bytes) -> Any:
        """The id of an item whose record is `raw`; raises BadItem where the named field is missing or no scalar."""
        if self.field_name is not None:
            return self._field(item, self.field_name)
        if type(item) is dict:
            found = _plain(item.get("id"))
            if found is not None and isinstance(found, _SCALARS):
                return found
            return digest_id(raw)
        item = _plain(item)
        if type(item) is str:
            return item if len(item) <= MAX_OWN_ID and len(raw) <= MAX_OWN_ID else digest_id(raw)
        if type(item) in (int, float):
            return item if len(raw) <= MAX_OWN_ID else digest_id(raw)
        return digest_id(raw)

    @staticmethod
    def _field(item: Any, name: str) -> Any:
        if isinstance(item, dict):
            found = _plain(item.get(name))
        else:  # of Python items it may be any
            found = None if type(item) in _FIELDLESS else _plain(getattr(item, name, None))
        if found is None or not isinstance(found, _SCALARS):
            what = "has no" if found is None else "has a list or an object in its"
            raise BadItem("MissingId", f"the item {what} field {name!r} ({option('id_field')})")
        return found


def block_of(chunk: Chunk, format: Format) -> bytes:
    """The block of a chunk, read if it was not kept. Raises OSError, and InputBroken where its range does not hold so
    many whole records any more."""
    if not isinstance(chunk.data, FileRange):
        assert isinstance(chunk.data, bytes)
        return chunk.data
    before, block = chunk.data.file.read(chunk.data.start, chunk.data.size)
    is_whole = before in (b"", format.separator) and block.endswith(format.separator)
    if not is_whole or format.count(block) != chunk.records:
        said = f"{chunk.data.file.path} was changed while the batch ran: line {chunk.line} is not where it was"
        raise InputBroken(said, "write it again, and run the batch once more")
    return block


def lines_of(chunk: Chunk, format: Format | None) -> Sequence[int]:
    """The line of each record of a chunk, 1-based within its INPUT. Python items have no format, and a line each."""
    offsets = format.line_offsets(chunk.data) if isinstance(chunk.data, bytes) and format is not None else None
    if offsets is None:
        return range(chunk.line, chunk.line + chunk.records)
    return [chunk.line + offset for offset in offsets]


def line_at(chunk: Chunk, offset: int, format: Format | None) -> int:
    """The line of one of them."""
    return lines_of(chunk, format)[offset] if offset else chunk.line


def divide(chunk: Chunk, at: int, format: Format | None) -> tuple[Chunk, Chunk]:
    """A chunk as two: its first `at` records and the rest (0 < at < chunk.records). Python items have no format."""
    middle = lines = at
    if not isinstance(chunk.data, tuple):
        assert format is not None
        head_data = format.head(block_of(chunk, format), at)
        middle, lines = len(head_data), format.lines(head_data, at)
    skip, ids, earlier, numbers = chunk.skip, chunk.ids, chunk.earlier, chunk.numbers
    head = chunk._replace(
        records=at,
        data=chunk.data[:middle],
        skip=skip and skip[:at],
        ids=ids and ids[:at],
        numbers=numbers and numbers[:at],
        earlier=earlier and {offset: e for offset, e in earlier.items() if offset < at},
    )
    tail = chunk._replace(
        first=chunk.first + at,
        line=chunk.line + lines,
        records=chunk.records - at,
        data=chunk.data[middle:],
        skip=skip and skip[at:],
        ids=ids and ids[at:],
        numbers=numbers and numbers[at:],
        earlier=earlier and {offset - at: e for offset, e in earlier.items() if offset >= at},
    )
    return head, tail
