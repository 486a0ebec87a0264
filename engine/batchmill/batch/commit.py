"""What happens to a worker's reply: into the checkpoint first, then to all who count on it.

It never opens a reply without a failed item, unless someone listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from batchmill.batch.committed import CommittedFrames
from batchmill.batch.duplicate_ids import Spans, count_repeats
from batchmill.batch.progress import Progress
from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.index import Piece
from batchmill.checkpoint.matching import Matcher
from batchmill.checkpoint.resume import NullCheckpoint
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import pack_map
from batchmill.errors import ResultNotKept
from batchmill.model import Chunk, Report, StopReason
from batchmill.output.writer import OutputWriter
from batchmill.scheduler.retrier import Retrier
from batchmill.scheduler.run_limits import FailureLimits
from batchmill.worker.reply import ReplySummary

Sink = Callable[[OutcomeBlock, "list[int] | None"], None]  # a block, and which of its outcomes are final (None: all)


class Committer:
    """Commits outcomes. `matcher` is None where nothing was done before, `output` where none was asked for."""

    def __init__(
        self,
        checkpoint: Checkpoint | NullCheckpoint,
        frames: CommittedFrames,
        *,
        limits: FailureLimits,
        matcher: Matcher | None,
        progress: Progress,
        retrier: Retrier,
        output: OutputWriter | None,
        sink: Sink | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._frames = frames
        self._limits = limits
        self._matcher = matcher
        self._progress = progress
        self._retrier = retrier
        self._output = output
        self._sink = sink
        self._spans = Spans()
        self._last_failed: OutcomeBlock | None = None
        self._waiting = 0  # failed items of this run that will be tried again, or are
        self._failed_before = 0  # outcomes of this run whose items had failed in an earlier one
        self._unkept = 0  # items of this run that failed because of what the function returned
        self.why_stopped = ""

    def commit(self, chunk: Chunk, payload: bytes, summary: ReplySummary) -> str | None:
        """Append a reply as it is, then tell everyone; a word for why the run must stop now, or None."""
        self.append_order(all=False)
        seq = self._frames.append(payload)
        block = OutcomeBlock(payload) if summary.failed or self._sink is not None else None
        waiting = self._retrier.take(chunk, seq, block) if summary.failed and block is not None else set()
        if summary.failed:
            self._last_failed = block
        self._waiting += len(waiting)
        self._count(chunk, summary)
        if self._output is not None:
            self._to_output(self._output, chunk, seq, summary, waiting)
        if self._sink is not None and block is not None and summary.items:
            self._sink(block, _final(block, waiting))
        return self._reason_to_stop()

    def _count(self, chunk: Chunk, summary: ReplySummary) -> None:
        first, end = chunk.first, chunk.first + summary.records
        replaced = {offset: earlier for offset, earlier in (chunk.earlier or {}).items() if offset < summary.records}
        again = {offset: earlier for offset, earlier in replaced.items() if self._frames.is_new(earlier.seq)}
        for offset, earlier in again.items():
            failure = self._frames.block(earlier.seq).failures[earlier.outcome]
            self._progress.forget(failure.type, chunk.line + offset, chunk.input)
        self._waiting -= len(again)
        self._progress.add(summary, chunk.input)
        self._unkept += sum(group.count for group in summary.groups if group.type == ResultNotKept.__name__)
        self._failed_before += sum(1 for earlier in replaced.values() if earlier.attempts) - len(again)
        for earlier in replaced.values():
            self._frames.replace(earlier)
        if summary.items and not again:
            whole = chunk.skip is None
            self._spans.add(first, end, summary.low if whole else None, summary.high if whole else None)

    def _to_output(
        self, output: OutputWriter, chunk: Chunk, seq: int, summary: ReplySummary, waiting: Iterable[int]
    ) -> None:
        if summary.items:
            output.add(Piece(0, chunk.first, chunk.first + summary.records, seq))
        settled = chunk.first
        for offset in sorted(waiting):  # an item that will be tried again holds back what comes after it
            output.settle(settled, chunk.first + offset)
            settled = chunk.first + offset + 1
        output.settle(settled, chunk.first + summary.records)

    def _reason_to_stop(self) -> str | None:
        ok, failed = self._progress.ok, self._progress.failed
        reason = self._limits.reason_to_stop(ok, failed, self._failed_before, self._waiting, self._unkept)
        if reason is None or self.why_stopped:
            return None
        self.why_stopped = reason
        if self._last_failed is not None:
            last = next(iter(self._last_failed.failures.values()))
            self.why_stopped += f"; the last one: {last.traceback.rstrip() or last.message}"
        return StopReason.MAX_FAILURES

    def settled(self, first: int, end: int) -> None:
        """The records at [first, end) need no run."""
        pieces = self._matcher.positions.pieces if self._matcher is not None else []
        if self._output is not None:
            for piece in pieces:
                self._output.add(piece)
            self._output.settle(first, end)
        pieces.clear()
        self.append_order(all=False)

    def strike(self, values: dict[str, Any]) -> None:
        """A record is charged with a crash: durable before it is tried again."""
        self._checkpoint.append(FrameType.STRIKE, pack_map(values))
        self._checkpoint.sync()

    def append_order(self, all: bool) -> None:
        """Write down what was found at another position, if there is enough of it, or `all` there is."""
        for order in self._matcher.positions.orders(all) if self._matcher else ():
            self._checkpoint.append(FrameType.ORDER, pack_map(order))

    def repeated(self, last: Report | None) -> int:
        """Occurrences of an id after its first, in this run's input as far as the checkpoint holds it; `last` is the
        report of the run before."""
        frames, fresh = self._frames, not len(self._frames.old)
        if isinstance(self._checkpoint, NullCheckpoint) or (fresh and self._spans.are_distinct):
            return 0
        if not fresh and last is not None and not len(frames.new) and not frames.old.removed.items:
            return last.repeated
        return count_repeats(frames.ids(), frames.old.items + frames.new.items)


def _final(block: OutcomeBlock, waiting: set[int]) -> list[int] | None:
    """The outcomes of a block that will not be tried again, by index; None: all of them."""
    if not waiting:
        return None
    return [index for index, offset in enumerate(block.offsets) if offset not in waiting]
