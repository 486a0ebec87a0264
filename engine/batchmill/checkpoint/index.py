"""The index of a checkpoint's outcomes: one row per OUTCOMES frame, in columns.

A row costs about a hundred bytes however many items its frame holds, so 10^7 outcomes fit in a few megabytes. What is
known of single outcomes (which were replaced, which moved) is kept only where it is the exception.

Order of results is by (generation, position). A generation is one ordering of the input: a new one begins when a run
finds done items at other positions than before. The ORDER frame that begins generation g says from which position on
things differ: what lies below that position in generation g-1 carries over.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

from batchmill.checkpoint.frames import FrameRef, FrameType
from batchmill.checkpoint.moves import Moves
from batchmill.checkpoint.removed import Removed
from batchmill.codec.outcomes import MASKED, MAX_POSITION, Head
from batchmill.errors import CheckpointDamaged
from batchmill.model import Entry


class Row(NamedTuple):
    """One OUTCOMES frame: where its payload lies in the file, and what its head says."""

    seq: int
    offset: int
    length: int
    generation: int
    first: int
    records: int
    items: int
    failed: int
    size: int
    first_crc: int
    flags: int
    shard: int
    shards: int
    run: int

    @property
    def ref(self) -> FrameRef:
        """The frame, for who reads it."""
        return FrameRef(self.seq, self.offset, self.length, FrameType.OUTCOMES)


class Extent(NamedTuple):
    """How large a frame is: its items, and the bytes of its payload."""

    items: int
    size: int


class Piece(NamedTuple):
    """Outcomes of frame `seq` that lie at positions [low, high) of generation `generation`.

    Either those whose recorded position is in [low - shift, high - shift) (`start` is None), or the `high - low`
    outcomes from index `start` on, at consecutive positions.
    """

    generation: int
    low: int
    high: int
    seq: int
    shift: int = 0
    start: int | None = None


class Index:
    """Rows in the order of the file; `seq` numbers are those of frames, row numbers are dense."""

    def __init__(self) -> None:
        self._columns = tuple(array(code) for code in "QQQIQIIIQIBHHI")
        self._digests = bytearray()
        self.items = 0
        self.failed = 0
        self.generation = 1
        self.replaced: dict[Entry, Entry] = {}
        self.gone: dict[int, set[int]] = {}
        self._gone_failed: Counter[int] = Counter()  # how many of `gone` had failed
        self._starts: dict[int, int] = {}  # generation -> the position from which it differs from the one before
        self._blocks: dict[int, tuple[int, int]] = {}  # seq -> (generation, first)
        self._moves = Moves()
        self.removed = Removed()

    def __len__(self) -> int:
        return len(self._digests) // 16

    def add(self, seq: int, offset: int, length: int, head: Head) -> None:
        """Add an OUTCOMES frame whose payload of `length` bytes lies at `offset`; raises CheckpointDamaged."""
        if head.items > head.records:
            raise CheckpointDamaged("an outcome frame has more items than records")
        values = (
            seq, offset, length, head.generation, head.first, head.records, head.items, head.failed, head.size,
            head.first_crc, head.flags, head.shard, head.shards, head.run,
        )  # fmt: skip
        for column, value in zip(self._columns, values):
            column.append(value)
        self._digests += head.digest
        self.items += head.items
        self.failed += head.failed
        self.generation = max(self.generation, head.generation)

    def add_replaced(self, seq: int, supersedes: Iterable[Sequence[int]]) -> None:
        """Frame `seq` replaces earlier outcomes: [index in it, seq, index, attempts], attempts 0 where that was ok.

        Of frames that are here: salvage may have left out others. Raises CheckpointDamaged.
        """
        rows = list(supersedes)
        if any(old_seq >= seq for _, old_seq, _, _ in rows):
            raise CheckpointDamaged("an outcome frame replaces outcomes of a later one")
        rows = [row for row in rows if self.has(row[1])]
        self._check_replaced(rows)
        for index, old_seq, old_index, attempts in rows:
            self.replaced[old_seq, old_index] = (seq, index)
            self.drop(old_seq, old_index, failed=attempts > 0)

    def drop(self, seq: int, index: int, *, failed: bool) -> None:
        """Another outcome counts in place of that one, which had `failed`. Raises CheckpointDamaged."""
        self.gone.setdefault(seq, set()).add(index)
        self._gone_failed[seq] += failed
        self.items -= 1
        self.failed -= failed
        self.removed.replace(seq, index, failed=failed)

    def _check_replaced(self, rows: Iterable[Sequence[int]]) -> None:
        """Each outcome is replaced once at most, and told to have failed only if it had."""
        by_frame: dict[int, list[tuple[int, bool]]] = {}
        for _, old_seq, index, attempts in rows:
            by_frame.setdefault(old_seq, []).append((index, attempts > 0))
        for old_seq, replaced in by_frame.items():
            number, gone = self.number(old_seq), self.gone.get(old_seq, set())
            items, all_failed = self._columns[6][number], self._columns[7][number]
            indices = {index for index, _ in replaced}
            failed = self._gone_failed[old_seq] + sum(was_failed for _, was_failed in replaced)
            is_once = len(indices) == len(replaced) and gone.isdisjoint(indices)
            ok = len(gone) + len(indices) - failed
            if not is_once or max(indices) >= items or failed > all_failed or ok > items - all_failed:
                raise CheckpointDamaged("an outcome frame replaces outcomes that are not there")

    def add_removed(self, rows: Iterable[Sequence[int]], *, anew: bool) -> None:
        """Outcomes of items that are no longer in the input: [seq, index, count, failed], ascending by seq and index;
        beside those known, or `anew` in their place.

        Of frames that are here, and none that was replaced. Raises CheckpointDamaged, and then nothing was taken in.
        """
        removed = Removed() if anew else self.removed
        rows = [row for row in rows if self.has(row[0])]
        if any(row[0] > after[0] for row, after in pairwise(rows)):
            raise CheckpointDamaged("outcomes that are said to be removed are not in order")
        for seq, group in groupby(rows, key=itemgetter(0)):
            self._check_removed(removed, seq, [(row[1], row[2], row[3]) for row in group])
        for seq, index, count, failed in rows:
            removed.add(seq, index, count, failed)
        self.removed = removed

    def _check_removed(self, removed: Removed, seq: int, rows: Sequence[tuple[int, int, int]]) -> None:
        number, gone = self.number(seq), self.gone.get(seq, ())
        items, all_failed = self._columns[6][number], self._columns[7][number]
        ok, failed = removed.counts(seq)
        ok += len(gone) - self._gone_failed[seq] + sum(count - bad for _, count, bad in rows)
        failed += self._gone_failed[seq] + sum(bad for _, _, bad in rows)
        is_there = ok <= items - all_failed and failed <= all_failed
        end = removed.end(seq)
        for index, count, bad in rows:
            is_there &= end <= index and bad <= count and not any(index <= one < index + count for one in gone)
            end = index + count
        if not is_there or end > items:
            raise CheckpointDamaged("outcomes are said to be removed that are not there")

    @property
    def current(self) -> tuple[int, int]:
        """How many outcomes count of items that the last complete input had: ok, failed."""
        failed = self.failed - self.removed.failed
        return self.items - self.removed.items - failed, failed

    def not_current(self, seq: int) -> Collection[int]:
        """The outcomes in frame `seq` that do not count: they were replaced, or their items removed."""
        gone = self.gone.get(seq, ())
        return gone if seq not in self.removed else frozenset((*gone, *self.removed.of(seq)))

    def add_order(self, order: Mapping[str, Any], before: int = 2**64) -> None:
        """Take in an ORDER frame, as `payloads` reads it; the frames it names have a seq below `before`.

        Raises CheckpointDamaged, and then nothing was taken in.
        """
        self._check_order(order, before)
        generation = order["generation"]
        self.generation = max(self.generation, generation)
        if order.get("from") is not None:
            self._starts[generation] = order["from"]
        for old_seq, first in order["blocks"]:
            self._blocks[old_seq] = (generation, first)
            self._moves.forget(old_seq)
        for old_seq, index, count, position in order["items"]:
            if self.has(old_seq):
                self._moves.put(old_seq, index, count, generation, position)

    def _check_order(self, order: Mapping[str, Any], before: int) -> None:
        """It names only outcomes that are there, each once; but for those of frames that salvage has left out."""
        named: Counter[int] = Counter()
        for old_seq, index, count, position in order["items"]:
            named[old_seq] += count
            held = self.extent(old_seq).items if self.has(old_seq) else named[old_seq] + index
            is_there = old_seq < before and 0 <= index < index + count <= held and named[old_seq] <= held
            if not is_there or position + count > MAX_POSITION:
                raise CheckpointDamaged("an order frame names outcomes that are not there")
        for old_seq, first in order["blocks"]:
            lines = self.row_of(old_seq).records if self.has(old_seq) else 0
            if old_seq >= before or first + lines > MAX_POSITION:
                raise CheckpointDamaged("an order frame names blocks that are not there")

    def __iter__(self) -> Iterator[Row]:
        return map(self.row, range(len(self)))

    def row(self, number: int) -> Row:
        """The row with that number."""
        return Row(*(column[number] for column in self._columns))

    def row_of(self, seq: int) -> Row:
        """The row of frame `seq`."""
        return self.row(self.number(seq))

    def seq(self, number: int) -> int:
        """The frame of the row with that number."""
        return int(self._columns[0][number])

    def flags(self, number: int) -> int:
        """The flags in the head of that row's frame."""
        return int(self._columns[10][number])

    def number(self, seq: int) -> int:
        """The row number of frame `seq`."""
        seqs = self._columns[0]
        number = bisect_left(seqs, seq)
        if number == len(seqs) or seqs[number] != seq:
            raise KeyError(seq)
        return number

    def extent(self, seq: int) -> Extent:
        """How large frame `seq` is."""
        number = self.number(seq)
        return Extent(self._columns[6][number], self._columns[2][number])

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        return sum(self._columns[2])

    def has(self, seq: int) -> bool:
        """Whether frame `seq` has a row."""
        try:
            return self.number(seq) >= 0
        except KeyError:
            return False

    def digest(self, number: int) -> bytes:
        """The digest of a row's block."""
        return bytes(self._digests[16 * number : 16 * number + 16])

    def position_of_block(self, row: Row) -> tuple[int, int] | None:
        """(generation, position) of a whole block now, None where it is no longer in one piece."""
        if row.seq in self._moves:
            return None
        generation, first = self._blocks.get(row.seq, (row.generation, row.first))
        while (start := self._starts.get(generation + 1)) is not None and first < start:
            if first + row.records > start:
                return None
            generation += 1
        return generation, first

    def position_of(self, entry: Entry, offset: int) -> tuple[int, int]:
        """(generation, position) of one outcome now; `offset` is its recorded position less its frame's first."""
        seq, index = entry
        moved = self._moves.where(seq, index)
        if moved is not None:
            generation, position = moved
        else:
            number = self.number(seq)
            found = self._blocks.get(seq)
            generation, first = found or (self._columns[3][number], self._columns[4][number])
            position = first + offset
        return self._now(generation, position), position

    def _now(self, generation: int, position: int) -> int:
        """The generation that a position has been carried over to."""
        while position < self._starts.get(generation + 1, -1):
            generation += 1
        return generation

    def pieces(self) -> Iterator[Piece]:
        """All outcomes as pieces, not sorted. Which of them were replaced (`gone`) is left to the reader."""
        for row in self:
            if row.seq not in self._moves or self._moves.count(row.seq) < row.items:
                generation, first = self._blocks.get(row.seq, (row.generation, row.first))
                yield from self._carried(generation, first, first + row.records, row.seq, first - row.first)
        for seq in self._moves:
            yield from self._runs(seq)

    def _runs(self, seq: int) -> Iterator[Piece]:
        """The outcomes of a frame that were moved one by one; neighbours that stayed neighbours together."""
        first = (0, 0, 0)  # index, generation and position of the first outcome of a run of `count`
        count = 0
        for index, named, position in self._moves.of(seq):
            generation = self._now(named, position)
            if (index, generation, position) == (first[0] + count, first[1], first[2] + count):
                count += 1
                continue
            if count:
                yield Piece(first[1], first[2], first[2] + count, seq, 0, first[0])
            first, count = (index, generation, position), 1
        if count:
            yield Piece(first[1], first[2], first[2] + count, seq, 0, first[0])

    def moved(self, seq: int) -> Collection[int]:
        """The indices of frame `seq` that an ordering moved one by one: they count there, not where the frame lies."""
        return self._moves.indices(seq) if seq in self._moves else ()

    def _carried(self, generation: int, low: int, high: int, seq: int, shift: int) -> Iterator[Piece]:
        """The outcomes at [low, high) of a generation, where they are now: those before the start of the next one have
        been carried over to it."""
        stayed = []
        while low < (start := self._starts.get(generation + 1, -1)):
            if start < high:
                stayed.append(Piece(generation, start, high, seq, shift))
                high = start
            generation += 1
        yield Piece(generation, low, high, seq, shift)
        yield from reversed(stayed)


def add_piece(pieces: list[Piece], piece: Piece) -> None:
    """Append a piece of single outcomes, as part of the last one where it goes on from there."""
    last = pieces[-1] if pieces else None
    if (
        last is not None
        and last.start is not None
        and piece.start == last.start + last.high - last.low
        and (last.seq, last.generation, last.high) == (piece.seq, piece.generation, piece.low)
    ):
        pieces[-1] = last._replace(high=piece.high)
    else:
        pieces.append(piece)


def is_whole(row: Row, shard: tuple[int, int] | None) -> bool:
    """Whether equal bytes in the input mean that all of the frame's items are found: it holds all of its block."""
    if row.flags & MASKED or not row.records:
        return False
    return not row.shards or (row.shard, row.shards) == shard
