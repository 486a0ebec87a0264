"""A worker's way through the records of a chunk whose function takes many items in a call.

Records are opened as `records` does it, published and held against the limit one by one, till there are as many items
as a call should have; then the function is called on these. Meanwhile the board has the number of the last one at hand,
so that none of the call is taken back, and that of the first in the column CALL: who finds the worker dead knows that
the call covered several, and whom to charge only when each has run by itself.

A call that raises, takes too long or returns another number of results costs its items no more than another try: they
are called one by one, at once, each with its own number on the board again. What fails alone is failed. From then on
what comes behind the one at hand may be taken back, also what is not run: each is published before the limit is looked
at, as when it was opened.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple

from batchmill.errors import ItemError
from batchmill.text import describe
from batchmill.worker.call_results import take_results
from batchmill.worker.records import (
    AT_HAND,
    CALL,
    COLUMNS,
    LIMIT,
    LOOK,
    MAX_REPLY,
    OPENED,
    RECORD_BITS,
    ChunkJob,
    caught,
    kept,
    put_back,
    this_worker,
    unread,
)
from batchmill.worker.reply import Postponed, Reply

LONGEST = 0.5  # seconds; calls of a size that is found out grow no further


class _Row(NamedTuple):
    """A record that was opened: its number on the board, what is kept of it, the item, or why it is none."""

    number: int
    id: Any
    raw: bytes
    item: Any
    content: int
    refused: ItemError | None


class _Passed(NamedTuple):
    """A record that is not run: masked out, or no item (`is_blank`, or another shard's)."""

    number: int
    is_masked: bool
    is_blank: bool = False


Outcome = tuple["bytes | ItemError", float]  # the packed result or why it failed, and when that was known
_NONE = (None, 0.0)


def run_calls(job: ChunkJob, reply: Reply) -> None:
    """Run records into the reply, by calls of several items; stops as `records.run_chunk` says."""
    _Calls(job, reply).run()


class _Calls:
    def __init__(self, job: ChunkJob, reply: Reply) -> None:
        self._chunk, self._reply = job.chunk, reply
        self._board, slot = this_worker.board, COLUMNS * this_worker.slot
        self._at_hand, self._limit, self._opened, self._call = (slot + n for n in (AT_HAND, LIMIT, OPENED, CALL))
        self._base = (job.serial << RECORD_BITS) + 1
        self._deadline = reply.ends[0] + job.seconds if job.seconds else float("inf")
        self._given = 1 if job.chunk.single else job.batch_size
        self._size = self._given or this_worker.batch_size.size
        self._waiting: list[_Row | _Passed] = []
        self._rows: list[_Row] = []  # the items among those that wait
        self._ours = 0  # the number of the last record that cannot be taken back any more
        self._last = reply.ends[0]  # when the last call was done with
        self._next_look = self._last + LOOK

    def run(self) -> None:
        """Open records and call the function, as long as that is allowed."""
        board, identifier = self._board, this_worker.identifier
        try:
            this_worker.baseline.follow()
            for number, record in enumerate(identifier.records(self._chunk), self._base):
                board[self._at_hand] = number
                if number >= board[self._limit]:
                    break
                self._ours = number
                self._open(number, record)
                if len(self._rows) == self._size and not self._work_off():
                    return
            self._work_off()
        except BaseException:
            this_worker.baseline.restore_builtins()
            self._reply.at_hand = None
            raise
        finally:
            this_worker.is_theirs, board[self._at_hand], board[self._call] = False, 0, 0

    def _open(self, number: int, record: Any) -> None:
        offset, chunk, identifier = number - self._base, self._chunk, this_worker.identifier
        if chunk.skip is not None and chunk.skip[offset]:
            self._waiting.append(_Passed(number, True))
            return
        this_worker.is_theirs = True
        try:
            found = identifier.identify(chunk, offset, record)
        except BaseException as error:
            found = unread(chunk, offset, error)
        this_worker.is_theirs = False
        if found is None:
            self._waiting.append(_Passed(number, False, identifier.is_blank(record)))
            return
        id, raw, item, content, bad = found
        self._board[self._opened] = number
        if bad is None and chunk.condemned is None:
            row = _Row(number, id, raw, item, content, None)
            self._rows.append(row)
        else:
            row = _Row(number, id, raw, item, content, self._reply.refuse(bad, chunk.condemned))
        self._waiting.append(row)

    def _work_off(self) -> bool:
        """Call the function on what waits, and note what became of it; whether there is time for more."""
        rows, outcomes, splits = self._rows, list[Outcome](), self._reply.splits
        try:
            if len(rows) > 1:
                self._call_on(rows, outcomes)
            else:
                self._call_on_each(rows, outcomes)
        finally:
            is_all = self._note(outcomes)
        if not is_all:
            return False  # what is left was taken back
        self._waiting, self._rows = [], []
        now = perf_counter()
        if self._reply.splits == splits:  # with all that an item takes besides, of which there is less in large calls
            this_worker.batch_size.seen(len(rows), now - self._last, LONGEST)
        self._last, self._size = now, self._given or this_worker.batch_size.size
        if now > self._next_look:  # what is noticed at once was put back at once
            put_back()
            self._next_look = now + LOOK
        return now <= self._deadline and self._reply.size <= MAX_REPLY

    def _note(self, outcomes: list[Outcome]) -> bool:
        """Add what became of the records that wait, up to the first that was taken back, or is to run and has no
        outcome; False if there is one."""
        reply, done, keeps = self._reply, iter(outcomes), this_worker.setup.with_item
        add_id, add_content, add_result, add_end = reply.adders()
        for row in self._waiting:
            if row.number > self._ours and not self._claim(row.number):
                return False
            if isinstance(row, _Passed):
                self._pass(row)
                continue
            outcome, end = (row.refused, reply.ends[-1]) if row.refused is not None else next(done, _NONE)
            if outcome is None:
                return False
            add_id(row.id)
            add_content(row.content)
            if keeps or not isinstance(outcome, bytes):
                outcome = kept(reply, outcome, row.raw)
            add_result(outcome)
            reply.size += len(outcome)
            add_end(end)
        return True

    def _pass(self, row: _Passed) -> None:
        if row.is_masked:
            self._reply.mask(row.number - self._base)
        else:
            self._reply.pass_over(row.number - self._base, row.is_blank)

    def _call_on(self, rows: list[_Row], outcomes: list[Outcome]) -> None:
        """Add the outcomes of several items, by one call; where that fails, of those without a result by one each."""
        results = list[Any]()
        self._board[self._call] = rows[0].number
        this_worker.is_theirs = True
        postponed: Postponed | None = None
        try:
            take_results(this_worker.function([row.item for row in rows]), len(rows), results)
            if this_worker.is_touched:
                put_back()
            this_worker.is_theirs = False
        except Postponed as error:  # nor can any be called by itself
            this_worker.is_theirs, postponed = False, error
        except BaseException as error:
            caught(error, is_last=False)
            self._reply.splits += 1
        packed = list(map(_packed, results))
        self._board[self._call] = 0  # not before: packing calls methods of theirs
        now = perf_counter()
        # An item's seconds are the call's by its items.
        last, share = self._reply.ends[-1], (now - self._reply.ends[-1]) / max(len(packed), 1)
        outcomes += [(outcome, last + share * (n + 1)) for n, outcome in enumerate(packed)]
        if postponed is not None:
            raise postponed
        self._call_on_each(rows[len(packed) :], outcomes)

    def _call_on_each(self, rows: list[_Row], outcomes: list[Outcome]) -> None:
        """Add the outcomes of items, by a call each, up to the first that was taken back meanwhile."""
        for row in rows[:1]:
            self._board[self._at_hand] = self._ours = row.number  # what was at hand till now came behind it
        for row in rows:
            if not self._claim(row.number):
                break
            outcomes.append((self._called_on(row), perf_counter()))

    def _claim(self, number: int) -> bool:
        """Have a record for good, and say so on the board; False where it was taken back."""
        if number > self._ours:
            self._board[self._at_hand] = number
            if number >= self._board[self._limit]:
                return False
            self._ours = number
        return True

    def _called_on(self, row: _Row) -> bytes | ItemError:
        results = list[Any]()
        this_worker.is_theirs, this_worker.single = True, row.id
        try:
            take_results(this_worker.function([row.item]), 1, results)
            if this_worker.is_touched:
                put_back()
            this_worker.is_theirs = False
        except BaseException as error:
            return caught(error)
        finally:
            this_worker.single = None
        return _packed(results[0])


def _packed(result: Any) -> bytes | ItemError:
    """A packed result, or why the item failed: it is an exception, or cannot be kept."""
    try:
        this_worker.is_theirs = True
        packed = describe(result) if isinstance(result, BaseException) else this_worker.pack(result)
        this_worker.is_theirs = False
        return packed
    except BaseException as error:
        return caught(error)
