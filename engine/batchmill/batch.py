"""Owns a batch from its arguments to its report. Joins all the rest; never works on an item itself.

    function, items, Settings --> Batch.run: source, checkpoint (resume), pool, loop --> Report
                                    |
         api.run() ----------------'   api.stream() and api.map(): the same batch, in a thread of its own

Start reading here, then `loop` (what happens while it runs), `worker` (what happens in a lane), `matching` (resume).
"""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from batchmill import formats
from batchmill.chunking import Pace
from batchmill.codec import Block, pack_map, pack_value, read_head
from batchmill.errors import CheckpointUnwritable, InvalidUsage, NotGuarded
from batchmill.formats import FORMATS, IdRule
from batchmill.framing import FrameRef, FrameType
from batchmill.function import of_callable, parse
from batchmill.index import Index, Piece, Row
from batchmill.intake import Intake
from batchmill.ledger import Ledger
from batchmill.loop import Loop, Stop, Wake
from batchmill.matching import Matcher
from batchmill.model import Chunk, Report, Snapshot
from batchmill.output import Output
from batchmill.pool import Pool
from batchmill.repeats import Spans, count_repeats
from batchmill.reply import Tally
from batchmill.resources import raise_descriptor_limit, thread_caps, usable_cores, worker_count
from batchmill.resume import History, Nowhere, begin_run, default_name, open_checkpoint_for
from batchmill.settings import Settings
from batchmill.source import ByteSource, ItemSource, Source
from batchmill.tracker import Tracker, report_map
from batchmill.version import __version__
from batchmill.worker import LaneSetup, in_lane

_PATIENCE = 1.0  # seconds that idle workers get to end by themselves
_CACHED = 8  # decoded frames kept while the input is matched

Sink = Callable[[Block], None]


def _silent(_: Any) -> None:
    """No listener."""


