"""The long rows of the fault matrix as one command: who may run how long, and the table at the end.

Every row breaks real runs in its own way, resumes them until they are done, and compares with an undisturbed run. A
trial's choices come from the seed, the row and the number of the trial alone: `--seed S --row R --trial T` repeats one.
Ends with status 1 where anything was lost, run twice after its commit, hung, or went wrong in another way.

    python bench/soak.py [--seconds 600] [--seed N] [--row 1 --row 43 ...] [--trial T]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from machine import describe

if TYPE_CHECKING:
    from soak_rows import Row
    from soak_trial import Means, ReplySummary

KITS = Path(__file__).resolve().parent.parent / "tests" / "kits"
_ENOUGH = 5  # trials, some of which must have met their fault
HEADINGS = ("row", "trials", "faults", "items run", "lost", "run twice", "hangs", "other")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, _end)  # so that what was started is ended
    sys.path.insert(0, str(KITS))  # the oracle is the fault tests' own
    from soak_rows import ROWS

    print(describe())
    print(f"seed      {options.seed} (--seed {options.seed} repeats it), {options.seconds:g} s", flush=True)
    chosen = [row for row in ROWS if not options.row or row.number in options.row]
    with tempfile.TemporaryDirectory(prefix="batchmill-soak-") as name, _means(options.seconds) as means:
        for lack in means.lacks:
            print(f"missing   {lack}")
        print(flush=True)
        tallies = [soaked(row, seconds, Path(name), means, options) for row, seconds in shares(chosen, options.seconds)]
    show(chosen, tallies)
    sys.exit(0 if sum(summary.breaches for summary in tallies) == 0 else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="for all rows together [600]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="repeats a run")
    parser.add_argument("--row", type=int, action="append", help="only this row of the fault matrix; repeatable")
    parser.add_argument("--trial", type=int, help="only this trial of the rows")
    return parser.parse_args()


def _end(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


# What the machine offers


@contextlib.contextmanager
def _means(seconds: float) -> Iterator[Means]:
    """What can be used here to break runs; what cannot is said."""
    from soak_trial import Means

    lacks = []
    if (strace := _strace()) is None:
        lacks.append("strace (apt install strace), or the right to trace: no rows 2, 3, 13, less of rows 39 and 43")
    if (faketime := next(Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"), None)) is None:
        lacks.append("libfaketime (apt install libfaketime): no jumps of the clock in row 35")
    with _half_a_core() as quota:
        if quota is None:
            lacks.append("a writable cgroup with the cpu controller: no quota in row 39")
        delay = min(20.0, max(3.0, seconds / 30))
        yield Means(strace, faketime, quota, delay, tuple(lacks))


def _strace() -> str | None:
    """Where strace is, if it may trace and knows how to inject."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    program = [sys.executable, "-c", "import os; os.sync()"]
    words = [strace, "-f", "-o", os.devnull, "-e", "trace=sync", "-e", "inject=sync:signal=SIGKILL", *program]
    tried = subprocess.run(words, capture_output=True, timeout=60, check=False)
    return strace if tried.returncode == -signal.SIGKILL else None


@contextlib.contextmanager
def _half_a_core() -> Iterator[Path | None]:
    """A cgroup of our own that may use half a core, or None where none can be made; gone afterwards."""
    name = f"batchmill-soak-{os.getpid()}"
    for base, file, value in (
        ("/sys/fs/cgroup", "cpu.max", "50000 100000"),
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "50000"),
    ):
        group = Path(base) / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if _is_written(group / file, value):
                yield group
                return
        finally:
            _remove(group)
    yield None


def _is_written(file: Path, value: str) -> bool:
    try:
        with open(file, "r+") as quota:  # never created: on a tmpfs it would be an ordinary file
            quota.write(value)
    except OSError:
        return False
    return True


def _remove(group: Path) -> None:
    for _ in range(50):  # a process that has just ended is counted for a moment
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.1)
    print(f"cannot remove {group}")


# Time


def shares(rows: list[Row], seconds: float) -> Iterator[tuple[Row, float]]:
    """Each row with the seconds it may take: its weight's part of what is left, so that nobody's rest is wasted."""
    end = time.monotonic() + seconds
    for number, row in enumerate(rows):
        left = max(0.0, end - time.monotonic())
        yield row, left * row.weight / sum(later.weight for later in rows[number:])


def soaked(row: Row, seconds: float, base: Path, means: Means, options: argparse.Namespace) -> ReplySummary:
    """Trials of one row, at least one, until its time is over or it has no more."""
    from soak_trial import Benchmark

    end = time.monotonic() + seconds
    bench = Benchmark(row.number, base / f"row{row.number}", means, options.seed)
    only, number = options.trial, options.trial or 0
    if row.needs_strace and means.strace is None:
        bench.note("not run: it needs strace")
        return bench.summary
    with bench.caught("preparing"):
        row.prepare(bench)
        while bench.trial(number, row.trial) and only is None and time.monotonic() < end:
            number += 1
    if bench.summary.trials >= _ENOUGH and not bench.summary.faults:
        bench.breach("wrong", "no fault was ever met: this row shows nothing")
    print(f"row {row.number}: {bench.summary.trials} trials, {bench.summary.faults} faults", flush=True)
    return bench.summary


# The table


def show(rows: list[Row], tallies: list[ReplySummary]) -> None:
    """One line a row, and one for all."""
    figures = [summary.figures for summary in tallies]
    table = [HEADINGS, *(_cells(f"{row.number} {row.title}", line) for row, line in zip(rows, figures))]
    table.append(_cells("all", [sum(column) for column in zip(*figures)]))
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    print()
    for line in table:
        print("  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]))
    for row, summary in zip(rows, tallies):
        for note in summary.notes:
            print(f"row {row.number}: {note.splitlines()[0]}")


def _cells(name: str, figures: Sequence[int]) -> tuple[str, ...]:
    return (name, *(f"{figure:,}" for figure in figures))


if __name__ == "__main__":
    main()
