"""One batch under faults: starting it with them, waiting for its end, and the oracle.

The oracle is that of the fault tests (tests/fault_kit.py), but counts breaches instead of stopping at the first.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fault_kit import CHECKPOINT, PROGRAM, Ended, Run, committed, prepare, running, strikes, undisturbed, witnessed
from process_kit import is_fork_server, parent_of, processes, send

from batchmill import Outcome
from batchmill.checkpoint.frames import Kind
from batchmill.checkpoint.reader import Reader
from batchmill.errors import BatchmillError

LIMIT = 60.0  # seconds that a run may take: the longest take five
OUTPUT = "out.jsonl"
LOG = "strace.log"
ARGUMENTS = ("f.py:work", "items.jsonl", "-c", CHECKPOINT, "--resume", "-o", OUTPUT)
FINE, KILLED = 0, -signal.SIGKILL
BROKEN_DISK = (73, 74)  # 73: before there was a checkpoint

Steps = Iterator[float]  # does something whenever it is resumed, yields the seconds until then


@dataclass(frozen=True)
class Means:
    """What this machine offers: a program, a library, a cgroup with half a core; `delay`: seconds of a slow sync."""

    strace: str | None
    faketime: Path | None
    quota: Path | None
    delay: float
    lacks: tuple[str, ...]


@dataclass
class ReplySummary:
    """What came out of a row. `wrong` counts breaches that are no loss, no second run and no hang."""

    trials: int = 0
    faults: int = 0
    items: int = 0
    lost: int = 0
    again: int = 0
    hangs: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def figures(self) -> tuple[int, ...]:
        """As the table has them."""
        return (self.trials, self.faults, self.items, *self._bad)

    @property
    def breaches(self) -> int:
        """Everything that must not be."""
        return sum(self._bad)

    @property
    def _bad(self) -> tuple[int, int, int, int]:
        return (self.lost, self.again, self.hangs, self.wrong)


@dataclass(frozen=True)
class Fault:
    """What is done to a run. `statuses`: those it may end with besides 0; `inject` is one expression of strace's."""

    name: str
    inject: str = ""
    steps: Callable[[Trial, Run], Steps] | None = None
    before: Callable[[], None] | None = None
    wrapper: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    counts: bool = False  # whether starting the run is all there is to it


class Benchmark:
    """One row: a folder with its input and what must come out, copied for every trial."""

    def __init__(self, row: int, folder: Path, means: Means, seed: int) -> None:
        self.row = row
        self.means = means
        self.seed = seed
        self.summary = ReplySummary()
        self.template = folder / "template"
        self.template.mkdir(parents=True)
        self.points: list[Any] = []
        self.arguments: tuple[str, ...] = ("-j", "2")
        self._where = ""

    def items(self, items: Iterable[Mapping[str, Any]], *arguments: str) -> None:
        """Set the input, the options of every run, and let an undisturbed one make what must come out."""
        self.arguments = ("-j", "2", *arguments)
        prepare(self.template, items)
        (self.template / "expected").write_bytes(undisturbed(self.template))
        for name in ("undisturbed.ckpt", "undisturbed.jsonl", "witness.undisturbed"):
            (self.template / name).unlink()

    def order(self, points: Iterable[Any]) -> list[Any]:
        """Points in the seed's order; each has its place by itself, however many others there are."""
        return sorted(points, key=lambda point: random.Random(f"{self.seed}/{self.row}/{point}").random())

    def trial(self, number: int, body: Callable[[Trial, int], bool]) -> bool:
        """One trial; False where there are no more."""
        more = True
        folder = self.template.parent / f"trial{number}"
        shutil.copytree(self.template, folder)
        trial = Trial(self, folder, random.Random(f"{self.seed}/{self.row}/{number}"))
        before = self.summary.breaches
        with self.caught(f"trial {number}"):
            more = body(trial, number)
            if more:
                self.summary.trials += 1
                trial.finish()
        if self.summary.breaches > before:
            kept = Path(f"{folder.parent.parent}-kept-row{self.row}-trial{number}")
            shutil.copytree(folder, kept)
            self.note(f"trial {number} is kept in {kept} (faults: {'; '.join(trial.said)})")
        shutil.rmtree(folder)
        return more

    @contextlib.contextmanager
    def caught(self, where: str) -> Iterator[None]:
        """Any error counts; the soak goes on."""
        self._where = where
        try:
            yield
        except Exception:
            self.breach("wrong", traceback.format_exc(limit=-3).strip())

    def breach(self, kind: str, what: str, count: int = 1) -> None:
        """Count what must not be, and say it at once."""
        setattr(self.summary, kind, getattr(self.summary, kind) + count)
        self.note(f"--seed {self.seed} --row {self.row}, {self._where}: {what}")

    def note(self, text: str) -> None:
        """Say it now and below the table."""
        print(f"row {self.row}: {text}", flush=True)
        self.summary.notes.append(text)