class Batch:
    """One batch: what to call, on what, and where its checkpoint and output go. `run` it once.

    `function` is a callable or a name ("tasks:score", "score.py:score"). `inputs` is a list of paths (`-` for stdin)
    where `items` is None. `checkpoint` None means the default name, unless `no_checkpoint`. `output` is a path or "-".
    `id` gives an item's id (Python items only). Raises what the checks of its arguments raise: nothing has begun then.
    """

    def __init__(
        self,
        function: Callable[..., Any] | str,
        inputs: Sequence[str] = (),
        *,
        items: Iterable[Any] | None = None,
        settings: Settings | None = None,
        checkpoint: str | None = None,
        no_checkpoint: bool = False,
        output: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        init: Callable[[], Any] | str | None = None,
        id: Callable[[Any], Any] | None = None,
        name: str | None = None,
        worker_output_fd: int | None = None,
        sink: Sink | None = None,
    ) -> None:
        if in_lane():
            raise NotGuarded(
                "this script starts a batch while a worker imports it",
                'put what starts the batch under `if __name__ == "__main__":`',
            )
        self.settings = settings or Settings()
        self.spec = parse(function, os.getcwd()) if isinstance(function, str) else of_callable(function, name)
        self._init = init if not callable(init) else of_callable(init)
        self._init = self._init or self.settings.init
        self._inputs = list(inputs)
        self._items = items
        self._kwargs = {**self.settings.set, **(kwargs or {})}
        self._id = id
        self._output = output
        self._worker_output_fd = worker_output_fd
        self._sink = sink
        self._no_checkpoint = no_checkpoint
        self._default_name = checkpoint is None and not no_checkpoint
        self._format = self._choose_format()
        self.checkpoint_path = None if no_checkpoint else self._checkpoint_path(checkpoint)
        self._check_names()
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tracker: Tracker | None = None

    # Arguments

    def _choose_format(self) -> str | None:
        """The format of the INPUTs, None for Python items; raises InvalidUsage."""
        if self._items is not None:
            return None
        if self.settings.format != "auto":
            return self.settings.format
        if "-" in self._inputs:
            raise InvalidUsage("the format of stdin is not known", "give --format jsonl, lines or files")
        for name in self._inputs:
            if os.path.isdir(name):
                raise InvalidUsage(f"{name} is a directory", "give --format files to make each file below it an item")
        found = {formats.format_of(name): name for name in self._inputs}
        if len(found) > 1:
            raise InvalidUsage(f"the INPUTs are of different formats ({', '.join(found)})", "run them one by one")
        return next(iter(found))

    def _checkpoint_path(self, checkpoint: str | None) -> str:
        if checkpoint is not None:
            return os.path.abspath(checkpoint)
        if "-" in self._inputs:
            raise InvalidUsage("stdin gives the checkpoint no name", "give -c FILE, or --no-checkpoint")
        return os.path.abspath(default_name(self._inputs[0], self.spec.name.rpartition(".")[2]))

    def _check_names(self) -> None:
        """Refuse INPUT, output and checkpoint being one file; an unnamed function needs a name for its checkpoint."""
        files = {"the checkpoint": self.checkpoint_path, "the output": self._output if self._output != "-" else None}
        seen = {_inode(name): name for name in self._inputs if name != "-"}
        seen.pop(None, None)
        for what, path in files.items():
            inode = path and _inode(path)
            if inode and inode in seen:
                raise InvalidUsage(f"{what} {path} is the same file as {seen[inode]}", "name another file")
            if inode and path:
                seen[inode] = path
        if self.checkpoint_path and not self.spec.named:
            raise InvalidUsage("a lambda or an object has no name that a checkpoint could belong to", "give name=...")

    def _meta(self) -> dict[str, Any]:
        rule = "callable" if self._id is not None else IdRule(self.settings.id_field).name
        return {
            "function": self.spec.identity,
            "command": None,
            "set": {key: _kept(value) for key, value in self._kwargs.items()},
            "format": self._format or "items",
            "id_rule": rule,
            "input": [name if name == "-" else os.path.abspath(name) for name in self._inputs],
            "default_name": self._default_name,
            "engine": __version__,
            "created": time.time(),
            "host": os.uname().nodename,
        }

    # Running

    def stop(self, reason: str = "SIGTERM", *, insist: bool = False) -> None:
        """Ask the run to stop: let running items end, or (`insist`) kill them. Safe in signal handlers and threads."""
        self._events.put(Stop(reason, insist))

    def snapshot(self) -> Snapshot:
        """How the run stands now."""
        if self._tracker is None:
            return Snapshot(0, None, 0, 0, 0.0, None, 0.0, 0)
        return self._tracker.snapshot()

    def run(
        self,
        on_progress: Callable[[Snapshot], None] | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> Report:
        """Run to the end, or until stopped; the report. `on_message` gets one plain line for what a person should know.

        Raises BatchmillError for what ends a batch before its items are through, what the iterable of items raised, and
        KeyboardInterrupt after committing what was done. Failed items do not raise.
        """
        with ExitStack() as stack:
            session = _Session(self, stack, on_progress, on_message or _silent)
            return session.run()

    def notify(self) -> None:
        """Wake the loop: new input may be there."""
        self._events.put(Wake())


class _Session:
    """What exists only while a batch runs. Everything opened is closed by `stack`, whatever happens."""

    def __init__(
        self,
        batch: Batch,
        stack: ExitStack,
        on_progress: Callable[[Snapshot], None] | None,
        on_message: Callable[[str], None],
    ) -> None:
        self._batch = batch
        self._settings = settings = batch.settings
        self._on_message = on_message
        self._warnings: list[str] = []
        self._source = self._open_source()
        stack.callback(self._source.close)
        self._checkpoint, self._history = self._open_checkpoint()
        stack.callback(self._checkpoint.close)
        self._index = self._history.index
        self._new = Index()  # the frames of this run, for the output
        workers, self._workers_source = worker_count(settings.workers)
        self._workers = raise_descriptor_limit(workers)
        if self._workers < workers:
            self._warn(f"Only {self._workers} of {workers} workers fit under the limit of open files (ulimit -n)")
        self._run = self._begin()
        self._matcher = self._make_matcher()
        self._output = self._open_output(stack)
        self._spans = Spans()
        self._tracker = batch._tracker = self._make_tracker(on_progress)
        self._pace = Pace(self._workers, settings.chunk_size if isinstance(settings.chunk_size, int) else None)
        separator = FORMATS[batch._format].separator if batch._format else b"\n"
        self._ledger = Ledger(partial(formats.divide, separator=separator))
        self._pool = self._make_pool()
        stack.callback(self._pool.close, 0.0)
        self._loop = self._make_loop()

    # Parts

    def _open_source(self) -> Source:
        batch = self._batch
        if batch._items is not None:
            return ItemSource(batch._items, batch._id, batch.notify)
        return ByteSource(batch._inputs, FORMATS[batch._format or ""], batch.notify)

    def _open_checkpoint(self) -> tuple[Any, History]:
        batch = self._batch
        if batch.checkpoint_path is None and batch._output is None:
            return Nowhere(), History()
        checkpoint, history = open_checkpoint_for(
            batch.checkpoint_path, batch._meta(), self._settings, batch._events.put, self._on_message
        )
        return checkpoint, history

    def _begin(self) -> dict[str, Any]:
        index, batch = self._index, self._batch
        if len(index):
            total = self._history.total
            done = index.items - index.failed
            of = f"{done}/{total}" if total is not None else f"{done} items"
            self._on_message(f"Resuming from checkpoint: {of} done, {index.failed} failed")
        values = {
            "settings": self._settings.as_dict(),
            "input": batch._inputs,
            "function": batch.spec.display,
            "workers": self._workers,
        }
        return begin_run(self._checkpoint, self._history, values)

    def _make_matcher(self) -> Matcher | None:
        if not len(self._index):
            return None
        by_block = self._batch._format is not None and FORMATS[self._batch._format].content_is_bytes
        return Matcher(self._index, self._settings, _cached(self._checkpoint, self._index), by_block)

    def _open_output(self, stack: ExitStack) -> Output | None:
        batch = self._batch
        if batch._output is None:
            return None
        output = Output(
            batch._output,
            self._settings.output_format,
            self._settings.with_item,
            lambda seq: self._checkpoint.read(self._ref(seq)),
            lambda seq: frozenset(self._index.gone.get(seq, ())),
        )
        stack.callback(output.close, "nothing")
        return output

    def _ref(self, seq: int) -> FrameRef:
        index = self._new if len(self._new) and seq >= self._new.row(0).seq else self._index
        return _ref_of(index.row(index.number(seq)))

    def _make_tracker(self, on_progress: Callable[[Snapshot], None] | None) -> Tracker:
        matcher = self._matcher
        return Tracker(
            total=self._records,
            before=lambda: (matcher.skipped, matcher.failed) if matcher else (0, 0),
            append=self._checkpoint.append,
            on_progress=on_progress,
            interval=self._settings.progress_interval,
            is_sharded=self._settings.shard is not None,
        )

    def _records(self) -> int | None:
        """Records of the input without the blank ones that resuming passed over, None where unknown."""
        total = self._source.total
        return None if total is None else total - (self._matcher.blank if self._matcher else 0)

    def _make_pool(self) -> Pool:
        batch, settings = self._batch, self._settings
        cores, _ = usable_cores()
        forked = settings.start_method == "fork"
        setup = LaneSetup(
            spec=batch.spec,
            init=batch._init,
            format=batch._format,
            id_field=settings.id_field,
            shard=settings.shard,
            with_item=settings.with_item,
            run=self._run["run"],
            ids_needed=batch.checkpoint_path is not None,
            environ={**thread_caps(self._workers, cores, os.environ), **os.environ},
            directory=os.getcwd(),
            output=settings.worker_output,
            close=(self._checkpoint.fileno(),) if forked and batch.checkpoint_path else (),
        )
        return Pool(
            setup,
            batch._kwargs,
            self._workers,
            batch._events.put,
            start_method=settings.start_method,
            preload=settings.preload,
            output=batch._worker_output_fd,
        )

    def _make_loop(self) -> Loop:
        settings, batch = self._settings, self._batch
        intake = Intake(
            self._source,
            FORMATS[batch._format] if batch._format else None,
            ledger=self._ledger,
            pace=self._pace,
            matcher=self._matcher,
            settled=self._settled,
            limit=settings.limit,
        )
        self._intake = intake
        return Loop(
            pool=self._pool,
            events=batch._events,
            intake=intake,
            ledger=self._ledger,
            pace=self._pace,
            tracker=self._tracker,
            output=self._output,
            commit=self._commit,
            strike=self._strike,
            generation=lambda: self._matcher.generation if self._matcher else self._index.generation,
            on_ready=self._lanes_are_up,
            on_message=self._on_message,
            window=settings.window,
            grace=settings.grace,
            start_timeout=settings.start_timeout,
        )

    # While it runs

    def _commit(self, chunk: Chunk, payload: bytes, tally: Tally) -> None:
        """A lane's reply goes into the checkpoint as it is; then everyone who counts is told."""
        self._append_order(all=False)
        ref: FrameRef = self._checkpoint.append(FrameType.OUTCOMES, payload)
        self._tracker.add(tally)
        end = chunk.first + tally.lines
        if chunk.skip is None and tally.items:
            self._spans.add(chunk.first, end, tally.low, tally.high)
        elif tally.items:
            self._spans.add(chunk.first, end, None, None)
        for offset, earlier in (chunk.earlier or {}).items():
            if offset < tally.lines:
                self._index.gone.setdefault(earlier.seq, set()).add(earlier.place)
        self._new.add(ref.seq, ref.offset, ref.length, read_head(payload))
        if self._output is not None:
            if tally.items:
                self._output.add(Piece(0, chunk.first, end, ref.seq))
            self._output.settle(chunk.first, end)
        if self._batch._sink is not None and tally.items:
            self._batch._sink(Block(payload))

    def _strike(self, values: dict[str, Any]) -> None:
        """A record is charged with a crash: durable before it is tried again."""
        self._checkpoint.append(FrameType.STRIKE, pack_map(values))
        self._checkpoint.sync()

    def _settled(self, first: int, end: int) -> None:
        if self._output is not None:
            self._place_found()
            self._output.settle(first, end)

    def _place_found(self) -> None:
        """Hand what the matcher has found in this input so far to the output."""
        if self._output is not None and self._matcher is not None:
            for piece in self._matcher.placed:
                self._output.add(piece)
            self._matcher.placed.clear()

    def _append_order(self, all: bool) -> None:
        order = self._matcher.order(all) if self._matcher else None
        if order is not None:
            self._checkpoint.append(FrameType.ORDER, pack_map(order))

    def _lanes_are_up(self, source: str) -> None:
        run = {"run": self._run["run"], "source": source}
        self._checkpoint.append(FrameType.RUN, pack_map(run))
        self._run["source"] = source
        older = self._older_results()
        if older:
            self._warn(f"{older} results were made by other source of {self._batch.spec.display} than it has now")

    def _older_results(self) -> int:
        source = self._run.get("source")
        if not source:
            return 0
        runs = self._history.runs
        return sum(
            n for r, n in self._history.items_by_run.items() if runs.get(r, {}).get("source") not in (source, None)
        )

    def _warn(self, sentence: str) -> None:
        self._warnings.append(sentence)
        self._on_message(sentence)

    # The end

    def run(self) -> Report:
        interrupted = self._run_loop()
        self._tracker.last_look(self._pool.pids)
        self._pool.close(0.0 if self._loop.stopped else _PATIENCE)
        try:
            report = self._finish()
        except CheckpointUnwritable as error:
            raise self._with_count(error) from error
        if interrupted:
            raise KeyboardInterrupt
        if self._loop.error is not None:
            raise self._loop.error
        return report

    def _run_loop(self) -> bool:
        """Run the loop to its end; whether KeyboardInterrupt asked for it."""
        interrupted = False
        while True:
            try:
                self._loop.run()
                return interrupted
            except KeyboardInterrupt:
                interrupted = True
                self._loop.interrupt()
            except CheckpointUnwritable as error:
                raise self._with_count(error) from error

    def _with_count(self, error: CheckpointUnwritable) -> CheckpointUnwritable:
        done = self._tracker.ok + self._tracker.failed
        return CheckpointUnwritable(f"{error.message} ({done} outcomes of this run are committed)", error.remedy)

    def _finish(self) -> Report:
        self._append_order(all=True)
        stopped = self._loop.stopped or ("error" if self._loop.error is not None else "")
        changed = self._matcher.changed if self._matcher else 0
        if changed and not self._settings.rerun_changed:
            self._warn(f"{changed} changed items kept their old result; --rerun-changed runs them again")
        if self._output is not None and self._output.odd:
            self._warn(f"{self._output.odd} numbers that JSON cannot say (NaN, infinity) were written as null")
        report = self._tracker.report(
            self._total(),
            changed=changed,
            repeated=self._repeated() if not stopped else 0,
            older_source=self._older_results(),
            workers=self._workers,
            stopped=stopped,
            exit_code=self._exit_code(stopped),
            function=self._batch.spec.display,
            checkpoint=self._batch.checkpoint_path,
            warnings=tuple(self._warnings),
            settings=self._settings.as_dict(),
        )
        end = {"run": self._run["run"], "report": report_map(report)}
        self._checkpoint.append(FrameType.SAMPLE, pack_map(self._tracker.sample()))
        # The END frame then says that all before it is durable: damage there will not pass for a crash.
        self._checkpoint.sync()
        self._checkpoint.append(FrameType.END, pack_map(end))
        self._checkpoint.close()
        if self._output is not None:
            self._output.close({"": "whole", "limit": "partial"}.get(stopped, "nothing"))
        return report

    def _total(self) -> int:
        done = self._tracker.done
        if self._settings.shard is not None:
            return done
        records = self._records()
        if records is None:
            records = self._source.position - (self._matcher.blank if self._matcher else 0)
        return max(done, records - self._tracker.blank)

    def _exit_code(self, stopped: str) -> int:
        if stopped.startswith("SIG"):
            return 128 + int(signal.Signals[stopped])
        if stopped:
            return 3
        failed = self._tracker.failed + (self._matcher.failed if self._matcher else 0)
        return 1 if failed else 0

    def _repeated(self) -> int:
        """Occurrences of an id after its first, in this run's input as far as the checkpoint holds it."""
        last = self._history.last_report
        fresh = not len(self._index)
        if fresh and self._spans.are_distinct:
            return 0
        if not fresh and last is not None and not self._tracker.ok + self._tracker.failed:
            return int(last["repeated"])
        if isinstance(self._checkpoint, Nowhere):
            return 0
        rows = (index.row(number) for index in (self._index, self._new) for number in range(len(index)))
        total = self._index.items + self._new.items
        columns = (Block(self._checkpoint.read(_ref_of(row))).ids for row in rows)
        gone = sum(len(places) for places in self._index.gone.values())
        return max(0, count_repeats(columns, total) - gone)


def _ref_of(row: Row) -> FrameRef:
    return FrameRef(row.seq, row.offset, row.length, FrameType.OUTCOMES)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _kept(value: Any) -> Any:
    """A keyword argument as the checkpoint's identity keeps it: itself, or its type where it cannot be packed."""
    try:
        pack_value(value)
    except (ValueError, TypeError):
        return f"{type(value).__module__}.{type(value).__qualname__}"
    return value


def _cached(checkpoint: Any, index: Index) -> Callable[[Row], Block]:
    """Decoded frames by row, the last few kept: neighbouring items mostly lie in the same frame."""
    kept: dict[int, Block] = {}

    def read(row: Row) -> Block:
        block = kept.pop(row.seq, None)
        if block is None:
            block = Block(checkpoint.read(_ref_of(row)))
        kept[row.seq] = block
        if len(kept) > _CACHED:
            del kept[next(iter(kept))]
        return block

    return read
