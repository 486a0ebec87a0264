"""Dry runs: what a run would find done and what it would do, by reading alone.

It never starts a worker or writes.

The counts come from the run's own parts (source, identity, matcher), so that they are what the run itself would find.
Only the way by item is taken: all of the input is parsed here, and its records' failures to parse are counted too.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any

from batchmill.checkpoint.frames import Kind
from batchmill.checkpoint.history import History
from batchmill.checkpoint.index import Row
from batchmill.checkpoint.matching import Aside, Matcher
from batchmill.checkpoint.moved_aside import refuse_strangers
from batchmill.checkpoint.reader import Reader, damaged, exists_with_outcomes, naming, open_reader, refuse_live
from batchmill.checkpoint.resume import check_identity, refuse_in_the_way
from batchmill.codec.ids import id_key
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.errors import CheckpointRefused, ItemFailed, OutputLost
from batchmill.input.formats import line_at
from batchmill.input.items import Identified
from batchmill.input.sources import chunks_of
from batchmill.model import Chunk, IdScan
from batchmill.output.target import STDOUT
from batchmill.plan import Plan
from batchmill.secrecy import mask_addresses
from batchmill.settings import Settings
from batchmill.system.machine import worker_count
from batchmill.text import option
from batchmill.value_class import value_class
from batchmill.worker.template import Task

FIRST = 5  # items named that would run first
_SHOWN_MANY = 1000  # items of a command that is shown
_SHOWN_ASIDE = 1000  # items of which it is known at the end only whether they run, that have their command kept
_LOOK = 2000  # records looked at at once

# What becomes of the checkpoint.
NONE, NEW, CONTINUED, MOVED = "none", "new", "continued", "moved aside"


@value_class
class Coming:
    """An item that would run: its `id`, its 1-based `line` and the ordinal of its `input`; for a command, how it would
    run, with the first of the items that it covers."""

    id: Any
    line: int
    input: int
    command: str = ""


@value_class
class Unreadable:
    """A record that is no item: its 1-based `line`, the ordinal of its `input`, and why."""

    line: int
    input: int
    message: str


@value_class
class DryRun:
    """What a run would do.

    Of the `total` items of the input (of its shard), `done` have an ok result that stays, `changed` of these although
    their content is another now, and `older` results of any item were made by other code; `failed` failed in an earlier
    run, and run again if `retry_failed`. `to_do` items would run, at most --limit; `left` are those beyond it.
    `unreadable` records of the input are no items and would fail, the first of them `first_unreadable`. `first` are the
    first items that would run; `workers` those that there would be, on a cluster at most (0: it depends on what is
    there); `fate` is what becomes of the checkpoint;
    `renumbered` says that {#} of the command is another than it was, for items that are done.
    """

    total: int
    done: int
    changed: int
    older: int
    failed: int
    retry_failed: bool
    to_do: int
    left: int
    unreadable: int
    first_unreadable: Unreadable | None
    blank: int
    first: tuple[Coming, ...]
    format: str | None
    workers: int
    workers_from: str
    checkpoint: str | None
    fate: str
    renumbered: bool = False


def preview(plan: Plan, tell: Callable[[str], None] | None = None) -> DryRun:
    """Read the input and the checkpoint of a batch that is not run; `tell` gets what people should know of the input.

    Raises what the run would raise before its first item: InputMissing, CheckpointRefused (in the way, no such
    directory), CheckpointBusy, CheckpointMismatch, CheckpointDamaged, OutputLost; and InputBroken.
    """
    with naming(plan.checkpoint or ""), ExitStack() as stack:
        wake = threading.Event()
        source = plan.open_source(wake.set, tell)
        stack.callback(source.close)
        fate, matcher, older = _foresee(plan, stack)
        _check_folder(plan.output if plan.output != STDOUT else None)
        count = _Count(plan, matcher)
        for chunk in chunks_of(source, wake, _LOOK):
            count.add(chunk)
        count.settle()
    return _preview(plan, count, fate, older)


def _preview(plan: Plan, count: _Count, fate: str, older: int) -> DryRun:
    settings, matcher = plan.settings, count.matcher
    to_do = count.to_do if settings.limit is None else min(settings.limit, count.to_do)
    workers, source = _workers(settings)
    return DryRun(
        total=count.total,
        done=matcher.skipped if matcher else 0,
        changed=matcher.changed if matcher and not settings.rerun_changed else 0,
        older=older,
        failed=count.again + (matcher.failed if matcher else 0),
        retry_failed=settings.retry_failed,
        to_do=to_do,
        left=count.to_do - to_do,
        unreadable=count.unreadable,
        first_unreadable=count.first_unreadable,
        blank=count.blank,
        first=tuple(map(_with_command, count.first, count.commands(to_do))),
        format=plan.format,
        workers=workers,
        workers_from=source,
        checkpoint=plan.checkpoint,
        fate=fate,
        renumbered=plan.has_numbers and matcher is not None and matcher.positions.have_moved,
    )


def _with_command(item: Coming, command: str) -> Coming:
    return replace(item, command=command)


def _workers(settings: Settings) -> tuple[int, str]:
    if not settings.cluster_name:
        return worker_count(settings.workers)
    return settings.workers if isinstance(settings.workers, int) else 0, mask_addresses(settings.cluster_name)


class _Count:
    """Items of the input as they are found. `again` counts those that failed before and would run again."""

    def __init__(self, plan: Plan, matcher: Matcher | None) -> None:
        self._identifier = plan.identifier()
        self._format = plan.cut
        self._command = plan.command
        self._template = plan.command.template(plan.format) if plan.command else None
        self.matcher = matcher
        self._tasks: list[Task | None] = []  # of the items that a command is shown for; None: no item
        self._batch = plan.settings.batch_size if isinstance(plan.settings.batch_size, int) else 1
        self._aside: list[tuple[Aside, Any, Task | None]] = []
        self.total = self.again = self.to_do = self.unreadable = self.blank = 0
        self.first: list[Coming] = []
        self.first_unreadable: Unreadable | None = None

    def add(self, chunk: Chunk) -> None:
        """Hold the records of a chunk against the checkpoint."""
        identifier = self._identifier
        records = identifier.records(chunk)
        seen = (identifier.identify(chunk, offset, record) for offset, record in enumerate(records))
        found = [None if fields is None else Identified(*fields) for fields in seen]
        items = [item for item in found if item is not None]
        self.total += len(items)
        if len(items) < len(found):
            self.blank += sum(map(identifier.is_blank, records))
        skip = self._match(self.matcher, chunk, found) if self.matcher else None
        for offset, item in enumerate(found):
            if item is None:
                continue
            why = chunk.condemned or item.bad
            if why is not None:
                self.unreadable += 1
                if self.first_unreadable is None:
                    line = line_at(chunk, offset, self._format)
                    self.first_unreadable = Unreadable(line, chunk.input, why.message)
            if not (skip and skip[offset]):
                self._will_run(chunk, offset, item.id, item.item if item.bad is None else None)

    def _will_run(self, chunk: Chunk, offset: int, id: Any, task: Task | None) -> None:
        self.to_do += 1
        if len(self._tasks) < FIRST + min(self._batch, _SHOWN_MANY):
            self._tasks.append(task)
        if len(self.first) < FIRST:
            line = line_at(chunk, offset, self._format)
            self.first.append(Coming(id, line, chunk.input))

    def commands(self, to_do: int) -> Iterator[str]:
        """For each of the first items how the command would run that begins with it, or why none would; "" for a
        function, and where it is among the others of a command."""
        for number, _ in enumerate(self.first[:to_do]):
            covered = self._tasks[number : min(number + self._batch, to_do)] if number % self._batch == 0 else []
            yield self._command_for([task for task in covered if task is not None])

    def _command_for(self, tasks: list[Task]) -> str:
        if self._command is None or self._template is None or not tasks:
            return ""
        try:
            return self._command.shown_for(tasks, self._template)
        except ItemFailed as failed:
            return f"none: {failed.error.message}"

    def _match(self, matcher: Matcher, chunk: Chunk, found: Sequence[Identified | None]) -> bytes | None:
        keys = [None if item is None else id_key(item.id) for item in found]
        contents = array("I", (0 if item is None else item.content for item in found))
        masked, aside = matcher.match(chunk, IdScan(keys, contents))
        self.again += sum(1 for earlier in (masked.earlier or {}).values() if earlier.attempts)
        for offset, key in aside:
            item = found[offset]
            line = line_at(chunk, offset, self._format)
            alone = Chunk(chunk.first + offset, line, chunk.input, 1, b"")
            task = item.item if item is not None and item.bad is None and len(self._aside) < _SHOWN_ASIDE else None
            self._aside.append((Aside(alone, key), item.id if item is not None else None, task))
        matcher.positions.pieces.clear()
        for _ in matcher.positions.orders():
            pass  # nothing is written here
        return masked.skip

    def settle(self) -> None:
        """After the end of the input: decide the records whose id is known and whose content is not."""
        for aside, id, task in self._aside:
            assert self.matcher is not None
            chunk = self.matcher.settle(aside)
            if chunk is not None:
                self.again += sum(1 for earlier in (chunk.earlier or {}).values() if earlier.attempts)
                self._will_run(chunk, 0, id, task)


# The checkpoint


def _foresee(plan: Plan, stack: ExitStack) -> tuple[str, Matcher | None, int]:
    """What becomes of the checkpoint, its outcomes if they count, and how many of other code stay; raises as `resume`
    would."""
    path, settings = plan.checkpoint, plan.settings
    if path is None:
        return NONE, None, 0
    is_taken = exists_with_outcomes(path)
    refuse_live(path)
    if is_taken and not (settings.fresh or settings.resume):
        refuse_in_the_way(path, plan.meta(), settings, plan.secrets)
    if not is_taken:
        _check_folder_of_checkpoint(path)
        return NEW, None, 0
    if settings.fresh:
        refuse_strangers(path, settings.keep)
        return MOVED, None, 0
    reader = stack.enter_context(open_reader(path))
    check_identity(path, reader.meta, plan.meta(), settings, plan.secrets)
    history = _history(reader)
    if settings.fresh_if_finished and history.is_finished:
        refuse_strangers(path, settings.keep)
        return MOVED, None, 0
    read = _reading(reader)
    older = 0
    if not settings.rerun_older:
        older = history.older_results(plan.source_digest, lambda seq: read(history.index.row_of(seq)))
    return CONTINUED, _matcher(plan, read, history), older


def _history(reader: Reader) -> History:
    history = History()
    scan = reader.scan(verify=True)
    for ref, peek in scan:
        history.note(ref, peek)
    if scan.verdict is not None and scan.verdict.kind is Kind.CORRUPT:
        raise damaged(reader.path, scan.verdict)
    history.load(reader.payload)
    return history


def _reading(reader: Reader) -> Callable[[Row], OutcomeBlock]:
    @lru_cache(maxsize=8)
    def read(row: Row) -> OutcomeBlock:
        return OutcomeBlock(reader.payload(row.ref))

    return read


def _matcher(plan: Plan, read: Callable[[Row], OutcomeBlock], history: History) -> Matcher:
    older = history.older_runs(plan.source_digest) if plan.settings.rerun_older else ()
    matcher = Matcher(history.index, plan.settings, read, by_block=False, older=older)
    matcher.load_ids()
    return matcher


def _check_folder_of_checkpoint(path: str) -> None:
    why = _trouble_with_folder(path)
    if why:
        raise CheckpointRefused(f"cannot create {path}: {why}", f"name another file with {option('checkpoint')}")


def _check_folder(output: str | None) -> None:
    why = _trouble_with_folder(output) if output is not None and not os.path.exists(output) else ""
    if output is not None and os.path.isdir(output):
        why = "it is a directory"
    if why:
        raise OutputLost(f"cannot write {output}: {why}", f"check the path given to {option('output')}")


def _trouble_with_folder(path: str) -> str:
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        return f"{folder} is not a directory"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"no permission to write in {folder}"
