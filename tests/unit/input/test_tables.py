"""Tables: rows are those that Python's csv module reads, wherever a block is cut; headers, lines, resuming."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_kit import Waker, drain
from worker_kit import chunk_of, play, run_chunk, worker

from batchmill import open_checkpoint
from batchmill.codec.ids import digest_block
from batchmill.errors import InvalidUsage
from batchmill.input import sources as source_module
from batchmill.input import streams as feed_module
from batchmill.input import tables as table_module
from batchmill.input.dialects import Dialect
from batchmill.input.formats import FORMATS, Format, IdRule, divide, format_named, line_at
from batchmill.input.items import ItemReader
from batchmill.input.rewrite import as_input
from batchmill.input.sources import ByteSource
from batchmill.input.streams import Headed, RecordCounter
from batchmill.input.tables import Table
from batchmill.model import Chunk

CSV, TSV = FORMATS["csv"], FORMATS["tsv"]

# Whatever a cell may hold, and what a careless program may have put between commas.
CELL = st.text(st.sampled_from('ab",\t\n\r é;='), max_size=6)
WILD = st.text(st.sampled_from('a"",,\n\n\r'), max_size=60).map(str.encode)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    width = draw(st.integers(1, 4))
    names = draw(st.lists(CELL.filter(str.strip), min_size=width, max_size=width, unique=True))
    rows = draw(st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=8))
    return names, rows


def written(rows: list[list[str]], delimiter: str, quoting: int, end: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


def strict_rows(data: bytes) -> list[bytes]:
    """The rows that there are, one character after the other: a row whose quotes are wrong ends with its line."""
    rows, begin = [], 0
    while begin < len(data):
        end = row_end(data, begin)
        rows.append(data[begin:end])
        begin = end + 1
    return rows


def row_end(data: bytes, at: int) -> int:
    while True:
        if data.startswith(b'"', at):
            closing = at + 1
            while data.startswith(b'""', closing) or (closing < len(data) and data[closing] != ord('"')):
                closing += 2 if data.startswith(b'""', closing) else 1
            behind = data[closing + 1 :]
            if closing >= len(data) or not (behind[:1] == b"," or behind.lstrip(b"\r")[:1] in (b"", b"\n")):
                return data.find(b"\n", at) if b"\n" in data[at:] else len(data)
            at = closing + 1
        while at < len(data) and data[at : at + 1] not in (b",", b"\n"):
            at += 1
        if data[at : at + 1] != b",":
            return at
        at += 1


def items_of(chunks: list[Chunk], format: str) -> Iterator[tuple[int, Any]]:
    """(line, item or the message of what is none) of every row."""
    identifier = ItemReader(format, IdRule(None), None, ids_needed=True)
    for chunk in chunks:
        for offset, record in enumerate(identifier.records(chunk)):
            found = identifier.identify(chunk, offset, record)
            if found is not None:
                yield line_at(chunk, offset, FORMATS[format]), found[2] if found[4] is None else found[4].message


def read(path: Path, *, records: int = 7) -> list[Chunk]:
    waker = Waker()
    return drain(ByteSource([str(path)], FORMATS[path.suffix[1:]], waker), waker, records)


# --- cutting ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(WILD, st.data())
def test_a_block_splits_into_the_rows_of_a_strict_reader(data: bytes, choose: st.DataObject) -> None:
    assert CSV.split(data) == strict_rows(data)
    assert len(CSV.marks(data)) == len(data)
    known = Table(Dialect()).scan(data[: choose.draw(st.integers(0, len(data)))], more=True)[0]
    ends = [at for at, byte in enumerate(known) if byte == ord("\n")]
    assert all(CSV.marks(data)[at] == ord("\n") for at in ends)
    assert strict_rows(data[: ends[-1] + 1]) == strict_rows(data)[: len(ends)] if ends else True


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WILD, st.sampled_from([1, 2, 5, 1 << 20]), st.integers(1, 9))
def test_rows_that_run_and_rows_that_fail_are_those_of_a_strict_reader_with_their_lines(
    tmp_path: Path, data: bytes, block: int, records: int
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "BLOCK", block)
        found = list(items_of(read(path, records=records), "csv"))
        census = RecordCounter([], CSV)
        census._count([str(path)])
    rows, line, expected = strict_rows(data), 2, []
    assert census.total == len(rows)
    for row in rows:
        if row.removesuffix(b"\r"):
            expected.append((line, strictly(row)))
        line += row.count(b"\n") + 1
    assert [(line, item if isinstance(item, dict) else None) for line, item in found] == expected


def strictly(row: bytes) -> dict[str, str] | None:
    try:
        cells = next(csv.reader([row.decode(), ""], strict=True))
    except csv.Error:
        return None
    return dict(zip("ab", cells)) if len(cells) == 2 else None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables(), st.sampled_from(["csv", "tsv"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([1, 2, 5, 1 << 20]), st.integers(1, 9), st.booleans(),
)  # fmt: skip
def test_a_table_that_csv_wrote_is_read_back_wherever_it_is_cut(
    tmp_path: Path, table: tuple[list[str], list[list[str]]], format: str, quoting: int, block: int, records: int,
    mark: bool,
) -> None:  # fmt: skip
    names, rows = table
    dialect = ("," if format == "csv" else "\t", quoting, "\r\n")
    data = written([names, *rows], *dialect)
    path = tmp_path / f"t.{format}"
    path.write_bytes(b"\xef\xbb\xbf" * mark + data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "BLOCK", block)
        chunks = read(path, records=records)
        found = list(items_of(chunks, format))
    assert [item for _, item in found] == [dict(zip(names, row)) for row in rows]
    assert b"".join(chunk.data for chunk in chunks) == data[len(written([names], *dialect)) :]  # type: ignore[misc]
    for line, item in found:
        behind = written([[item[name] for name in names]], *dialect)
        assert data.split(b"\n", line - 1)[-1].startswith(behind)


@settings(max_examples=60, deadline=None)
@given(WILD.filter(lambda data: CSV.count(data) > 1), st.data())
def test_a_divided_chunk_keeps_its_rows_and_their_lines(data: bytes, choose: st.DataObject) -> None:
    chunk = chunk_of(data, format="csv", header=b"a,b")
    head, tail = divide(chunk, choose.draw(st.integers(1, chunk.records - 1)), CSV)
    assert head.header == tail.header == b"a,b"
    assert CSV.split(head.data) + CSV.split(tail.data) == CSV.split(data)  # type: ignore[arg-type]
    both = [line_at(part, offset, CSV) for part in (head, tail) for offset in range(part.records)]
    assert both == [line_at(chunk, offset, CSV) for offset in range(chunk.records)]


def test_a_row_too_long_ends_with_its_line_and_an_open_quote_takes_in_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (source_module, "MAX_ITEM", 50),
        (source_module, "MAX_CHUNK", 40),
        (source_module, "KEPT", 10),
        (table_module, "MOST_QUOTED", 50),
        (feed_module, "BLOCK", 7),
    ):
        monkeypatch.setattr(module, name, value)
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,b\n1,x\n2,"open\n' + b"3,y\n" * 30 + b'4,"' + b"z" * 44 + b'\n"\n5,' + b"w" * 60 + b"\n6,v\n")
    chunks = read(path)
    verdicts = [(chunk.line, chunk.condemned.message) for chunk in chunks if chunk.condemned is not None]
    assert verdicts == [(36, "the item is larger than 0 MiB: write a file, list its path")]
    found = list(items_of([chunk for chunk in chunks if chunk.condemned is None], "csv"))
    assert [line for line, _ in found] == [*range(2, 35), 37]
    assert [line for line, item in found if isinstance(item, str)] == [3]
    assert found[-2][1]["b"] == "z" * 44 + "\n"


# --- rows and headers ------------------------------------------------------------------------------------------------


def parsed(row: bytes, header: bytes = b"a,b") -> Any:
    return next(items_of([chunk_of(row, format="csv", header=header)], "csv"))[1]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b"1,2\r", {"a": "1", "b": "2"}),
        (b'5" disk,6"', {"a": '5" disk', "b": '6"'}),
        (b'"x""y",', {"a": 'x"y', "b": ""}),
        (b' , "z"', {"a": " ", "b": ' "z"'}),
        (b"1", "the row has 1 cell, the header 2"),
        (b"1,2,3", "the row has 3 cells, the header 2"),
        (b'1,"2', "a quote opens a cell and none closes it (quote='none' reads quotes as characters like others)"),
        (b'1,"2"3', "text follows the quote that closes a cell (quote='none' reads quotes as characters like others)"),
        (b"1\r2,3", "a carriage return stands outside of quotes"),
        (b"\xff,1", "not valid UTF-8: invalid start byte at byte 0 (encoding names another)"),
    ],
)
def test_a_row_is_read_as_csv_reads_it_or_says_what_is_wrong(row: bytes, expected: object) -> None:
    assert parsed(row) == expected


def test_a_cell_longer_than_csv_takes_by_itself_is_read_and_the_limit_left_as_it_was() -> None:
    limit = csv.field_size_limit()
    assert parsed(b'"' + b"x" * (limit + 1) + b'",1')["a"] == "x" * (limit + 1)
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"i\xffd\n", "the header is not valid UTF-8"),
        (b'id,"n\n1,2\n', "the header cannot be read: a quote opens a cell"),
        (b"id\r1\n2\r", "the header cannot be read: a carriage return"),
    ],
)
def test_a_header_that_names_no_columns_is_refused_naming_the_file(tmp_path: Path, header: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(header)
    with pytest.raises(InvalidUsage, match=r"t\.csv: " + message):
        read(path)


@pytest.mark.parametrize("text", [b"", b"a,b", b"a,b\n", b"\xef\xbb\xbfa,b\r\n"])
def test_a_table_without_rows_has_no_items(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text)
    assert read(path) == []


def test_a_header_that_does_not_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_HEADER", 100)
    asked = []

    class Endless:
        def read(self) -> bytes:
            asked.append(1)
            return b'"' + b"x" * 30

        def close(self) -> None: ...

    with pytest.raises(InvalidUsage, match="does not end within"):
        Headed(Endless(), "t.csv", CSV).read()
    assert len(asked) == 4


@pytest.mark.parametrize("tail", [b"", b"\n", b'\n2,"x\ny"', b'\n2,"x\ny"\n\n'])
def test_the_census_counts_the_rows_that_are_read(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'a,"b\nb"\n1,2' + tail)
    census = RecordCounter([], CSV)
    census._count([str(path), str(path)])
    assert census.total == 2 * sum(chunk.records for chunk in read(path))


# --- the checkpoint --------------------------------------------------------------------------------------------------


def test_the_lines_of_failed_rows_are_those_of_the_file(tmp_path: Path) -> None:
    def work(item: Any) -> str:
        raise ValueError(item["id"])

    block = b'1,"a\nb"\n\n2,c\n"3\n\n",d\n4,e\n'
    with worker(work, format="csv"):
        reply, summary = run_chunk(chunk_of(block, format="csv", header=b"id,v", line=5))
    assert [example.line for example in summary.groups[0].examples] == [5, 8, 9, 12]
    assert list(reply.lines) == [0, 3, 4, 7]


def test_another_header_makes_other_content_of_the_same_bytes() -> None:
    def identified(header: bytes) -> tuple[Any, int]:
        identifier, chunk = ItemReader("csv", IdRule(None), None, ids_needed=True), chunk_of(b"1,2", header=header)
        [record] = identifier.records(chunk)
        found = identifier.identify(chunk, 0, record)
        assert found is not None
        return found[0], found[3]

    (one, content), (same, other) = identified(b"id,n"), identified(b"id,m")
    assert one == same == "1"
    assert content != other
    assert digest_block(b"1,2", b"id,n") != digest_block(b"1,2", b"id,m")
    assert digest_block(b"1,2") == digest_block(b"1,2", b"")


TABLE = 'id,n,text\n1,3,"a\nb"\n2,4,x\n3,5,"y,""y"""\n4,6,z\n'


