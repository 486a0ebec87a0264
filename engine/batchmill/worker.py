"""Owns the only code that runs in a lane: setting it up, running a chunk, scanning one for ids. Never imported for its
side effects, and never opens the checkpoint.

The board is a shared array of 64-bit numbers, two per lane: the number of the record the lane is about to run (0: none)
and a limit. A record's number is serial << 32 | offset + 1, which only grows, so that the parent can stop a lane at
once (limit 0), take back what was not started (a limit inside the chunk), or know whom to blame. The lane publishes
first and then looks at the limit; the parent lowers the limit and then looks at the board again a tick later
(TRAPS.md 11).
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait as wait_for
from typing import Any, NamedTuple

from batchmill import formats
from batchmill.codec import MASKED, NIL, Head, canonical, digest_id, id_key, pack_outcomes, pack_result
from batchmill.errors import BatchmillError
from batchmill.formats import FORMATS, BadItem, IdRule, digest_block, shard_of
from batchmill.function import FunctionSpec, Resolved, failure, resolve
from batchmill.matching import Scan
from batchmill.model import Chunk, FailureExample, ItemError
from batchmill.ordering import RenderOrder, render_order

NO_LIMIT = 2**62
RECORD_BITS = 32
MAX_KEPT_ITEM = 64 << 10  # bytes of a failed item that are kept beside its error
MAX_MESSAGE = 8 << 10  # characters of an error's message
MAX_TRACEBACK = 48 << 10
MAX_REPLY = 4 << 20  # bytes of packed results after which a lane returns what it has
MAX_FRAME_ITEM = (64 << 20) - (256 << 10)  # bytes of one packed outcome: a frame must hold it
_F_SETSIG = 10  # fcntl's, Linux; not in the fcntl module before 3.13
_GROUP_EXAMPLES = 5


@dataclass(frozen=True)
class LaneSetup:
    """What every lane of a run needs to know; pickled once per lane."""

    spec: FunctionSpec | None
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
    close: tuple[int, ...] = ()  # descriptors that a forked lane inherited and must let go


class Order(NamedTuple):
    """One chunk to run: its number, how long it may take (0: as long as it takes), the generation it belongs to."""

    serial: int
    seconds: float
    generation: int
    chunk: Chunk


class Tally(NamedTuple):
    """What the parent must know of a reply without opening it.

    `lines` records of the chunk were covered; `low` and `high` are the least and greatest id where all ids of the chunk
    are of one type and strictly increase (else None): so repeated ids can be ruled out without keeping any.
    """

    serial: int
    lines: int
    items: int
    ok: int
    failed: int
    blank: int
    seconds: float
    size: int
    low: Any
    high: Any
    groups: tuple[tuple[str, int, tuple[FailureExample, ...]], ...]


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
    rule: IdRule
    kwargs: dict[str, Any]
    resolved: Resolved
    error: BatchmillError | None = None
    started: bool = False


_lane = _Lane()


def in_lane() -> bool:
    """Whether this process is a lane."""
    return _lane.started


# Setting up


def start(board: Any, slot: int, packed_setup: bytes, packed_kwargs: bytes, output: Any) -> None:
    """The lane's initializer. Never raises: what goes wrong is said by `hello`.

    The keyword arguments are unpickled last: they may hold values of classes that only the function's module defines.
    """
    os.setpgid(0, 0)
    _die_with_parent()
    _take_signals()
    setup: LaneSetup = pickle.loads(packed_setup)
    for descriptor in setup.close:
        os.close(descriptor)
    _redirect(setup.output, output)
    os.environ.clear()
    os.environ.update(setup.environ)
    faulthandler.disable()  # a crash is reported by the parent, in one line
    _lane.started = True
    _lane.board = memoryview(board).cast("B").cast("q")
    _lane.slot = slot
    _lane.setup = setup
    _lane.rule = IdRule(setup.id_field)
    try:
        os.chdir(setup.directory)
        if setup.spec is not None:
            _lane.resolved = resolve(setup.spec, setup.init)
            _lane.kwargs = pickle.loads(packed_kwargs)
            _initialize(_lane.resolved.init)
    except BatchmillError as error:
        _lane.error = error
    except BaseException as error:
        _lane.error = failure("starting a worker", error)


def _initialize(init: Callable[[], Any] | None) -> None:
    if init is None:
        return
    try:
        init()
    except BaseException as error:
        _lane.error = failure(f"--init {getattr(init, '__name__', init)}", error)


def hello() -> Ready:
    """Say that the lane is up, or why not."""
    return Ready(os.getpid(), "" if _lane.error or not _lane.setup.spec else _lane.resolved.source_digest, _lane.error)


def _die_with_parent() -> None:
    """No lane outlives the parent, not even inside C code that never lets go of the interpreter.

    On Linux the kernel itself kills the lane's group when the parent's end of the sentinel pipe closes (FAULTS.md row
    32: PR_SET_PDEATHSIG does not, for the parent of a lane is the fork server). Elsewhere a thread waits.
    """
    parent = parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel
    if sys.platform == "linux":
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(sentinel, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
        # A parent that died before this line sends no signal any more.
        poll = select.poll()
        poll.register(sentinel, select.POLLIN)
        if poll.poll(0):
            os._exit(1)
    else:
        threading.Thread(target=_exit_after, args=(sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait_for([sentinel])
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _nothing(signum: int, frame: object) -> None:
    """A handler, for SIG_IGN would be inherited by what items start."""


def _take_signals() -> None:
    # The parent decides when a lane stops: a terminal, `timeout` and systemd signal every process of a run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _nothing)
    signal.signal(signal.SIGHUP, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _redirect(output: str, inherited: Any) -> None:
    """Send stdout and stderr where the run wants them; `inherited` is a descriptor (or a DupFd) in place of stderr."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if output == "none":
        target = null
    elif output != "stderr":
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    elif inherited is None:
        target = 2
    else:
        target = inherited if isinstance(inherited, int) else inherited.detach()
    os.dup2(target, 1)
    os.dup2(target, 2)
    for extra in {null, target} - {0, 1, 2}:
        os.close(extra)
    # The fork server's own streams may be anything; a lane's are line-buffered text, and never raise for a character.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process, as the next
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115
            descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# Running a chunk


