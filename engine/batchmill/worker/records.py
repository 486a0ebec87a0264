"""A worker's way through the records of a chunk: opens them, and runs them or tells their ids.

The board is a shared array of 64-bit numbers, COLUMNS per worker: the number of the record at hand (0: none), a limit,
the number of a record that has taken too long, that of the last record that was opened to be run, the process id of a
command that runs (0: none), which the parent ends where the worker did not live to do it, and the number of the first
record of a call that covers several (0: none; see `calls`). A record's number is serial << 32 | offset + 1, which only
grows, so that the parent can stop a worker at once (limit 0), take back what was not started (a limit inside the
chunk), and know whom to blame, and whether it was being opened or run. The worker publishes first and then looks at the
limit; the parent lowers the limit and then looks at the board again a tick later (engine/README.md#stragglers).

What is raised while a record is opened or run fails that record. Something may also be raised where no item is at work:
by an alarm, a hook or a thread that one left behind. Then the item that ran last is failed, and the worker is unfit: it
answers what it has, and is replaced.
"""

from __future__ import annotations

import signal
from array import array
from collections.abc import Callable
from os import _exit, getpid  # these and those below are bound here: the user's code may replace them in their modules
from pickle import dumps, loads
from time import perf_counter, time
from typing import Any, NamedTuple, TypeVar

from batchmill.codec.ids import id_key
from batchmill.codec.outcomes import Head
from batchmill.errors import BatchmillError, ItemError
from batchmill.input.formats import block_of
from batchmill.input.items import Found, ItemReader
from batchmill.model import Chunk, FileRange, IdScan
from batchmill.text import UNFIT, describe, in_words
from batchmill.worker.baseline import Baseline
from batchmill.worker.batch_size import BatchSize
from batchmill.worker.loader import Resolved
from batchmill.worker.reply import Part, Postponed, Reply, Starved

NO_LIMIT = 2**62
RECORD_BITS = 32
COLUMNS = 6  # numbers on the board per worker:
AT_HAND, LIMIT, OVERDUE, OPENED, COMMAND, CALL = range(COLUMNS)
ALARM = signal.SIGUSR2  # sent by the parent after it wrote the number of an overdue record
MAX_REPLY = 4 << 20  # bytes of packed results after which a worker returns what it has
LOOK = 0.002  # seconds of a chunk after which it is looked for what items left behind
STUBBORN = 100  # times that something may be raised while an answer is made
_CALL = dumps(Chunk)  # something to unpickle, as the executor does with its next call

_T = TypeVar("_T")


class ChunkJob(NamedTuple):
    """One chunk to run: its number, how long it may take (0: as long as it takes), the generation it belongs to.

    `is_alone`: nothing else runs meanwhile. `batch_size`: how many items a call has, where that is not the worker's own
    choice (0).
    """

    serial: int
    seconds: float
    generation: int
    chunk: Chunk
    is_alone: bool = False
    batch_size: int = 0


class Answer(NamedTuple):
    """What became of the first `records` records of job `serial`, in parts: one, unless that were too much for one
    frame. `trouble` is what was raised where no item was at work: this worker is unfit, and must be replaced. `lack`
    says why no more could be run for now. `suspect`: the next record was killed for want of memory, and is to run alone
    before it is charged. `splits` counts the calls of several items that failed, `batch_size` how many items a call has
    now (0: always one). `unread`: the chunk is the range of a file that this worker cannot read, or that is not as it
    was."""

    serial: int
    records: int
    parts: list[Part]
    trouble: str = ""
    lack: str = ""
    suspect: bool = False
    splits: int = 0
    batch_size: int = 0
    unread: bool = False


class Ids(NamedTuple):
    """What was read off the first `records` records of job `serial`; `trouble`, `unread`: see Answer."""

    serial: int
    records: int
    scan: IdScan
    trouble: str = ""
    unread: bool = False


