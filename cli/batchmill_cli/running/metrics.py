"""`--metrics FILE.prom`: how a run stands and ended, for node_exporter's textfile collector.

The file is replaced whole, by renaming. What must outlive a run (its last success, its last exit status) is carried
over from the earlier file. prometheus_client, an extra, is imported only here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from batchmill.errors import BatchmillError, CheckpointBusy, Interrupted, InvalidUsage, OutputLost
from batchmill.model import Report, Snapshot

if TYPE_CHECKING:
    from batchmill.batch.batch import Batch

SECONDS = 15.0  # between two files, as long as Prometheus mostly waits between two looks
LEAST_SECONDS = 1.0
LONGEST = 1 << 20  # characters read of an earlier file
PREFIX = "batchmill_"
# name, unit and _total included -> what it means
COUNTERS = {
    "items_total": "Items by state: completed or failed in this run, skipped because they were done before.",
}
GAUGES = {
    "input_items": "Items in the input, as far as it was read.",
    "remaining_items": "Items of the input that have no outcome.",
    "duration_seconds": "Wall time of the run.",
    "cpu_usage_cores": "Cores in use by parent and workers; over the whole run once it has ended.",
    "resident_memory_bytes": "Resident memory of parent and workers; the peak once the run has ended.",
    "checkpoint_bytes": "Size of the checkpoint.",
    "workers": "Worker processes.",
    "running": "Whether the run has not ended: 1 or 0.",
    "start_timestamp_seconds": "When the run began.",
    "exit_code": "Exit status of the last run that has ended.",
    "last_success_timestamp_seconds": "When a run last ended with exit status 0.",
}
CARRIED = ("exit_code", "last_success_timestamp_seconds")


class Metrics:
    """The metrics of one run: a context manager around it. `update` while it runs, `end` with its Report.

    Left by an exception, it notes the exit status. A run that did not get its turn leaves the file to who has it.
    Trouble with the file is told once, to `tell`.
    """

    def __init__(self, path: str, batch: Batch, interval: float | None, tell: Callable[[str], None]) -> None:
        _require()
        self._path = path
        self._batch = batch
        self._tell = tell
        self._interval = SECONDS if interval is None else max(interval, LEAST_SECONDS)
        self._due = 0.0
        self._started = time.time()
        self._is_told = False
        _check(path)
        self._label = _label(batch)
        self._carried = dict(_carried(path, self._label))

    def __enter__(self) -> Metrics:
        return self

    def update(self, snapshot: Snapshot) -> None:
        """Write how the run stands, if it is time to."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            self._write({**self._so_far(snapshot), "running": 1, **self._carried})

    def end(self, report: Report) -> None:
        """Write how the run ended."""
        seconds = report.seconds or 1.0
        values = {
            "completed": report.completed,
            "failed": report.failed,
            "skipped": report.skipped,
            **_known(report.total, report.remaining),
            "duration_seconds": report.seconds,
            "cpu_usage_cores": report.cpu_seconds / seconds,
            "resident_memory_bytes": report.peak_rss,
            "workers": report.workers,
        }
        self._ended(values, report.exit_code)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None or isinstance(error, (CheckpointBusy, Interrupted)):
            return
        code = error.exit_code if isinstance(error, BatchmillError) else BatchmillError.exit_code
        if isinstance(error, BrokenPipeError):
            code = 128 + signal.SIGPIPE
        self._ended(self._so_far(self._batch.snapshot()), code)

    def _so_far(self, snapshot: Snapshot) -> dict[str, float]:
        usage, total = snapshot.usage, snapshot.total
        values: dict[str, float] = {
            "completed": snapshot.done - snapshot.skipped - snapshot.failed,
            "failed": snapshot.failed,
            "skipped": snapshot.skipped,
            "duration_seconds": snapshot.elapsed,
            "workers": snapshot.workers,
        }
        values |= _known(total, None if total is None else total - snapshot.done)
        if usage is not None:
            values |= {"cpu_usage_cores": usage.cpu_percent / 100, "resident_memory_bytes": usage.rss}
        return values

    def _ended(self, values: Mapping[str, float], code: int) -> None:
        success = {"last_success_timestamp_seconds": time.time()} if code == 0 else {}
        self._write({**values, "running": 0, **self._carried, "exit_code": code, **success}, durable=True)

    def _write(self, values: dict[str, float], *, durable: bool = False) -> None:
        """Replace the file; `durable` waits for the disk, as the run itself must never do."""
        from batchmill.files.atomic_file import replacing

        checkpoint = self._batch.checkpoint_path
        if checkpoint and os.path.exists(checkpoint):
            values["checkpoint_bytes"] = os.path.getsize(checkpoint)
        values["start_timestamp_seconds"] = self._started
        try:
            with replacing(self._path, durable=durable) as file:  # not 0600: node_exporter is another user
                file.write(exposition(values, self._label))
        except OutputLost as error:
            if not self._is_told:
                self._tell(f"batchmill: {error.message}; the run goes on without metrics")
            self._is_told = True


def exposition(values: Mapping[str, float], batch: str) -> bytes:
    """The metrics in Prometheus' text format: those of the tables above whose values are there, labelled `batch`."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    class Collector:
        """Not the Counter and Gauge of prometheus_client: those would add when they were created."""

        def collect(self) -> Iterator[Any]:
            for name, text in COUNTERS.items():
                counter = CounterMetricFamily(PREFIX + name, text, labels=("batch", "state"))
                for state in ("completed", "failed", "skipped"):
                    counter.add_metric((batch, state), values[state])
                yield counter
            for name, text in GAUGES.items():
                if name in values:
                    gauge = GaugeMetricFamily(PREFIX + name, text, labels=("batch",))
                    gauge.add_metric((batch,), values[name])
                    yield gauge

    registry = CollectorRegistry()
    registry.register(Collector())
    return bytes(generate_latest(registry))


def _carried(path: str, batch: str) -> Iterator[tuple[str, float]]:
    """What the earlier file says and this run must not forget; nothing where there is none, or none of ours."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with open(path, encoding="utf-8") as file:
            families = list(text_string_to_metric_families(file.read(LONGEST)))
    except (OSError, ValueError):
        return
    for family in families:
        name = family.name.removeprefix(PREFIX)
        if name in CARRIED:
            yield from ((name, sample.value) for sample in family.samples if sample.labels.get("batch") == batch)


def _require() -> None:
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        remedy = "pip install 'batchmill[metrics]'"
        raise InvalidUsage("--metrics needs the package prometheus_client", remedy) from None


def _check(path: str) -> None:
    """Refuse, before anything starts, what could not be written."""
    if not path.endswith(".prom"):
        raise InvalidUsage(f"--metrics {path} does not end in .prom", "node_exporter reads no other files")
    folder = os.path.dirname(os.path.realpath(path))
    is_other = os.path.exists(path) and not os.path.isfile(path)
    if is_other or not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputLost(f"cannot write {path}", "--metrics needs a directory that is there and can be written to")


def _known(total: int | None, left: int | None) -> dict[str, float]:
    """What the size of the input is said by: nothing while it is not known."""
    return {} if total is None or left is None else {"input_items": total, "remaining_items": left}


def _label(batch: Batch) -> str:
    """The checkpoint's stem tells one batch from another; without one, the function's name."""
    name = batch.checkpoint_path or batch.plan.spec.name
    return os.path.splitext(os.path.basename(name))[0].encode("utf-8", "replace").decode()