class _Reply:
    """The columns of a reply while it grows."""

    def __init__(self) -> None:
        self.ids: list[Any] = []
        self.results: list[bytes] = []
        self.failures: list[tuple[int, str, str, str, bytes | None]] = []
        self.seconds = array("f")
        self.contents = array("I")
        self.offsets = array("I")
        self.raws: list[bytes] = []
        self.size = 0
        self.blank = 0
        self.masked = False

    def fail(self, error: ItemError, raw: bytes) -> None:
        kept = raw if len(raw) <= MAX_KEPT_ITEM else None
        self.failures.append((len(self.results), error.type, error.message, error.traceback, kept))
        self.results.append(NIL)
        self.size += len(error.message) + len(error.traceback) + len(kept or b"")


def run_chunk(order: Order) -> tuple[bytes, Tally]:
    """Call the function on each record of a chunk: (OUTCOMES payload, what the parent must know of it).

    Stops before a record that the limit forbids, and after one that ends past the order's seconds or fills the reply.
    """
    chunk = order.chunk
    begun, started = time.perf_counter(), time.time()
    reply = _Reply()
    board, slot = _lane.board, 2 * _lane.slot
    number = (order.serial << RECORD_BITS) + 1
    deadline = begun + order.seconds if order.seconds else float("inf")
    records = _records(chunk)
    skip, last, done = chunk.skip, begun, 0
    run = _condemn if chunk.verdict is not None else _run_record
    try:
        for done, record in enumerate(records):
            if skip is not None and skip[done]:
                reply.masked = True
                continue
            board[slot] = number + done
            if number + done >= board[slot + 1]:
                break
            if not run(reply, chunk, done, record):
                continue
            now = time.perf_counter()
            reply.seconds.append(now - last)
            last = now
            if now > deadline or reply.size > MAX_REPLY:
                done += 1
                break
        else:
            done = chunk.records
    finally:
        board[slot] = 0
    return _close(reply, order, done, begun, started)


def _records(chunk: Chunk) -> Any:
    if isinstance(chunk.data, tuple):
        return chunk.data
    if chunk.records == 1 and chunk.verdict is not None:
        return [chunk.data]
    return formats.split_records(chunk.data, FORMATS[_lane.setup.format or "jsonl"].separator)