class WorkerState:
    """The state of this worker: set once by `main.start`, read by everything else here and there."""

    board: memoryview
    slot: int
    setup: Any  # a worker.WorkerSetup
    identifier: ItemReader
    baseline: Baseline
    resolved: Resolved | None = None
    function: Callable[[Any], Any]  # the user's, with its keyword arguments
    pack: Callable[[Any], bytes]  # a result
    run: Callable[[ChunkJob, Reply], None]  # records into a reply: `run_records`, or for many items in a call
    batch_size: BatchSize
    single: Any = None  # the id of the item that a function of many items is called on by itself
    error: BatchmillError | None = None
    started: bool = False
    is_ready: bool = False  # all is imported
    is_theirs: bool = False  # a record is being opened or run: what is raised now is its own
    is_touched: bool = False  # this is not quite the process any more that it was, or not the worker at all
    forked: bool = False
    trouble: str = ""  # why it is unfit for more
    lack: str = ""  # why the rest of the chunk is handed back
    is_alone: bool = False  # nothing runs beside this chunk
    reply: Reply | None = None  # to the chunk at hand
    is_suspect: bool = False  # the rest is handed back because something was killed for want of memory


this_worker = WorkerState()


class Timeout(BaseException):
    """Raised in an item that takes longer than --timeout. Not an Exception, so that few handlers swallow it."""


def on_alarm(signum: int, frame: object) -> None:
    """The parent says that a record takes too long: raise in it, if it is still the one at hand."""
    board, slot = this_worker.board, COLUMNS * this_worker.slot
    if this_worker.is_theirs and board[slot] and board[slot] == board[slot + OVERDUE]:
        raise Timeout(f"timed out after {this_worker.setup.timeout:g} s")


def note_touch() -> None:
    """An item has changed what the next ones begin with."""
    this_worker.is_touched = True


def at_item() -> Any:
    """The id of the item that is being run; None while there is none, or there are several."""
    reply = this_worker.reply
    if this_worker.single is not None:
        return this_worker.single
    return reply.ids[-1] if reply is not None and len(reply.ids) > reply.items else None


def note_fork() -> None:
    """This process was forked by an item."""
    this_worker.is_touched = this_worker.forked = True


def put_back(status: object = None) -> None:
    """Undo what an item has changed. A process that it forked and let return ends: it must not answer in the worker's
    place, or take its work. As in any Python program, SystemExit says with which status."""
    if this_worker.forked:
        _exit(status if isinstance(status, int) else 0 if status is None else 1)
    this_worker.baseline.restore()
    this_worker.is_touched = False


def _undisturbed(work: Callable[[], None], answer: Callable[[], _T], disturb: Callable[[ItemError], None]) -> _T:
    """Do the work, as far as it comes; what `answer` makes of it.

    What is raised meanwhile was left behind by an item: `disturb` is told. Nothing must be raised after this either, in
    the executor's own code, for that would end the worker.
    """
    trouble: BaseException | None = None
    for _ in range(STUBBORN):
        try:
            if trouble is None:
                work()
                made = answer()
                this_worker.baseline.restore_builtins()
                put_back()
                loads(_CALL)
                return made
            this_worker.baseline.restore_builtins()
            put_back()
            disturb(_told(trouble))
            return answer()
        except BaseException as error:
            trouble = error
            try:
                this_worker.baseline.calm()
            except BaseException:
                pass  # of the alarm too
    _exit(UNFIT)


def _told(trouble: BaseException) -> ItemError:
    """What was raised where no item was at work, in words, which become why this worker is unfit."""
    board, at_hand = this_worker.board, COLUMNS * this_worker.slot
    board[at_hand] = board[at_hand + OPENED]  # its own methods are called: time and memory limits hold for that too
    told = describe(trouble)
    board[at_hand] = 0
    this_worker.trouble = in_words(told)
    return told


# Running


