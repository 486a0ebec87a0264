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
from typing import Any, NamedTuple

from batchmill.checkpoint.frames import FrameRef, FrameType
from batchmill.codec.outcomes import MASKED, MAX_POSITION, Head
from batchmill.errors import CheckpointDamaged
from batchmill.model import Entry

_POSITION_BITS = 40  # of a number that has a position in it, and above it the generation
_POSITION = (1 << _POSITION_BITS) - 1


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
            self.gone.setdefault(old_seq, set()).add(old_index)
            self._gone_failed[old_seq] += attempts > 0
            self.items -= 1
            self.failed -= attempts > 0

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


class Moves:
    """Where single outcomes lie that an ordering moved one by one, by frame seq and index; what was said last counts.

    At 16 bytes each: a shuffled input moves every item by itself, and 10^7 objects would be gigabytes.
    """

    def __init__(self) -> None:
        self._sorted: dict[int, array[int]] = {}  # seq -> its indices in order, then where each is
        self._said: dict[int, array[int]] = {}  # seq -> index, where, index, where, ...: what came since

    def __contains__(self, seq: int) -> bool:
        return seq in self._said or seq in self._sorted

    def put(self, seq: int, index: int, count: int, generation: int, position: int) -> None:
        """The outcomes from `index` on lie at consecutive positions. Raises CheckpointDamaged for no such."""
        where = generation << _POSITION_BITS | position
        try:
            said = self._said[seq]
        except KeyError:
            said = self._said[seq] = array("Q")
        try:
            if position + count > _POSITION:
                raise OverflowError
            if count == 1:
                said.append(index)
                said.append(where)
            else:
                said.extend(number for i in range(count) for number in (index + i, where + i))
        except (OverflowError, TypeError) as error:
            raise CheckpointDamaged("an order frame has a position that is none") from error

    def forget(self, seq: int) -> None:
        """The frame is in one piece again."""
        self._said.pop(seq, None)
        self._sorted.pop(seq, None)

    def where(self, seq: int, index: int) -> tuple[int, int] | None:
        """(generation, position) of an outcome; None where it was not moved by itself."""
        found = self._sorted.get(seq) if seq not in self._said else self._of(seq)
        if found is None:
            return None
        count = len(found) // 2
        at = bisect_left(found, index, 0, count)
        if at == count or found[at] != index:
            return None
        return found[count + at] >> _POSITION_BITS, found[count + at] & _POSITION

    def indices(self, seq: int) -> Collection[int]:
        """The indices of a frame that were moved one by one, in order."""
        found = self._of(seq)
        return found[: len(found) // 2] if found else ()

    def count(self, seq: int) -> int:
        """How many they are."""
        return len(self._of(seq) or ()) // 2

    def __iter__(self) -> Iterator[int]:
        return iter([*self._sorted, *(seq for seq in self._said if seq not in self._sorted)])

    def of(self, seq: int) -> Iterator[tuple[int, int, int]]:
        """(index, generation, position) of each of a frame's, by index."""
        found = self._of(seq)
        if found:
            count = len(found) // 2
            for index, where in zip(found[:count], found[count:]):
                yield index, where >> _POSITION_BITS, where & _POSITION

    def _of(self, seq: int) -> array[int] | None:
        """What is known of a frame, with all that was said sorted in."""
        said, before = self._said.pop(seq, None), self._sorted.get(seq)
        if said is None:
            return before
        count = 0 if before is None else len(before) // 2
        latest = {} if before is None else dict(zip(before[:count], before[count:]))
        latest.update(zip(said[0::2], said[1::2]))
        indices = sorted(latest)
        found = array("Q", indices)
        found.extend(map(latest.__getitem__, indices))
        self._sorted[seq] = found
        return found
