"""Sources: chunks that joined are the input, whatever the read size; items pulled no further than asked for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from source_kit import Waker, drain

from batchmill.errors import InputBroken, InputMissing, InvalidUsage, ItemError
from batchmill.input import sources as source_module
from batchmill.input import streams as feed_module
from batchmill.input.folders import Walk
from batchmill.input.formats import FORMATS, BadItem, count_records, split_records
from batchmill.input.sources import ByteSource, ItemSource, Source
from batchmill.model import Chunk

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def read_all(*paths: str | Path, format: str = "jsonl", records: int = 7) -> list[Chunk]:
    waker = Waker()
    return drain(ByteSource([str(path) for path in paths], FORMATS[format], waker), waker, records)


def data_of(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks if isinstance(chunk.data, bytes))


def check_numbers(chunks: list[Chunk]) -> None:
    """Positions run on through all inputs, line numbers begin anew in each."""
    position = 0
    lines: dict[int, int] = {}
    for chunk in chunks:
        assert chunk.first == position
        assert chunk.line == lines.get(chunk.input, 1)
        position += chunk.records
        lines[chunk.input] = chunk.line + chunk.records


@pytest.fixture(params=[1, 2, 3, 16, 1 << 20])
def read_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(feed_module, "BLOCK", request.param)
    return int(request.param)


@pytest.fixture
def short_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item has at most 50 bytes, and a chunk 40 (as outside of tests, less than an item)."""
    monkeypatch.setattr(source_module, "MAX_ITEM", 50)
    monkeypatch.setattr(source_module, "MAX_CHUNK", 40)
    monkeypatch.setattr(source_module, "KEPT", 10)


# --- files -----------------------------------------------------------------------------------------------------------

TEXTS = {
    "closed": b"one\ntwo\n\nfour\n" * 5,
    "without a newline at its end": b"one\ntwo\nthree",
    "with carriage returns": b"one\r\ntwo\r\n",
    "of blank lines": b"\n\n\n",
    "of one byte": b"x",
    "empty": b"",
}


@pytest.mark.usefixtures("read_size")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("suffix", ["", *COMPRESSORS])
def test_chunks_joined_are_the_input(tmp_path: Path, text: bytes, suffix: str) -> None:
    path = tmp_path / f"in.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix](text) if suffix else text)
    chunks = read_all(path, records=3)
    assert data_of(chunks) == text
    assert sum(chunk.records for chunk in chunks) == count_records(text, b"\n")
    check_numbers(chunks)


@pytest.mark.usefixtures("read_size")
def test_a_byte_order_mark_is_dropped_from_the_head_of_each_input(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert data_of(read_all(*paths)) == b"one\n\xef\xbb\xbftwo\n" * 2


@pytest.mark.usefixtures("read_size")
def test_several_inputs_follow_each_other_and_share_no_chunk(tmp_path: Path) -> None:
    texts = [b"a1\na2", b"", b"b1\n", b"c1\nc2\nc3\n"]
    paths = [tmp_path / f"{number}.txt" for number in range(4)]
    for path, text in zip(paths, texts):
        path.write_bytes(text)
    chunks = read_all(*paths, records=100)
    by_input = [data_of([chunk for chunk in chunks if chunk.input == number]) for number in range(4)]
    assert by_input == texts
    check_numbers(chunks)


@pytest.mark.usefixtures("read_size", "short_items")
def test_a_record_too_long_to_be_an_item_is_one_failed_item_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"first\n" + b"x" * 500 + b"\nnext\nlast\n")
    chunks = read_all(path)
    assert data_of([chunk for chunk in chunks if chunk.condemned is None]) == b"first\nnext\nlast\n"
    (long,) = [chunk for chunk in chunks if chunk.condemned is not None]
    assert (long.first, long.line, long.records, long.data) == (1, 2, 1, b"x" * 10)
    assert long.condemned is not None
    assert long.condemned.type == "ItemTooLarge"
    check_numbers(chunks)


@pytest.mark.usefixtures("read_size", "short_items")
def test_a_last_record_too_long_to_be_an_item_is_one_failed_item(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"first\n" + b"x" * 500)
    assert [(chunk.first, chunk.condemned is None) for chunk in read_all(path)] == [(0, True), (1, False)]


@pytest.mark.usefixtures("read_size", "short_items")
def test_a_record_as_long_as_an_item_may_be_is_one(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"x" * 50 + b"\n" + b"y" * 51 + b"\n" + b"z" * 50)
    assert [chunk.condemned is None for chunk in read_all(path, records=1)] == [True, False, True]