def run_chunk(job: ChunkJob) -> Answer:
    """Call the function on each record of a chunk.

    Stops before a record that the limit forbids or that cannot be run for now, and after one that ends past the
    job's seconds or fills the reply.
    """
    if this_worker.trouble:
        return Answer(job.serial, 0, [], this_worker.trouble)
    if (block := _block(job.chunk)) is None:
        return Answer(job.serial, 0, [], unread=True)
    job = job._replace(chunk=job.chunk._replace(data=block))
    this_worker.lack, this_worker.is_suspect, this_worker.is_alone = "", False, job.is_alone
    chunk, setup, identifier = job.chunk, this_worker.setup, this_worker.identifier
    shard, shards = setup.shard or (0, 0)
    head = Head(worker=this_worker.slot, run=setup.run, generation=job.generation, pid=getpid(), started=time(),
                shard=shard, shards=shards)  # fmt: skip
    reply = this_worker.reply = Reply(perf_counter())

    def answer() -> Answer:
        return Answer(
            job.serial,
            reply.records,
            reply.close(chunk, identifier.format, head),
            this_worker.trouble,
            this_worker.lack,
            this_worker.is_suspect,
            reply.splits,
            setup.batch_size and this_worker.batch_size.size,
        )

    def disturb(error: ItemError) -> None:
        # Nothing ran yet: it comes from an item of an earlier chunk. But it must not come again and again.
        if not reply.records and reply.at_hand is None and (chunk.losses or chunk.crashes):
            found = identifier.unread(chunk, 0, identifier.records(chunk)[0], error)
            reply.at_hand = None if found is None else (found[0], found[3])
        reply.disturb(error)

    return _undisturbed(lambda: _run(job, reply), answer, disturb)


def _block(chunk: Chunk) -> bytes | tuple[Any, ...] | None:
    """What a chunk holds, read if it was not sent; None where it cannot be."""
    if not isinstance(chunk.data, FileRange):
        return chunk.data
    format = this_worker.identifier.format
    assert format is not None
    try:
        return block_of(chunk, format)
    except (OSError, MemoryError, BatchmillError):
        return None


def _run(job: ChunkJob, reply: Reply) -> None:
    """Run records into the reply, as long as any can be run."""
    try:
        this_worker.run(job, reply)
    except (Postponed, Starved) as error:
        this_worker.is_suspect = isinstance(error, Starved)
        this_worker.lack = error.lack if isinstance(error, Postponed) else ""
        reply.drop()
        reply.at_hand = None


def run_records(job: ChunkJob, reply: Reply) -> None:
    """Run records into the reply. The engine's hot loop: once per item."""
    chunk, board, at_hand = job.chunk, this_worker.board, COLUMNS * this_worker.slot
    limit, opened, base = at_hand + LIMIT, at_hand + OPENED, (job.serial << RECORD_BITS) + 1
    identifier, clock, keeps = this_worker.identifier, perf_counter, this_worker.setup.with_item
    skip, condemned, (add_id, add_content, add_result, add_end) = chunk.skip, chunk.condemned, reply.adders()
    deadline = reply.ends[0] + job.seconds if job.seconds else float("inf")
    number = id = content = 0
    pause = min(deadline, reply.ends[0] + LOOK)
    try:
        this_worker.baseline.follow()
        records = identifier.records(chunk)
        identify = identifier.identify
        for number, record in enumerate(records, base):
            board[at_hand] = number  # a masked record too: the parent may be about to take it back
            if number >= board[limit]:
                return
            if skip is not None and skip[number - base]:
                reply.mask(number - base)
                continue
            this_worker.is_theirs = True
            try:
                found = identify(chunk, number - base, record)
            except BaseException as error:
                found = unread(chunk, number - base, error)
            if found is None:
                this_worker.is_theirs = False
                reply.pass_over(number - base, identifier.is_blank(record))
                continue
            id, raw, item, content, bad = found
            board[opened] = number
            add_id(id)
            add_content(content)
            outcome = _call(item) if bad is None and condemned is None else reply.refuse(bad, condemned)
            found = item = None  # what it takes with it when it goes is its own doing
            if keeps or not isinstance(outcome, bytes):
                outcome = kept(reply, outcome, raw)
            add_result(outcome)
            reply.size += len(outcome)
            add_end(now := clock())
            if now > pause or reply.size > MAX_REPLY:
                put_back()
                if now > deadline or reply.size > MAX_REPLY:
                    return
                pause = min(deadline, clock() + LOOK)
    except BaseException:
        this_worker.baseline.restore_builtins()
        is_undone = board[opened] == number and number - base == reply.records
        reply.at_hand = (id, content) if is_undone else None
        raise
    finally:
        this_worker.is_theirs, board[at_hand] = False, 0


