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
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Literal

from batchmill.input.dialects import Dialect, why_no_text
from batchmill.text import name_some, option, plural

MOST_QUOTED = 64 << 20  # bytes; a quoted cell that is not closed within them never is
_LONG = 128 << 10  # characters; csv takes no longer cell by itself
_BLANKS = b" \t\r\x0b\x0c"
_DELIMITERS = (",", ";", "\t", "|")  # what a table may have in place of the delimiter that it is read with


class Table:
    """A kind of table: the one character between its cells, and whether quotes keep cells together."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.delimiter = dialect.delimiter
        self._byte = dialect.delimiter.encode()
        self._quote = dialect.quote.encode()
        self._blanks = bytes(set(_BLANKS) - set(self._byte))
        quote = re.escape(self._quote or b'"')
        # A quote where a cell begins, and all up to the one that may close it. The quote comes before the look behind
        # it: so the search is for one byte.
        opened = rb"%b(?<![^\n%b]%b)" % (quote, re.escape(self._byte), quote)
        self._opened = re.compile(opened + rb"[^%b]*+(?:%b%b[^%b]*+)*+" % (quote, quote, quote, quote))
        self._spanning = re.compile(opened + rb"[^%b\n]*(?:%b%b[^%b\n]*)*\n" % (quote, quote, quote, quote))
        self._closing = re.compile(rb"%b(?:%b|\r*+(?:\n|\Z))" % (quote, re.escape(self._byte)))

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
        quote = self._quote
        if not quote or quote not in data or self._spanning.search(data) is None:
            return data, -1
        stretches = data.split(quote)
        is_open = len(stretches) % 2 == 0
        if (is_open and not more) or len(data) > MOST_QUOTED or not self._is_regular(stretches):
            return self._by_cell(data, more=more)
        quoted = quote.join(stretches[1::2])
        if b"\n" not in quoted:
            return data, -1
        stretches[1::2] = quoted.replace(b"\n", b" ").split(quote)
        marks = quote.join(stretches)
        if not is_open:
            return marks, -1
        last = marks.rfind(b"\n") + 1
        return marks, last + self._by_cell(data[last:], more=True)[1]

    def _by_cell(self, data: bytes, *, more: bool) -> tuple[bytes, int]:
        marks, at = None, 0
        while (cell := self._opened.search(data, at)) is not None:
            begin, end = cell.span()
            fits = end - begin <= MOST_QUOTED
            if more and fits and end == len(data):
                return (data if marks is None else bytes(marks))[:begin] + _blank(data[begin:]), begin
            if fits and self._closing.match(data, end):
                if data.find(b"\n", begin, end) >= 0:
                    marks = marks or bytearray(data)
                    marks[begin:end] = _blank(data[begin:end])
                at = end + 1
                continue
            at = data.find(b"\n", begin) + 1
            if not at:
                break
        return data if marks is None else bytes(marks), -1

    def _is_regular(self, stretches: list[bytes]) -> bool:
        """Whether quotes stand only around cells, doubled ones inside: what is outside of them touches them with the
        ends of cells alone."""
        quote = self._quote
        outside = quote.join(stretches[::2])
        if len(stretches) % 2 == 0:  # the last quote is open
            outside += quote
        while quote + quote in outside:
            outside = outside.replace(quote + quote, quote)
        quotes = outside.count(quote)
        before = outside.count(self._byte + quote) + outside.count(b"\n" + quote) + outside.startswith(quote)
        after = outside.count(quote + self._byte) + outside.count(quote + b"\n") + outside.count(quote + b"\r\n")
        return before == quotes == after + outside.endswith((quote, quote + b"\r"))

    def stays_open(self, size: int, block: bytes) -> bool:
        """Whether a quoted cell that had no end in its first `size` bytes has none in the `block` behind them."""
        return self._quote not in block and size + len(block) <= MOST_QUOTED

    def is_sound(self, row: bytes) -> bool:
        """Whether a row ends where it ends, whatever row is put behind it."""
        return self.scan(row + b"\n", more=True)[0].endswith(b"\n")

    def cells(self, row: bytes) -> list[str]:
        """The cells of a row without its newline. Raises ValueError for one that is none, UnicodeDecodeError too."""
        text = row.decode()
        quote = self.dialect.quote
        if (not quote or quote not in text) and "\r" not in text:
            return text.split(self.delimiter)
        if len(text) <= _LONG:
            return self._read(text)
        limit = csv.field_size_limit(len(text))
        try:
            return self._read(text)
        finally:
            csv.field_size_limit(limit)

    def _read(self, text: str) -> list[str]:
        quote = self.dialect.quote
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        rows = csv.reader((text, ""), delimiter=self.delimiter, quotechar=quote or None, quoting=quoting, strict=True)
        try:
            return next(rows)
        except csv.Error as error:
            raise ValueError(_why(str(error))) from None

    def row(self, cells: Iterable[str]) -> bytes:
        """A row of such cells, without its newline."""
        quote = self.dialect.quote
        if not quote:
            return self.delimiter.join(cells).encode()
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, quotechar=quote, lineterminator="\r\n").writerow(cells)
        return text.getvalue()[:-2].encode()

    def why_no_text(self, error: UnicodeDecodeError) -> str:
        """Why a row is none of its encoding."""
        return why_no_text(error, self.dialect.encoding)

    # The columns

    def is_blank(self, line: bytes) -> bool:
        """Whether a line has nothing in it, not even a delimiter."""
        return not line.strip(self._blanks)

    def header_for(self, row: bytes) -> bytes:
        """The header of a table without one, whose first row this is; raises ValueError where there can be none."""
        names = list(self.dialect.columns)
        try:
            width = len(self.cells(row))
        except ValueError:  # that row fails, and others tell
            width = len(names)
        if not width:
            raise ValueError(f"the first row cannot be read, and {option('columns')} names none")
        if names and len(names) != width:
            raise ValueError(f"the first row has {plural(width, 'cell')}, {option('columns')} names {len(names)}")
        return self.row(names or [f"column_{number}" for number in range(1, width + 1)])

    def names(self, header: bytes) -> list[str]:
        """The names of all columns, each of its own. Raises ValueError where a header cannot be read: why not."""
        return named(self._as_written(header))

    def _as_written(self, header: bytes) -> list[str]:
        try:
            return self.cells(header)
        except UnicodeDecodeError as error:
            raise ValueError(f"the header is {self.why_no_text(error)}") from None
        except ValueError as error:
            raise ValueError(f"the header cannot be read: {error}") from None

    def remarks(self, header: bytes) -> Iterator[str]:
        """What to tell people of the columns' names."""
        written = self._as_written(header)
        if _says_separator(written):
            skipped, word = option("skip_lines", 1), _word(written[0][4:] or self.delimiter)
            yield f"its first line is for Excel, and no header; {skipped} {option('delimiter', word)} reads it"
            return
        names = named(written)
        made = [name for name, was in zip(names, written) if name != was]
        if made:
            yield f"columns without a name of their own are called {name_some(made)}"
        if len(written) == 1 and written[0].startswith("#") and " " in written[0]:
            yield f"its header looks like a comment; {option('skip_lines', 1)} takes the next line for it"
            return
        others = [one for one in _DELIMITERS if one != self.delimiter and one in written[0]]
        if len(written) == 1 and others and not self.dialect.columns:
            other = max(others, key=written[0].count)
            cells = written[0].count(other) + 1
            yield f"all of it is one column; {option('delimiter', _word(other))} makes {cells} of it"

    def reader(self, header: bytes) -> Callable[[bytes], dict[str, str]]:
        """What makes a dict of a row under that header; it raises ValueError as `cells` does, and for another number of
        cells than the header has."""
        names = self.names(header)
        width, cells = len(names), self.cells
        wanted = self.dialect.columns if self.dialect.header else ()

        def read(row: bytes) -> dict[str, str]:
            found = cells(row)
            if len(found) != width:
                raise ValueError(f"the row has {plural(len(found), 'cell')}, the header {width}")
            return dict(zip(names, found))

        def read_wanted(row: bytes) -> dict[str, str]:
            all = read(row)
            return {name: all[name] for name in wanted}

        return read_wanted if wanted else read


