"""Owns the only code that runs in a lane: setting it up, running a chunk, scanning or rendering one. Never opens the
checkpoint.

The board is a shared array of 64-bit numbers, three per lane: the number of the record the lane is about to run (0:
none), a limit, and the number of a record that has taken too long. A record's number is serial << 32 | offset + 1,
which only grows, so that the parent can stop a lane at once (limit 0), take back what was not started (a limit inside
the chunk), or know whom to blame. The lane publishes first and then looks at the limit; the parent lowers the limit and
then looks at the board again a tick later (TRAPS.md 11).
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import signal
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn

from batchmill.board import Board
from batchmill.codec import Head, id_key
from batchmill.command import CommandSpec, Runner, TaskIdentifier
from batchmill.errors import BatchmillError, OutputLost
from batchmill.formats import IdRule
from batchmill.function import FunctionSpec, Resolved, check_arguments, failure, resolve
from batchmill.identity import Identifier
from batchmill.lane import handle, redirect, seal
from batchmill.matching import Scan
from batchmill.model import Chunk, ItemError
from batchmill.packing import Packing
from batchmill.passing import Passer
from batchmill.reply import Reply, Tally, describe
from batchmill.scatter import Work, fulfil
from batchmill.unsaid import Unsaid

NO_LIMIT = 2**62
RECORD_BITS = 32
COLUMNS = 3  # numbers on the board per lane
ALARM = signal.SIGUSR2  # sent by the parent after it wrote the third number
MAX_REPLY = 4 << 20  # bytes of packed results after which a lane returns what it has


@dataclass(frozen=True)
class LaneSetup:
    """What every lane of a run needs to know; pickled once per lane."""

    spec: FunctionSpec | CommandSpec | None
    init: str | FunctionSpec | None
    format: str | None  # None: Python items
    id_field: str | None
    shard: tuple[int, int] | None
    with_item: bool
    run: int
    ids_needed: bool
    environ: dict[str, str]
    directory: str
    output: str  # "stderr", "none" or a file's name
    timeout: float | None = None
    preload: tuple[str, ...] = ()
    close: tuple[int, ...] = ()  # descriptors that a forked lane inherited and must let go


class Order(NamedTuple):
    """One chunk to run: its number, how long it may take (0: as long as it takes), the generation it belongs to."""

    serial: int
    seconds: float
    generation: int
    chunk: Chunk


class Ready(NamedTuple):
    """A lane's first word: it is up, or `error` says why it never will be."""

    pid: int
    source: str
    error: BatchmillError | None


class _Lane:
    """The state of this lane: set once by `start`, read by everything else here."""

    board: memoryview
    slot: int
    setup: LaneSetup
    identifier: Identifier
    resolved: Resolved | None = None
    function: Callable[[Any], Any]  # the user's, with its keyword arguments
    pack: Callable[[Any], bytes]  # a result
    error: BatchmillError | None = None
    started: bool = False
    calling: bool = False
    forked: bool = False


_lane = _Lane()


class Timeout(BaseException):
    """Raised in an item that takes longer than --timeout. Not an Exception, so that few handlers swallow it."""


def in_lane() -> bool:
    """Whether this process is a lane."""
    return _lane.started


def start(board: Board, slot: int, packed_setup: bytes, packed_kwargs: bytes, inherited: list[int | None]) -> None:
    """The lane's initializer. Never raises: what goes wrong is said by `hello`.

    `inherited` holds the descriptor for what items print, that of the lock to pass it on, and where to; None for none.
    The keyword arguments are unpickled last: they may hold values of classes that only the function's module defines.
    """
    setup: LaneSetup = pickle.loads(packed_setup)
    for descriptor in setup.close:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(setup.environ)
    faulthandler.disable()  # a crash is reported by the parent, in one line
    handle(ALARM, _on_alarm)
    _lane.started = True
    os.register_at_fork(after_in_child=_note_fork)
    _lane.board = board.numbers
    _lane.slot = slot
    _lane.setup = setup
    _lane.pack = Packing().result
    identifier = TaskIdentifier if isinstance(setup.spec, CommandSpec) else Identifier
    _lane.identifier = identifier(setup.format, IdRule(setup.id_field), setup.shard, setup.ids_needed)
    try:
        os.chdir(setup.directory)
        output, lock, stdout = inherited
        passer = None if lock is None or stdout is None else Passer(lock, os.dup(stdout), 2)
        _redirect(setup.output, output)
        seal()
        for module in setup.preload:  # mostly there already; what is not must not be passed over in silence
            importlib.import_module(module)
        if isinstance(setup.spec, CommandSpec):
            _prepare_command(setup.spec, passer)
        elif setup.spec is not None:
            resolved = _lane.resolved = resolve(setup.spec, setup.init)
            kwargs = pickle.loads(packed_kwargs)
            check_arguments(setup.spec, resolved.function, kwargs)
            _lane.function = bound(resolved.function, kwargs)
            _initialize(resolved.init)
    except BatchmillError as error:
        _lane.error = error
    except BaseException as error:
        _lane.error = failure("starting a worker", error)


def _prepare_command(spec: CommandSpec, passer: Passer | None) -> None:
    setup = _lane.setup
    runner = Runner(spec, setup.format, os.environb, setup.timeout, passer)
    runner.check()
    _lane.function = runner


