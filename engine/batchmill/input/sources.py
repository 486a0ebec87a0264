"""The way from INPUTs, standard input or Python iterables to chunks: lazily and in bounded memory.

It never parses.

Two sources with one face (Source): ByteSource cuts blocks of whole records out of files and pipes, ItemSource collects
the items of an iterable. Local files are read in the loop's own thread; whatever can stall (pipes, compressed files,
generators) is pulled by a feeder thread, which calls `notify` when the loop should look again
(engine/README.md#the-parents-loop).
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any, Protocol

from batchmill.codec.ids import kept_id
from batchmill.errors import InputBroken, ItemError
from batchmill.files.conflicts import NO_FILES, OwnFiles
from batchmill.files.mapped_pickle import packed_item
from batchmill.input import formats
from batchmill.input.buffer import Buffer
from batchmill.input.by_suffix import as_lines_of_json
from batchmill.input.compression import UNREADABLE
from batchmill.input.folders import Walk
from batchmill.input.formats import MAX_ITEM, Format
from batchmill.input.parquet_rows import RowFeed, files_of
from batchmill.input.streams import STEP, Feed, Headed, Notify, PlainFile, RecordCounter, check_inputs, listing, opener
from batchmill.input.thread_bound import is_thread_bound
from batchmill.model import Chunk, FileRange
from batchmill.system import threads
from batchmill.text import describe

MAX_CHUNK = 4 << 20  # bytes of a chunk, but for a single record that is longer
FAR = 64 << 10  # bytes of a chunk from which on a worker reads them by itself, where it can
TOO_LONG = "the item is larger than"
KEPT = 1024  # bytes kept of a record longer than MAX_ITEM: its id is made of them
_PARTING = 0.5  # seconds in which an iterable may give one more item: it may also wait for ever
_MOMENT = 0.2  # seconds in which some hundred MB are counted
_SILENT = 0.1  # seconds until an INPUT that is silent is asked again
_STALE = 0.02  # seconds after which items that were pulled go out, even if fewer than asked for

Errand = Callable[[Callable[[], None]], None]  # has the caller's thread do something


class Source(Protocol):
    """Where chunks come from."""

    def take(self, records: int) -> Chunk | None:
        """The next chunk of up to `records` records; None where there is none now, or (`ended`) none any more."""

    @property
    def ended(self) -> bool:
        """Whether all input was taken."""

    @property
    def position(self) -> int:
        """Records taken so far: the position of the next one."""

    @property
    def total(self) -> int | None:
        """Records in the whole input (blank ones included), None while that is not known."""

    @property
    def remaining(self) -> float | None:
        """About how many records are left, None where unknown."""

    def close(self) -> None:
        """Let go of files and threads."""


def chunks_of(source: Source, wake: threading.Event, records: int) -> Iterator[Chunk]:
    """All chunks of a source, of up to `records` records each; it sets `wake` when there is more."""
    while not source.ended:
        wake.clear()
        chunk = source.take(records)
        if chunk is not None:
            yield chunk
        elif not source.ended:
            wake.wait(_SILENT)


class ByteSource:
    """Blocks of whole records out of INPUTs, one after the other. A chunk never spans two of them."""

    def __init__(
        self,
        inputs: Sequence[str],
        format: Format,
        notify: Notify,
        own: OwnFiles = NO_FILES,
        *,
        follow: bool = False,
        tell: Callable[[str], None] | None = None,
        by_range: bool = False,
    ) -> None:
        """Check that all INPUTs are there; raises InputMissing, or InvalidUsage for a directory.

        `by_range`: a large chunk of a plain file may be the range where it is. The run's `own` files are no items of
        `--format files`, nor is what is behind links to directories unless `follow` says so. `tell` gets what people
        should know of a header, once.
        """
        self._format = format
        self._tell = tell
        self._by_range = by_range and format.table is None
        self._told = {b""}  # headers
        self._separator = format.separator
        self._names = list(inputs) if format.wanted is None else files_of(inputs, own, follow=follow)
        self._walk = Walk(self._names, own, follow=follow)
        counted = None
        if format.name == "files":
            counted = Walk(self._names, own, follow=follow)
            self._openers: list[Callable[[], Feed]] = [lambda: listing(self._walk)]
            self._label = ["the files"]
        else:
            self._openers = [opener(name, format, notify) for name in self._names]
            self._label = self._names
        check_inputs(self._names, directories=format.name == "files")
        self._census = RecordCounter(self._names, format, counted)
        self._feed: Feed | None = None
        self._input = -1
        self._buffer = Buffer()
        self._line = 1
        self._headed: Headed | RowFeed | None = None  # the current feed, where it has a header
        self._drained = True  # the current feed has given all its bytes
        self._broken: InputBroken | None = None  # raised once all whole records before it were taken
        self._bytes = 0  # taken so far, to tell the mean length of a record
        self._arrays = 0  # INPUTs that begin with a JSON array
        self._long: bytes | None = None  # the beginning of a record that is being passed over
        self._long_lines = 0
        self.position = 0
        self.ended = False

    def left_out(self) -> Iterator[str]:
        """What to tell people of what was met so far and is no item, or is one and was probably meant to be many."""
        yield from self._walk.left_out()
        if self.ended and 0 < self.position == self._arrays:
            name = self._names[0] if len(self._names) == 1 else ""
            which = "INPUT" if name else "Each INPUT"
            command = as_lines_of_json("" if name == "-" else name, ".[]")
            yield f"{which} is one JSON array, and so one item; `{command}` makes an item of each of its elements"

    @property
    def total(self) -> int | None:
        return self.position if self.ended else self._census.total

    @property
    def remaining(self) -> float | None:
        """By count once the inputs were counted, else by bytes."""
        if self._census.total is not None:
            return max(0, self._census.total - self.position)
        if self._census.size is None or not self.position:
            return None
        return max(0.0, (self._census.size - self._bytes) * self.position / max(1, self._bytes))

    def take(self, records: int) -> Chunk | None:
        """Raises InputBroken where the input ends in an error of its own, and as Source."""
        if self._long is not None:
            return self._too_long()
        while self.look(1):
            buffer = self._buffer
            end, found = formats.cut(buffer.marks, buffer.offset, records, self._separator)
            if end - buffer.offset > MAX_CHUNK and found > 1:
                end, found = self._cut_bytes(MAX_CHUNK)
            have, size = len(buffer), end - buffer.offset
            if (plain := self._plain) is not None and found and (size if found == records else have) >= FAR:
                return self._take_range(plain, records, end, found)
            is_open = not found and 0 <= buffer.open <= buffer.offset + MAX_ITEM
            if found < records and (is_open or have <= (MAX_CHUNK if found else MAX_ITEM)) and self._more():
                continue
            if (size - 1 if found else have) > MAX_ITEM and not is_open:
                return self._too_long()
            if found:
                return self.claim(size, found)
            # No separator is at hand: an INPUT's last record, or one that is not all here yet, or never will be.
            if self._broken is not None:
                raise self._broken
            return self.claim(have, 1) if self._drained else None
        return None

    @property
    def _plain(self) -> PlainFile | None:
        """The file that is being read, where a chunk of it can be a range."""
        feed = self._feed if self._by_range else None
        return feed if isinstance(feed, PlainFile) and feed.is_as_it_is else None

    def _take_range(self, feed: PlainFile, records: int, end: int, found: int) -> Chunk:
        """The next records as the range where they are: those up to `end` of the buffer, `found` of them, and what
        follows. Nothing of it is kept."""
        buffer, taken, size = self._buffer, found, end - self._buffer.offset
        start = feed.end - len(buffer)
        buffer.offset, feed.step = end, STEP
        while taken < records and size + len(buffer) + STEP <= MAX_CHUNK and self._more():
            end, found = formats.cut(buffer.marks, buffer.offset, records - taken, self._separator)
            if not found:
                break
            taken, size, buffer.offset = taken + found, size + end - buffer.offset, end
        self._bytes += size
        return self._chunk(FileRange(feed.file, start, size), taken, taken)

    def look(self, size: int) -> int:
        """Have `size` bytes of the current INPUT at hand, or all that it has; how many there are (0: none now).

        Raises InputBroken where there are none because the input ended in an error.
        """
        while len(self._buffer) < size:
            if not self._more() and (len(self._buffer) or not self._open_next()):
                break
        have = len(self._buffer)
        if not have and self._broken is not None:
            raise self._broken
        return have

    @property
    def window(self) -> tuple[bytes, bytes, int]:
        """The buffered bytes, their marks and the offset of the next record in them."""
        return self._buffer.data, self._buffer.marks, self._buffer.offset

    @property
    def header(self) -> bytes:
        """The header of the current INPUT, b"" where it has none."""
        return b"" if self._headed is None else self._headed.header

    @property
    def at_end_of_input(self) -> bool:
        """Whether the buffer holds all that is left of the current INPUT."""
        return self._drained

    def claim(self, size: int, records: int) -> Chunk:
        """Take the next `size` bytes, which are `records` whole records."""
        buffer = self._buffer
        data = buffer.data[buffer.offset : buffer.offset + size]
        buffer.offset += size
        self._bytes += size
        return self._chunk(data, records, self._format.lines(data, records))

    def _chunk(self, data: bytes | FileRange, records: int, lines: int) -> Chunk:
        """The next records as a chunk; they take up `lines` lines."""
        header, before = (b"", 0) if self._headed is None else (self._headed.header, self._headed.lines)
        chunk = Chunk(self.position, before + self._line, self._input, records, data, header=header)
        self.position += records
        self._line += lines
        return chunk

    def finish_counting(self) -> None:
        """Have the total be known, where that takes but a moment."""
        self._census.wait(_MOMENT)

    def close(self) -> None:
        self._census.stop()
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _cut_bytes(self, size: int) -> tuple[int, int]:
        marks, offset = self._buffer.marks, self._buffer.offset
        end = marks.rfind(self._separator, offset, offset + size) + 1
        if not end:
            return formats.cut(marks, offset, 1, self._separator)
        return end, marks.count(self._separator, offset, end)

    def _too_long(self) -> Chunk | None:
        """Pass over the next record, which is too long to be an item: a chunk of its beginning, condemned.

        A row goes on to the end of the line that is too long, whatever is open in it. None while the rest of the record
        has not come; what came is let go, and `take` goes on here.
        """
        buffer, start = self._buffer, self._buffer.offset
        if self._long is None:
            self._long = buffer.data[start : start + KEPT]
            self._long_lines = 0
            start += MAX_ITEM
        while (end := buffer.data.find(self._separator, start)) < 0:
            self._let_go(len(buffer.data))
            if not self._more():
                if not self._drained and self._broken is None:
                    return None
                break
            start = buffer.offset
        self._let_go(end + 1)
        kept, self._long = self._long, None
        why = f"{TOO_LONG} {MAX_ITEM >> 20} MiB: write a file, list its path"
        return self._chunk(kept, 1, max(1, self._long_lines))._replace(condemned=ItemError("ItemTooLarge", why))

    def _let_go(self, end: int) -> None:
        """Forget the buffer up to `end`: it belongs to a record that is passed over."""
        gone = self._buffer.skip_to(end)
        self._bytes += len(gone)
        if self._format.table is not None:
            self._long_lines += gone.count(b"\n")

    def _more(self) -> bool:
        """Read on in the current INPUT; False where it has no more, or none yet."""
        if self._drained or self._feed is None or self._broken is not None:
            return False
        block = self._read()
        if block is None:
            return False
        if self._tell is not None and self.header not in self._told:
            self._tell_of_header(self._tell)
        if not block:
            self._drained = True
            return self._buffer.end()
        if self._line == 1 and not len(self._buffer) and self._format.name == "jsonl":
            self._arrays += block.lstrip().startswith(b"[")
        self._buffer.add(block)
        return True

    def _read(self) -> bytes | None:
        assert self._feed is not None
        try:
            return self._feed.read()
        except InputBroken as error:
            self._broken = error
        except UNREADABLE as error:
            name = self._names[self._input]
            shown = "stdin" if name == "-" else self._label[self._input]
            self._broken = InputBroken(f"{shown} cannot be read to its end: {error}", "what was read before it is kept")
            self._broken.__cause__ = error
        return None

    def _tell_of_header(self, tell: Callable[[str], None]) -> None:
        assert self._headed is not None
        self._told.add(self.header)
        name = self._names[self._input]
        for remark in self._headed.remarks:
            tell(f"{'stdin' if name == '-' else name}: {remark}")

    def _open_next(self) -> bool:
        """Go on to the next INPUT; False where the current one may still give bytes, or none is left."""
        if not self._drained:
            return False
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        if self._input + 1 >= len(self._openers):
            self.ended = True
            return False
        self._input += 1
        self._feed = self._openers[self._input]()
        if isinstance(self._feed, RowFeed):
            self._headed = self._feed
        if self._format.table is not None:
            self._feed = self._headed = Headed(self._feed, self._names[self._input], self._format)
        self._buffer, self._line, self._drained = Buffer(self._format.table), 1, False
        return True


class ItemSource:
    """The items of an iterable, pulled only when the loop has asked for them, in the context of whoever asked for the
    batch: by a thread of their own, or as an `errand` of the caller's thread where they are bound to that.

    `id` gives an item's id, or is None; where it raises, the item is a failed one. What the iterable raises comes out
    of `take`, after what came before. A generator that is left before its end is closed. `pack` makes bytes of an item
    for a worker.
    """

    def __init__(
        self,
        items: Iterable[Any],
        id: Callable[[Any], Any] | None,
        notify: Notify,
        errand: Errand | None = None,
        *,
        pack: Callable[[Any], bytes] = packed_item,
    ) -> None:
        self._total = len(items) if isinstance(items, Sized) else None
        self._notify = notify
        self._items = items
        self._iterator: Iterator[Any] | None = None
        self._pulled: deque[Any] = deque()
        self._demand = 0
        self._asked = threading.Condition()
        self._asked_at = 0.0
        self._over = False
        self._error: BaseException | None = None
        self.position = 0
        self.ended = False
        self._id = id
        self._pack = pack
        self._errand = errand if errand is not None and is_thread_bound(items) else None
        if self._errand is None:
            self._thread = threads.start(contextvars.copy_context().run, "feeder", self._pull_all)

    def _pull_all(self) -> None:
        while self._is_asked():
            self._pull()
        self._leave()

    def _pull(self) -> None:
        """Pull what is asked for."""
        try:
            if self._iterator is None:
                self._iterator = iter(self._items)
            while len(self._pulled) < self._demand and not self._over:
                item = next(self._iterator)
                pickled = _pickled(item, self._pack)
                self._pulled.append(pickled if self._id is None else (pickled, _plain_id(self._id, item)))
        except StopIteration:
            self._over = True
        except BaseException as error:
            self._over = True
            if self._errand is not None and not isinstance(error, Exception):
                raise  # of the caller's thread, not of the iterable
            self._error = error
        finally:
            self._notify()

    def _is_asked(self) -> bool:
        """Wait until the loop wants more than there is; False when it wants no more at all."""
        if len(self._pulled) >= self._demand:
            with self._asked:
                self._asked.wait_for(lambda: len(self._pulled) < self._demand or self._over)
        return not self._over

    def _leave(self) -> None:
        iterator, self._iterator = self._iterator, None
        if isinstance(iterator, Generator):
            iterator.close()

    @property
    def total(self) -> int | None:
        return self.position if self.ended else self._total

    @property
    def remaining(self) -> float | None:
        return None if self._total is None else max(0, self._total - self.position)

    def take(self, records: int) -> Chunk | None:
        """Raises what the iterable raised, and as Source."""
        over = self._over
        if len(self._pulled) < records and not over:
            self._ask(records)
            if not self._pulled or time.monotonic() - self._asked_at < _STALE:
                return None
        taken = [self._pulled.popleft() for _ in range(min(records, len(self._pulled)))]
        self._asked_at, self._demand = 0.0, 0
        if not taken:
            self.ended = True
            if self._error is not None:
                raise self._error
            return None
        items, ids = zip(*taken) if self._id is not None else (tuple(taken), None)
        chunk = Chunk(self.position, self.position + 1, 0, len(taken), tuple(items), ids=ids)
        self.position += len(taken)
        return chunk

    def _ask(self, records: int) -> None:
        if not self._asked_at:
            self._asked_at = time.monotonic()
        with self._asked:
            is_new, self._demand = self._demand < records, records
            self._asked.notify()
        if self._errand is not None and is_new:
            self._errand(self._pull)

    def close(self) -> None:
        with self._asked:
            self._over = True
            self._asked.notify()
        if self._errand is not None:
            self._errand(self._leave)
        else:
            self._thread.join(_PARTING)


def _plain_id(id_of: Callable[[Any], Any], item: Any) -> Any:
    """The id of an item as the checkpoint will have it, or why there is none.

    A worker that cannot unpickle an id of the script's own class would die of it, and the next one too.
    """
    try:
        id = id_of(item)
    except BaseException as error:
        return _failed("no id was given for this item", error)
    if type(id) in (str, int):
        return id
    try:
        return kept_id(id)
    except BaseException as error:  # of the id's own methods it may be any
        return _failed("the id given for this item cannot be kept", error)


def _pickled(item: Any, pack: Callable[[Any], bytes]) -> bytes | ItemError:
    """One item, pickled by itself: one that cannot be costs one item, on either side."""
    try:
        return pack(item)
    except BaseException as error:  # of the item's own methods it may be any
        return _failed("the item cannot be sent to a worker", error)


def _failed(sentence: str, error: BaseException) -> ItemError:
    """The error that an item fails with here, where only the item itself is lost."""
    why = describe(error)
    return replace(why, message=f"{sentence}: {why.message}")
