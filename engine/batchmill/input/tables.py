"""Tables as text (csv, tsv): where rows end, what a header names, how a row becomes cells.

Rows are those that Python's csv module reads by default: a quote opens a quoted cell only where the cell begins, two
quotes in it are one, and a newline in it belongs to it. A row ends with a newline, after a carriage return or not.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable

from batchmill.text import plural

_LONG = 128 << 10  # characters; csv takes no longer cell by itself


class Table:
    """A kind of table, by the one character between its cells."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self._byte = delimiter.encode()
        # A quote where a cell begins, and all up to the one that closes it. The quote comes before the look behind it:
        # so the search is for one byte.
        opened = rb'"(?<![^\n%b]")' % re.escape(self._byte)
        self._quoted = re.compile(opened + rb'[^"]*(?:""[^"]*)*"?')
        self._spanning = re.compile(opened + rb'[^"\n]*(?:""[^"\n]*)*\n')

    def marks(self, data: bytes) -> bytes:
        """`data`, which begins with a row, with the newlines inside of quotes blanked out: as long as `data`, and
        `data` itself where there are none.

        Rows are not looked at one by one. One search tells that no cell spans lines, which is mostly so. Else, where
        quotes stand only around cells, every other stretch between two quotes is quoted text; the few tables with
        quotes elsewhere take the way of the expression, some 5 times slower.
        """
        if b'"' not in data or self._spanning.search(data) is None:
            return data
        stretches = data.split(b'"')
        if not self._is_regular(stretches):
            return self._quoted.sub(_blank, data)
        quoted = b'"'.join(stretches[1::2])
        if b"\n" not in quoted:
            return data
        stretches[1::2] = quoted.replace(b"\n", b" ").split(b'"')
        return b'"'.join(stretches)

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
        after = outside.count(b'"' + self._byte) + outside.count(b'"\n') + outside.count(b'"\r')
        return before == quotes == after + outside.endswith(b'"')

    @staticmethod
    def is_open(data: bytes) -> bool:
        """Whether a row that is not all here ends inside of quotes, going by their number."""
        return data.count(b'"') % 2 == 1

    def cells(self, row: bytes) -> list[str]:
        """The cells of a row without its newline. Raises ValueError for one that is none, UnicodeDecodeError too."""
        text = row.decode()
        if '"' not in text and "\r" not in text:
            return text.split(self.delimiter)
        if len(text) <= _LONG:
            return self._read(text)
        limit = csv.field_size_limit(len(text))
        try:
            return self._read(text)
        finally:
            csv.field_size_limit(limit)

    def _read(self, text: str) -> list[str]:
        reader = csv.reader((text, ""), delimiter=self.delimiter)
        try:
            cells = next(reader)
        except csv.Error as error:
            why = "a carriage return stands outside of quotes" if "new-line" in str(error) else str(error)
            raise ValueError(why) from None
        if reader.line_num > 1:  # it went on to look for the other quote
            raise ValueError("a quote is not closed: it takes in all that follows, to the end of the input")
        return cells

    def names(self, header: bytes) -> list[str]:
        """The columns' names. Raises ValueError where they cannot be: the sentence that says why."""
        if header.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("the header is UTF-16, not UTF-8 (`iconv -f utf-16 -t utf-8` makes it so)")
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


def _blank(match: re.Match[bytes]) -> bytes:
    return match[0].replace(b"\n", b" ")
