"""The frozen values that modules hand to each other."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol

from batchmill.errors import ItemError, ItemsFailed
from batchmill.secrecy import mask_settings
from batchmill.text import format_clock, format_rate, format_size, plural
from batchmill.value_class import frozen_value_class, value_class

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # which type checkers have with them

    Result = TypeVar("Result", default=Any)
else:
    from typing import TypeVar

    Result = TypeVar("Result")

MAX_PAYLOAD = 72 << 20  # a result of 64 MiB, and what was in the reply before it


Entry = tuple[int, int]  # (frame seq, index of the outcome in it): the identity of a committed outcome


class Earlier(NamedTuple):
    """The committed outcome that a new one for the same item will replace, and how often the item was tried.

    `sealed`: it cost workers to open it. It is tried once more, and the first worker that it costs now is the last.
    """

    seq: int
    outcome: int
    attempts: int
    sealed: bool = False


class RangeFile(Protocol):
    """A local file of which workers read parts by themselves (`input/ranges.py`)."""

    @property
    def path(self) -> str:
        """Its absolute path, when it was opened."""

    def read(self, start: int, size: int) -> tuple[bytes, bytes]:
        """The byte before `start`, b"" where records begin there, and the `size` bytes from there on; raises OSError,
        InputBroken."""


@value_class
class FileRange:
    """A block that was not kept: `size` bytes from `start` on of a file, which whoever wants them reads."""

    file: RangeFile
    start: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> FileRange:
        start, end, _ = part.indices(self.size)
        return FileRange(self.file, self.start + start, max(0, end - start))


class Chunk(NamedTuple):
    """Consecutive records on their way to a worker.

    `first` is the position of the first record in the whole input, `line` its 1-based number within the INPUT with
    ordinal `input`. `data` is a block of `records` records, or the range of a file where it is, or for Python items a
    tuple of their pickles (an ItemError for one that could not be pickled), with `ids` where the caller gave them.
    `header` is the first row of a table, without its end, under which the block's rows stand. `skip` has a non-zero
    byte for each record that is not to be run. `earlier` tells, by offset in the chunk, which committed outcome a
    record replaces. `losses` counts the workers that died over this chunk without naming an item; `crashes` those
    that a single record was charged with; `condemned` is the error of a condemned record: it is not run, but failed
    with it. `sealed`: not even opened any more, not for its id either. `scan`: its records are opened for their ids,
    and not run. `numbers` are the records' 1-based numbers in the whole input, where they do not follow from `first` (a
    sample's). `alone`: nothing else is to run on its machine meanwhile, for that may be lost with it, or have too
    little memory. `single`: the function is called on each record by itself, for a call that covered them all failed.
    """

    first: int
    line: int
    input: int
    records: int
    data: bytes | FileRange | tuple[Any, ...]
    skip: bytes | None = None
    earlier: Mapping[int, Earlier] | None = None
    ids: tuple[Any, ...] | None = None
    losses: int = 0
    crashes: int = 0
    condemned: ItemError | None = None
    header: bytes = b""
    numbers: tuple[int, ...] | None = None
    alone: bool = False
    scan: bool = False
    sealed: bool = False
    single: bool = False

    @property
    def to_run(self) -> int:
        """Records of it that are to be run."""
        return 0 if self.scan else self.to_open

    @property
    def was_sealed(self) -> bool:
        """Whether it is one record that was sealed in an earlier run."""
        return self.records == 1 and any(earlier.sealed for earlier in (self.earlier or {}).values())

    @property
    def to_open(self) -> int:
        """Records of it that are not masked out."""
        return self.records - (len(self.skip) - self.skip.count(0) if self.skip is not None else 0)


@frozen_value_class
class Outcome(Generic[Result]):
    """What became of one item.

    `id` is what resume matches on. `ok` says whether `result` or `error` counts; a command that failed has both.
    `seconds` is the time the function took, `attempts` how often it was called for this item, `line` the 1-based line
    (or ordinal) in its input, `input` the ordinal of that input; `file` is its name, where a checkpoint is read and
    there were several. `item` is what the function was called with, where that was kept (a failed item up to 64 KiB,
    any item with `with_item`), else None; `raw` its bytes: of a table's row, its header and it, a line each.
    """

    id: Any
    ok: bool
    result: Result = None  # type: ignore[assignment]  # of an outcome that is not ok
    error: ItemError | None = None
    seconds: float = 0.0
    attempts: int = 1
    line: int = 0
    input: int = 0
    item: Any = None
    file: str = ""
    raw: bytes | None = None


@frozen_value_class
class FailureExample:
    """One failed item of a group: its `id`, its 1-based `line` and the error's message; `file` is the INPUT that the
    line is of, where there were several."""

    id: Any
    line: int
    message: str
    file: str = ""


@frozen_value_class
class FailureGroup:
    """Failed items that share an error type: how many, and the first five of them."""

    type: str
    count: int
    examples: tuple[FailureExample, ...]


@frozen_value_class
class Usage:
    """A resource sample of the parent and its workers: CPU in percent of one core, resident memory in bytes.

    `machines` is how many workers of a cluster the workers are on; 0 where they are here.
    """

    cpu_percent: float
    rss: int
    parent_rss: int
    load: float = 0.0
    machines: int = 0


@frozen_value_class
class Snapshot:
    """How a run stands at one moment. `str()` of it is the progress line (without colours or escapes).

    `done` counts the items with an outcome now, whichever run made it; `skipped` those done before this run; `failed`
    those failed in this run. `total` is None while the input's length is not known; `estimate` is then about how many
    items there are in a shard, where that can be told. `rate` (items/s) and `eta` (seconds, None where unknown) come
    from this run's items only. `elapsed` is seconds since the start.
    """

    done: int
    total: int | None
    failed: int
    skipped: int
    rate: float
    eta: float | None
    elapsed: float
    workers: int
    usage: Usage | None = None
    estimate: int | None = None

    def __str__(self) -> str:
        counts = f"{self.done} done"
        if self.total is not None:
            counts = f"{self.done}/{self.total} {self._percent(self.total, 1.0)}"
        elif self.estimate is not None:
            counts = f"{self.done}/~{self.estimate} {self._percent(self.estimate, 0.999)}"
        parts = [counts, f"{self.failed} failed", f"{format_rate(self.rate)}/s"]
        if self.eta is not None:
            parts.append(f"ETA {format_clock(self.eta)}")
        machine = f"{self.workers}w"
        if self.usage is not None and self.usage.machines:
            machine = f"{plural(self.usage.machines, 'worker')} {plural(self.workers, 'thread')}"
        if self.usage is not None:
            machine += f" cpu {self.usage.cpu_percent:.0f}% rss {format_size(self.usage.rss)}"
        return " | ".join([*parts, machine])

    def _percent(self, total: int, most: float) -> str:
        # 100.0% is said only when it is true: 99.96% must not round up to it.
        share = most if self.done >= total else min(self.done / total, 0.999)
        return f"{100 * share:.1f}%"


@frozen_value_class
class Report:
    """What a run says at its end. Times are seconds since the epoch, sizes bytes.

    `total` is the number of items in this run's input; `completed` those with an ok result made now; `skipped` those
    done before; `failed` those that failed now; `remaining` those not tried. In a run that ended early, `total` and
    `remaining` are None where the input was not counted: a pipe, an iterable, a large file in its first seconds.
    `changed` counts done items that kept their old result although their content changed, `repeated` the occurrences of
    an id after its first, `blank` the empty lines passed over, `older_source` the results made by other source of the
    function, `removed` the outcomes in the checkpoint of items that the last complete input did not have. `stopped`
    names what ended the run early ("" when it ran to the end): "limit", "SIGINT", …. `split_calls` counts the calls of
    several items that failed, so that each of these was called by itself, `batch_size` is how many items a call had at
    last (0: always one). `warnings` are sentences on results that are not what they seem, `notes` on the run. `error`
    is the type and message of the error that ended it, where one did.
    """

    started: float
    ended: float
    total: int | None
    completed: int
    skipped: int
    failed: int
    remaining: int | None
    changed: int
    repeated: int
    blank: int
    older_source: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    workers: int
    stopped: str
    exit_code: int
    function: str
    checkpoint: str | None
    failures: tuple[FailureGroup, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    notes: tuple[str, ...] = ()
    removed: int = 0
    split_calls: int = 0
    batch_size: int = 0

    def __repr__(self) -> str:
        done, of = self.completed + self.skipped, "" if self.total is None else f"/{self.total}"
        parts = [f"{done}{of} ok", f"{self.failed} failed", f"{self.seconds:.1f} s"]
        parts += [f"stopped: {self.stopped}"] if self.stopped else []
        parts += [self.checkpoint] if self.checkpoint else []
        return f"<Report of {self.function}: {', '.join(parts)}>"

    @property
    def rate(self) -> float:
        """Items tried in this run per second of wall time."""
        return (self.completed + self.failed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def success_rate(self) -> float:
        """Share (0 to 1) of the items with an outcome that are ok; 1.0 where there are none."""
        tried = self.completed + self.skipped + self.failed
        return (self.completed + self.skipped) / tried if tried else 1.0

    def raise_for_failures(self) -> None:
        """Raise `ItemsFailed`, naming the first of them, if any item failed."""
        if self.failed:
            first = self.failures[0] if self.failures else None
            example = f": {first.type}: {first.examples[0].message}" if first and first.examples else ""
            failed = str(self.failed) if self.total is not None else plural(self.failed, "item")
            of = f" of {plural(self.total, 'item')}" if self.total is not None else ""
            raise ItemsFailed(f"{failed}{of} failed{example}")


class StopReason(StrEnum):
    """What ends a run early, where it is no signal: those have their names (`SIGTERM`)."""

    LIMIT = "limit"  # --limit items were tried
    MAX_FAILURES = "max-failures"
    TIME_LIMIT = "time-limit"
    STOP = "stop"  # the program asked for it
    SECONDS = "seconds"  # of a round of a benchmark
    OUTPUT = "output"  # what commands print cannot be passed on
    LEFT = "left"  # the reader of the outcomes stopped reading
    ERROR = "error"


class Stop(NamedTuple):
    """A request to stop: `reason` is a signal's name or a word; `insist` kills what is running.

    `error` says which, where the reason is an error.
    """

    reason: str
    insist: bool
    error: str = ""


class Wake(NamedTuple):
    """New input may be there."""


class IdScan(NamedTuple):
    """What a worker read off a chunk: per record the typed id (None: blank, or another shard's) and content
    checksum."""

    keys: list[bytes | None]
    contents: array[int]


def report_map(report: Report) -> dict[str, Any]:
    """A Report as an END frame keeps it."""
    values = {one.name: getattr(report, one.name) for one in fields(report)}
    values["failures"] = [
        [group.type, group.count, [[e.id, e.line, e.message, e.file] for e in group.examples]]
        for group in report.failures
    ]
    values |= {"warnings": list(report.warnings), "notes": list(report.notes)}
    values["settings"] = dict(report.settings)
    return values


def report_of(values: dict[str, Any]) -> Report:
    """The Report that `report_map` made into a map; fields it does not know are left out."""
    known = {one.name: values[one.name] for one in fields(Report) if one.name in values}
    known["failures"] = tuple(
        FailureGroup(type, count, tuple(FailureExample(*example) for example in examples))
        for type, count, examples in values["failures"]
    )
    known |= {name: tuple(values.get(name, ())) for name in ("warnings", "notes")}
    if "settings" in known:
        known["settings"] = mask_settings(known["settings"])
    return Report(**known)
