"""The rows of the fault matrix about beginning: many commands at once, little of everything."""

from __future__ import annotations

import resource

from crowd_kit import STATES, anyone, crowd, leave
from fault_kit import numbered, witnessed
from limit_kit import LACKING, as_somebody, can_be_somebody, limited

from soak_trial import BROKEN_DISK, Benchmark, Fault, Trial, standing

MOST = 20  # commands at once
TIMES = 3  # runs under a limit before one without


def prepare_crowd(bench: Benchmark) -> None:
    bench.items(numbered(12, sleep=0.01))


def crowded(trial: Trial, number: int) -> bool:
    """Row 17: up to twenty at once, on what an earlier run may have left."""
    state = trial.chance.choice(STATES)
    names = anyone(trial.chance.choice((2, MOST)), trial.chance)
    trial.said.append(f"{state}: {', '.join(names)}")
    leave(trial.folder, state)
    for breach in crowd(trial.folder, names):
        trial.bench.breach(*breach)
    trial.bench.summary.faults += 1
    trial.bench.summary.items += len(witnessed(trial.folder))
    trial.done = standing(trial.folder)
    return True


def prepare_limited(bench: Benchmark) -> None:
    bench.items(numbered(60, sleep=0.002), "-j", "4")


def limited_runs(trial: Trial, number: int) -> bool:
    """Row 29: a few runs under limits, most of which are too tight for all workers, and some for any."""
    trial.folder.chmod(0o777)
    as_other = can_be_somebody() and trial.chance.random() < 0.5  # throughout: what one user writes is that user's
    for _ in range(TIMES):
        if trial.go(_few_processes(trial) if as_other else _little(trial)) == 0:
            break
    return True


def _few_processes(trial: Trial) -> Fault:
    most = trial.chance.randint(1, 16)
    return Fault(f"{most} processes", wrapper=tuple(as_somebody(most)), statuses=(LACKING,), counts=True)


def _little(trial: Trial) -> Fault:
    name, which, least, most, unit = trial.chance.choice((
        ("open files", resource.RLIMIT_NOFILE, 6, 40, 1),
        ("MiB", resource.RLIMIT_AS, 50, 300, 1 << 20),
        ("bytes a file", resource.RLIMIT_FSIZE, 1, 30_000, 1),
    ))  # fmt: skip
    limit = trial.chance.randint(least, most)
    # A checkpoint or an output that may not grow says so itself.
    return Fault(f"{limit} {name}", before=limited(which, limit * unit), statuses=(LACKING, *BROKEN_DISK), counts=True)