class Trial:
    """One batch: run with faults as often as the row likes, then to its end; the oracle looks after each run."""

    def __init__(self, bench: Benchmark, folder: Path, chance: random.Random) -> None:
        self.bench = bench
        self.means = bench.means
        self.folder = folder
        self.chance = chance
        self.said: list[str] = []
        self.charged = 0  # strikes that had a reason
        self.blamed: set[Any] = set()  # ids that failed for a reason, and are not in the input any more
        self.done: dict[Any, Outcome] = standing(folder)
        self._marks: list[tuple[frozenset[Any], int]] = []
        self._breach = bench.breach

    def hit(self) -> None:
        """Count a fault, after noting what was committed before it."""
        self.mark()
        self.bench.summary.faults += 1

    def mark(self) -> None:
        """What is committed now must not be in the witness from here on."""
        done = frozenset(id for id, outcome in standing(self.folder).items() if outcome.ok)
        self._marks.append((done, len(witnessed(self.folder))))

    def go(self, *faults: Fault, limit: float = LIMIT) -> int | None:
        """Run once under faults; the exit status, None where it hung."""
        self.said.append(" + ".join(fault.name for fault in faults) or "none")
        self.bench.summary.faults += sum(fault.counts for fault in faults)
        seen = len(witnessed(self.folder))
        self._marks = [(frozenset(self.done), seen)]
        arguments = [word for fault in faults for word in fault.arguments]
        wrapper = [word for fault in faults for word in fault.wrapper]
        command = [*wrapper, *self._tracer([fault.inject for fault in faults if fault.inject]), PROGRAM, "run"]
        with running(
            *ARGUMENTS, *self.bench.arguments, *arguments, cwd=self.folder, command=command,
            before=partial(_all, [fault.before for fault in faults if fault.before]),
        ) as run:  # fmt: skip
            ended = self._drive(run, [fault.steps(self, run) for fault in faults if fault.steps], limit)
        self.bench.summary.items += len(witnessed(self.folder)) - seen
        self._check(ended, faults)
        return None if ended is None else ended.status

    def finish(self) -> None:
        """Run to the end without faults: the output must be the undisturbed one's."""
        status = self.go()
        if status != FINE:
            self._breach("wrong", f"it does not finish: status {status}")
            return
        self._compare()
        if charged := strikes(self.folder) - self.charged:
            self._breach("wrong", f"{charged} strikes without reason")

    def _tracer(self, injections: list[str]) -> list[str]:
        if not injections:
            return []
        assert self.means.strace is not None
        calls = ",".join(injection.partition(":")[0] for injection in injections)
        (self.folder / LOG).unlink(missing_ok=True)
        # strace 6.1 forgets the signal where a seccomp filter did the stopping.
        quick = [] if any("signal=" in injection for injection in injections) else ["--seccomp-bpf"]
        words = [self.means.strace, "-f", *quick, "-o", LOG, "-e", f"trace={calls}"]
        return words + [word for injection in injections for word in ("-e", f"inject={injection}")]

    def counted(self, calls: str) -> Counter[str]:
        """Run once under strace alone; how often one thread made each of the system calls, at most."""
        self.go(Fault("none, only counting", inject=f"{calls}:signal=SIGKILL:when=60000"))
        per_thread = Counter(re.findall(r"^(\d+) +(\w+)\(", (self.folder / LOG).read_text(), re.MULTILINE))
        most: Counter[str] = Counter()
        for (_, call), count in per_thread.items():
            most[call] = max(most[call], count)
        return most

    def injected(self) -> int:
        """Errors that strace put into the last run; delays are none."""
        log = self.folder / LOG
        return len(re.findall(r"\bINJECTED\b", log.read_text(errors="replace"))) if log.exists() else 0

    def _drive(self, run: Run, steps: list[Steps], limit: float) -> Ended | None:
        """Resume each of `steps` when it is due, until the run ends; None where it or one of its processes hangs."""
        deadline = time.monotonic() + limit
        due = dict.fromkeys(range(len(steps)), 0.0)
        while run.process.poll() is None and time.monotonic() < deadline:
            for number, at in list(due.items()):
                if time.monotonic() >= at:
                    wait = next(steps[number], None)
                    due[number] = float("inf") if wait is None else time.monotonic() + wait
            time.sleep(0.005)
        if run.process.poll() is None:
            self._hung(f"still running after {limit:g} s")
            return None
        try:
            run.assert_gone()
        except AssertionError as left:
            self._hung(str(left))
            return None
        return run.end()

    def _hung(self, what: str) -> None:
        self._breach("hangs", f"{what} (faults: {self.said[-1]})")

    # The oracle

    def _check(self, ended: Ended | None, faults: tuple[Fault, ...]) -> None:
        lines = witnessed(self.folder)
        for done, seen in self._marks:
            again = done.intersection(lines[seen:])
            if again:
                self._breach("again", f"committed, then run again: {_few(again)} ({self.said[-1]})", len(again))
                break
        now = standing(self.folder)
        lost = [id for id, before in self.done.items() if not _same(now.get(id), before)]
        if lost:
            self._breach("lost", f"no longer there, or changed: {_few(lost)} ({self.said[-1]})", len(lost))
        failed = [outcome for outcome in now.values() if not outcome.ok and outcome.id not in self.blamed]
        if failed:  # no item of the soak fails by itself
            said = f"{failed[0].id}: {failed[0].error}"
            self._breach("wrong", f"{len(failed)} items failed without reason ({self.said[-1]}), such as {said}")
        self.done = {id: outcome for id, outcome in now.items() if outcome.ok}  # those that failed run again
        if ended is not None:
            self._check_end(ended, faults)

    def _check_end(self, ended: Ended, faults: tuple[Fault, ...]) -> None:
        allowed = {FINE}.union(*(fault.statuses for fault in faults))
        broken = [fault for fault in faults if fault.statuses == BROKEN_DISK]
        if broken and ended.status != KILLED and self.injected():
            allowed.discard(FINE)  # never 0 after an error
        said = ended.err.strip()
        if ended.status == KILLED and any(fault.inject for fault in faults if KILLED in fault.statuses):
            self.bench.summary.faults += 1
        if broken and self.injected():
            self.bench.summary.faults += 1
        if ended.status not in allowed:
            self._breach("wrong", f"exit status {ended.status} ({self.said[-1]}): {said[-2000:]}")
        elif "Traceback" in said or (ended.status in BROKEN_DISK and not said):
            self._breach("wrong", f"status {ended.status} should be one plain line ({self.said[-1]}): {said[-2000:]}")

    def _compare(self) -> None:
        """Count the lines of the undisturbed output that are not in this one."""
        expected = (self.folder / "expected").read_bytes()
        path = self.folder / OUTPUT
        found = path.read_bytes() if path.exists() else b""
        if found == expected:
            return
        missing = Counter(expected.splitlines()) - Counter(found.splitlines())
        if missing:
            self._breach("lost", f"not in the output: {list(missing)[:3]}", missing.total())
        else:
            self._breach("wrong", "the output has another order, or more lines")