def _says_separator(written: Sequence[str]) -> bool:
    """Whether a header is the line `sep=;`, which Excel writes and reads before it."""
    return written[0][:4].lower() == "sep=" and len(written[0]) <= 5 and not any(written[1:])


def _word(delimiter: str) -> str:
    return "tab" if delimiter == "\t" else f"'{delimiter}'"


def named(written: Sequence[str]) -> list[str]:
    """Names for columns: as they are written, but each of its own. Blank ones and repeated ones are numbered."""
    names: list[str] = []
    taken = set(written)
    for number, name in enumerate(written, 1):
        if name.strip() and name not in names:
            names.append(name)
            continue
        numbered = (f"{name}_{n}" for n in count(2)) if name.strip() else (f"column_{n}" for n in count(number))
        names.append(next(one for one in numbered if one not in taken))
        taken.add(names[-1])
    return names


def _blank(quoted: bytes) -> bytes:
    return quoted.replace(b"\n", b" ")


def _why(error: str) -> str:
    """What csv says of a row, in plain words."""
    if "new-line" in error:
        return "a carriage return stands outside of quotes"
    if "expected after" in error:
        return f"text follows the quote that closes a cell ({_remedy()})"
    if "unexpected end" in error:
        return f"a quote opens a cell and none closes it ({_remedy()})"
    return error


def _remedy() -> str:
    return f"{option('quote', 'none')} reads quotes as characters like others"
