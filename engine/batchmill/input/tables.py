"""Tables as text (csv, tsv): where rows end, what a header names, how a row becomes cells.

A quote opens a quoted cell only where the cell begins, two quotes in it are one, and a newline in it belongs to it: as
Python's csv module reads it, but strictly. The quote that closes a cell is followed by the next cell, or by the end of
the row. Where it is not, or where none comes, the opening quote is a mistake or belongs to the data: that row ends with
its line and fails, and the next line is a row of its own. So one quote costs one row, and takes in no others.

A row ends with a newline, after a carriage return or not. In a table without quoting a quote is a character as others.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from typing import Literal

from batchmill.text import plural

QUOTE = '"'
MOST_QUOTED = 64 << 20  # bytes; a quoted cell that is not closed within them never is
_LONG = 128 << 10  # characters; csv takes no longer cell by itself
_REMEDY = "--quote none reads quotes as characters like others"


class Table:
    """A kind of table: the one character between its cells, and whether quotes keep cells together."""

    def __init__(self, delimiter: str, *, quoting: bool = True) -> None:
        self.delimiter = delimiter
        self._quoting = quoting
        self._byte = delimiter.encode()
        # A quote where a cell begins, and all up to the one that may close it. The quote comes before the look behind
        # it: so the search is for one byte.
        opened = rb'"(?<![^\n%b]")' % re.escape(self._byte)
        self._opened = re.compile(opened + rb'[^"]*+(?:""[^"]*+)*+')
        self._spanning = re.compile(opened + rb'[^"\n]*(?:""[^"\n]*)*\n')
        self._closing = re.compile(rb'"(?:%b|\r*+(?:\n|\Z))' % re.escape(self._byte))

    def marks(self, data: bytes) -> bytes:
        """`data`, which is whole rows, with the newlines inside of quotes blanked out: as long as `data`, and `data`
        itself where there are none."""
        return self.scan(data, more=False)[0]

    def scan(self, data: bytes, *, more: bool) -> tuple[bytes, int]:
        """The `marks` of `data`, which begins with a row and may go on (`more`); and where in it a quoted cell begins
        whose end is still to come, -1 where there is none: where the rows after it end is not known yet.

        Rows are not looked at one by one. One search tells that no cell spans lines, which is mostly so. Else, where
        quotes stand only around cells, every other stretch between two quotes is quoted text; the few tables with
        quotes elsewhere are looked at cell by cell, some 5 times slower.
        """
        if not self._quoting or b'"' not in data or self._spanning.search(data) is None:
            return data, -1
        stretches = data.split(b'"')
        is_open = len(stretches) % 2 == 0
        if (is_open and not more) or len(data) > MOST_QUOTED or not self._is_regular(stretches):
            return self._by_cell(data, more=more)
        quoted = b'"'.join(stretches[1::2])
        if b"\n" not in quoted:
            return data, -1
        stretches[1::2] = quoted.replace(b"\n", b" ").split(b'"')
        marks = b'"'.join(stretches)
        if not is_open:
            return marks, -1
        last = marks.rfind(b"\n") + 1
        return marks, last + self._by_cell(data[last:], more=True)[1]

    def _by_cell(self, data: bytes, *, more: bool) -> tuple[bytes, int]:
        marks, at = bytearray(data), 0
        while (cell := self._opened.search(data, at)) is not None:
            begin, end = cell.span()
            fits = end - begin <= MOST_QUOTED
            if more and fits and end == len(data):
                marks[begin:] = _blank(data[begin:])
                return bytes(marks), begin
            if fits and self._closing.match(data, end):
                if data.find(b"\n", begin, end) >= 0:
                    marks[begin:end] = _blank(data[begin:end])
                at = end + 1
                continue
            at = data.find(b"\n", begin) + 1
            if not at:
                break
        return (data if marks == data else bytes(marks)), -1

    def _is_regular(self, stretches: list[bytes]) -> bool:
        """Whether quotes stand only around cells, doubled ones inside: what is outside of them touches them with the
        ends of cells alone."""
        outside = b'"'.join(stretches[::2])
        if len(stretches) % 2 == 0:  # the last quote is open
            outside += b'"'
        while b'""' in outside:
            outside = outside.replace(b'""', b'"')
        quotes = outside.count(b'"')
        before = outside.count(self._byte + b'"') + outside.count(b'\n"') + outside.startswith(b'"')
        after = outside.count(b'"' + self._byte) + outside.count(b'"\n') + outside.count(b'"\r\n')
        return before == quotes == after + outside.endswith((b'"', b'"\r'))

    @staticmethod
    def stays_open(data: bytes, begin: int, block: bytes) -> bool:
        """Whether a quoted cell that begins in `data`, and has no end there, has none in the `block` behind it."""
        return b'"' not in block and len(data) + len(block) - begin <= MOST_QUOTED

    def is_sound(self, row: bytes) -> bool:
        """Whether a row ends where it ends, whatever row is put behind it."""
        return self.scan(row + b"\n", more=True)[0].endswith(b"\n")

    def cells(self, row: bytes) -> list[str]:
        """The cells of a row without its newline. Raises ValueError for one that is none, UnicodeDecodeError too."""
        text = row.decode()
        if (not self._quoting or '"' not in text) and "\r" not in text:
            return text.split(self.delimiter)
        if len(text) <= _LONG:
            return self._read(text)
        limit = csv.field_size_limit(len(text))
        try:
            return self._read(text)
        finally:
            csv.field_size_limit(limit)

    def _read(self, text: str) -> list[str]:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoting else csv.QUOTE_NONE
        try:
            return next(csv.reader((text, ""), delimiter=self.delimiter, quoting=quoting, strict=True))
        except csv.Error as error:
            raise ValueError(_why(str(error))) from None

    def row(self, cells: Iterable[str]) -> bytes:
        """A row of such cells, without its newline."""
        if not self._quoting:
            return self.delimiter.join(cells).encode()
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator="\r\n").writerow(cells)
        return text.getvalue()[:-2].encode()

    def names(self, header: bytes) -> list[str]:
        """The columns' names. Raises ValueError where they cannot be: the sentence that says why."""
        try:
            names = self.cells(header)
        except UnicodeDecodeError as error:
            raise ValueError(f"the header is not valid UTF-8: {error.reason} at byte {error.start}") from None
        except ValueError as error:
            raise ValueError(f"the header cannot be read: {error}") from None
        if not header.strip():
            raise ValueError("the first line is blank, and should name the columns")
        for name in names:
            if names.count(name) > 1:
                what = f"column {name!r}" if name else "a column without a name"
                raise ValueError(f"the header has {what} {names.count(name)} times")
        return names

    def reader(self, header: bytes) -> Callable[[bytes], dict[str, str]]:
        """What makes a dict of a row under that header; it raises ValueError as `cells` does, and for another number of
        cells than the header has."""
        names = self.names(header)
        width, cells = len(names), self.cells

        def read(row: bytes) -> dict[str, str]:
            found = cells(row)
            if len(found) != width:
                raise ValueError(f"the row has {plural(len(found), 'cell')}, the header {width}")
            return dict(zip(names, found))

        return read


def _blank(quoted: bytes) -> bytes:
    return quoted.replace(b"\n", b" ")


def _why(error: str) -> str:
    """What csv says of a row, in plain words."""
    if "new-line" in error:
        return "a carriage return stands outside of quotes"
    if "expected after" in error:
        return f"text follows the quote that closes a cell ({_REMEDY})"
    if "unexpected end" in error:
        return f"a quote opens a cell and none closes it ({_REMEDY})"
    return error
