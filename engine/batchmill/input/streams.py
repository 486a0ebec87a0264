"""The bytes of INPUTs: opening, unpacking, reading ahead, counting.

Local files are read in the loop's own thread. Whatever can stall (pipes, compressed files) is read by a feeder thread,
which calls `notify` when the loop should look again (engine/README.md#the-parents-loop).
"""

from __future__ import annotations

import io
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, islice
from typing import Protocol

from batchmill.errors import BatchmillError, InputMissing, InvalidUsage, OutOfResources
from batchmill.input import formats
from batchmill.input.buffer import Buffer
from batchmill.input.by_suffix import format_of
from batchmill.input.compression import UNREADABLE
from batchmill.input.dialects import asked_for
from batchmill.input.first_look import BOM, LOOK, cleaned, is_as_it_is, is_plain
from batchmill.input.folders import Walk
from batchmill.input.formats import MAX_ITEM, Format, count_ends, count_records
from batchmill.input.parquet_rows import RowFeed, are_parquet, columns_of, rows_in
from batchmill.input.ranges import OpenFile
from batchmill.settings import Settings
from batchmill.system import threads
from batchmill.system.scarcity import limit_met
from batchmill.text import nearest, option

BLOCK = 1 << 20  # bytes read at once
STEP = 256 << 10  # the same, where they are only looked at: they stay in the processor's cache
MAX_HEADER = 1 << 20  # bytes of a table's first row

DIALECT = {"delimiter": None, "quote": '"', "encoding": None, "skip_lines": 0, "header": True, "columns": ()}

Notify = Callable[[], None]


class Feed(Protocol):
    """Bytes of one INPUT: `read` gives the next ones, b"" at the end, None where there are none yet."""

    def read(self) -> bytes | None:
        """See the class."""

    def close(self) -> None:
        """Let go of the file."""


class _Direct:
    """Feed of a local file or of listed paths, read in the caller's thread."""

    def __init__(self, read: Callable[[], bytes], close: Callable[[], None]) -> None:
        self.read = read
        self.close = close


class PlainFile:
    """Feed of a local file, read in the caller's thread, `step` bytes at once. `end` is how far it was read. With
    `is_as_it_is`, what it gave last are the bytes of the file before that."""

    def __init__(self, name: str, format: Format) -> None:
        """Raises InputMissing."""
        with _naming(name):
            self.file = OpenFile(name)
        self.step, self.end, self.is_as_it_is = BLOCK, 0, False
        self._format = format
        self._blocks = cleaned(iter(self._pull, b""), name, format)

    def _pull(self) -> bytes:
        block = self.file.raw.read(self.step) or b""
        if not self.end:
            is_made_when_read = len(block) > self.file.size  # as what is in /proc
            self.is_as_it_is = is_as_it_is(block, self._format) and not is_made_when_read
            self.file.begin = len(BOM) if block.startswith(BOM) else 0
        self.end += len(block)
        return block

    def read(self) -> bytes:
        return next(self._blocks, b"")

    def close(self) -> None:
        self._blocks = iter(())  # the file is closed when nothing refers to it any more


class _Threaded:
    """Feed of whatever may stall, be it when it is opened: a thread reads ahead, a few blocks at most."""

    def __init__(self, blocks: Iterator[bytes], notify: Notify) -> None:
        self._all, self._notify = blocks, notify
        self._blocks: queue.Queue[bytes | Exception] = queue.Queue(4)
        self._closed = self._is_over = False
        threads.start(self._pull, "feeder")

    def _pull(self) -> None:
        block: bytes | Exception = b"-"
        while block and not isinstance(block, Exception) and not self._closed:
            try:
                block = next(self._all, b"")
            except Exception as error:
                block = error
            self._blocks.put(block)
            self._notify()

    def read(self) -> bytes | None:
        try:
            block = b"" if self._is_over else self._blocks.get_nowait()
        except queue.Empty:
            return None
        if isinstance(block, Exception):
            raise block
        self._is_over = not block
        return block

    def close(self) -> None:
        # The thread may be inside a read that never ends; it is a daemon, and its file is closed with the process.
        self._closed = True
        while not self._blocks.empty():
            self._blocks.get_nowait()


