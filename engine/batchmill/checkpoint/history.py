"""What a checkpoint says of earlier runs, taken in frame by frame: the one reader of RUN, SAMPLE and END frames.

(`reader.holder_of` looks for no more than who wrote the last RUN frame, in a file that may be damaged.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchmill.checkpoint.frames import FrameRef, FrameType
from batchmill.checkpoint.index import Index
from batchmill.checkpoint.payloads import check, read_map
from batchmill.codec.outcome_block import OutcomeBlock
from batchmill.codec.outcomes import SUPERSEDES, read_head
from batchmill.model import Report, report_of
from batchmill.text import several


@dataclass
class History:
    """What a checkpoint says of earlier runs: their RUN maps and the reports at their `ends`, by run, and the index of
    outcomes.

    `sample` is the last SAMPLE of the last run, `tried` the outcomes by run and worker. `index.removed` is what the
    last run that read its input to the end said of it.
    """

    index: Index = field(default_factory=Index)
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    ends: dict[int, Report] = field(default_factory=dict)
    sample: dict[str, Any] | None = None
    tried: Counter[tuple[int, int]] = field(default_factory=Counter)
    _small: list[FrameRef] = field(default_factory=list)
    _removed_by: int = 0  # the run that said what was removed

    def note(self, ref: FrameRef, peek: bytes) -> None:
        """Take in a frame as a scan shows it; what needs its whole payload is read by `load`."""
        if ref.type == FrameType.OUTCOMES:
            head = read_head(peek)
            self.index.add(ref.seq, ref.offset, ref.length, head)
            self.tried[head.run, head.worker] += head.items
            if head.flags & SUPERSEDES:
                self._small.append(ref)
        elif ref.type not in (FrameType.META, FrameType.GAP):
            self._small.append(ref)

    def take(self, ref: FrameRef, payload: bytes) -> None:
        """Take in a frame at once; raises CheckpointDamaged, and then nothing was taken in."""
        check(ref.type, payload)
        if ref.type == FrameType.OUTCOMES:
            self.index.add_replaced(ref.seq, OutcomeBlock(payload).supersedes)
            self.note(ref, payload)
            self._small.clear()
        elif ref.type not in (FrameType.META, FrameType.GAP):
            self._load(ref, read_map(ref.type, payload))

    def load(self, read: Callable[[FrameRef], bytes], block: Callable[[FrameRef], OutcomeBlock] | None = None) -> None:
        """Read the frames that `note` put off; `block` gives those of outcomes where not all of them is to be read."""
        for _ in self.maps(read, block):
            pass

    def maps(
        self, read: Callable[[FrameRef], bytes], block: Callable[[FrameRef], OutcomeBlock] | None = None
    ) -> Iterator[tuple[FrameType, dict[str, Any]]]:
        """The same, giving the map of each frame that has one when it was taken in."""
        small, self._small = self._small, []
        for ref in small:
            if ref.type == FrameType.OUTCOMES:
                found = OutcomeBlock(read(ref)) if block is None else block(ref)
                self.index.add_replaced(ref.seq, found.supersedes)
            else:
                values = read_map(ref.type, read(ref))
                self._load(ref, values)
                yield FrameType(ref.type), values

    def _load(self, ref: FrameRef, values: dict[str, Any]) -> None:
        if ref.type == FrameType.RUN:
            if values["run"] not in self.runs:
                self.sample = None  # what it said was of another run, perhaps of another input
            if "removed" in values:
                self.note_removed(values["run"], values.pop("removed"))
            run = self.runs.setdefault(values["run"], {})
            hosts = {**run.get("places", {}), **values.get("places", {})}
            run.update({**values, "places": hosts} if hosts else values)
        elif ref.type == FrameType.END:
            self.ends[values["run"]] = report_of(values["report"])
        elif ref.type == FrameType.SAMPLE:
            self.sample = values
        elif ref.type == FrameType.ORDER:
            self.index.add_order(values, ref.seq)

    def note_removed(self, run: int, rows: Sequence[Sequence[int]]) -> None:
        """A run says, perhaps in several parts, which outcomes are of items that its input does not have: as
        Index.add_removed. Raises CheckpointDamaged."""
        self.index.add_removed(rows, anew=run != self._removed_by)
        self._removed_by = run

    def older_runs(self, source: str) -> frozenset[int]:
        """The runs whose code is known to be other than that of `source` ("": not known)."""
        if not source:
            return frozenset()
        return frozenset(run for run, values in self.runs.items() if values.get("source") not in (source, None))

    def older_results(self, source: str, read: Callable[[int], OutcomeBlock]) -> int:
        """How many ok results, of items that were not removed, were made by other code than that of `source`; `read`
        gives the frame of a number."""
        runs, count = self.older_runs(source), 0
        for row in self.index if runs else ():
            if row.run in runs:
                gone = self.index.not_current(row.seq)
                lost = {*gone, *read(row.seq).failures} if gone and row.failed else max(row.failed, len(gone))
                count += row.items - (lost if isinstance(lost, int) else len(lost))
        return count

    @property
    def hosts(self) -> dict[str, int]:
        """How many outcomes were made on which host ("?" where a cluster's is unknown), the most first, with those that
        were replaced later."""
        found: Counter[str] = Counter()
        for (run, worker), items in self.tried.items():
            values = self.runs.get(run, {})
            home = "?" if "cluster" in values else values.get("host", "?")
            found[values.get("places", {}).get(str(worker), home)] += items
        return dict(found.most_common())

    def file_of(self, run: int, number: int, format: str) -> str:
        """The name of the INPUT with that number in that run, where there were several, of that format; else ""."""
        return file_in(self.runs.get(run, {}), number, format)

    @property
    def next_run(self) -> int:
        """The number of the run that begins next."""
        return max(self.runs, default=0) + 1

    @property
    def last_report(self) -> Report | None:
        """The report of the last run, None where it has none (it is live, or was killed)."""
        return self.ends.get(max(self.runs, default=0))

    @property
    def is_finished(self) -> bool:
        """Whether the last run came to the end of its input."""
        last = self.last_report
        return last is not None and not last.stopped

    @property
    def total(self) -> int | None:
        """Items in the input, as far as any run knew."""
        last = self.last_report
        if last is not None and not last.stopped:
            return last.total
        return self.sample.get("total") if self.sample else None


def file_in(run: Mapping[str, Any], number: int, format: str) -> str:
    """The name of the INPUT with that number in a run (its RUN map), where there were several, of that format."""
    files = several(run.get("files") or run.get("input") or (), format)
    return files[number] if number < len(files) else ""
