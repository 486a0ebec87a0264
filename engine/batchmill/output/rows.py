"""Outcomes as rows of cells, for CSV and SQLite.

A result that is text or a number is a cell as it is, None an empty one; what JSON would say as text (`json_lines`) is
that text; all that has parts is JSON.

In CSV, true and false are words, and text that a spreadsheet would run as a formula has a ' before it. Ids and errors
are escaped too: no cell of them moves a cursor or ends a line. In SQLite, bytes stay bytes, true and false are 1 and 0,
and an integer above 64 bits is its digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from batchmill.codec.json_form import Plain, encode, is_sound, sound
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.pack import pack_value
from batchmill.codec.unsaid import Unsaid
from batchmill.errors import CheckpointDamaged
from batchmill.output.json_lines import ABSENT, chosen, item_of
from batchmill.text import escape

FORMATS = ("csv", "sqlite")
TABLE = "items"
_DATABASE = ("id", "ok", "result", "error", "seconds", "attempts")

# What spreadsheets take for the beginning of a formula, though a number may begin so too.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_QUOTED = re.compile('[",\r\n]')
_WHOLE = 1 << 31  # characters: an id or an error is never cut


def columns(format: str, *, all: bool, with_item: bool) -> tuple[str, ...]:
    """The names of the columns."""
    own = _DATABASE if format == "sqlite" else ("id", "result", *(("error_type", "error_message") if all else ()))
    return (*own, "item") if with_item else own


def opening(format: str, *, all: bool, with_item: bool) -> bytes:
    """What an output of that format begins with: the header of CSV."""
    return _line(columns(format, all=all, with_item=with_item)) if format == "csv" else b""


def render(
    block: OutcomeBlock, picks: Sequence[int] | None, *, format: str, all: bool, with_item: bool, source: str
) -> tuple[bytes, Unsaid]:
    """As export.render: lines of CSV, or for SQLite rows as msgpack arrays, one after another."""
    cells = _Cells()
    as_row = _database_row if format == "sqlite" else _csv_row
    close = pack_value if format == "sqlite" else _line
    pieces = []
    try:
        for index in chosen(block, picks, all):
            row: list[Any] = as_row(block, index, cells, all)
            if with_item:
                item = item_of(block, index, source)
                item = None if item is ABSENT else item
                row.append(cells.cell(item) if format == "sqlite" else cells.text(item))
            pieces.append(close(row))
            cells.end_row()
    except RecursionError as error:
        raise CheckpointDamaged("a result is nested too deeply to be written") from error
    return b"".join(pieces), cells.unsaid


class _Cells:
    """Makes cells, counting what JSON cannot say: numbers that are not finite are left out, or null inside of JSON."""

    def __init__(self) -> None:
        self._plain = Plain()
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

    def look(self, text: str) -> str:
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
            return _harmless(found)
        if type(found) is bool:
            return "true" if found else "false"
        return "" if found is None else str(found)

    def _scalar(self, value: Any) -> Any:
        if type(value) is str:
            return self.look(value)
        found = self._plain.of(value)
        return sound(self.look(encode(found))) if isinstance(found, (dict, list)) else found


def _database_row(block: OutcomeBlock, index: int, cells: _Cells, all: bool) -> list[Any]:
    failure = block.failures.get(index)
    return [
        cells.cell(block.ids[index]),
        0 if failure else 1,
        None if failure else cells.cell(block.result(index)),
        f"{failure.type}: {failure.message}" if failure else None,
        block.seconds[index],
        block.attempts.get(index, 1),
    ]


def _csv_row(block: OutcomeBlock, index: int, cells: _Cells, all: bool) -> list[str]:
    id, failure = block.ids[index], block.failures.get(index)
    row = [
        _escaped(cells.look(id)) if type(id) is str else cells.text(id),
        "" if failure else cells.text(block.result(index)),
    ]
    if all:
        row += [_escaped(failure.type), _escaped(failure.message)] if failure else ["", ""]
    return row


def _escaped(text: str) -> str:
    return _harmless(escape(text, _WHOLE))


def _harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _line(cells: Iterable[str]) -> bytes:
    # Not csv.writer: before Python 3.13 it leaves a carriage return unquoted where lines end with a newline alone.
    quoted = ('"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text for text in cells)
    return (",".join(quoted) + "\n").encode("utf-8", "backslashreplace")