class Headed:
    """Feed of a table without its header, which is in `header` once `read` has given anything; `lines` are those that
    come before the first row.

    `read` raises InvalidUsage for a header that cannot be one.
    """

    def __init__(self, feed: Feed, name: str, format: Format) -> None:
        assert format.table is not None
        self._feed, self._name, self._table = feed, name, format.table
        self._begun = b""
        self._to_skip = format.table.dialect.skip_lines
        self._is_past = False
        self.header = b""
        self.lines = 0
        self.close = feed.close

    def read(self) -> bytes | None:
        while not self._is_past:
            block = self._feed.read()
            if block is None:
                return None
            rest = self._look(block)
            if rest:
                return rest
        return self._feed.read()

    def _look(self, block: bytes) -> bytes:
        """Take in one more block; what follows the header in it."""
        self._begun += block
        if not self._is_at_header(is_last=not block):
            return b""
        may_grow = bool(block) and len(self._begun) <= MAX_HEADER
        end = self._table.scan(self._begun, more=may_grow)[0].find(b"\n")
        if end < 0 and may_grow:
            return b""
        begun, self._begun, self._is_past = self._begun, b"", True
        first = begun if end < 0 else begun[:end]
        if not first and end < 0:  # an empty table has no header, and needs none
            return b""
        self._take_header(first.removesuffix(b"\r"))
        if not self._table.dialect.header:
            return begun
        self.lines += first.count(b"\n") + 1
        return b"" if end < 0 else begun[end + 1 :]

    def _is_at_header(self, *, is_last: bool) -> bool:
        """Let go of the lines to skip, and of blank ones behind them; whether what comes then has begun."""
        while True:
            line, newline, rest = self._begun.partition(b"\n")
            if not self._to_skip and not self._table.is_blank(line):
                return True
            if not newline and not is_last:
                self._begun = b"" if self._to_skip else line
                return False
            self._begun = rest
            self.lines += bool(newline)
            self._to_skip = max(0, self._to_skip - 1)
            if not newline:
                return True

    def _take_header(self, first: bytes) -> None:
        try:
            if len(first) > MAX_HEADER:
                raise ValueError("the header does not end within 1 MiB (a quote may not be closed)")
            self.header = first if self._table.dialect.header else self._table.header_for(first)
            columns = self._table.names(self.header)
        except ValueError as error:
            remedy = "correct the first line: it names the columns" if self._table.dialect.header else _name_columns()
            raise InvalidUsage(f"{self._name}: {error}", remedy) from None
        for name in self._table.dialect.columns:
            if name not in columns:
                raise InvalidUsage(f"{self._name} has no column {name!r} ({option('columns')})", nearest(name, columns))

    @property
    def columns(self) -> list[str] | None:
        """The names of the columns that items have, None where there are none."""
        if not self.header:
            return None
        return list(self._table.dialect.columns) or self._table.names(self.header)

    @property
    def remarks(self) -> list[str]:
        """What to tell people of them."""
        return list(self._table.remarks(self.header)) if self.header else []


def look_at(name: str, format: Format) -> list[str] | None:
    """Look at the beginning of an INPUT that can be looked at before it is read: the columns of a table, None for all
    others. Raises InvalidUsage for what cannot be of that format, and where a header names no columns."""
    if format.wanted is not None:
        return columns_of(name, format.wanted)
    if name == "-" or not os.path.isfile(name):
        return None
    feed = _Direct(partial(next, _blocks(name, format, LOOK), b""), lambda: None)
    try:
        if format.table is None:
            feed.read()
            return None
        headed = Headed(feed, name, format)
        headed.read()
    except UNREADABLE:
        return None  # the run says so, after what can be read
    return headed.columns


def choose_format(names: Sequence[str], settings: Settings) -> str:
    """The format of INPUTs, with the dialect of a table: what was asked for, by their suffixes where that is `auto`;
    raises InvalidUsage."""
    name = _by_suffix(names) if settings.format == "auto" else settings.format
    format = formats.FORMATS[name]
    asked = {setting: getattr(settings, setting) for setting in DIALECT}
    if format.table is not None:
        return formats.with_dialect(format, asked_for(format.table.dialect, **asked)).name
    if format.wanted is not None:
        format, asked["columns"] = formats.with_columns(format, settings.columns), ()
    for setting, usual in DIALECT.items():
        if asked[setting] != usual:
            remedy = f"leave it out, or give {option('format', 'csv')}"
            raise InvalidUsage(f"{option(setting)} is for tables, and the format is {name}", remedy)
    return format.name


def _by_suffix(names: Sequence[str]) -> str:
    if not names:
        raise InvalidUsage("there are no items", "give an iterable or the path of an INPUT")
    if "-" in names:
        raise InvalidUsage("the format of stdin is not known", formats.give_format())
    for name in names:
        if os.path.isdir(name) and not are_parquet(name):
            raise _is_directory(name)
    found = {"parquet" if os.path.isdir(name) else format_of(name): name for name in names}
    if len(found) != 1:
        raise InvalidUsage(f"the INPUTs are of different formats ({', '.join(found)})", "run them one by one")
    return next(iter(found))


def _name_columns() -> str:
    return f"name them with {option('columns')} a,b,c"


