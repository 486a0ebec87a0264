"""Dialects of tables: what they are called, what each of them reads, what people are told of columns."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_kit import Waker, drain

from batchmill.errors import InvalidUsage
from batchmill.input import streams
from batchmill.input.dialects import Dialect, in_encoding
from batchmill.input.formats import FORMATS, Format, IdRule, find_format, line_at, with_dialect
from batchmill.input.items import ItemReader
from batchmill.input.rewrite import as_input
from batchmill.input.sources import ByteSource
from batchmill.settings import Settings

EXCEL = "its first line is for Excel, and no header; skip_lines=1 delimiter=';' reads it"
ASCII = st.sampled_from([chr(number) for number in range(1, 128) if chr(number) not in "\r\n"])
TEXTS = {
    "utf-8": "aé😀",
    "cp1252": "aé€",
    "iso8859-1": "aé\xa0",
    "utf-16": "aé😀",
    "utf-16-le": "a😀\u0a0a",
    "shift_jis": "a表ソ",
    "cp037": "aé",
    "gb18030": "a中",
}


@st.composite
def dialects(draw: st.DrawFn) -> Dialect:
    delimiter = draw(st.sampled_from([",", ";", "\t", "|", " "]) | ASCII)
    return Dialect(
        delimiter,
        draw(st.sampled_from(['"', "'", ""]).filter(lambda quote: quote != delimiter)),
        draw(st.sampled_from(sorted(TEXTS))),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
    )


def read(path: Path, format: Format, *, records: int = 3) -> tuple[list[tuple[int, Any]], list[str]]:
    """(line, item or why it is none) of each row, and what people are told."""
    waker, told, reader = Waker(), list[str](), ItemReader(format.name, IdRule(None), None, ids_needed=True)
    found = []
    for chunk in drain(ByteSource([str(path)], format, waker, tell=told.append), waker, records):
        for offset, record in enumerate(reader.records(chunk)):
            seen = reader.identify(chunk, offset, record)
            if seen is not None:
                found.append((line_at(chunk, offset, format), seen[2] if seen[4] is None else seen[4].message))
    return found, told


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dialects(), st.data(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([1, 3, 1 << 20]))
def test_a_table_of_any_dialect_is_read_as_csv_wrote_it(
    tmp_path: Path, dialect: Dialect, choose: st.DataObject, end: str, block: int
) -> None:
    letters = TEXTS[dialect.encoding] + (f"{dialect.delimiter}{dialect.quote}\n;" if dialect.quote else "")
    cell = st.text(st.sampled_from(letters), min_size=1, max_size=5)
    if not dialect.quote:
        cell = cell.filter(lambda text: dialect.delimiter not in text)
    width = choose.draw(st.integers(1, 3))
    names = [f"{number}name" for number in range(width)]
    if any(dialect.delimiter in name for name in names):
        return
    rows = choose.draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=6))
    text = io.StringIO(newline="")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE
    writer = csv.writer(text, delimiter=dialect.delimiter, quotechar=dialect.quote or None, quoting=quoting,
                        lineterminator=end)  # fmt: skip
    writer.writerows([names, *rows] if dialect.header else rows)
    if not dialect.header and not rows:
        return
    path = tmp_path / "t.csv"
    path.write_bytes((f'x"{end}' * dialect.skip_lines + text.getvalue()).encode(dialect.encoding))
    columns = names if dialect.header else [f"column_{number + 1}" for number in range(width)]
    if any(name.count(dialect.delimiter) for name in columns):
        return  # which would be quoted, as names are
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK", block)
        found, _ = read(path, with_dialect(FORMATS["csv"], dialect))
    assert [item for _, item in found] == [dict(zip(columns, row)) for row in rows]
    lines = dialect.skip_lines + dialect.header + 1
    for (line, _), row in zip(found, rows):
        assert line == lines
        lines += 1 + sum(value.count("\n") for value in row)


@settings(max_examples=100, deadline=None)
@given(dialects(), st.lists(st.text(max_size=4), max_size=3, unique=True), st.sampled_from(["csv", "tsv"]))
def test_a_dialect_is_found_again_by_its_formats_name(dialect: Dialect, columns: list[str], base: str) -> None:
    dialect = replace(dialect, columns=tuple(columns))
    format = with_dialect(FORMATS[base], dialect)
    found = find_format(format.name)
    assert found is not None
    assert found.table is not None
    assert found.table.dialect == dialect
    assert format.base == base
    again = find_format(format.again)
    assert again is not None
    assert again.table is not None
    assert again.table.dialect == replace(dialect, skip_lines=0)


def test_lines_before_a_header_are_not_written_again() -> None:
    assert with_dialect(FORMATS["csv"], Dialect(skip_lines=2)).again == "csv"


def test_what_is_no_format_is_none() -> None:
    names = ("csv --delimiter", "csv --colour red", "jsonl --quote none", "csv 'x", "", "csv --skip-lines x")
    assert [find_format(name) for name in names] == [None] * len(names)


@pytest.mark.parametrize(
    ("text", "dialect", "items", "told"),
    [
        ("\n  \r\na,,n,n,n_2\n1,2,3,4,5\n", Dialect(),
         [(4, {"a": "1", "column_2": "2", "n": "3", "n_3": "4", "n_2": "5"})],
         ["columns without a name of their own are called column_2, n_3"]),
        ("\n\t\t\n1\t2\t3\n", Dialect("\t"), [(3, {"column_1": "1", "column_2": "2", "column_3": "3"})],
         ["columns without a name of their own are called column_1, column_2, column_3"]),
        ("sep=;\nid;n\n", Dialect(), [(2, {"sep=;": "id;n"})], [EXCEL]),
        ("sep=;\nid;n\n", Dialect(";"), [(2, {"sep=": "id", "column_2": "n"})], [EXCEL]),
        ("# by x\nn\n", Dialect(), [(2, {"# by x": "n"})],
         ["its header looks like a comment; skip_lines=1 takes the next line for it"]),
        ("id;n\n1;2\n", Dialect(), [(2, {"id;n": "1;2"})], ["all of it is one column; delimiter=';' makes 2 of it"]),
        ("id\tn\tm\n", Dialect(), [], ["all of it is one column; delimiter='tab' makes 3 of it"]),
        ("id,n\n", Dialect("\t"), [], ["all of it is one column; delimiter=',' makes 2 of it"]),
        ("note: a\nid,n,m\n1,2,3\n4,5\n", Dialect(skip_lines=1, columns=("m", "id")),
         [(3, {"m": "3", "id": "1"}), (4, "the row has 2 cells, the header 3")], []),
        ("1,2\n\n3,4\n", Dialect(header=False),
         [(1, {"column_1": "1", "column_2": "2"}), (3, {"column_1": "3", "column_2": "4"})], []),
        ("1,2\n", Dialect(header=False, columns=("a,b", "c")), [(1, {"a,b": "1", "c": "2"})], []),
        ("", Dialect(header=False, skip_lines=3), [], []), ("a\nb", Dialect(skip_lines=3), [], []),
        ("\n\n", Dialect(), [], []),
    ],
)  # fmt: skip
def test_columns_are_named_and_people_told(
    tmp_path: Path, text: str, dialect: Dialect, items: list[Any], told: list[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, newline="")
    assert read(path, with_dialect(FORMATS["csv"], dialect)) == (items, [f"{path}: {remark}" for remark in told])


def test_bytes_that_are_not_of_the_encoding_fail_their_row_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,t\n1,\x80\n2,a\x81\n3,b\n")
    found, _ = read(path, with_dialect(FORMATS["csv"], Dialect(encoding="cp1252")))
    why = "not valid cp1252: it has nothing for byte 0x81 (encoding names another)"
    assert found == [(2, {"id": "1", "t": "€"}), (3, why), (4, {"id": "3", "t": "b"})]


def test_failed_rows_are_given_back_in_their_dialect_bad_bytes_too() -> None:
    format = find_format("csv --delimiter ';' --encoding cp1252 --columns b")
    assert format is not None
    kept = [format.kept(b"a;b", "1;€".encode()), format.kept(b"a;b", b"2;\xed\xb2\x81"), format.kept(b"a;c", b"3;4")]
    assert b"".join(as_input(format, lambda: kept)) == b"a;b;c\n1;\x80;\n2;\x81\n3;;4\n"
    bare = find_format("csv --no-header")
    assert bare is not None
    assert b"".join(as_input(bare, lambda: [bare.kept(b"column_1", b"7")])) == b"7\n"
    assert in_encoding("表".encode(), "shift_jis") == "表".encode("shift_jis")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"format": "csv", "delimiter": ";;"}, "delimiter=';;' is not one ASCII character"),
        ({"format": "csv", "quote": "é"}, "quote='é' is not one ASCII character"),
        ({"format": "csv", "delimiter": '"'}, "delimiter and quote are both '\"'"),
        ({"format": "csv", "encoding": "base64"}, "encoding='base64' is not known"),
        ({"format": "lines", "encoding": "cp1252"}, "encoding is for tables, and the format is lines"),
        ({"format": "jsonl", "header": False}, "header=False is for tables"),
    ],
)
def test_what_is_no_dialect_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidUsage, match="^" + said.replace("(", r"\(")):
        streams.choose_format(["t"], Settings.of(asked))


def test_words_and_marks_choose_as_people_expect(tmp_path: Path) -> None:
    assert streams.choose_format(["t.tsv"], Settings(delimiter="tab", encoding="UTF8")) == "tsv"
    assert streams.choose_format(["t.csv"], Settings(delimiter="\\t", columns="a")) == "csv --delimiter tab --columns a"
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffid\né\n".encode())
    assert read(path, with_dialect(FORMATS["csv"], Dialect(encoding="cp1252")))[0] == [(2, {"id": "é"})]


@pytest.mark.parametrize(
    ("text", "dialect", "said"),
    [
        ("a,b\n", Dialect(columns=("a", "bb")), "t.csv has no column 'bb' (columns); did you mean 'b'?"),
        ("1,2\n", Dialect(header=False, columns=("a",)), "t.csv: the first row has 2 cells, columns names 1"),
        ('"1\n', Dialect(header=False), "t.csv: the first row cannot be read, and columns names none"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path: Path, text: str, dialect: Dialect, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InvalidUsage) as refused:
        streams.look_at(str(path), with_dialect(FORMATS["csv"], dialect))
    assert said in str(refused.value)
