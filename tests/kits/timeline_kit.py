"""What tests share about timelines. Tests nothing."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpoint_kit import QuickDisk

from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.timeline import Timeline
from batchmill.checkpoint.timeline_reader import read_timeline
from batchmill.checkpoint.writer import Checkpoint
from batchmill.codec.outcomes import Head, pack_map, pack_outcomes
from batchmill.codec.pack import pack_value
from batchmill.model import Report, report_map

ZERO = 1_700_000_000.0


class Writer:
    """A checkpoint written by hand. Times are seconds since ZERO."""

    def __init__(self, path: Path) -> None:
        self.file = Checkpoint.create(str(path), {"function": "f"}, interval=None, disk=QuickDisk())
        self.number = 0
        self.first = 0

    def run(self, started: float, **facts: Any) -> None:
        self.number += 1
        values = {"run": self.number, "pid": 1, "host": "h", "started": ZERO + started, **facts}
        self.file.append(FrameType.RUN, pack_map(values))

    def outcomes(
        self, started: float, seconds: Sequence[float], *, failures: Failures | None = None, size: int = 1,
        replaces: Sequence[tuple[int, int, int, int]] = (), **head: Any,
    ) -> int:  # fmt: skip
        """A chunk whose items took these seconds; the frame's seq."""
        count, failed = len(seconds), failures or {}
        took = head.pop("took", math.fsum(seconds))
        values = Head(run=self.number, records=count, items=count, ok=count - len(failed), failed=len(failed), pid=100,
                      first=self.first, line=self.first + 1, seconds=took, started=ZERO + started)  # fmt: skip
        ids = [f"id{self.first + n}" for n in range(count)]
        self.first += count
        rows = [(n, type, message, f"Traceback of {message}", None) for n, (type, message) in sorted(failed.items())]
        packed = pack_value(b"x" * size)
        results = [b"\xc0" if n in failed else packed for n in range(count)]
        payload = pack_outcomes(values._replace(**head), ids, results, rows, array("f", seconds),
                                array("I", bytes(4 * count)), supersedes=replaces)  # fmt: skip
        return self.file.append(FrameType.OUTCOMES, payload).seq

    def sample(self, at: float, **values: Any) -> None:
        known = {"time": ZERO + at, "cpu_percent": 150.0, "rss": 1000, "parent_rss": 300, "total": 50}
        self.file.append(FrameType.SAMPLE, pack_map({**known, **values}))

    def end(self, at: float, *, stopped: str = "", total: int = 50) -> None:
        report = Report(
            started=ZERO, ended=ZERO + at, total=total, completed=0, skipped=0, failed=0, remaining=0, changed=0,
            repeated=0, blank=0, older_source=0, seconds=1.0, cpu_seconds=2.0, peak_rss=5000, workers=2,
            stopped=stopped, exit_code=3 if stopped else 0, function="f", checkpoint=None,
        )  # fmt: skip
        self.file.append(FrameType.END, pack_map({"run": self.number, "report": report_map(report)}))

    def timeline(self) -> Timeline:
        """Close it, and read it."""
        self.file.close()
        return read_timeline(self.file.path, clock=lambda: ZERO + 1e6)


Failures = Mapping[int, tuple[str, str]]