def _is_directory(name: str) -> InvalidUsage:
    return InvalidUsage(
        f"{name} is a directory", f"give {option('format', 'files')} to make each file below it an item"
    )


def check_inputs(names: Sequence[str], directories: bool) -> None:
    """Raise InputMissing for an INPUT that cannot be read, InvalidUsage for a directory that may not be one."""
    for name in names:
        if name == "-":
            continue
        try:
            mode = os.stat(name).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISFIFO(mode):  # a pipe closed again would kill who writes to it
                os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            raise _unreadable(name, error) from None
        if stat.S_ISDIR(mode) and not directories:
            raise _is_directory(name)


def opener(name: str, format: Format, notify: Notify) -> Callable[[], Feed]:
    """What opens the feed of an INPUT (`-`: stdin); it raises InputMissing, or the feed does."""

    def open_it() -> Feed:
        if format.wanted is not None:
            return RowFeed(name, format.wanted)
        if not _is_plain(name):
            return _Threaded(_blocks(name, format), notify)
        return PlainFile(name, format)

    return open_it


def _blocks(name: str, format: Format, size: int = 0) -> Iterator[bytes]:
    """The bytes of an INPUT that may stall: a named pipe does, while it is opened, until somebody writes to it."""
    size = size or BLOCK
    with ExitStack() as stack:
        if name == "-":
            read: Callable[[], bytes] = partial(os.read, 0, size)
        else:
            with _naming(name):
                file = stack.enter_context(io.FileIO(name))
            read = partial(file.read, size)
        yield from cleaned(iter(read, b""), name, format)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Raise InputMissing for an INPUT that cannot be opened."""
    try:
        yield
    except OSError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: OSError) -> BatchmillError:
    met = limit_met(error, f"cannot read {name}")
    return met or InputMissing(f"{name}: {error.strerror or error}", "check the path of INPUT")


def listing(paths: Iterable[str]) -> Feed:
    """The paths of `--format files`, each closed by NUL."""
    closed = (os.fsencode(path) + b"\0" for path in paths)
    return _Direct(lambda: b"".join(islice(closed, 512)), lambda: None)


class RecordCounter:
    """Counts the records of plain local files in a thread: `total`, None until it is known; `size` in bytes."""

    def __init__(self, names: Sequence[str], format: Format, walk: Walk | None = None) -> None:
        self.total: int | None = None
        self.size: int | None = None
        self._format = format
        self._walk = walk
        self._stop = False
        self._thread: threading.Thread | None = None
        if format.name == "files" or all(_is_plain(name) for name in names):
            if format.name != "files" and format.wanted is None:
                self.size = sum(os.path.getsize(name) for name in names)
            with suppress(OutOfResources):  # then the total stays unknown
                self._thread = threads.start(self._count, "census", list(names))

    def wait(self, seconds: float) -> None:
        """Wait for the count to be complete, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def stop(self) -> None:
        """Count no further."""
        self._stop = True

    def _count(self, names: Sequence[str]) -> None:
        total = 0
        try:
            for count in self._counts(names):
                total += count
                if self._stop:
                    return
        except (*UNREADABLE, MemoryError, InvalidUsage, InputMissing):
            return  # the loop reads the same file, and says so
        self.total = total

    def _counts(self, names: Sequence[str]) -> Iterator[int]:
        if self._walk is not None:
            return (1 for _ in self._walk)
        return chain.from_iterable(map(self._of_records, names))

    def _of_records(self, name: str) -> Iterator[int]:
        if self._format.wanted is not None:
            yield rows_in(name)
            return
        if self._format.table is not None:
            yield from self._of_rows(name)
            return
        separator = last = self._format.separator
        for block in _blocks(name, self._format, STEP):
            yield count_ends(block, separator)
            last = block[-1:]
        if last != separator:
            yield 1

    def _of_rows(self, name: str) -> Iterator[int]:
        assert self._format.table is not None
        rows = Buffer(self._format.table)
        headed = Headed(_Direct(partial(next, _blocks(name, self._format), b""), lambda: None), name, self._format)
        while block := headed.read():
            rows.add(block)
            yield rows.marks.count(b"\n")
            rows.offset = rows.marks.rfind(b"\n") + 1
            if len(rows) > MAX_ITEM and rows.open < 0:
                raise OSError  # a row is too long: where it ends is for the loop to say
        rows.end()
        yield count_records(rows.marks[rows.offset :], b"\n")


def _is_plain(name: str) -> bool:
    """Whether an INPUT is a regular file that is read as it is: fast, and as often as need be."""
    if name == "-" or not os.path.isfile(name):
        return False
    try:
        with open(name, "rb", buffering=0) as file:
            return is_plain(file.read(16))
    except OSError:
        return False
