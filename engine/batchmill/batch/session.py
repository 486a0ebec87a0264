"""What exists only while a batch runs: its parts, how they are joined, and what the run came to."""

from __future__ import annotations

import math
import os
import queue
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from typing import Any

from batchmill.batch.backend import LocalBackend
from batchmill.batch.commit import Committer, Sink
from batchmill.batch.committed import CommittedFrames
from batchmill.batch.exit_status import exit_status
from batchmill.batch.progress import Progress
from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.history import History
from batchmill.checkpoint.matching import Matcher
from batchmill.checkpoint.resume import NullCheckpoint, begin_run, open_checkpoint_for, patiently, seconds_of
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcomes import pack_map
from batchmill.errors import CheckpointUnwritable, OutputLost
from batchmill.input import formats
from batchmill.input.sources import ByteSource, Errand
from batchmill.model import Chunk, Report, Snapshot, StopReason, Wake, report_map
from batchmill.output.sinks import check_target
from batchmill.output.target import STDOUT
from batchmill.output.writer import KEPT, OutputWriter
from batchmill.plan import Plan
from batchmill.pool.processes import PATIENCE
from batchmill.pool.worker_limits import Limits
from batchmill.scheduler.backend import Backend, Wanted
from batchmill.scheduler.chunk_size import ChunkSizer
from batchmill.scheduler.farewell import Farewell
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.loop import TICK, Callbacks, Loop
from batchmill.scheduler.retrier import Retrier
from batchmill.scheduler.run_limits import FailureLimits, TimeLimit
from batchmill.scheduler.work_queue import WorkQueue
from batchmill.secrecy import mask_settings
from batchmill.system.machine import Monitor
from batchmill.text import as_reported, option, plural, several
from batchmill.worker.bootstrap import descriptors_above
from batchmill.worker.passthrough import Passing
from batchmill.worker.reply import ReplySummary
from batchmill.worker.sealer import Sealer

REMOVED_LIMIT = 5000  # ranges of outcomes in a frame that says which are of items removed from the input

RENUMBERED = (
    "Items stand at other places of INPUT than before, so {#} of what ran now may be that of an item done earlier, and"
    " a file named by it be written over; {} and fields stay the same"
)


