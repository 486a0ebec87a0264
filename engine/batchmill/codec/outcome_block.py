"""Reading an OUTCOMES payload, whose layout is in `outcomes`: each part when it is asked for.

Whatever a payload holds, what is raised is CheckpointDamaged.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import lt
from typing import Any, NamedTuple

from msgpack import Unpacker

from batchmill.codec.outcomes import BODY, MANY, NIL, OPENING, Head, pack_outcomes, read_head, refuse_depth
from batchmill.codec.unpack import UNWEIGHED, read_value, unpack_value
from batchmill.errors import CheckpointDamaged, ItemError
from batchmill.model import Outcome


class Failure(NamedTuple):
    """A failed item: its index in the block; the error's type name, message and traceback; the raw item if kept."""

    item: int
    type: str
    message: str
    traceback: str
    raw: bytes | None


def _whole_head(payload: bytes | memoryview) -> Head:
    head = read_head(payload)
    # Two columns take four bytes an item: a count that the payload has no room for must not size anything.
    if BODY + head.ids_size + head.results_size + 8 * head.items > len(payload):
        raise CheckpointDamaged("an outcome frame is shorter than its head says")
    return head


def _list(data: bytes | memoryview, length: int) -> list[Any]:
    return _of_length(unpack_value(data), length)


def _of_length(value: Any, length: int) -> list[Any]:
    if type(value) is not list or len(value) != length:
        raise CheckpointDamaged("an outcome frame has a column of the wrong length")
    found: list[Any] = value
    return found