def unread(chunk: Chunk, offset: int, error: BaseException) -> Found | None:
    """A record that could not be opened, as one that is no item: `error` was raised."""
    record = this_worker.identifier.records(chunk)[offset]
    return this_worker.identifier.unread(chunk, offset, record, describe(error))


def kept(reply: Reply, outcome: bytes | ItemError, raw: bytes) -> bytes:
    """The next row's result, beside which the item is kept that came as `raw`: if it failed, or all are."""
    this_worker.is_theirs = False
    if this_worker.is_touched:
        put_back()
    data = this_worker.identifier.kept(raw)
    if this_worker.setup.with_item:
        reply.keep(data)
    return outcome if isinstance(outcome, bytes) else reply.fail(outcome, data)


def _call(item: Any) -> bytes | ItemError:
    """The function's packed result, or what it raised: SystemExit and KeyboardInterrupt of an item cost that item."""
    try:
        result = this_worker.function(item)
        if this_worker.is_touched:
            put_back()
        packed = this_worker.pack(result)
        this_worker.is_theirs = False
        return packed
    except BaseException as error:
        return caught(error)


def caught(error: BaseException, *, is_last: bool = True) -> ItemError:
    """What an item has raised, in words. Raises what is to be dealt with elsewhere, unless the item is called again at
    once (`is_last` False)."""
    this_worker.is_theirs = False
    if isinstance(error, Postponed) or (isinstance(error, Starved) and not this_worker.is_alone and is_last):
        raise error
    try:
        this_worker.baseline.calm()
        this_worker.baseline.restore_builtins()
        if this_worker.is_touched:
            put_back(error.code if isinstance(error, SystemExit) else 1)
        return describe(error)
    except BaseException as another:  # it came meanwhile
        return describe(another)


# Telling ids


def scan_chunk(job: ChunkJob) -> Ids:
    """The typed ids and content checksums of a chunk's records, without running any. Stops as `run_chunk` does."""
    scan = IdScan([], array("I"))
    if this_worker.trouble:
        return Ids(job.serial, 0, scan, this_worker.trouble)
    if (block := _block(job.chunk)) is None:
        return Ids(job.serial, 0, scan, unread=True)
    job = job._replace(chunk=job.chunk._replace(data=block))

    def answer() -> Ids:
        del scan.keys[len(scan.contents) :]
        return Ids(job.serial, len(scan.keys), scan, this_worker.trouble)

    return _undisturbed(lambda: _scan_records(job, scan), answer, lambda error: None)


def _scan_records(job: ChunkJob, scan: IdScan) -> None:
    chunk, board, at_hand = job.chunk, this_worker.board, COLUMNS * this_worker.slot
    base, identifier = (job.serial << RECORD_BITS) + 1, this_worker.identifier
    try:
        this_worker.baseline.follow()
        for number, record in enumerate(identifier.records(chunk), base):
            board[at_hand] = number
            if number >= board[at_hand + LIMIT]:
                return
            this_worker.is_theirs = True
            try:
                found = identifier.identify(chunk, number - base, record)
                key = None if found is None else id_key(found[0])
            except BaseException as error:
                found = unread(chunk, number - base, error)
                key = None if found is None else id_key(found[0])
            this_worker.is_theirs = False
            scan.keys.append(key)
            scan.contents.append(0 if found is None else found[3])
            found = None
    finally:
        this_worker.is_theirs, board[at_hand] = False, 0
