"""What is to be done next: the input less what is done, and the chunks that came back.

    source --> matcher --> (skip)
                 |  \\--unmatched--> scan in a worker --> masked chunk --\\
                 \\--all matched: the rest is new ------------------> in_flight --> next()

While outcomes of earlier runs are unmatched, the input is searched block by block. Records that match no block are held
back, up to `_HELD` bytes: mostly the remaining blocks match, and what was held back turns out to be new without a look
at a single id. Otherwise ids are loaded, and such records are scanned (matching.py).
"""

from __future__ import annotations

import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO

from batchmill.checkpoint.matching import Aside, Matcher, set_aside
from batchmill.codec.ids import checksum
from batchmill.input import formats
from batchmill.input.formats import MAX_ITEM, Format
from batchmill.input.ranges import OpenFile
from batchmill.input.sources import MAX_CHUNK, ByteSource, Source
from batchmill.model import Chunk, FileRange, IdScan
from batchmill.scheduler.chunk_size import ChunkSizer
from batchmill.scheduler.in_flight import InFlight

_HELD = 8 << 20  # bytes of unmatched records held back before ids are loaded
_SCAN = 5000  # records of a scan
_SCAN_ITEMS = 200  # Python items of a scan: an iterable is not read far ahead


class WorkQueue:
    """Where the loop gets its next chunk, to run it or to `scan` it for its ids.

    `settled(first, end)` is called for records that need no run (any more). An empty range says that some were found in
    a chunk whose other records run: their outcomes have their places now.
    `limit` is how many items may be handed out in all, None for no limit.
    """

    def __init__(
        self,
        source: Source,
        format: Format | None,
        *,
        in_flight: InFlight,
        chunk_sizer: ChunkSizer,
        matcher: Matcher | None,
        settled: Callable[[int, int], None],
        limit: int | None = None,
    ) -> None:
        self._source = source
        self._ended = False
        self._format = format
        self._in_flight = in_flight
        self._chunk_sizer = chunk_sizer
        self._matcher = matcher
        self._settled = settled
        self._budget = limit
        self._held: deque[Chunk] = deque()
        self._held_bytes = 0
        self._spool: IO[bytes] | None = None
        self._aside: Iterator[Aside] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more, unless a chunk in flight comes back."""
        return (
            self._source_ended
            and not self._in_flight.ready
            and not (self._held or self._in_flight.is_scanning)
            and self._spool is None
            and self._aside is None
        )

    @property
    def is_limited(self) -> bool:
        """Whether the limit forbids to hand out more."""
        return self._budget is not None and self._budget <= 0

    @property
    def skipped(self) -> int:
        """Items found done."""
        return self._matcher.skipped if self._matcher else 0

    def next(self, starved: bool = False, most: int | None = None) -> Chunk | None:
        """The next chunk, of at most `most` records to run; None where there is none now.

        `starved`: no worker has anything to do, so nothing is held back.
        """
        scan = self._in_flight.take_scan()
        if scan is not None or self.is_limited:
            return scan
        size = self._chunk_sizer.next_size(self._source.remaining)
        size = min(size, *(n for n in (self._budget, most) if n is not None), size)
        while True:
            chunk = self._in_flight.take(size)
            if chunk is not None and not chunk.to_run:
                self._settled(chunk.first, chunk.first + chunk.records)
                continue
            if chunk is not None:
                return self._charge(chunk)
            if not self._advance(size, starved):
                return None
            scan = self._in_flight.take_scan()
            if scan is not None:
                return scan

    def _charge(self, chunk: Chunk) -> Chunk:
        if self._budget is not None:
            self._budget -= chunk.to_run
        if self._matcher is not None:
            self._matcher.positions.handed = max(self._matcher.positions.handed, chunk.first + chunk.records)
        return self._to_send(chunk)

    def _to_send(self, chunk: Chunk) -> Chunk:
        """The chunk with its bytes, where workers cannot read them."""
        file = chunk.data.file if isinstance(chunk.data, FileRange) else None
        if not isinstance(file, OpenFile) or not file.is_left_to_parent:
            return chunk
        assert self._format is not None
        return chunk._replace(data=formats.block_of(chunk, self._format))

    def refund(self, items: int) -> None:
        """Items that were handed out, and were blank, came back undone, or are to be tried again."""
        if self._budget is not None:
            self._budget += items

    def probe_end(self) -> None:
        """With the limit reached: find out whether the input happens to end here too."""
        if isinstance(self._source, ByteSource):
            self._source.look(1)
        elif self._source.total == self._source.position:
            self.end()

    def _advance(self, size: int, starved: bool) -> bool:
        """Move through the input; False where there is nothing to move through now."""
        matcher = self._matcher
        if matcher is None:
            return self._put(self._source.take(size))
        if matcher.exhausted and not self._aside:
            while self._held:
                self._in_flight.put(self._held.popleft())
            if self._in_flight.ready:
                return True
            if not self._source_ended and self._put(self._source.take(size)):
                return True
            return self._settle_aside(matcher)
        return self._match(matcher, starved)

    def _put(self, chunk: Chunk | None) -> bool:
        if chunk is None:
            return False
        self._in_flight.put(chunk)
        return True

    # Matching

    def _match(self, matcher: Matcher, starved: bool) -> bool:
        if not self._source_ended:
            if self._by_block and self._match_block(matcher):
                return True
            chunk = self._unmatched(matcher)
            if chunk is not None:
                for piece in self._less_sealed(matcher, chunk):
                    self._hold(matcher, piece)
                return True
        if self._held and (self._source_ended or starved):
            self._scan_held(matcher)
            return True
        return self._settle_aside(matcher)

    @property
    def _by_block(self) -> bool:
        return self._format is not None and self._format.content_is_bytes

    def _match_block(self, matcher: Matcher) -> bool:
        source = self._source
        assert isinstance(source, ByteSource)
        first = self._first_record(source)
        if first is None:
            return False
        for number in matcher.candidates(checksum(first, source.header)):
            found = self._block_at(source, matcher, number)
            if found is not None:
                self._take_block(matcher, number, source.claim(*found))
                return True
        return False

    def _take_block(self, matcher: Matcher, number: int, chunk: Chunk) -> None:
        again = matcher.take_block(number, chunk)
        if again is None:
            self._settled(chunk.first, chunk.first + chunk.records)
        else:
            self._in_flight.put(again)
            self._settled(chunk.first, chunk.first)

    def _first_record(self, source: ByteSource) -> bytes | None:
        assert self._format is not None
        have = source.look(1)
        while have:
            data, marks, offset = source.window
            end = marks.find(self._format.separator, offset)
            if end >= 0 or source.at_end_of_input:
                return data[offset : end if end >= 0 else None]
            more = source.look(have + 1)
            if more <= have or more > MAX_ITEM:
                return None
            have = more
        return None

    def _block_at(self, source: ByteSource, matcher: Matcher, number: int) -> tuple[int, int] | None:
        """(bytes, records) of the row's block if it stands here in the input, else None."""
        assert self._format is not None
        separator = self._format.separator
        size = matcher.size_of(number)
        have = source.look(size + 1)
        if have < size:
            return None
        data, marks, offset = source.window
        block, marked = data[offset : offset + size], marks[offset : offset + size]
        whole = marked.endswith(separator)
        closed = marks[offset + size : offset + size + 1] == separator
        # "abc" at the end of the input then must not be taken for the beginning of "abcd" now.
        if not whole and not closed and not (have == size and source.at_end_of_input):
            return None
        records = formats.count_records(marked, separator)
        if records != matcher.records_of(number) or not matcher.is_block(number, block, source.header):
            return None
        return size + (not whole and closed), records

    def _unmatched(self, matcher: Matcher) -> Chunk | None:
        """The next records up to one that may begin a block."""
        source = self._source
        if not self._by_block or not isinstance(source, ByteSource):
            return source.take(_SCAN if isinstance(source, ByteSource) else _SCAN_ITEMS)
        assert self._format is not None
        if not source.look(1):
            return None
        data, marks, offset = source.window
        position, records = offset, 0
        while records < _SCAN and position - offset < MAX_CHUNK:
            end = marks.find(self._format.separator, position)
            if end < 0 or (records and matcher.candidates(checksum(data[position:end], source.header))):
                break
            position, records = end + 1, records + 1
        return source.claim(position - offset, records) if records else source.take(1)

    def _less_sealed(self, matcher: Matcher, chunk: Chunk) -> Iterator[Chunk]:
        """The chunk in pieces, less the Python items that are sealed: a scan would open them."""
        if not isinstance(chunk.data, tuple):
            yield chunk
            return
        offsets = [n for n, record in enumerate(chunk.data) if matcher.sealed_as(record) is not None]
        for piece in set_aside(chunk, offsets, self._in_flight.divide):
            record = piece.data[0] if isinstance(piece.data, tuple) else None
            number = matcher.sealed_as(record) if piece.records == 1 else None
            if number is None:
                yield piece
            else:
                self._take_block(matcher, number, piece)

    def _hold(self, matcher: Matcher, chunk: Chunk) -> None:
        self._held.append(chunk)
        self._held_bytes += len(chunk.data)
        if matcher.knows_items or not self._by_block or self._held_bytes > _HELD:
            self._scan_held(matcher)

    def _scan_held(self, matcher: Matcher) -> None:
        if not matcher.knows_items:
            matcher.load_ids()
        for chunk in self._held:
            self._in_flight.put(chunk._replace(scan=True))
        self._held.clear()
        self._held_bytes = 0

    def scanned(self, chunk: Chunk, scan: IdScan) -> None:
        """The ids of a chunk are known: skip, run or set aside its records."""
        assert self._matcher is not None
        masked, aside = self._matcher.match(chunk._replace(scan=False), scan)
        keys = dict(aside)
        for piece in set_aside(masked, list(keys), self._in_flight.divide):
            key = keys.get(piece.first - chunk.first)
            if key is not None:
                self._set_aside(Aside(piece._replace(skip=None), key))
            elif piece.to_run:
                self._in_flight.put(piece)
            else:
                self._settled(piece.first, piece.first + piece.records)
        self._settled(chunk.first, chunk.first)

    def _set_aside(self, aside: Aside) -> None:
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(prefix="batchmill-")  # noqa: SIM115 - open until it is read back
        pickle.dump(aside, self._spool, pickle.HIGHEST_PROTOCOL)

    def _settle_aside(self, matcher: Matcher) -> bool:
        """After the end of the input: decide one of the records set aside."""
        if not self._source_ended or self._held or self._in_flight.is_scanning:
            return False
        if self._aside is None:
            if self._spool is None:
                return False
            self._aside, self._spool = _unspool(self._spool), None
        aside = next(self._aside, None)
        if aside is None:
            self._aside = None
            return False
        chunk = matcher.settle(aside)
        if chunk is None:
            self._settled(aside.chunk.first, aside.chunk.first + 1)
        else:
            self._in_flight.put(chunk)
            self._settled(chunk.first, chunk.first)
        return True

    def end(self) -> None:
        """Take nothing more from the source: it broke, or is known to have no more."""
        self._ended = True

    @property
    def _source_ended(self) -> bool:
        return self._ended or self._source.ended


def _unspool(spool: IO[bytes]) -> Iterator[Aside]:
    with spool:
        spool.seek(0)
        while True:
            try:
                yield pickle.load(spool)
            except EOFError:
                return
