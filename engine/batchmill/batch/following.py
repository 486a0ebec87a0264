"""Who follows a run from Python: its listeners, the progress line, whoever stops it or interrupts it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batchmill.batch.batch import Batch
from batchmill.batch.progress_line import ProgressLine, line_for
from batchmill.errors import BatchmillError, Stopped
from batchmill.model import Report, Snapshot, StopReason
from batchmill.text import plural

_running: weakref.WeakSet[Batch] = weakref.WeakSet()


class Followers:
    """What is told of a run: `on_progress` gets snapshots, the last one always, `on_message` lines. `progress`: a line
    is shown (True), or not (False), or where somebody looks ("auto")."""

    def __init__(
        self,
        progress: bool | str = False,
        on_progress: Callable[[Snapshot], None] | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        line = line_for(progress)
        self._line = None if line is None else ProgressLine(line)
        self._on_progress, self._on_message = on_progress, on_message

    def run(self, batch: Batch) -> Report:
        """Run the batch, as `Batch.run`."""
        is_followed = self._line is not None or self._on_progress is not None
        _running.add(batch)
        try:
            return batch.run(self._tell if is_followed else None, self._on_message)
        finally:
            _running.discard(batch)
            if batch.report is not None:
                self._tell_last(batch.snapshot())

    def _tell(self, snapshot: Snapshot) -> None:
        if self._line is not None:
            self._line.tell(snapshot)
        self._call(snapshot)

    def _tell_last(self, snapshot: Snapshot) -> None:
        if self._line is not None:
            self._line.close(snapshot)
        self._call(snapshot)

    def _call(self, snapshot: Snapshot) -> None:
        if self._on_progress is not None:
            try:
                self._on_progress(snapshot)
            except BaseException:
                self._on_progress = None  # that ends the run, and is raised when it has ended
                raise


def stop(*, insist: bool = False) -> int:
    """Stop all batches that this process runs, from whatever thread; how many those are.

    What runs gets `grace` seconds to end (`insist`: none); what was done is committed. Their report says "stop".
    """
    found = list(_running)
    for batch in found:
        batch.stop(StopReason.STOP, insist=insist)
    return len(found)


@contextmanager
def explained(batch: Batch) -> Iterator[None]:
    """Have what is raised meanwhile, such as KeyboardInterrupt, say what was kept."""
    try:
        yield
    except BatchmillError:
        raise
    except BaseException as error:
        if batch.report is not None:
            error.add_note(f"batchmill: {what_was_done(batch.report)}")
        raise


def what_was_done(report: Report) -> str:
    """How far a run came, and where that is."""
    done = report.completed + report.skipped + report.failed
    of = f"{done} of {plural(report.total, 'item')}" if report.total is not None else plural(done, "item")
    are = "is" if done == 1 else "are"
    if report.checkpoint is None:
        return f"{of} {are} done; nothing is kept, for no checkpoint was given"
    return f"{of} {are} done, and kept in {report.checkpoint}: resume=True continues"


def refuse_part(report: Report | None) -> None:
    """Raise Stopped where a run ended before its items did, which nobody asked for by a number."""
    if report is not None and report.stopped in (StopReason.STOP, StopReason.TIME_LIMIT):
        done = report.completed + report.failed
        of = f" of {report.total}" if report.total is not None else ""
        raise Stopped(
            f"the map was stopped ({report.stopped}) when {done}{of} items were done",
            "batchmill.run(..., checkpoint=...) keeps what is done",
        )
