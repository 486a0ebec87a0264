"""Failed items as the next input: as they were, a table's rows under one header."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from batchmill.codec.json_form import Plain, encode, sound
from batchmill.codec.unpack import unpack_value
from batchmill.input.dialects import in_encoding
from batchmill.input.formats import BadItem, Format, with_dialect


def as_input(format: Format | None, kept: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    """Items as the checkpoint keeps them (`kept` gives them, each time anew) as the parts of an INPUT of that format.

    `format` is None for Python items.
    """
    if format is not None and format.table is not None:
        encoding = format.table.dialect.encoding
        yield from (in_encoding(part, encoding) for part in _as_table(format, kept))
        return
    if format is not None and format.wanted is not None:
        yield from (as_json_line(row) + b"\n" for row in kept())
        return
    for item in kept():
        yield item.removesuffix(b"\n") + b"\n" if format is None else _closed(format, item)


def _closed(format: Format, record: bytes) -> bytes:
    """A trimmed record with its separator, and what is trimmed off before that where it would take more off now."""
    return record + (b"" if format.trim(record) == record else b"\r") + format.separator


def as_json_line(row: bytes) -> bytes:
    """A row of a file of rows, as a checkpoint keeps it, as JSON."""
    return sound(encode(Plain(str).of(unpack_value(row)))).encode()


def _as_table(format: Format, kept: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    assert format.table is not None
    has_header = format.table.dialect.header
    headers = dict.fromkeys(format.of_kept(item)[0] for item in kept())
    rows = _rows(format, kept(), list(headers)) if len(headers) > 1 else (format.of_kept(item)[1] for item in kept())
    unclosed = []
    for number, row in enumerate(rows):
        if not number and has_header:
            yield _line(format, _union(format, headers)) if len(headers) > 1 else b"%b\n" % next(iter(headers))
        if format.is_sound(row):
            yield _closed(format, row)
        else:
            unclosed.append(_closed(format, row))  # it could take in those that follow
    yield b"".join(unclosed)


def _rows(format: Format, kept: Iterable[bytes], headers: Iterable[bytes]) -> Iterator[bytes]:
    """Rows that stand under different headers, under all of their columns; those that are none stay as they are."""
    columns = _union(format, headers)
    assert format.table is not None
    whole = with_dialect(format, replace(format.table.dialect, columns=()))
    parsers = {header: whole.parser(header) for header in headers}
    for item in kept:
        header, row = format.of_kept(item)
        try:
            cells = parsers[header](row)
        except BadItem:
            yield row
        else:
            yield _line(format, [cells.get(column, "") for column in columns])[:-1]


def _union(format: Format, headers: Iterable[bytes]) -> list[str]:
    assert format.table is not None
    return list(dict.fromkeys(name for header in headers for name in format.table.names(header)))


def _line(format: Format, cells: Iterable[str]) -> bytes:
    assert format.table is not None
    return format.table.row(cells) + b"\n"