def standing(folder: Path) -> dict[Any, Outcome]:
    """What is committed; of a file whose end a crash has damaged, what its repair leaves."""
    found = committed(folder)
    if found or not (folder / CHECKPOINT).exists():
        return found
    try:
        with Reader(str(folder / CHECKPOINT)) as reader:
            verdict = reader.scan(verify=True).run()
    except BatchmillError:
        return {}
    if verdict.kind is Kind.CORRUPT:
        return {}
    (folder / "standing.ckpt").write_bytes((folder / CHECKPOINT).read_bytes()[: verdict.offset])
    return committed(folder, "standing.ckpt")


def mill(run: Run) -> int:
    """The parent process of a run, also under strace or another program; 0 where there is none yet."""
    return next((pid for pid in processes(run.pid) if _is_mill(pid) and not _is_mill(parent_of(pid))), 0)


def _is_mill(pid: int) -> bool:
    """Whether a process is the program, and not what starts it or a worker."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(words) > 1 and words[1] == os.fsencode(PROGRAM)


def workers(run: Run) -> list[int]:
    """The workers of a run: each leads a process group of its own, as does the fork server, a child of the run."""
    found, main = [], mill(run)
    for pid in processes(run.pid):
        is_server = parent_of(pid) == main and is_fork_server(pid)
        with contextlib.suppress(ProcessLookupError):
            if pid not in (run.pid, main) and os.getpgid(pid) == pid and not is_server:
                found.append(pid)
    return found


def stop_all(run: Run) -> list[int]:
    """SIGSTOP every process of a run, also those born meanwhile.

    But not strace: a stopped tracer may come to the stops of the others only after their SIGCONT.
    """
    stopped: list[int] = []
    tracer = run.pid if mill(run) != run.pid else 0
    while new := [pid for pid in processes(run.pid) if pid not in stopped and pid != tracer]:
        send(signal.SIGSTOP, new)
        stopped += new
    return stopped


def _same(now: Outcome | None, before: Outcome) -> bool:
    return now is not None and (now.ok, now.result, now.seconds) == (before.ok, before.result, before.seconds)


def _few(ids: Iterable[Any]) -> str:
    found = sorted(ids)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()
