"""Which items of the input are done already: the input held against the checkpoint's index.

Two ways, from cheap to dear (engine/README.md#matching):
1. By block. The next record's checksum names the frames whose block begins with it; where the block's bytes are the
   same, all of its items are found at once, without parsing. So is a record that is sealed, Python items among them.
2. By item, for what moved. A worker reads ids and content checksums off the records (a scan); an outcome with the same
   id and content is taken first. A record whose id is known but not its content is set aside until the input has
   ended, for the outcome may be a later record's; then it takes what is left of its id (a done item that changed).

Ids are a multiset: an outcome is taken once. Failed outcomes are found like others, and their records run again.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from batchmill.checkpoint.index import Index, Row, is_whole
from batchmill.checkpoint.positions import Positions
from batchmill.checkpoint.removed import Removed
from batchmill.checkpoint.repeated import Repeated
from batchmill.codec.ids import checksum, digest_block, id_key, shard_of
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import SEALED, SUPERSEDES
from batchmill.model import Chunk, Earlier, Entry, IdScan
from batchmill.settings import Settings
from batchmill.text import name_some, option, plural

_CRC_BITS, _INDEX_BITS = 32, 30


class Aside(NamedTuple):
    """A record whose id is known and whose content is not: it waits for the end of the input."""

    chunk: Chunk
    key: bytes


class Matcher:
    """The outcomes of earlier runs that no record of this run's input has been matched with yet.

    `read` gives the columns of a frame. Results of `older` runs are to be made again. `by_block` is False where equal
    bytes do not mean equal items; but of a sealed record nothing else is known. `skipped` counts items with an ok
    result, `failed` those that stay failed, `changed` those among the skipped whose content is another now, `blank`
    empty records among them; `positions` tells where in this input they all are.
    """

    def __init__(
        self,
        index: Index,
        settings: Settings,
        read: Callable[[Row], OutcomeBlock],
        by_block: bool = True,
        older: Collection[int] = (),
    ) -> None:
        self._index = index
        self._settings = settings
        self._read = read
        self._older = frozenset(older)
        self._left = array("I", (row.items for row in index))
        for seq, indices in index.gone.items():
            self._left[index.number(seq)] -= len(indices)
        self._untouched = bytearray(b"\1" * len(index))
        self._taken: set[Entry] = set()  # outcomes that replaced others: by item, or by way of the others' block
        self._by_crc: dict[int, list[int]] = {}
        for n, row in enumerate(index):
            if not is_whole(row, settings.shard):
                continue
            if row.flags & SEALED and not row.items:
                self._left[n] = 1  # another shard's, but not to be opened here either
            if self._left[n] and ((by_block and row.run not in self._older) or row.flags & SEALED):
                self._by_crc.setdefault(row.first_crc, []).append(n)
        self._open = sum(1 for left in self._left if left)
        self._ids: dict[bytes, int] | None = None
        self._repeated: dict[bytes, Repeated] = {}  # all outcomes of ids that came more than once
        self.positions = Positions(index)
        self.skipped = 0
        self.failed = 0
        self.changed = 0
        self.blank = 0

    @property
    def exhausted(self) -> bool:
        """Whether every outcome was matched: all that follows in the input is new."""
        return self._open == 0

    @property
    def knows_items(self) -> bool:
        """Whether ids were loaded: from then on a record that matches no block is scanned at once."""
        return self._ids is not None

    # By block

    def candidates(self, first_crc: int) -> list[int]:
        """Row numbers of the unmatched frames whose block begins with a record of that checksum."""
        found = self._by_crc.get(first_crc)
        return [n for n in found if self._untouched[n]] if found else []

    def size_of(self, number: int) -> int:
        """Bytes of a row's block."""
        return self._index.row(number).size

    def records_of(self, number: int) -> int:
        """Records that it is said to have: somebody else's checkpoint may say anything."""
        return self._index.row(number).records

    def is_block(self, number: int, data: bytes, header: bytes = b"") -> bool:
        """Whether `data`, under `header`, is that row's block.

        And what replaced some of its outcomes is not another record's by now.
        """
        seq = self._index.row(number).seq
        replaced = ((seq, index) for index in self._index.gone.get(seq, ()))
        return digest_block(data, header) == self._index.digest(number) and all(map(self._is_last_free, replaced))

    def sealed_as(self, record: Any) -> int | None:
        """The row of the unmatched frame in which that record of one is sealed; None where there is none.

        For Python items: their pickles alone tell it, without being opened.
        """
        if not self._by_crc or not isinstance(record, bytes):  # an item that could not be pickled
            return None
        return next((n for n in self.candidates(checksum(record)) if self.is_block(n, record)), None)

    def _is_last_free(self, entry: Entry) -> bool:
        while entry in self._index.replaced:
            entry = self._index.replaced[entry]
        return entry not in self._taken and self._left[self._index.number(entry[0])] > 0

    def take_block(self, number: int, chunk: Chunk) -> Chunk | None:
        """`chunk` is that row's block: skip what is done; the chunk with what must run again, or None."""
        row = self._index.row(number)
        self._untouched[number] = 0
        if row.items:
            self.positions.put_block(row, chunk.first)
        again: dict[int, Earlier] = {}
        failed_before = self.failed
        if row.failed or row.seq in self._index.gone:
            again = self._exceptions(row, chunk)
        self._close(number, self._left[number])
        if self._settings.shard is None:
            self.blank += row.records - row.items
        self.skipped += row.items - len(again) - (self.failed - failed_before)
        return _only(chunk, again) if again else None

    def _exceptions(self, row: Row, chunk: Chunk) -> dict[int, Earlier]:
        """The records of a block to run again, by offset; outcomes that replaced some of the block's are taken too."""
        block = self._read(row)
        offsets, again = block.offsets, {}
        for index in sorted({*block.failures, *self._index.gone.get(row.seq, ())}):
            offset, entry, last = offsets[index], (row.seq, index), block
            while entry in self._index.replaced:
                entry = self._index.replaced[entry]
                last = self._read_seq(entry[0])
            if last is not block:
                self._take(entry)
                self._taken.add(entry)
                self.positions.put(entry, chunk.first + offset)
            if entry[1] in last.failures and not self._settings.retry_failed:
                self.failed += 1
            elif entry[1] in last.failures:
                again[offset] = self._earlier(entry, last)
        return again

    def _earlier(self, entry: Entry, block: OutcomeBlock) -> Earlier:
        """A failed outcome, which is in that block, as what will be replaced."""
        is_sealed = bool(self._index.flags(self._index.number(entry[0])) & SEALED)
        return Earlier(*entry, block.attempts.get(entry[1], 1), is_sealed)

    def _read_seq(self, seq: int) -> OutcomeBlock:
        number = self._index.number(seq)
        return self._noted(self._index.row(number))

    def _noted(self, row: Row) -> OutcomeBlock:
        """A row's columns; their offsets are noted, for its outcomes will be looked for one by one."""
        block = self._read(row)
        self.positions.note_offsets(row.seq, block.offsets)
        return block

    # By item

    def load_ids(self) -> None:
        """Read the ids of all unmatched outcomes (about 150 bytes of memory each)."""
        self._ids = {}
        for n in range(len(self._index)):
            if self._left[n]:
                self._load(n)

    def _load(self, number: int) -> None:
        assert self._ids is not None
        row = self._index.row(number)
        block = self._noted(row)
        gone, failed = self._index.gone.get(row.seq, ()), block.failures
        for index, (id, content) in enumerate(zip(block.ids, block.contents)):
            if index not in gone and (row.seq, index) not in self._taken:
                packed = ((number << _INDEX_BITS | index) << _CRC_BITS | content) << 1 | (index in failed)
                key = id_key(id)
                first = self._ids.setdefault(key, packed)
                if first != packed:
                    self._repeat(key, first).add(packed)

    def _repeat(self, key: bytes, first: int) -> Repeated:
        if key not in self._repeated:
            self._repeated[key] = Repeated(_CRC_BITS, self._is_live)
            self._repeated[key].add(first)
        return self._repeated[key]

    def match(self, chunk: Chunk, scan: IdScan) -> tuple[Chunk, list[tuple[int, bytes]]]:
        """Hold a scanned chunk against the outcomes: (the chunk, what is done masked out; records to set aside).

        Records set aside are (offset, id); they are masked out too.
        """
        skip = bytearray(chunk.records)
        again: dict[int, Earlier] = {}
        aside = []
        for offset, (key, content) in enumerate(zip(scan.keys, scan.contents)):
            if key is None:
                skip[offset] = 1
                self.blank += self._settings.shard is None
                continue
            exact = self._best(key, content)
            if exact is not None:
                skip[offset] = self._found(key, exact, chunk.first + offset, again, offset)
            elif self._best(key) is not None:
                aside.append((offset, key))
                skip[offset] = 1
        return chunk._replace(skip=bytes(skip) if 1 in skip else None, earlier=again or None), aside

    def _found(self, key: bytes, packed: int, position: int, again: dict[int, Earlier], offset: int) -> int:
        entry = self._claim(key, packed)
        self.positions.put(entry, position)
        if packed & 1 and self._settings.retry_failed:
            again[offset] = self._earlier(entry, self._read_seq(entry[0]))
            return 0
        if not packed & 1 and self._is_older(entry):
            again[offset] = Earlier(*entry, 0)  # it was ok
            return 0
        self._skip(bool(packed & 1))
        return 1

    def _is_older(self, entry: Entry) -> bool:
        return bool(self._older) and self._index.row(self._index.number(entry[0])).run in self._older

    def _skip(self, failed: bool) -> None:
        if failed:
            self.failed += 1
        else:
            self.skipped += 1

    def settle(self, aside: Aside) -> Chunk | None:
        """After the end of the input: the chunk of a record set aside, or None if its old outcome stays."""
        chunk = aside.chunk
        packed = self._best(aside.key)
        if packed is None:
            return chunk
        entry = self._claim(aside.key, packed)
        self.positions.put(entry, chunk.first)
        failed = packed & 1
        if not failed:
            self.changed += 1
        rerun = self._settings.retry_failed if failed else self._settings.rerun_changed or self._is_older(entry)
        if not rerun:
            self._skip(bool(failed))
            return None
        # Attempts count tries of this content: a changed item starts anew, and 0 says that the old outcome was ok.
        return chunk._replace(earlier={0: Earlier(*entry, 1 if failed else 0)})

    def of_changed(self, before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
        """What to tell people of done items that keep their results although their content is another one now; the
        INPUTs were `before` in the last run."""
        if not self.changed or self._settings.rerun_changed:
            return
        which, again = ("its", "it") if self.changed == 1 else ("their", "them")
        remedy = f"{option('rerun_changed', True)} runs {again} again"
        said = f"{plural(self.changed, 'changed item')} kept {which} old result; {remedy}"
        if self.changed == self.skipped and before and list(before) != list(now):
            names = f"{name_some(before)}, not {name_some(now)}"
            said = f"All that was done is of {names}: {said}, and {option('checkpoint', 'FILE')} keeps this batch apart"
        yield said

    def _best(self, key: bytes, content: int | None = None) -> int | None:
        """The unmatched outcome of an id, of that content if one is given: an ok one, if there is one."""
        assert self._ids is not None
        if key in self._repeated:
            return self._repeated[key].best(content)
        only = self._ids.get(key)
        if only is None or (content is not None and only >> 1 & 0xFFFFFFFF != content):
            return None
        return only if self._is_live(only) else None

    def _is_live(self, packed: int) -> bool:
        if not self._left[packed >> (_CRC_BITS + _INDEX_BITS + 1)]:
            return False
        return not self._taken or self._entry(packed) not in self._taken

    def _entry(self, packed: int) -> Entry:
        number = packed >> (_CRC_BITS + _INDEX_BITS + 1)
        return self._index.seq(number), packed >> (_CRC_BITS + 1) & ((1 << _INDEX_BITS) - 1)

    def _claim(self, key: bytes, packed: int) -> Entry:
        assert self._ids is not None
        if key in self._repeated:
            self._repeated[key].claim(packed)
        else:
            del self._ids[key]
        number = packed >> (_CRC_BITS + _INDEX_BITS + 1)
        entry = self._entry(packed)
        if self._index.flags(number) & SUPERSEDES:
            self._taken.add(entry)
        self._untouched[number] = 0
        self._close(number, 1)
        return entry

    def _take(self, entry: Entry) -> None:
        number = self._index.number(entry[0])
        self._untouched[number] = 0
        self._close(number, 1)

    def _close(self, number: int, count: int) -> None:
        if count and self._left[number]:
            self._left[number] -= count
            self._open -= not self._left[number]

    # What is left

    def unmatched(self) -> Iterator[tuple[int, int, int, int]]:
        """Once the input has ended: (seq, index, count, failed) of the outcomes that no item of it had.

        Of a sharded run those of its shard alone, and what was removed before: of others nothing is known.
        """
        partly, before = self._partly_unmatched(), self._index.removed
        for number, row in enumerate(self._index):
            if row.items and self._left[number]:
                yield from self._ranges(row, partly.get(number), before)

    def _partly_unmatched(self) -> dict[int, list[int]]:
        """The indices of what is left of the rows of which something was matched, or replaced."""
        gone, left = self._index.gone, dict[int, list[int]]()
        for number in range(len(self._index)):
            seq = self._index.seq(number)
            if self._left[number] and (seq in gone or not self._untouched[number]):
                count = 0 if self._ids is not None else self._index.extent(seq).items
                left[number] = [i for i in range(count) if i not in gone.get(seq, ()) and (seq, i) not in self._taken]
        single = (packed for key, packed in (self._ids or {}).items() if key not in self._repeated)
        for packed in chain(single, *self._repeated.values()):
            number = packed >> (_CRC_BITS + _INDEX_BITS + 1)
            if number in left and self._is_live(packed):
                left[number].append(self._entry(packed)[1])
        return left

    def _ranges(self, row: Row, some: list[int] | None, before: Removed) -> Iterator[tuple[int, int, int, int]]:
        """What is left of a row, `some` indices or all of it, as ranges."""
        shard = self._settings.shard
        if some is None and (shard is None or (row.shard, row.shards) == shard):
            yield row.seq, 0, row.items, row.failed
            return
        indices = sorted(range(row.items) if some is None else some)
        failures: Collection[int] = self._read(row).failures if row.failed else ()
        if shard is not None and (row.shard, row.shards) != shard:
            ids, known = self._read(row).ids, before.of(row.seq)
            indices = [i for i in indices if i in known or shard_of(ids[i], shard[1]) == shard[0]]
        for start, end in runs(indices):
            yield row.seq, start, end - start, sum(index in failures for index in range(start, end))


def _only(chunk: Chunk, wanted: dict[int, Earlier]) -> Chunk:
    skip = bytearray(b"\1" * chunk.records)
    for offset in wanted:
        skip[offset] = 0
    return chunk._replace(skip=bytes(skip), earlier=wanted)


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges [start, end) of consecutive ones."""
    start = end = -1
    for number in numbers:
        if number != end:
            if start >= 0:
                yield start, end
            start = number
        end = number + 1
    if start >= 0:
        yield start, end


def set_aside(chunk: Chunk, offsets: Sequence[int], divide: Callable[[Chunk, int], tuple[Chunk, Chunk]]) -> list[Chunk]:
    """Cut a chunk around the records at `offsets`: pieces in order, those records alone."""
    pieces, rest, done = [], chunk, 0
    for offset in offsets:
        if offset > done:
            before, rest = divide(rest, offset - done)
            pieces.append(before)
        if rest.records > 1:
            alone, rest = divide(rest, 1)
            pieces.append(alone)
            done = offset + 1
        else:
            return [*pieces, rest]
    return [*pieces, rest]