class OutcomeBlock:
    """An OUTCOMES payload, each part decoded when it is first asked for; whatever it holds, CheckpointDamaged at most.

    Results of a block above a few MB are decoded one at a time and not kept: 64 MiB of bytes can be GiB of objects.
    """

    __slots__ = ("_alike_keys", "_bounds", "_failed", "_ids", "_results", "_tail", "head", "payload")

    def __init__(self, payload: bytes | memoryview) -> None:
        self.payload = memoryview(payload)
        self.head = _whole_head(payload)
        self._ids: list[Any] | None = None
        self._results: list[Any] | None = None
        self._alike_keys = False
        self._bounds: array[int] | None = None
        self._tail: list[Any] | None = None
        self._failed: dict[int, Failure] | None = None

    def __len__(self) -> int:
        return self.head.items

    @property
    def ids(self) -> list[Any]:
        """One id per item."""
        if self._ids is None:
            self._ids = read_ids(self.payload)
        return self._ids

    @property
    def region(self) -> memoryview:
        """The packed results."""
        start = BODY + self.head.ids_size
        return self.payload[start : start + self.head.results_size]

    def packed(self, index: int) -> memoryview:
        """The packed result of item `index`, a slice of the payload (NIL where it failed, and was no command)."""
        if self._bounds is None:
            self._bounds = _bounds(self.region, self.head.items)
        return self.region[self._bounds[index] : self._bounds[index + 1]]

    @property
    def results(self) -> list[Any] | None:
        """One result per item (None where it failed); or None where they are too large to be held all at once."""
        if self._results is None and self.head.results_size <= UNWEIGHED:
            value, self._alike_keys = read_value(self.region)
            self._results = _of_length(value, self.head.items)
        return self._results

    @property
    def has_alike_keys(self) -> bool:
        """Whether the keys of each map in `results` are of one type; False where they are not held."""
        return self.results is not None and self._alike_keys

    def result(self, index: int) -> Any:
        """The result of item `index`; where it failed None, or what its command left."""
        return self.read(index)[0]

    def read(self, index: int) -> tuple[Any, bool]:
        """The result of item `index`, and whether the keys of each of its maps are of one type."""
        results = self.results
        return read_value(self.packed(index)) if results is None else (results[index], self._alike_keys)

    def _element(self, number: int) -> Any:
        if self._tail is None:
            start = BODY + self.head.ids_size + self.head.results_size
            length = (self.payload[0] & 15) - 3
            self._tail = _list(bytes((0x90 | length,)) + self.payload[start:], length)
        return self._tail[number - 3] if number - 3 < len(self._tail) else None

    def _rows_of(self, number: int, kinds: tuple[type, ...]) -> list[Any]:
        rows = self._element(number)
        return [] if rows is None else _rows(rows, kinds, self.head.items)

    @property
    def failures(self) -> dict[int, Failure]:
        """The failed items by their index, in order."""
        if self._failed is None:
            rows = _rows(self._element(3), (int, str, str, str, (bytes, type(None))), self.head.items)
            self._failed = {row[0]: Failure(*row) for row in rows}
            if len(self._failed) != self.head.failed:
                raise CheckpointDamaged("an outcome frame's failures are not as many as its head says")
        return self._failed

    @property
    def seconds(self) -> array[float]:
        """The seconds that each item took."""
        return _numbers("f", self._element(4), self.head.items)

    @property
    def contents(self) -> array[int]:
        """The crc32 of each item's content."""
        return _numbers("I", self._element(5), self.head.items)

    @property
    def offsets(self) -> Sequence[int]:
        """Each item's position less `head.first`: they increase."""
        column = self._element(6)
        if column is None:
            return range(self.head.items)
        offsets = _numbers("I", column, self.head.items)
        if offsets and (offsets[-1] >= self.head.records or not all(map(lt, offsets, offsets[1:]))):
            raise CheckpointDamaged("an outcome frame has items at positions that are not its own")
        return offsets

    @property
    def lines(self) -> Sequence[int]:
        """Each item's line less `head.line`."""
        column = self._element(10)
        return self.offsets if column is None else _numbers("I", column, self.head.items)

    @property
    def attempts(self) -> dict[int, int]:
        """How often an item was tried, by index, for those tried more than once."""
        rows = self._rows_of(7, (int, int))
        if not all(1 <= attempts <= MANY for _, attempts in rows):
            raise CheckpointDamaged("an outcome frame has an item tried less than once, or more often than can be")
        return dict(rows)

    @property
    def supersedes(self) -> list[tuple[int, int, int, int]]:
        """(item here, frame seq, item there, attempts or 0 if ok) for each outcome replaced by one of this block."""
        rows = self._rows_of(8, (int, int, int, int))
        if not all(0 <= number <= MANY for row in rows for number in row):
            raise CheckpointDamaged("an outcome frame replaces what cannot have been")
        return [tuple(row) for row in rows]

    @property
    def items(self) -> list[bytes] | None:
        """The raw items, where they were kept."""
        column = self._element(9)
        if column is None:
            return None
        if type(column) is not list or len(column) != self.head.items or set(map(type, column)) - {bytes}:
            raise CheckpointDamaged("an outcome frame's items are not as many as its head says")
        return column

    def check(self) -> None:
        """Read everything; raises CheckpointDamaged."""
        _ = self.ids, self.failures, self.seconds, self.contents, self.offsets, self.lines, self.attempts
        _ = self.supersedes, self.items
        if self.results is not None:
            refuse_depth(self.region, self.results)
            return
        for index in range(self.head.items):
            refuse_depth(self.packed(index), self.result(index))

    def raw(self, index: int) -> bytes | None:
        """The raw item, where it was kept: with `with_item`, or because it failed."""
        if (items := self.items) is not None:
            return items[index]
        failure = self.failures.get(index)
        return failure.raw if failure else None


def _rows(rows: Any, kinds: tuple[Any, ...], items: int) -> list[Any]:
    """`rows`, if they are lists of these types that begin with an index below `items`."""
    if type(rows) is not list:
        raise CheckpointDamaged("an outcome frame has a column that is none")
    for row in rows:
        right = type(row) is list and len(row) == len(kinds) and all(map(isinstance, row, kinds))
        if not right or not 0 <= row[0] < items:
            raise CheckpointDamaged("an outcome frame has a row that does not fit")
    return rows


def _bounds(region: memoryview, length: int) -> array[int]:
    """Where each packed value of the array in `region` begins, and the end."""
    reader = Unpacker(max_buffer_size=len(region) or 1)
    bounds = array("I")
    try:
        reader.feed(region)
        announced = reader.read_array_header()
        bounds.append(reader.tell())
        for _ in range(length):
            reader.skip()
            bounds.append(reader.tell())
    except Exception as error:
        raise CheckpointDamaged(f"an outcome frame's results cannot be read: {error}") from error
    if announced != length or bounds[-1] != len(region):
        raise CheckpointDamaged("an outcome frame has a column of the wrong length")
    return bounds


