"""A chunk's reply: its rows while it grows, the frames it becomes, an exception as text.

It never calls user code but the methods of an exception, and survives those.

An item has its outcome once it is noted when it ended: where something is raised before, its row is not whole, and is
dropped. What a reply holds is measured before it is joined: what is too much for one frame becomes several, and an item
that is too much by itself is failed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from operator import gt, lt, sub
from typing import Any, NamedTuple

from batchmill.codec.ids import checksum, digest_block, digest_id
from batchmill.codec.outcomes import MASKED, NIL, SEALED, Head, PayloadTooLarge, pack_outcomes
from batchmill.codec.pack import pack_value
from batchmill.errors import ItemError, ItemFailed
from batchmill.failure_groups import FailureGroups
from batchmill.input.formats import MAX_OWN_ID, BadItem, Format, block_of, divide
from batchmill.model import MAX_PAYLOAD, Chunk, FailureGroup
from batchmill.secrecy import hide
from batchmill.text import _bounded
from batchmill.value_class import frozen_value_class

MAX_KEPT_ITEM = 64 << 10  # bytes of a failed item that are kept beside its error
_TOO_LARGE = (
    f"the id, the result and what is kept of the item must stay below {MAX_PAYLOAD >> 20} MiB together: write a file,"
    " return its path"
)
_LATE = "raised when the item had ended, by an alarm, a hook or a thread that it left behind"


class ReplySummary(NamedTuple):
    """What the parent must know of a reply, or of a part of one, without opening it.

    `records` of the chunk were covered. `low` and `high` are the least and greatest id where all ids are of one type
    and strictly increase or decrease (else None): so repeated ids can be ruled out without keeping any.
    """

    records: int
    items: int
    ok: int
    failed: int
    blank: int
    seconds: float
    low: Any
    high: Any
    groups: tuple[FailureGroup, ...]


Part = tuple[bytes, ReplySummary]  # an OUTCOMES payload, and its summary


class Reply:
    """The outcomes of one chunk, in the order of its records: columns with a row an item; the first began at `begun`.

    `size` is about how many bytes they take, `splits` how many calls of several items failed. `at_hand` has the id and
    the content of a record that was opened and has no whole row yet, once something was raised where no item was at
    work; `is_disturbed` says that it was, and that somebody is charged with it.
    """

    def __init__(self, begun: float) -> None:
        self.ids: list[Any] = []
        self.contents = array("I")
        self.results: list[bytes] = []  # packed; NIL where it failed
        self.ends = [begun]  # when the first item began, then when each ended: the last of a row
        self.failures: list[tuple[int, str, str, str, bytes | None]] = []
        self.raws: list[bytes] = []  # of the items, if they are kept
        self.passed: list[int] = []  # offsets of records without an outcome here
        self.blanks: list[int] = []  # of those that are blank
        self.masked = False
        self.size = 0
        self.splits = 0
        self.at_hand: tuple[Any, int] | None = None
        self.is_disturbed = False

    @property
    def records(self) -> int:
        """How many of the chunk's records are covered so far."""
        return self.items + len(self.passed)

    @property
    def items(self) -> int:
        """How many outcomes there are."""
        return len(self.ends) - 1

    # While it grows

    def adders(self) -> tuple[Callable[..., None], ...]:
        """What the hot loop calls for each item, in this order: with its id, the checksum of its content, its packed
        result (`size` grows by its length), and the moment at which it ended."""
        return self.ids.append, self.contents.append, self.results.append, self.ends.append

    def add(self, id: Any, content: int, result: bytes, end: float) -> None:
        """The same, elsewhere."""
        for add, value in zip(self.adders(), (id, content, result, end)):
            add(value)

    def mask(self, offset: int) -> None:
        """The record at `offset` is not to be run."""
        self.masked = True
        self.passed.append(offset)

    def pass_over(self, offset: int, is_blank: bool) -> None:
        """The record at `offset` is no item: blank, or of another shard."""
        if is_blank:
            self.blanks.append(offset)
        self.passed.append(offset)

    def refuse(self, bad: BadItem | None, condemned: ItemError | None) -> ItemError:
        """Why a record is failed without being run: it was condemned, or it is no item."""
        if condemned is None:
            assert bad is not None
            return ItemError(bad.type, bad.message, bad.traceback)
        self.masked = True  # what is kept of a record that is too long must not be taken for its block
        return condemned

    def keep(self, raw: bytes) -> None:
        """Keep the item of the next row beside its outcome."""
        self.raws.append(raw)
        self.size += len(raw)

    def fail(self, error: ItemError, raw: bytes) -> bytes:
        """The next row is a failed item, whose bytes are kept where they are not too many; its result: NIL, unless a
        command leaves one that has failed."""
        kept = raw if len(raw) <= MAX_KEPT_ITEM else None
        error = replace(error, message=hide(error.message), traceback=hide(error.traceback))
        self.failures.append((self.items, error.type, error.message, error.traceback, kept))
        self.size += len(error.message) + len(error.traceback) + len(kept or b"")
        return error.packed if isinstance(error, FailedCommand) else NIL

    def disturb(self, error: ItemError) -> None:
        """`error` was raised where no item was at work: charge the one that ran last.

        Whatever is raised after it, while the answer is made, is taken for the same one's doing.
        """
        if self.is_disturbed:
            return
        self.drop()
        while self.failures and self.failures[-1][0] >= self.items:
            self.failures.pop()
        if self.at_hand is not None:
            self.add(*self.at_hand, self.fail(error, b""), self.ends[-1])
        elif self.items:
            self._fail_last(replace(error, message=f"{error.message} ({_LATE})"))
        self.is_disturbed = True

    def drop(self) -> None:
        """Drop a row that is not whole: its record has no outcome here."""
        for column in (self.ids, self.contents, self.results, self.raws):
            del column[self.items :]

    def _fail_last(self, error: ItemError) -> None:
        end = self.ends.pop()
        if self.failures and self.failures[-1][0] == self.items:
            self.results[-1] = NIL
        else:
            self.results[-1] = self.fail(error, b"")
        self.ends.append(end)

    # What it becomes

    def close(self, chunk: Chunk, format: Format | None, head: Head) -> list[Part]:
        """The records that are covered as parts, most often one. `head` has what only the worker knows (worker, run,
        generation, pid, when it started, shard)."""
        for give_up in (None, self._give_up_result, self._give_up_item, self._give_up_id):
            if give_up is not None:
                give_up()
            try:
                return [self._part(chunk, format, head)]
            except PayloadTooLarge:
                if self.items > 1:
                    halves = self._halves(chunk, format)
                    return [part for half, piece in halves for part in half.close(piece, format, head)]
        raise AssertionError("an error and a digest fit into any frame")

    def _give_up_result(self) -> None:
        self._fail_last(ItemError("ItemTooLarge", _TOO_LARGE))

    def _give_up_item(self) -> None:
        self.raws.clear()

    def _give_up_id(self) -> None:
        self.ids = [digest_id(pack_value(self.ids[0]))]

    def _halves(self, chunk: Chunk, format: Format | None) -> list[tuple[Reply, Chunk]]:
        """This reply as two, each with its part of the chunk."""
        middle = self.items // 2
        at = _without(self.records, self.passed)[middle]
        left, right = Reply(self.ends[0]), Reply(self.ends[middle])
        for half, rows in ((left, slice(middle)), (right, slice(middle, None))):
            half.ids, half.contents, half.results = self.ids[rows], self.contents[rows], self.results[rows]
            half.raws = self.raws[rows]
            half.ends += self.ends[1:][rows]
        for index, type, message, trace, kept in self.failures:
            half, start = (left, 0) if index < middle else (right, middle)
            half.failures.append((index - start, type, message, trace, kept))
        for name in ("passed", "blanks"):
            offsets: list[int] = getattr(self, name)
            setattr(left, name, [offset for offset in offsets if offset < at])
            setattr(right, name, [offset - at for offset in offsets if offset >= at])
        left.masked = right.masked = self.masked
        return list(zip((left, right), divide(chunk, at, format)))

    def _part(self, chunk: Chunk, format: Format | None, head: Head) -> Part:
        items, failed, records = self.items, len(self.failures), self.records
        block = _covered(chunk, records, format)
        line_offsets = format.line_offsets(block) if format is not None else None
        offsets = _without(records, self.passed)
        replaced = _replaced(chunk, offsets)
        head = head._replace(
            flags=(MASKED if self.masked else 0) | (SEALED if chunk.sealed else 0),
            input=chunk.input,
            records=records,
            items=items,
            ok=items - failed,
            failed=failed,
            blank=len(self.blanks),
            first=chunk.first,
            line=chunk.line,
            size=len(block),
            seconds=self.ends[-1] - self.ends[0],
            first_crc=checksum(_first(block, format), chunk.header),
            digest=digest_block(block, chunk.header),
        )
        payload = pack_outcomes(
            head,
            self.ids,
            self.results,
            self.failures,
            array("f", map(sub, islice(self.ends, 1, None), self.ends)),
            self.contents,
            offsets if self.passed else None,
            _attempts(chunk, replaced, items),
            replaced,
            [*self.raws, *[b""] * (items - len(self.raws))] if self.raws else None,
            None if line_offsets is None else [line_offsets[offset] for offset in offsets],
        )
        groups = self._groups(chunk.line, line_offsets or range(records), offsets)
        summary = ReplySummary(
            records, items, items - failed, failed, len(self.blanks), head.seconds, *_span(self.ids), groups
        )
        return payload, summary

    def _groups(self, line: int, line_offsets: Sequence[int], offsets: Sequence[int]) -> tuple[FailureGroup, ...]:
        groups = FailureGroups(shown=_shown)
        for index, type, message, _, _ in self.failures:
            groups.add(type, message, self.ids[index], line + line_offsets[offsets[index]])
        return tuple(groups.reported())