def _run_record(reply: _Reply, chunk: Chunk, offset: int, record: Any) -> bool:
    """Run one record into the reply; False for a blank one, or one of another shard."""
    found = _identify(chunk, offset, record)
    if found is None:
        return _pass_over(reply, record)
    id, raw, item, bad = found
    if bad is not None:
        reply.fail(ItemError(bad.type, bad.message), raw)
    else:
        try:
            packed = pack_result(_lane.resolved.function(item, **_lane.kwargs))
            if len(packed) + len(raw) * _lane.setup.with_item > MAX_FRAME_ITEM:
                raise ValueError("the result is larger than 64 MiB packed: write a file, and return its path")
            reply.results.append(packed)
            reply.size += len(packed)
        except BaseException as error:  # SystemExit and KeyboardInterrupt of an item cost that item
            reply.fail(_describe(error), raw)
    reply.ids.append(id)
    reply.contents.append(_content(raw, item))
    reply.offsets.append(offset)
    if _lane.setup.with_item:
        reply.raws.append(raw)
        reply.size += len(raw)
    return True


def _pass_over(reply: _Reply, record: Any) -> bool:
    if isinstance(record, bytes) and not FORMATS[_lane.setup.format or "jsonl"].trim(record):
        reply.blank += 1
    return False


def _condemn(reply: _Reply, chunk: Chunk, offset: int, record: Any) -> bool:
    """Fail a record with the chunk's verdict, without running it."""
    found = _identify(chunk, offset, record)
    if found is None:
        return _pass_over(reply, record)
    id, raw, item, _ = found
    assert chunk.verdict is not None
    reply.fail(chunk.verdict, raw)
    reply.masked = True  # what is kept of a record that is too long must not be taken for its block
    reply.ids.append(id)
    reply.contents.append(_content(raw, item))
    reply.offsets.append(offset)
    if _lane.setup.with_item:
        reply.raws.append(raw)
    return True


_Found = tuple[Any, bytes, Any, BadItem | None]


def _identify(chunk: Chunk, offset: int, record: Any) -> _Found | None:
    """(id, raw bytes, item, why it is none) of a record; None for a blank one, or one of another shard."""
    setup = _lane.setup
    if setup.format is None:
        found = _identify_object(chunk, offset, record)
    else:
        format = FORMATS[setup.format]
        raw = format.trim(record)
        if not raw:
            return None
        try:
            item = format.parse(raw)
            found = (_lane.rule.id_of(item, raw), raw, item, None)
        except BadItem as bad:
            found = (digest_id(raw), raw, None, bad)
    if setup.shard is not None and shard_of(found[0], setup.shard[1]) != setup.shard[0]:
        return None
    return found


def _identify_object(chunk: Chunk, offset: int, record: Any) -> _Found:
    if isinstance(record, ItemError):  # the parent could not pickle it
        return chunk.first + offset, b"", None, BadItem(record.type, record.message)
    try:
        item = pickle.loads(record)
    except Exception as error:
        sentence = f"the item cannot be read in a worker: {error}"
        return chunk.first + offset, b"", None, BadItem(type(error).__name__, sentence)
    try:
        raw = canonical(item)
    except (ValueError, TypeError) as error:
        if _lane.setup.ids_needed and chunk.ids is None and _lane.setup.id_field is None:
            sentence = f"{error}: give run(..., id=...)"
            return chunk.first + offset, b"", item, BadItem("ValueError", sentence)
        raw = b""
    if chunk.ids is not None:
        return _given_id(chunk.ids[offset], raw, item)
    try:
        id = _lane.rule.id_of(item, raw) if raw or _lane.setup.id_field else chunk.first + offset
    except BadItem as bad:
        return digest_id(raw), raw, item, bad
    return id, raw, item, None


def _given_id(id: Any, raw: bytes, item: Any) -> _Found:
    try:
        id_key(id)
    except (ValueError, TypeError) as error:
        return digest_id(raw), raw, item, BadItem("ValueError", f"the id given for this item cannot be kept: {error}")
    return id, raw, item, None


def _content(raw: bytes, item: Any) -> int:
    if _lane.setup.format == "files":
        return _content_of_file(item)
    return zlib.crc32(raw)