@pytest.mark.usefixtures("short_items")
def test_a_record_of_any_length_takes_no_more_memory_than_an_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "BLOCK", 10)
    path = tmp_path / "in.txt"
    path.write_bytes(b"first\n" + b"x" * 5000 + b"\nnext\n")
    source = ByteSource([str(path)], FORMATS["lines"], lambda: None)
    held = []
    while not source.ended:
        source.take(100)
        held.append(len(source.window[0]))
    assert max(held) <= 60


def test_a_chunk_of_long_records_is_cut_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "MAX_CHUNK", 100)
    path = tmp_path / "in.txt"
    path.write_bytes((b"x" * 29 + b"\n") * 20 + b"y" * 250 + b"\nend\n")
    chunks = read_all(path, records=50)
    assert data_of(chunks) == path.read_bytes()
    assert all(len(chunk.data) <= 100 or chunk.records == 1 for chunk in chunks)
    check_numbers(chunks)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_compressed_input_cut_short_is_an_error_after_what_came_before(tmp_path: Path, suffix: str) -> None:
    text = b"".join(os.urandom(20).hex().encode() + b"\n" for _ in range(3000))
    path = tmp_path / f"in.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix](text)[:-400])
    waker = Waker()
    source = ByteSource([str(path)], FORMATS["lines"], waker)
    taken: list[Chunk] = []
    with pytest.raises(InputBroken, match="cannot be read to its end"):
        _take_until_it_raises(source, waker, taken)
    source.close()
    assert text.startswith(data_of(taken))


def _take_until_it_raises(source: Source, waker: Waker, taken: list[Chunk]) -> None:
    deadline = time.monotonic() + 30
    while not source.ended and time.monotonic() < deadline:
        chunk = source.take(10)
        if chunk is not None:
            taken.append(chunk)
        else:
            waker.pause()


def test_a_pipe_gives_what_is_there_and_ends_when_it_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe.txt")
    os.mkfifo(path)
    writer_may_close = threading.Event()

    def write() -> None:
        with open(path, "wb", buffering=0) as pipe:
            pipe.write(b"one\ntwo\nthr")
            writer_may_close.wait(30)
            pipe.write(b"ee")

    thread = threading.Thread(target=write)
    # Held open from here, for a look at an INPUT opens and closes it, which the writer must not take for a reader gone.
    holder = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    waker = Waker()
    source = ByteSource([path], FORMATS["lines"], waker)
    thread.start()
    chunk = None
    while chunk is None:
        chunk = source.take(5)
        waker.pause()
    assert chunk.data == b"one\ntwo\n"
    assert source.take(5) is None
    assert not source.ended
    writer_may_close.set()
    assert data_of(drain(source, waker)) == b"three"
    thread.join(30)
    os.close(holder)