def _covered(chunk: Chunk, records: int, format: Format | None) -> bytes:
    """The bytes of the first `records` of a chunk; none for Python items, unless they are all that is known."""
    if isinstance(chunk.data, tuple):
        return chunk.data[0] if chunk.sealed and isinstance(chunk.data[0], bytes) else b""
    assert format is not None
    block = block_of(chunk, format)
    return block if records == chunk.records else format.head(block, records)


def _replaced(chunk: Chunk, offsets: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(index here, frame seq, index there, attempts before) of the outcomes that these replace."""
    earlier = chunk.earlier
    if not earlier:
        return []
    found = ((index, earlier[offset]) for index, offset in enumerate(offsets) if offset in earlier)
    return [(index, old.seq, old.outcome, old.attempts) for index, old in found]


def _attempts(chunk: Chunk, replaced: list[tuple[int, int, int, int]], items: int) -> list[tuple[int, int]]:
    """(index here, attempts) of the outcomes that took more than one, crashes among them."""
    if not chunk.crashes:
        return [(index, attempts + 1) for index, _, _, attempts in replaced if attempts]
    before = replaced[0][3] if replaced else 0
    attempts = before + chunk.crashes + (chunk.condemned is None)  # a condemned record was not run once more
    return [(0, attempts)] if items and attempts > 1 else []


def _without(count: int, passed: list[int]) -> Sequence[int]:
    """The numbers below `count` that are not among `passed`."""
    if not passed:
        return range(count)
    out = set(passed)
    return array("I", (offset for offset in range(count) if offset not in out))


def _first(block: bytes, format: Format | None) -> bytes:
    """The first record of a block, without its separator."""
    end = format.marks(block).find(format.separator) if format is not None else -1
    return block if end < 0 else block[:end]


def _span(ids: list[Any]) -> tuple[Any, Any]:
    if set(map(type, ids)) not in ({int}, {str}):
        return None, None
    span = min(ids[0], ids[-1]), max(ids[0], ids[-1])
    if not (all(map(lt, ids, ids[1:])) or all(map(gt, ids, ids[1:]))):
        return None, None
    return (None, None) if any(_shown(id) is not id for id in span) else span


def _shown(id: Any) -> Any:
    """An id as the parent keeps it to name an item: one that is long is cut, or stands for itself by its digest."""
    packed = pack_value(id)
    if len(packed) <= MAX_OWN_ID:
        return id
    return _bounded(id, MAX_OWN_ID) if isinstance(id, str) else digest_id(packed)


@frozen_value_class
class FailedCommand(ItemError):
    """Why a command failed, and in `packed` what it left all the same: its exit, stdout and stderr."""

    packed: bytes = NIL


class Postponed(Exception):
    """Raised on an item by a callable of ours that cannot run any for now, for want of what `lack` says."""

    def __init__(self, lack: str) -> None:
        super().__init__(lack)
        self.lack = lack


class Starved(ItemFailed):
    """Raised on an item by a callable of ours, which had not what it needs: whoever ran beside it may have taken that.

    The item is failed with this only if nothing ran beside it.
    """


class KilledForMemory(Starved):
    """The kernel killed something of it for want of memory. Whom it kills need not be who took it."""


class NoProcessLeft(Starved):
    """It could not start what it is made of: others had all the processes there may be."""