def counted(tmp_path: Path, text: str, **options: Any) -> tuple[list[str], Any, list[str]]:
    """(ids that ran, report, messages) of a run, resumed, on a table."""
    path = tmp_path / "t.csv"
    path.write_text(text, newline="")
    played = play(lambda item: dict(item), [path], tmp_path / "t.ckpt", **options)
    assert played is not None
    return [item["id"] for item in played.calls], played.report, played.messages


def test_done_rows_are_found_again_where_the_table_is_reordered_grows_and_shrinks(tmp_path: Path) -> None:
    assert counted(tmp_path, TABLE)[0] == ["1", "2", "3", "4"]
    assert counted(tmp_path, TABLE)[0] == []
    reordered = 'id,n,text\n4,6,z\n1,3,"a\nb"\n5,7,new\n3,5,"y,""y"""\n'
    ran, report, _ = counted(tmp_path, reordered)
    assert ran == ["5"]
    assert (report.skipped, report.changed, report.exit_code) == (3, 0, 0)


def test_renamed_columns_are_noticed_as_a_change_of_all_items(tmp_path: Path) -> None:
    counted(tmp_path, TABLE)
    renamed = TABLE.replace("id,n,text", "id,number,text")
    ran, report, _ = counted(tmp_path, renamed)
    assert (ran, report.changed) == ([], 4)
    assert counted(tmp_path, renamed, rerun_changed=True)[0] == ["1", "2", "3", "4"]


