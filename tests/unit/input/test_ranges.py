"""Large chunks of plain files: ranges that hold the records which a reader of the bytes finds, and never others."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
from source_kit import Waker, drain
from worker_kit import answered, worker

from batchmill.errors import InputBroken
from batchmill.input import formats
from batchmill.input.formats import FORMATS, block_of
from batchmill.input.ranges import FileState, OpenFile
from batchmill.input.sources import MAX_CHUNK, ByteSource
from batchmill.model import Chunk, FileRange

LINES = FORMATS["lines"]
MADE = "/proc/kallsyms"  # its size is 0, whatever is read from it
SIZES = (0, 1, 30, 700, 9_000, 300_000)  # bytes of a record: some are longer than what is read at once


def write(path: Path, count: int, end: bytes = b"\n", *, begin: bytes = b"", is_closed: bool = True) -> Path:
    records = [b"%d" % number + b"x" * SIZES[number * 7 % 11 % len(SIZES)] for number in range(count)]
    path.write_bytes(begin + end.join(records) + (end if is_closed else b""))
    return path


def taken(path: Path, format: str, records: int, *, by_range: bool) -> list[Chunk]:
    waker = Waker()
    return drain(ByteSource([str(path)], FORMATS[format], waker, by_range=by_range), waker, records)


@pytest.mark.parametrize("records", [1, 3, 40, 5_000])
@pytest.mark.parametrize(
    ("format", "end", "begin", "is_closed"),
    [("lines", b"\n", b"", True), ("lines", b"\r\n", b"\xef\xbb\xbf", False), ("null", b"\0", b"", False)],
)
def test_a_chunk_by_range_has_the_records_of_one_with_its_bytes(
    tmp_path: Path, records: int, format: str, end: bytes, begin: bytes, is_closed: bool
) -> None:
    path = write(tmp_path / "items", 300, end, begin=begin, is_closed=is_closed)
    chunks = taken(path, format, records, by_range=True)
    blocks = [block_of(pickle.loads(pickle.dumps(chunk)), FORMATS[format]) for chunk in chunks]
    assert b"".join(blocks) == path.read_bytes().removeprefix(begin)
    assert [chunk.records for chunk in chunks] == [FORMATS[format].count(block) for block in blocks]
    assert [chunk.first for chunk in chunks] == [sum(c.records for c in chunks[:n]) for n in range(len(chunks))]
    assert [chunk.line for chunk in chunks] == [chunk.first + 1 for chunk in chunks]
    assert max(map(len, blocks)) <= MAX_CHUNK
    if records > 1:
        assert sum(isinstance(chunk.data, FileRange) for chunk in chunks) > 2


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b" + b"z" * 200_000, b"a\r" * 100_000, "\ufeffa\n".encode("utf-16") * 50_000]
)
def test_bytes_that_are_not_those_of_the_file_are_sent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "items").write_bytes(content)
    source = ByteSource([str(tmp_path / "items")], LINES, Waker(), by_range=True)
    if not content.startswith(b"\x1f\x8b"):  # which is no whole gzip file
        chunk = source.take(100_000)
        assert chunk is None or isinstance(chunk.data, bytes)
    source.close()
    assert all(isinstance(chunk.data, bytes) for chunk in taken(Path(__file__), "csv", 9, by_range=True))


@pytest.mark.skipif(not os.path.exists(MADE), reason="there is no such file here")
def test_what_the_kernel_makes_when_it_is_read_is_read_once() -> None:
    chunks = taken(Path(MADE), "lines", 50_000, by_range=True)
    assert sum(len(chunk.data) for chunk in chunks) > 100_000
    assert all(isinstance(chunk.data, bytes) for chunk in chunks)


def test_a_range_is_divided_as_bytes_are(tmp_path: Path) -> None:
    chunk = taken(write(tmp_path / "items", 100), "lines", 60, by_range=True)[0]
    assert isinstance(chunk.data, FileRange)
    whole = block_of(chunk, LINES)
    for at in (1, 7, chunk.records - 1):
        head, tail = formats.divide(chunk, at, LINES)
        assert isinstance(tail.data, FileRange)
        assert (head.records, tail.records, tail.first, tail.line) == (at, chunk.records - at, at, at + 1)
        assert block_of(head, LINES) + block_of(tail, LINES) == whole


def moved(path: Path) -> None:
    path.replace(path.with_name("elsewhere"))
    path.write_bytes(b"another\n" * 100_000)


def grown(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more\n")


def edited(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(0)
        file.write(b"9")  # 0xxx -> 9xxx: as many lines as before


def shifted(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1:])


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def test_a_worker_takes_nothing_from_a_file_that_is_not_as_the_parent_opened_it(tmp_path: Path) -> None:
    def look(path: Path, change: object) -> tuple[Chunk, bytes]:
        chunk = taken(write(path, 100), "lines", 60, by_range=True)[0]
        before = block_of(chunk, LINES)
        with worker(len, format="lines"):
            sent = pickle.loads(pickle.dumps(chunk))
            assert isinstance(sent.data.file, FileState)
            assert answered(sent).records == chunk.records
            change(path)  # type: ignore[operator]
            answer = answered(sent)
            assert (answer.records, answer.parts, answer.unread) == (0, [], True)
        return chunk, before

    for change in (moved, grown, edited):
        chunk, before = look(tmp_path / change.__name__, change)
        assert isinstance(chunk.data, FileRange)
        assert isinstance(chunk.data.file, OpenFile)
        assert block_of(chunk, LINES)[1:] == before[1:]
        said = chunk.data.file.leave_to_parent()
        assert ("changed while the batch runs" in said) is (change is edited)
        assert not chunk.data.file.leave_to_parent()
    for change in (shifted, cut):
        chunk, _ = look(tmp_path / change.__name__, change)
        with pytest.raises(InputBroken, match="while the batch ran"):
            block_of(chunk, LINES)


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read from /proc")
def test_a_file_is_open_as_long_as_there_are_ranges_of_it(tmp_path: Path) -> None:
    name = write(tmp_path / "items", 100)
    chunks = taken(name, "lines", 60, by_range=True)
    assert openings(tmp_path / "items") == 1
    chunks.clear()
    assert openings(tmp_path / "items") == 0


def openings(path: Path) -> int:
    """How many descriptors of this process there are of that file."""
    folder = Path("/proc/self/fd")
    return sum(os.path.realpath(folder / name) == os.path.realpath(path) for name in os.listdir(folder))
