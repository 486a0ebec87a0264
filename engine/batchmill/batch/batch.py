"""A batch from its plan to its report, as others have it: run it, stop it, ask how it stands.

    function, items, Settings --> Plan --> Batch.run: Session (source, checkpoint, workers, loop) --> Report
                                              |
                  api.run() -----------------'   api.stream() and api.map(): the same batch, in a thread of its own

Start reading here, then `session` (the parts, and how they are joined), `scheduler.loop` (what happens while it runs),
`commit` (what becomes of a reply), `worker.records` (what happens in a worker), `checkpoint.matching` (resume).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from batchmill.batch.commit import Sink
from batchmill.batch.session import Session
from batchmill.checkpoint.reader import naming
from batchmill.input.sources import Errand
from batchmill.model import Report, Snapshot, Stop, StopReason
from batchmill.plan import Plan
from batchmill.text import as_reported
from batchmill.worker.passthrough import Passing


class Batch:
    """One batch, as `plan` says what to call, on what, and where its checkpoint and output go. `run` it once.

    `sink` gets each committed block, in the loop's thread. A time limit counts from `began` (monotonic seconds; now).
    `worker_output_fd` is where workers write what items print, in place of stderr; `passing` takes what the commands of
    a CommandSpec print. `cluster` is a dask.distributed Client whose nodes are to have the workers. `errand` has the
    caller's thread do something.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        worker_output_fd: int | None = None,
        sink: Sink | None = None,
        began: float | None = None,
        passing: Passing | None = None,
        cluster: Any = None,
        errand: Errand | None = None,
    ) -> None:
        self.plan = plan
        self.checkpoint_path = self.plan.checkpoint
        self._worker_output_fd = worker_output_fd
        self._sink = sink
        self._began = time.monotonic() if began is None else began
        self._passing = passing
        self._cluster = cluster
        self._errand = errand
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._session: Session | None = None
        self._error: BaseException | None = None  # what a listener has raised
        self.report: Report | None = None

    def stop(self, reason: str = "SIGTERM", *, insist: bool = False) -> None:
        """Ask the run to stop: let running items end, or (`insist`) kill them. Safe in signal handlers and threads."""
        self._events.put(Stop(reason, insist))

    def stop_for(self, error: BaseException, insist: bool = False) -> None:
        """As `stop`, because of what was raised around the run: the report says which error it was."""
        if isinstance(error, KeyboardInterrupt):
            self._events.put(Stop("SIGINT", insist))
        else:
            self._events.put(Stop(StopReason.ERROR, insist, as_reported(error)))

    def snapshot(self) -> Snapshot:
        """How the run stands now."""
        session = self._session
        return Snapshot(0, None, 0, 0, 0.0, None, 0.0, 0) if session is None else session.progress.snapshot()

    def run(
        self,
        on_progress: Callable[[Snapshot], None] | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> Report:
        """Run to the end, or until stopped; the report. `on_message` gets one plain line for what a person should know.

        Raises BatchmillError for what ends a batch before its items are through, and what the iterable of items or a
        listener raised: what ran is committed then, all is closed, and `report` has the report, if anything had begun.
        Failed items do not raise. KeyboardInterrupt must not come in here (see own_thread).
        """
        try:
            with naming(self.plan.checkpoint or ""), ExitStack() as stack:
                say = self._listened(on_message)
                self._session = session = Session(
                    self.plan,
                    self._events,
                    stack,
                    say,
                    began=self._began,
                    cluster=self._cluster,
                    on_progress=None if on_progress is None else self._listened(on_progress),
                    sink=self._sink,
                    worker_output=self._worker_output_fd,
                    passing=self._passing,
                    errand=self._errand,
                )
                self.report = session.run()
                session.raise_error()
        finally:
            if self._error is not None:
                raise self._error
        return self.report

    def _listened(self, listener: Callable[[Any], None] | None) -> Callable[[Any], None]:
        """The listener, until it raises: that stops the run, and is raised when it has ended."""

        def tell(value: Any) -> None:
            if listener is not None and self._error is None:
                try:
                    listener(value)
                except BaseException as error:
                    self._error = error
                    self.stop_for(error)

        return tell