def _content_of_file(path: Any) -> int:
    """A file's content stands in for its bytes: size and time of change. Reading it twice would cost too much."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return zlib.crc32(b"%d %d" % (status.st_size, status.st_mtime_ns))


def _describe(error: BaseException) -> ItemError:
    """An exception as text of bounded length, whatever its methods do."""
    try:
        message = str(error)
    except BaseException:
        message = "(its message cannot be read)"
    return ItemError(type(error).__name__, _bounded(message, MAX_MESSAGE), _trace(error))


def _trace(error: BaseException) -> str:
    try:
        # The first frame is ours.
        shown = error.__traceback__.tb_next if error.__traceback__ is not None else None
        lines = traceback.TracebackException(type(error), error, shown, limit=-40, compact=True).format()
        text, size = [], 0
        for line in lines:
            text.append(_bounded(line, MAX_MESSAGE))
            size += len(text[-1])
            if size > MAX_TRACEBACK:
                break
        return _bounded("".join(text), MAX_TRACEBACK)
    except BaseException:
        return ""


def _bounded(text: str, limit: int) -> str:
    # surrogates would make the text unpackable for other readers of the file
    text = text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def _close(reply: _Reply, order: Order, done: int, begun: float, started: float) -> tuple[bytes, Tally]:
    chunk, setup = order.chunk, _lane.setup
    block = _block_of(chunk, done)
    failed = len(reply.failures)
    items = len(reply.ids)
    earlier = chunk.earlier or {}
    replaced = [(place, earlier[o]) for place, o in enumerate(reply.offsets) if o in earlier] if earlier else []
    shard, shards = setup.shard or (0, 0)
    head = Head(
        flags=MASKED if reply.masked else 0,
        lane=_lane.slot,
        run=setup.run,
        generation=order.generation,
        input=chunk.input,
        lines=done,
        items=items,
        ok=items - failed,
        failed=failed,
        blank=reply.blank,
        pid=os.getpid(),
        first=chunk.first,
        line=chunk.line,
        size=len(block),
        seconds=time.perf_counter() - begun,
        started=started,
        first_crc=_first_crc(block),
        shard=shard,
        shards=shards,
        digest=digest_block(block),
    )
    payload = pack_outcomes(
        head,
        reply.ids,
        reply.results,
        reply.failures,
        reply.seconds,
        reply.contents,
        None if len(reply.offsets) == done else reply.offsets,
        [(place, e.attempts + 1) for place, e in replaced if e.attempts],
        [(place, e.seq, e.place, e.attempts) for place, e in replaced],
        reply.raws if setup.with_item else None,
    )
    low, high = _span(reply.ids)
    tally = Tally(
        order.serial, done, items, items - failed, failed, reply.blank, head.seconds, len(block), low, high,
        _groups(reply, chunk.line),
    )  # fmt: skip
    return payload, tally


def _block_of(chunk: Chunk, done: int) -> bytes:
    if isinstance(chunk.data, tuple):
        return b""
    if done == chunk.records:
        return chunk.data
    separator = FORMATS[_lane.setup.format or "jsonl"].separator
    return chunk.data[: formats.cut(chunk.data, 0, done, separator)[0]]


def _first_crc(block: bytes) -> int:
    separator = FORMATS[_lane.setup.format or "jsonl"].separator
    end = block.find(separator)
    return zlib.crc32(block if end < 0 else block[:end])


def _span(ids: list[Any]) -> tuple[Any, Any]:
    kind = type(ids[0]) if ids else None
    if kind not in (int, str) or any(type(id) is not kind for id in ids):
        return None, None
    if all(map(_less, ids, ids[1:])):
        return ids[0], ids[-1]
    return None, None


def _less(a: Any, b: Any) -> bool:
    return bool(a < b)


def _groups(reply: _Reply, line: int) -> tuple[tuple[str, int, tuple[FailureExample, ...]], ...]:
    groups: dict[str, list[Any]] = {}
    for place, type, message, _, _ in reply.failures:
        group = groups.setdefault(type, [0, []])
        group[0] += 1
        if len(group[1]) < _GROUP_EXAMPLES:
            group[1].append(FailureExample(reply.ids[place], line + reply.offsets[place], message))
    return tuple((type, count, tuple(examples)) for type, (count, examples) in groups.items())


# Other orders


def scan_chunk(chunk: Chunk) -> Scan:
    """The typed ids and content checksums of a chunk's records, without running any."""
    keys: list[bytes | None] = []
    contents = array("I")
    for offset, record in enumerate(_records(chunk)):
        found = None if chunk.skip is not None and chunk.skip[offset] else _identify(chunk, offset, record)
        keys.append(None if found is None else id_key(found[0]))
        contents.append(0 if found is None else _content(found[1], found[2]))
    return Scan(keys, contents)


def render(order: RenderOrder) -> tuple[bytes, int]:
    """Outcomes as output bytes, and how many numbers JSON could not say (they became null)."""
    return render_order(order)
