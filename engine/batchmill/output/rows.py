"""Outcomes as rows of cells, for CSV, TSV and SQLite.

A result that is text or a number is a cell as it is, None an empty one; what JSON would say as text (`json_lines`) is
that text; all that has parts is JSON. Of a result that is a map, each field has a cell of its own (`columns`).

In CSV and TSV, true and false are words, and text that a spreadsheet would run as a formula has a ' before it, unless
nobody wants that. Ids and errors are escaped too: no cell of them moves a cursor or ends a line. In SQLite, bytes stay
bytes, true and false are 1 and 0, and an integer above 64 bits is its digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from batchmill.codec.json_form import Plain, encode, is_sound, sound
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.pack import pack_value
from batchmill.codec.unsaid import Unsaid
from batchmill.errors import CheckpointDamaged
from batchmill.output.columns import Asked, TableStyle, table_of
from batchmill.output.json_lines import ABSENT, chosen, item_of
from batchmill.output.kinds import maker_of
from batchmill.output.shape import fields_of
from batchmill.text import escape

TABLE = "items"
MARK = b"\xef\xbb\xbf"
_DELIMITERS = {"csv": ",", "tsv": "\t"}

# What spreadsheets take for the beginning of a formula, though a number may begin so too.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_QUOTED = {",": re.compile('[",\r\n]'), "\t": re.compile('["\t\r\n]')}
_WHOLE = 1 << 31  # characters: an id or an error is never cut


def opening(asked: Asked, table: TableStyle) -> bytes:
    """What an output of that format begins with: the header of CSV."""
    if asked.format not in _DELIMITERS:
        return b""
    header = _line(_DELIMITERS[asked.format], (column.name for column in table.columns))
    return MARK + header if asked.mark else header


def render(
    block: OutcomeBlock,
    picks: Sequence[int] | None,
    *,
    format: str,
    all: bool,
    with_item: bool,
    source: str,
    table: TableStyle | None = None,
) -> tuple[bytes, Unsaid]:
    """As json_lines.render: lines of CSV or TSV, or for SQLite and Parquet rows as msgpack arrays, one after
    another."""
    table = table or table_of(Asked(format, all, with_item))
    cells = _Cells(guard=table.guard)
    is_text = format in _DELIMITERS
    close: Callable[[list[Any]], bytes] = partial(_line, _DELIMITERS[format]) if is_text else pack_value
    makers = [maker_of(column.kind) for column in table.columns] if format == "parquet" else []
    pieces = []
    try:
        for index in chosen(block, picks, all):
            row = row_of(block, index, table, source)
            if is_text:
                escaped = zip(table.columns, row)
                row = [cells.escaped(v) if column.what in _ESCAPED else cells.text(v) for column, v in escaped]
            elif format == "parquet":
                row = [value if make is None else make(value) for make, value in zip(makers, row)]
            else:
                row = list(map(cells.cell, row))
            pieces.append(close(row))
            cells.end_row()
    except RecursionError as error:
        raise CheckpointDamaged("a result is nested too deeply to be written") from error
    return b"".join(pieces), cells.unsaid


_ESCAPED = ("id", "error_type", "error_message")


def row_of(block: OutcomeBlock, index: int, table: TableStyle, source: str) -> list[Any]:
    """What stands in the columns of a table for one outcome."""
    result = block.result(index)
    fields = fields_of(result)
    row: list[Any] = []
    for column in table.columns:
        what = column.what
        if what == "field":
            row.append(None if fields is None else fields.get(column.of))
        elif what == "id":
            row.append(block.ids[index])
        elif what == "rest":
            row.append(result if fields is None else None)
        elif what == "whole":
            row.append(result)
        else:
            row.append(_AROUND[what](block, index, source))
    return row


def _error(block: OutcomeBlock, index: int, part: Callable[[Any], str]) -> str | None:
    failure = block.failures.get(index)
    return None if failure is None else part(failure)


def _item(block: OutcomeBlock, index: int, source: str) -> Any:
    item = item_of(block, index, source)
    return None if item is ABSENT else item


_AROUND: dict[str, Callable[[OutcomeBlock, int, str], Any]] = {
    "ok": lambda block, index, source: index not in block.failures,
    "error": lambda block, index, source: _error(block, index, lambda failure: f"{failure.type}: {failure.message}"),
    "error_type": lambda block, index, source: _error(block, index, lambda failure: str(failure.type)),
    "error_message": lambda block, index, source: _error(block, index, lambda failure: str(failure.message)),
    "seconds": lambda block, index, source: block.seconds[index],
    "attempts": lambda block, index, source: block.attempts.get(index, 1),
    "item": _item,
}


class _Cells:
    """Makes cells, counting what JSON cannot say: numbers that are not finite are left out, or null inside of JSON."""

    def __init__(self, *, guard: bool) -> None:
        self._plain = Plain()
        self._guard = guard
        self._texts = 0
        self._is_sound = True

    @property
    def unsaid(self) -> Unsaid:
        """What was counted so far."""
        return self._plain.unsaid + Unsaid(texts=self._texts)

    def end_row(self) -> None:
        """The cells that were made are those of one item."""
        self._texts += not self._is_sound
        self._is_sound = True

    def _look(self, text: str) -> str:
        """A text that goes into a cell, as JSON and other texts write it out."""
        self._is_sound = self._is_sound and is_sound(text)
        return text

    def cell(self, value: Any) -> Any:
        """A value as SQLite takes it."""
        if type(value) is bytes:
            return value
        found = self._scalar(value)
        if type(found) is int and not -(1 << 63) <= found < 1 << 63:
            return str(found)
        if type(found) is str:
            return found.encode("utf-8", "backslashreplace").decode()
        return int(found) if type(found) is bool else found

    def text(self, value: Any) -> str:
        """A value as a cell of CSV, not yet quoted."""
        found = self._scalar(value)
        if type(found) is str:
            return self._harmless(found)
        if type(found) is bool:
            return "true" if found else "false"
        return "" if found is None else str(found)

    def escaped(self, value: Any) -> str:
        """The same of a text that must not move a cursor, nor end a line."""
        return self._harmless(escape(self._look(value), _WHOLE)) if type(value) is str else self.text(value)

    def _scalar(self, value: Any) -> Any:
        if type(value) is str:
            return self._look(value)
        found = self._plain.of(value)
        return sound(self._look(encode(found))) if isinstance(found, (dict, list)) else found

    def _harmless(self, text: str) -> str:
        """Text that no spreadsheet takes for a formula."""
        return f"'{text}" if self._guard and text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def _line(delimiter: str, cells: Iterable[str]) -> bytes:
    # Not csv.writer: before Python 3.13 it leaves a carriage return unquoted where lines end with a newline alone.
    special = _QUOTED[delimiter]
    quoted = ['"{}"'.format(text.replace('"', '""')) if special.search(text) else text for text in cells]
    # A line of nothing would be blank, and no row.
    line = delimiter.join(quoted) if quoted != [""] else '""'
    return (line + "\n").encode("utf-8", "backslashreplace")
