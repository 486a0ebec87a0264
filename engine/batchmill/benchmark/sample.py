"""A sample of an input: records chosen evenly, and a source that gives them again and again.

The choice is a reservoir with skips (Li, Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n))), 1994,
algorithm L), with a fixed seed: the same input gives the same sample. It keeps the order of the input.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchmill.input.formats import Format, lines_of
from batchmill.input.sources import MAX_CHUNK, ByteSource
from batchmill.model import Chunk

MOST_BYTES = 32 << 20  # of records in a sample
_SEED = 7
_LOOK = 5000  # records read at once
_STALE = 0.05  # seconds between looks at an input that stalls


class Record(NamedTuple):
    """A sampled record: its position in the input, the number of its INPUT and the 1-based line there, its bytes, and
    the header that it stands under (a table's)."""

    position: int
    input: int
    line: int
    raw: bytes
    header: bytes = b""


class Sample(NamedTuple):
    """The records chosen, out of `read` records of the input; `whole` says that those are all it has."""

    records: tuple[Record, ...]
    read: int
    whole: bool

    def line_of(self, position: int) -> int:
        """The 1-based line of the sampled record at that position of the input."""
        return next(record.line for record in self.records if record.position == position)

    def thin(self, count: int) -> Sample:
        """At most `count` of them, evenly spaced."""
        have = len(self.records)
        if count >= have:
            return self
        return self._replace(records=tuple(self.records[number * have // count] for number in range(count)))


def draw(
    source: ByteSource,
    format: Format,
    count: int,
    seconds: float,
    notify: threading.Event,
    *,
    is_stopped: Callable[[], bool],
) -> Sample:
    """At most `count` records that are not blank, from what can be read in so many seconds, or until `is_stopped`;
    raises InputBroken."""
    reservoir, deadline = _Reservoir(count, format), time.monotonic() + seconds
    while not source.ended and not is_stopped() and (time.monotonic() < deadline or not reservoir.kept):
        notify.clear()
        chunk = source.take(_LOOK)
        if chunk is None:
            notify.wait(0 if source.ended else _STALE)
            if time.monotonic() >= deadline and not reservoir.kept:
                break  # an input that gives nothing at all
        elif chunk.condemned is None:
            reservoir.add(chunk)
    records = tuple(sorted(reservoir.kept))
    return Sample(records, source.position, source.ended)


class _Reservoir:
    """Keeps `count` of the records it is shown, each with the same probability."""

    def __init__(self, count: int, format: Format) -> None:
        self.kept: list[Record] = []
        self._count = count
        self._format = format
        self._random = random.Random(_SEED)
        self._bytes = 0
        self._weight = 1.0
        self._next = 0  # position of the next record to keep
        self._skips = False

    def add(self, chunk: Chunk) -> None:
        """Show it the next records."""
        if self._next >= chunk.first + chunk.records:
            return
        assert isinstance(chunk.data, bytes)
        rows, lines = self._format.split(chunk.data), lines_of(chunk, self._format)
        while self._next < chunk.first + chunk.records:
            offset = self._next - chunk.first
            if self._format.trim(rows[offset]):
                self._keep(Record(self._next, chunk.input, lines[offset], rows[offset], chunk.header))
            self._next += 1
            if self._skips:
                self._skip()

    def _keep(self, record: Record) -> None:
        if len(self.kept) < self._count:
            self.kept.append(record)
        else:
            chosen = self._random.randrange(len(self.kept))
            self._bytes -= len(self.kept[chosen].raw)
            self.kept[chosen] = record
        self._bytes += len(record.raw)
        if self._bytes > MOST_BYTES and len(self.kept) > 1:
            self._halve()
        elif len(self.kept) == self._count and not self._skips:
            self._begin_to_skip()

    def _halve(self) -> None:
        """The records are larger than there is room for: keep half as many."""
        self._count = (len(self.kept) + 1) // 2
        self.kept = self._random.sample(self.kept, self._count)
        self._bytes = sum(len(record.raw) for record in self.kept)
        self._weight *= 0.5
        self._skips = True

    def _begin_to_skip(self) -> None:
        self._skips = True
        self._lower_weight()

    def _skip(self) -> None:
        if self._weight < 1:
            self._next += int(math.log(1 - self._random.random()) / math.log1p(-self._weight))
        self._lower_weight()

    def _lower_weight(self) -> None:
        self._weight *= math.exp(math.log(1 - self._random.random()) / self._count)


class SampleSource:
    """The records of a sample, `passes` times over, as a Source. A chunk never spans two passes, nor two headers.

    With `numbered`, chunks say which numbers their records have in the input.
    """

    def __init__(self, records: Sequence[Record], passes: int, format: Format, *, numbered: bool = False) -> None:
        self._rows = [record.raw + format.separator for record in records]
        self._is_last = [not format.is_sound(record.raw) for record in records]  # it could take in those behind it
        self._headers = [record.header for record in records]
        self._numbers = tuple(record.position + 1 for record in records) if numbered else None
        self._end = len(records) * passes
        self.position = 0

    @property
    def ended(self) -> bool:
        return self.position >= self._end

    @property
    def total(self) -> int | None:
        return self._end

    @property
    def remaining(self) -> float | None:
        return self._end - self.position

    def take(self, records: int) -> Chunk | None:
        if self.ended:
            return None
        first = self.position % len(self._rows)
        header, rows, size = self._headers[first], [self._rows[first]], len(self._rows[first])
        for row in range(first + 1, min(first + records, len(self._rows))):
            size += len(self._rows[row])
            if size > MAX_CHUNK or self._headers[row] != header or self._is_last[row - 1]:
                break
            rows.append(self._rows[row])
        numbers = self._numbers and self._numbers[first : first + len(rows)]
        chunk = Chunk(self.position, self.position + 1, 0, len(rows), b"".join(rows), header=header, numbers=numbers)
        self.position += len(rows)
        return chunk

    def close(self) -> None:
        """Nothing is open."""