class Session:
    """What exists only while a batch runs, for which the arguments are Batch's. Whatever happens, `stack` closes all
    that was opened."""

    def __init__(
        self,
        plan: Plan,
        events: queue.SimpleQueue[Any],
        stack: ExitStack,
        on_message: Callable[[str], None],
        *,
        began: float,
        cluster: Any = None,
        on_progress: Callable[[Snapshot], None] | None = None,
        sink: Sink | None = None,
        worker_output: int | None = None,
        passing: Passing | None = None,
        errand: Errand | None = None,
    ) -> None:
        self._plan = plan
        self._settings = plan.settings
        self._began = began
        self._events = events
        self._stack = stack
        self._on_message = on_message
        self._warnings: list[str] = []  # on results
        self._notes: list[str] = []  # on the run
        self._foreign = descriptors_above(2) if plan.settings.start_method == "fork" else []
        is_shared = cluster is None and not plan.settings.cluster_name
        self._source = plan.open_source(lambda: events.put(Wake()), self._warn, errand, is_shared=is_shared)
        stack.callback(self._source.close)
        if plan.output is not None:
            check_target(plan.output, plan.output_format)  # before --fresh moves a checkpoint aside
        self._prints = plan.open_prints(stack)
        self._backend = self._find_backend(cluster)  # a scheduler that cannot be reached leaves everything as it was
        stack.callback(self._backend.close)
        if plan.checkpoint is None and plan.output is None and not plan.settings.retries:  # a retry reads the item back
            self._checkpoint: Checkpoint | NullCheckpoint = NullCheckpoint()
            self._history = NullCheckpoint.history()
        else:
            self._checkpoint, self._history = self._open_checkpoint()
        stack.callback(self._checkpoint.close)
        self._limits = FailureLimits(plan.settings)
        self._number = self._history.next_run
        self._build(on_progress, sink, worker_output, passing)

    def _find_backend(self, cluster: Any) -> Backend:
        """Where the workers will be."""
        if cluster is None and not self._settings.cluster_name:
            return LocalBackend(self._plan, self._take_note, self._foreign)
        from batchmill.cluster.backend import DaskBackend

        return DaskBackend(self._plan, self._on_message, self._take_note, cluster)

    def _open_checkpoint(self) -> tuple[Checkpoint, History]:
        plan = self._plan
        limit, meta = self._settings.time_limit, plan.meta()
        return patiently(
            lambda: open_checkpoint_for(
                plan.checkpoint, meta, plan.settings, self._events.put, self._on_message, secrets=plan.secrets
            ),
            plan.checkpoint or "",
            self._events,
            self._on_message,
            wait=seconds_of(self._settings.wait),
            deadline=math.inf if limit is None else self._began + limit,
        )

    def begin(self) -> None:
        """Write down that a run begins: all that it needs is there."""
        index = self._history.index
        if len(index):
            total, (done, failed) = self._history.total, index.current
            of = f"{done}/{total}" if total is not None and total >= done + failed else f"{done} items"
            self._on_message(f"Resuming from checkpoint: {of} done, {failed} failed")
        if self._settings.preload:
            self._on_message(f"{self._backend.preloads()}: {', '.join(self._settings.preload)}")
        command = self._plan.command
        values = {
            "settings": mask_settings(self._settings.as_dict()),
            "input": list(self._plan.inputs),
            **({"files": list(self._plan.sources)} if self._plan.sources != self._plan.inputs else {}),
            "function": self._plan.spec.display,
            "path": self._plan.spec.path,
            **({"command": command.as_dict()} if command else {}),
            "directory": os.getcwd(),
            **({"output": self._plan.output} if self._plan.output is not None else {}),
            **self._backend.facts(),
            **({"source": self._plan.source_digest} if self._plan.source_digest else {}),
        }
        self._run = begin_run(self._checkpoint, self._history, values)
        if self._settings.rerun_older and not self._plan.source_digest:
            why = f"{self._plan.spec.display} has no source that can be read"
            self._warn(f"{option('rerun_older', True)} runs nothing again: {why}")
        older = 0 if self._settings.rerun_older else self._older_results()
        if older:
            were, them = ("result was", "it") if older == 1 else ("results were", "them")
            said = f"{older} {were} made by other source of {self._plan.spec.display} than it has now"
            self._warn(f"{said}; {option('rerun_older', True)} runs {them} again")

    # Parts

    def _build(
        self,
        on_progress: Callable[[Snapshot], None] | None,
        sink: Sink | None,
        worker_output: int | None,
        passing: Passing | None,
    ) -> None:
        """Make the parts and join them."""
        plan, settings = self._plan, self._settings
        self._frames = CommittedFrames(self._checkpoint, self._history.index)
        self._matcher = self._make_matcher()
        self._output = self._open_output()
        opened = self._backend.open(
            Wanted(
                self._number,
                self._events.put,
                self._on_message,
                TICK,
                output=self._output,
                prints=worker_output if self._prints is None else self._prints,
                lock=None if passing is None else passing.fileno(),
                keep=-1 if plan.checkpoint is None else self._checkpoint.fileno(),
            )
        )
        self._pool, self._output_maker = opened.pool, opened.output_maker
        self._farewell = Farewell(self._pool, self._events, self._take_note)
        if plan.end is not None:
            self._farewell.expect(within=settings.grace)
        self._stack.callback(self._pool.close, 0.0)
        self._stack.callback(self._output_maker.close)
        self.progress = self._make_progress(on_progress, opened.monitor)
        self._chunk_sizer = ChunkSizer(
            self._backend.workers,
            settings.chunk_size if isinstance(settings.chunk_size, int) else 1 if settings.now else None,
            settings.batch_size if isinstance(settings.batch_size, int) else 1,
        )
        divide = partial(formats.divide, format=plan.cut)
        self._in_flight = InFlight(divide, settings.crash_retries)
        retrier = Retrier(settings.retries, settings.retry_delay, self._in_flight, self._frames.block, plan.cut)
        self._committer = Committer(
            self._checkpoint,
            self._frames,
            limits=self._limits,
            matcher=self._matcher,
            progress=self.progress,
            retrier=retrier,
            output=self._output,
            sink=sink,
        )
        self._loop = self._make_loop(retrier, opened.limits)

    def _make_matcher(self) -> Matcher | None:
        if not len(self._history.index):
            return None
        by_block = self._plan.cut is not None and self._plan.cut.content_is_bytes
        older = self._history.older_runs(self._plan.source_digest) if self._settings.rerun_older else ()
        return Matcher(self._history.index, self._settings, lambda row: self._frames.block(row.seq), by_block, older)

    def _open_output(self) -> OutputWriter | None:
        target = self._plan.output
        if target is None:
            return None
        source = self._plan.format or "items"
        output = OutputWriter(target, self._plan.asked, self._frames, source=source)
        self._stack.callback(output.close, "nothing")
        return output

    def _make_progress(self, on_progress: Callable[[Snapshot], None] | None, monitor: Monitor) -> Progress:
        matcher = self._matcher
        return Progress(
            total=self._records,
            before=lambda: (matcher.skipped, matcher.failed) if matcher else (0, 0),
            append=self._checkpoint.append,
            on_progress=on_progress,
            interval=self._settings.progress_interval,
            shards=1 if self._settings.shard is None else self._settings.shard[1],
            files=several(self._plan.sources, self._plan.format),
            resumes=matcher is not None,
            monitor=monitor,
        )

    def _records(self) -> int | None:
        """Records of the input without the blank ones that resuming passed over, None where unknown."""
        total = self._source.total
        return None if total is None else total - (self._matcher.blank if self._matcher else 0)

    def _make_loop(self, retrier: Retrier, limits: Limits) -> Loop:
        settings, committer, index = self._settings, self._committer, self._history.index
        work_queue = WorkQueue(
            self._source,
            self._plan.cut,
            in_flight=self._in_flight,
            chunk_sizer=self._chunk_sizer,
            matcher=self._matcher,
            settled=committer.settled,
            limit=settings.limit,
        )
        callbacks = Callbacks(
            commit=self._commit,
            strike=committer.strike,
            generation=lambda: self._matcher.positions.generation if self._matcher else index.generation,
            message=self._on_message,
            ended=self._farewell.hear,
        )
        return Loop(
            pool=self._pool,
            events=self._events,
            work_queue=work_queue,
            in_flight=self._in_flight,
            chunk_sizer=self._chunk_sizer,
            limits=limits,
            retrier=retrier,
            progress=self.progress,
            output_maker=self._output_maker,
            sealer=Sealer(self._plan.identifier(), settings.shard, self._number, keeps_items=settings.with_item),
            callbacks=callbacks,
            window=settings.window,
            grace=settings.grace,
            start_timeout=settings.start_timeout,
            time_limit=self._make_time_limit(),
            is_brisk=settings.now,
        )

    def _make_time_limit(self) -> TimeLimit | None:
        seconds = self._settings.time_limit
        if seconds is None:
            return None
        output = None if self._output is None else self._history.index.size
        return TimeLimit(self._began + seconds, seconds, output, self._pool.kill_after)

    # While it runs

    def _commit(self, chunk: Chunk, payload: bytes, summary: ReplySummary) -> str | None:
        """As Committer.commit. On which host a worker is must be written down before what it did: the run may end."""
        hosts = self._backend.hosts()
        if hosts:
            self._checkpoint.append(FrameType.RUN, pack_map({"run": self._run["run"], "places": hosts}))
        return self._committer.commit(chunk, payload, summary)

    def _older_results(self) -> int:
        return self._history.older_results(self._plan.source_digest, self._frames.block)

    def _take_note(self, sentence: str) -> None:
        self._notes.append(sentence)
        self._on_message(sentence)

    def _warn(self, sentence: str) -> None:
        self._warnings.append(sentence)
        self._on_message(sentence)

    # The end

    def run(self) -> Report:
        """Begin, run the loop to its end, then write down and return the report; see `raise_error`."""
        self.begin()
        self._run_loop()
        try:
            self.progress.last_look(self._pool.pids)
            if not self._loop.is_cut_off:
                self._farewell.say()
            if self._loop.stopped or self._loop.error is not None:
                self._pool.close(0.0)
            self._pool.dismiss()  # they end while the last frames are written
            report = self._finish()
        except CheckpointUnwritable as error:
            raise self._with_count(error) from error
        except BaseException as error:
            error = self._loop.error or error  # one error may lead to another
            self._write_error(error)
            raise error from None
        self._pool.close(PATIENCE)
        return report

    def _write_error(self, error: BaseException) -> None:
        """Write down what ended the run in place of its report, where that can be."""
        with suppress(Exception):
            self._checkpoint.append(FrameType.RUN, pack_map({"run": self._number, "error": as_reported(error)}))

    def raise_error(self) -> None:
        """Raise what ended the run, where that was an error."""
        if self._loop.error is not None:
            raise self._loop.error

    def _run_loop(self) -> None:
        try:
            self._loop.run()
        except CheckpointUnwritable as error:
            raise self._with_count(error) from error
        except BaseException as error:  # raised when it is written down how far the run came
            self._loop.error = self._loop.error or error

    def _with_count(self, error: CheckpointUnwritable) -> CheckpointUnwritable:
        done = self.progress.ok + self.progress.failed
        are = "is" if done == 1 else "are"
        kept = f"{plural(done, 'outcome')} of this run {are} committed"
        return CheckpointUnwritable(f"{error.message} ({kept})", error.remedy)

    def _finish(self) -> Report:
        self._committer.append_order(all=True)
        if self._matcher is not None and self._source.ended and not self._stopped:
            self._append_removed(self._matcher)
        self._say_what_was_unusual()
        self._checkpoint.append(FrameType.SAMPLE, pack_map(self.progress.sample()))
        # The END frame then says that all before it is durable: damage there will not pass for a crash.
        self._checkpoint.sync()
        self._close_output()
        report = self._report()
        self._checkpoint.append(FrameType.END, pack_map({"run": self._number, "report": report_map(report)}))
        self._checkpoint.close()
        return report

    def _append_removed(self, matcher: Matcher) -> None:
        """Write down which outcomes no item of the input was found for, where there are any, or were before."""
        unmatched = map(list, matcher.unmatched())
        rows = list(islice(unmatched, REMOVED_LIMIT))
        is_due = bool(rows or self._history.index.removed.items)
        while is_due:
            self._history.note_removed(self._number, rows)
            self._checkpoint.append(FrameType.RUN, pack_map({"run": self._number, "removed": rows}))
            rows = list(islice(unmatched, REMOVED_LIMIT))
            is_due = bool(rows)

    @property
    def _stopped(self) -> str:
        return str(self._loop.stopped or (StopReason.ERROR if self._loop.error is not None else ""))

    def _close_output(self) -> None:
        if self._output is None:
            return
        keep = KEPT.get(self._stopped, "nothing")
        if not self._output.is_over:
            if keep == "partial":
                name = "stdout" if self._plan.output == STDOUT else f"{self._plan.output}.partial"
                self._warn(f"There was no time left to write what is done to {name}: the checkpoint has it")
            keep = "nothing"
        try:
            self._output.close(keep)
        except OutputLost as error:
            self._loop.error = self._loop.error or error

    def _say_what_was_unusual(self) -> None:
        before = self._history.runs.get(self._number - 1, {}).get("input", ())
        for sentence in self._matcher.of_changed(before, self._plan.inputs) if self._matcher else ():
            self._warn(sentence)
        if self._plan.has_numbers and self._matcher and self._matcher.positions.have_moved and self.progress.done:
            self._warn(RENUMBERED)
        for sentence in self._output.sentences if self._output is not None else ():
            self._warn(sentence)
        for sentence in self._source.left_out() if isinstance(self._source, ByteSource) else ():
            self._warn(sentence)
        if self._committer.why_stopped:
            self._warn(f"Stopped: {self._committer.why_stopped}")

    def _report(self) -> Report:
        total, stopped, error = self._total(), self._stopped, self._loop.error
        failed = self.progress.failed + (self._matcher.failed if self._matcher else 0)
        is_success = self._limits.is_success(failed, total or 0)
        return self.progress.report(
            total,
            changed=self._matcher.changed if self._matcher else 0,
            repeated=0 if stopped else self._committer.repeated(self._history.last_report),
            older_source=self._older_results(),
            workers=self._backend.workers,
            stopped=stopped,
            exit_code=exit_status(stopped, error, is_broken=self._loop.is_broken, is_success=is_success),
            function=self._plan.spec.display,
            checkpoint=self._plan.checkpoint,
            warnings=tuple(self._warnings),
            notes=tuple(self._notes),
            split_calls=self._loop.splits,
            batch_size=self._loop.batch_size,
            removed=self._history.index.removed.items,
            settings=mask_settings(self._settings.as_dict()),
            error=self._loop.said if error is None else as_reported(error),
        )

    def _total(self) -> int | None:
        """Items of the input: all of it was read, or it was counted."""
        if self._source.ended and not self._stopped and self._settings.shard is not None:
            return self.progress.done
        if isinstance(self._source, ByteSource):
            self._source.finish_counting()
        return self.progress.total