def test_a_table_whose_last_row_was_cut_off_in_quotes_is_not_taken_for_the_whole_one(tmp_path: Path) -> None:
    whole = 'id,n,text\n1,3,x\n2,4,"a\nb"\n'
    ran, report, _ = counted(tmp_path, whole[:-3])
    assert (ran, report.failed) == (["1"], 1)
    assert counted(tmp_path, whole)[0] == ["2"]


def test_a_row_that_is_tried_again_stands_under_its_header_as_the_same_item(tmp_path: Path) -> None:
    path, tries = tmp_path / "t.csv", dict[str, int]()
    path.write_text(TABLE)

    def work(item: Any) -> Any:
        text = item.pop("text")  # what an item does to itself must not show in its second try
        tries[item["id"]] = tries.get(item["id"], 0) + 1
        if tries[item["id"]] == 1:
            raise ValueError("not yet")
        return text

    assert play(work, [path], tmp_path / "t.ckpt", retries=0, max_failures="none") is not None
    played = play(work, [path], tmp_path / "t.ckpt")
    assert played is not None
    assert played.report.exit_code == 0
    moved = "id,n,text\n" + "".join(reversed(['1,3,"a\nb"\n', "2,4,x\n", '3,5,"y,""y"""\n', "4,6,z\n"]))
    path.write_text(moved)
    again = play(work, [path], tmp_path / "t.ckpt")
    assert again is not None
    assert (again.calls, again.report.skipped, again.report.changed) == ([], 4, 0)
    with open_checkpoint(str(tmp_path / "t.ckpt")) as results:
        assert [outcome.result for outcome in results.outcomes()] == ["z", 'y,"y"', "x", "a\nb"]