def read_ids(payload: bytes | memoryview) -> list[Any]:
    """The ids of an OUTCOMES payload, one per item, without decoding its results; raises CheckpointDamaged."""
    head = _whole_head(payload)
    packed = memoryview(payload)[BODY : BODY + head.ids_size]
    ids = _list(packed, head.items)
    refuse_depth(packed, ids)
    return ids


def glance(head: Head, length: int, read: Callable[[int, int], bytes], *, ids: bool = False) -> OutcomeBlock:
    """A block without its results, and without its `ids` unless they are asked for: those columns are not even read.

    The payload is `length` bytes, of which `read(offset, size)` gives some. Raises CheckpointDamaged; but the checksum
    is of the whole payload, so what is in the columns is not proven.
    """
    after = BODY + head.ids_size + head.results_size
    if after > length:
        raise CheckpointDamaged("an outcome frame is shorter than its head says")
    packed_ids = read(BODY, head.ids_size) if ids else b""
    lean = head._replace(ids_size=len(packed_ids), results_size=0)
    return OutcomeBlock(read(0, OPENING) + lean.pack() + packed_ids + read(after, length - after))


def outcomes(
    block: OutcomeBlock, picks: Iterable[int] | None = None, read: Callable[[int], Any] | None = None
) -> Iterator[tuple[int, Outcome]]:
    """(position in the input, Outcome) of the items `picks`, or of all; `read` gives a result by its index. Raises
    CheckpointDamaged."""
    head, ids, failures, attempts = block.head, block.ids, block.failures, block.attempts
    seconds, offsets, lines, items = block.seconds, block.offsets, block.lines, block.items
    read = read or block.result
    for index in range(head.items) if picks is None else picks:
        failure = failures.get(index)
        yield (
            head.first + offsets[index],
            Outcome(
                id=ids[index],
                ok=failure is None,
                result=read(index),
                error=ItemError(failure.type, failure.message, failure.traceback) if failure else None,
                seconds=seconds[index],
                attempts=attempts.get(index, 1),
                line=head.line + lines[index],
                input=head.input,
                raw=items[index] if items is not None else failure.raw if failure else None,
            ),
        )


def excerpts(block: OutcomeBlock, picks: Iterable[int]) -> Iterator[bytes]:
    """Each of the items `picks` as the OUTCOMES payload of a frame of its own; raises CheckpointDamaged."""
    head, ids, failures, attempts = block.head, block.ids, block.failures, block.attempts
    seconds, offsets, lines, items = block.seconds, block.offsets, block.lines, block.items
    alone = head._replace(flags=0, records=1, items=1, ok=1, failed=0, blank=0)
    for index in picks:
        failure = failures.get(index)
        here = alone._replace(first=head.first + offsets[index], line=head.line + lines[index])
        yield pack_outcomes(
            here if failure is None else here._replace(ok=0, failed=1),
            [ids[index]],
            [bytes(block.packed(index))],
            [] if failure is None else [failure._replace(item=0)],
            [seconds[index]],
            [0],
            attempts=[(0, attempts[index])] if index in attempts else None,
            items=None if items is None else [items[index]],
        )


def blanked(block: OutcomeBlock, gone: Collection[int]) -> bytes:
    """The OUTCOMES payload without what the items `gone` came to; their ids, and all that counts, stay. Raises
    CheckpointDamaged."""
    items, failures = block.items, block.failures.values()
    return pack_outcomes(
        block.head,
        block.ids,
        [NIL if index in gone else bytes(block.packed(index)) for index in range(len(block))],
        [failure._replace(traceback="", raw=None) if failure.item in gone else failure for failure in failures],
        block.seconds,
        block.contents,
        None if block._element(6) is None else block.offsets,
        list(block.attempts.items()),
        block.supersedes,
        None if items is None else [b"" if index in gone else item for index, item in enumerate(items)],
        None if block._element(10) is None else block.lines,
    )


def _numbers(code: str, data: Any, length: int) -> array[Any]:
    if type(data) is not bytes or len(data) != 4 * length:
        raise CheckpointDamaged("an outcome frame has a column of the wrong size")
    column = array(code)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column