def bound(function: Callable[..., Any], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """The function as it is called on an item; where it has no keyword arguments, nothing is put in between."""
    return partial(function, **kwargs) if kwargs else function


def _redirect(name: str, inherited: int | None) -> None:
    try:
        redirect(name, inherited)
    except OSError as error:
        raise OutputLost(f"cannot write {name}: {error.strerror}", "check the path given to --worker-output") from None


def _on_alarm(signum: int, frame: object) -> None:
    """The parent says that a record takes too long: raise in it, if it is still the one that runs."""
    board, slot = _lane.board, COLUMNS * _lane.slot
    if _lane.calling and board[slot] and board[slot] == board[slot + 2]:
        raise Timeout(f"timed out after {_lane.setup.timeout:g} s")


def _note_fork() -> None:
    _lane.forked = True


def _leave_fork(status: object) -> NoReturn:
    """End a process that the function forked and let return: it must not answer in the lane's place, or take its work.

    As in any Python program, SystemExit says with which status.
    """
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _initialize(init: Callable[[], Any] | None) -> None:
    if init is None:
        return
    try:
        init()
    except BaseException as error:
        _lane.error = failure(f"--init {getattr(init, '__name__', init)}", error)


def hello() -> Ready:
    """Say that the lane is up, or why not."""
    return Ready(os.getpid(), _lane.resolved.source_digest if _lane.resolved else "", _lane.error)


def run_chunk(order: Order) -> tuple[bytes, Tally]:
    """Call the function on each record of a chunk: (OUTCOMES payload, what the parent must know of it).

    Stops before a record that the limit forbids, and after one that ends past the order's seconds or fills the reply.
    """
    begun, started = time.perf_counter(), time.time()
    _go_home()
    reply = Reply()
    done = _run_records(order, reply, begun)
    setup, chunk = _lane.setup, order.chunk
    shard, shards = setup.shard or (0, 0)
    head = Head(
        lane=_lane.slot,
        run=setup.run,
        generation=order.generation,
        lines=done,
        pid=os.getpid(),
        seconds=time.perf_counter() - begun,
        started=started,
        shard=shard,
        shards=shards,
    )
    payload, tally = reply.close(chunk, _covered(chunk, done), _lane.identifier.format, head)
    return payload, tally._replace(serial=order.serial)


def _go_home() -> None:
    """Back to the run's directory: an item may have left it."""
    try:
        os.chdir(_lane.setup.directory)
    except OSError:
        pass


def _run_records(order: Order, reply: Reply, begun: float) -> int:
    """Run records into the reply; how many of the chunk are covered. The engine's hot loop: once per item."""
    chunk, board, slot = order.chunk, _lane.board, COLUMNS * _lane.slot
    limit, base = slot + 1, (order.serial << RECORD_BITS) + 1
    deadline = begun + order.seconds if order.seconds else float("inf")
    records = _lane.identifier.records(chunk)
    identify, clock, keeps = _lane.identifier.identify, time.perf_counter, _lane.setup.with_item
    skip, verdict = chunk.skip, chunk.verdict
    add_id, add_content, add_result, add_end = reply.adders(begun)
    try:
        for number, record in enumerate(records, base):
            board[slot] = number  # a masked record too: the parent may be about to take it back
            if number >= board[limit]:
                return number - base
            if skip is not None and skip[number - base]:
                reply.mask(number - base)
                continue
            found = identify(chunk, number - base, record)
            if found is None:
                reply.pass_over(number - base, _lane.identifier.is_blank(record))
                continue
            id, raw, item, content, bad = found
            add_id(id)
            add_content(content)
            outcome = _call(item) if bad is None and verdict is None else reply.refuse(bad, verdict)
            if keeps:
                outcome = reply.keep(_lane.identifier.kept(raw), outcome)
            if isinstance(outcome, bytes):
                add_result(outcome)
                reply.size += len(outcome)
            else:
                reply.fail(outcome, _lane.identifier.kept(raw))
            now = clock()
            add_end(now)
            if now > deadline or reply.size > MAX_REPLY:
                return number - base + 1
        return chunk.records
    finally:
        board[slot] = 0


def _call(item: Any) -> bytes | ItemError:
    """The function's packed result, or what it raised: SystemExit and KeyboardInterrupt of an item cost that item."""
    lane = _lane
    try:
        try:
            lane.calling = True
            result = lane.function(item)
            if lane.forked:
                _leave_fork(None)
            packed = lane.pack(result)
            lane.calling = False
            return packed
        except BaseException as error:
            lane.calling = False
            if lane.forked:
                _leave_fork(error.code if isinstance(error, SystemExit) else 1)
            return describe(error)
    except Timeout as error:  # the alarm came while another error was being described
        lane.calling = False
        return describe(error)


def _covered(chunk: Chunk, done: int) -> bytes:
    """The bytes of the first `done` records of a chunk; none for Python items."""
    if isinstance(chunk.data, tuple):
        return b""
    if done == chunk.records:
        return chunk.data
    assert _lane.identifier.format is not None
    return _lane.identifier.format.head(chunk.data, done)


def scan_chunk(chunk: Chunk) -> Scan:
    """The typed ids and content checksums of a chunk's records, without running any."""
    keys: list[bytes | None] = []
    contents = array("I")
    for offset, record in enumerate(_lane.identifier.records(chunk)):
        found = _lane.identifier.identify(chunk, offset, record)
        keys.append(None if found is None else id_key(found[0]))
        contents.append(0 if found is None else found[3])
    return Scan(keys, contents)


def render(order: Work) -> tuple[bytes, Unsaid]:
    """Outcomes as output bytes, or on their way there; and what they could not say."""
    return fulfil(order)