def test_the_total_is_known_at_the_end_and_counts_every_record(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\n\nb\nlast")
    waker = Waker()
    source = ByteSource([str(path)], FORMATS["lines"], waker)
    drain(source, waker)
    assert (source.total, source.remaining) in ((4, 0), (4, 0.0))


def test_the_census_counts_the_records_of_plain_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_bytes(b"1\n2\n3")
    paths[1].write_bytes(b"4\n5\n")
    source = ByteSource([str(path) for path in paths], FORMATS["lines"], lambda: None)
    deadline = time.monotonic() + 30
    while source.total is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (source.total, source.remaining) == (5, 5)
    source.close()


def test_a_missing_input_is_named_before_anything_is_read(tmp_path: Path) -> None:
    there = tmp_path / "a.txt"
    there.write_bytes(b"1\n")
    with pytest.raises(InputMissing, match=r"b\.txt: No such file"):
        ByteSource([str(there), str(tmp_path / "b.txt")], FORMATS["lines"], lambda: None)


def test_a_directory_is_no_list_of_lines(tmp_path: Path) -> None:
    with pytest.raises(InvalidUsage, match="format='files'"):
        ByteSource([str(tmp_path)], FORMATS["lines"], lambda: None)


# --- files as items --------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2", "b/1", "a", "c/deep/x", ".hidden", ".git/config", "b/.secret", "with\nnewline"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "tree"


def test_a_directory_stands_for_its_files_sorted_and_none_hidden(tree: Path) -> None:
    assert [os.path.relpath(path, tree) for path in Walk([str(tree)])] == [
        "a",
        "b/1",
        "b/2",
        "c/deep/x",
        "with\nnewline",
    ]


def test_links_to_files_are_items_and_those_to_directories_are_followed_where_asked_for(tree: Path) -> None:
    (tree / "c" / "deep" / "loop").symlink_to(tree / "c")
    (tree / "c" / "more").symlink_to(tree / "b")
    (tree / "c" / "link").symlink_to(tree / "a")
    (tree / "c" / "nowhere").symlink_to(tree / "missing")
    left, followed = Walk([str(tree / "c")]), Walk([str(tree / "c")], follow=True)
    assert [os.path.relpath(path, tree) for path in left] == ["c/deep/x", "c/link"]
    assert [os.path.relpath(path, tree) for path in followed] == ["c/deep/x", "c/link", "c/more/1", "c/more/2"]
    others = "1 entry that is no file was left out (broken links, pipes, sockets)"
    assert list(left.left_out()) == ["2 links to directories were not followed (follow_links=True does)", others]
    assert list(followed.left_out()) == [others]


def test_directories_of_any_depth_are_walked_and_what_cannot_be_read_is_a_failed_item(tmp_path: Path) -> None:
    start, deepest = os.getcwd(), [*("d" for _ in range(1100)), *("n" * 200 for _ in range(12))]
    (tmp_path / "z").touch()
    try:
        os.chdir(tmp_path)
        for name in deepest:  # the path of the last ones is too long to be opened
            if name != "d" and os.path.basename(os.getcwd()) == "d":
                Path("x").touch()
            os.mkdir(name)
            os.chdir(name)
        os.chdir(start)
        unread, *found = Walk([str(tmp_path)])
    finally:
        os.chdir(start)
        subprocess.run(["rm", "-r", tmp_path / "d"], timeout=60, check=True)  # too deep for pytest
    below = f"{tmp_path}/{'d/' * 1100}"
    assert found == [f"{below}x", f"{tmp_path}/z"]
    assert unread.startswith(f"{below}n")
    with pytest.raises(BadItem, match="cannot be read, and nobody knows what is below it"):
        FORMATS["files"].parser(b"")(os.fsencode(unread))


@pytest.mark.usefixtures("read_size")
def test_each_file_below_an_input_is_a_record(tree: Path) -> None:
    extra = tree / ".hidden"
    chunks = read_all(tree, extra, format="files", records=2)
    found = [os.fsdecode(path) for path in split_records(data_of(chunks), b"\0")]
    assert found == [*Walk([str(tree)]), str(extra)]
    check_numbers(chunks)


# --- items of an iterable --------------------------------------------------------------------------------------------


class Counted:
    """An iterable that counts how many items were pulled from it, and how many were ever asked for at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        for item in range(self.count):
            self.pulled += 1
            yield item


def items_of(chunks: list[Chunk]) -> list[Any]:
    pickles = [chunk.data for chunk in chunks if isinstance(chunk.data, tuple)]
    return [pickle.loads(raw) for data in pickles for raw in data if isinstance(raw, bytes)]


def take(source: Source, records: int, waker: Waker) -> Chunk:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        chunk = source.take(records)
        if chunk is not None:
            return chunk
        waker.pause()
    raise AssertionError("nothing came")


def test_all_items_come_in_order() -> None:
    waker = Waker()
    chunks = drain(ItemSource(iter(range(100)), None, waker), waker)
    assert items_of(chunks) == list(range(100))
    check_numbers(chunks)


def test_nothing_is_pulled_before_it_is_asked_for() -> None:
    items = Counted(100)
    source = ItemSource(items, None, lambda: None)
    time.sleep(0.05)
    assert items.pulled == 0
    source.close()


def test_no_more_is_pulled_than_was_asked_for() -> None:
    items, waker = Counted(100), Waker()
    source = ItemSource(items, None, waker)
    for wanted in (1, 4, 7):
        chunk = take(source, wanted, waker)
        assert chunk.records <= wanted
        time.sleep(0.03)
        assert items.pulled == source.position
    source.close()


def test_a_slow_iterable_gives_what_it_has() -> None:
    may_go_on, waker = threading.Event(), Waker()

    def items() -> Iterator[int]:
        yield 1
        yield 2
        may_go_on.wait(30)
        yield 3

    source = ItemSource(items(), None, waker)
    assert items_of([take(source, 50, waker)]) == [1, 2]
    may_go_on.set()
    assert items_of(drain(source, waker)) == [3]


def test_what_an_iterable_raises_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise RuntimeError("the database is gone")

    waker = Waker()
    source = ItemSource(items(), None, waker)
    taken: list[Chunk] = []
    with pytest.raises(RuntimeError, match="the database is gone"):
        _take_until_it_raises(source, waker, taken)
    assert items_of(taken) == list(range(5))
    assert source.ended


@pytest.mark.parametrize("error", [KeyError("k"), SystemExit(3), KeyboardInterrupt()])
def test_what_an_id_callable_raises_is_the_error_of_its_item(error: BaseException) -> None:
    def id_of(item: int) -> int:
        if item == 2:
            raise error
        return item

    waker = Waker()
    chunks = drain(ItemSource([1, 2, 3], id_of, waker), waker)
    ids = [id for chunk in chunks for id in chunk.ids or ()]
    assert (ids[0], ids[2]) == (1, 3)
    assert (ids[1].type, "no id was given" in ids[1].message) == (type(error).__name__, True)


class Hostile:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


def test_an_id_that_raises_when_it_is_looked_at_is_the_error_of_its_item() -> None:
    waker = Waker()
    chunks = drain(ItemSource([1, 2], lambda item: Hostile() if item == 2 else item, waker), waker)
    ids = [id for chunk in chunks for id in chunk.ids or ()]
    assert (ids[0], type(ids[1])) == (1, ItemError)


class Unsendable:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


def test_whatever_an_item_raises_when_it_is_pickled_is_its_error() -> None:
    waker = Waker()
    (chunk,) = drain(ItemSource([1, Unsendable(), 3], None, waker), waker)
    assert isinstance(chunk.data, tuple)
    assert [type(raw) for raw in chunk.data] == [bytes, ItemError, bytes]
    assert (chunk.data[1].type, "cannot be sent to a worker" in chunk.data[1].message) == ("SystemExit", True)


def test_an_id_callable_gives_each_item_its_id() -> None:
    waker = Waker()
    chunks = drain(ItemSource([3, 1, 2], lambda item: item * 10, waker), waker, records=2)
    assert [id for chunk in chunks for id in chunk.ids or ()] == [30, 10, 20]


def test_an_item_that_cannot_be_pickled_is_an_error_in_its_place() -> None:
    waker = Waker()
    (chunk,) = drain(ItemSource([1, threading.Lock(), 3], None, waker), waker)
    assert isinstance(chunk.data, tuple)
    assert [type(raw) for raw in chunk.data] == [bytes, ItemError, bytes]
    assert "cannot be sent to a worker" in chunk.data[1].message


def test_what_is_no_iterable_raises_when_it_is_taken() -> None:
    waker = Waker()
    not_iterable: Any = 5
    source = ItemSource(not_iterable, None, waker)
    with pytest.raises(TypeError, match="not iterable"):
        _take_until_it_raises(source, waker, [])


def test_the_total_of_a_sized_iterable_is_known_from_the_start() -> None:
    sized, lazy = ItemSource([1, 2, 3], None, lambda: None), ItemSource(iter([1]), None, lambda: None)
    assert (sized.total, sized.remaining, lazy.total, lazy.remaining) == (3, 3, None, None)
    sized.close()
    lazy.close()


def test_closing_ends_the_feeder() -> None:
    before = threading.active_count()
    source = ItemSource(iter(int, 1), None, lambda: None)
    source.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            ['[{"a": 1}, 2]\n'],
            "INPUT is one JSON array, and so one item; `jq -c '.[]' i0.jsonl > i0.lines.jsonl` makes",
        ),
        (["[1]", " [2]\n"], "Each INPUT is one JSON array, and so one item; `jq -c '.[]'` makes"),
        (["[1]\n[2]\n"], None),
        (["[1]\n", "2\n"], None),
        (["1\n"], None),
        ([""], None),
    ],
)
def test_an_array_that_is_all_there_is_was_probably_meant_to_be_many_items(
    texts: list[str], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"i{number}.jsonl" for number in range(len(texts))]
    for name, text in zip(names, texts):
        Path(name).write_text(text)
    source = ByteSource(names, FORMATS["jsonl"], lambda: None)
    assert list(source.left_out()) == [], "not before the end"
    while source.take(10) is not None:
        pass
    told = list(source.left_out())
    assert told == [] if said is None else [sentence.startswith(said) for sentence in told] == [True], told
    source.close()