# --- failed rows as an input -----------------------------------------------------------------------------------------


def rejoined(format: Format, *rows: tuple[bytes, bytes]) -> bytes:
    return b"".join(as_input(format, lambda: [format.kept(header, row) for header, row in rows]))


def test_failed_rows_are_printed_as_they_were_under_their_header() -> None:
    rows = rejoined(CSV, (b'a,"b\nc"', b'1,"x\ny"'), (b'a,"b\nc"', b"2"))
    assert rows == b'a,"b\nc"\n1,"x\ny"\n2\n'


def test_failed_rows_of_several_headers_are_printed_under_all_columns() -> None:
    rows = rejoined(CSV, (b"a,b", b"1,2"), (b"b,a", b"4,3"), (b"a,c", b'5,"6\n"'), (b"a,b", b"no row"))
    assert list(csv.DictReader(io.StringIO(rows.decode()))) == [
        {"a": "1", "b": "2", "c": ""},
        {"a": "3", "b": "4", "c": ""},
        {"a": "5", "b": "", "c": "6\n"},
        {"a": "no row", "b": None, "c": None},
    ]


def test_a_failed_row_with_an_open_quote_stands_last_where_it_takes_in_nothing() -> None:
    assert rejoined(CSV, (b"a", b'"x'), (b"a", b"2")) == b'a\n2\n"x\n'


def test_failed_rows_in_which_quotes_are_data_are_printed_so_under_all_columns_too() -> None:
    rows = rejoined(format_named("tsv --quote none"), (b"a\tb", b'"x\t1'), (b"b", b'2"'))
    assert rows == b'a\tb\n"x\t1\n\t2"\n'


def test_failed_null_items_are_closed_by_nul() -> None:
    assert b"".join(as_input(FORMATS["null"], lambda: [b"a\nb", b"c"])) == b"a\nb\0c\0"


def test_headers_that_differ_in_order_give_the_same_items(tmp_path: Path) -> None:
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_text("id,n\n1,a\n")
    two.write_text("n,id\nb,2\n")
    played = play(dict, [one, two], tmp_path / "t.ckpt")
    assert played is not None
    assert played.calls == [{"id": "1", "n": "a"}, {"n": "b", "id": "2"}]
