"""Owns the row of FAULTS with many commands at once on one checkpoint. Never judges them: tests/crowd_kit.py does."""

from __future__ import annotations

from crowd_kit import STATES, anyone, crowd, leave
from fault_kit import numbered, witnessed
from soak_trial import Bench, Trial, standing

MOST = 20  # commands at once


def prepare_crowd(bench: Bench) -> None:
    bench.items(numbered(12, sleep=0.01))


def crowded(trial: Trial, number: int) -> bool:
    """Row 17: up to twenty at once, on what an earlier run may have left."""
    state = trial.chance.choice(STATES)
    names = anyone(trial.chance.choice((2, MOST)), trial.chance)
    trial.said.append(f"{state}: {', '.join(names)}")
    leave(trial.folder, state)
    for breach in crowd(trial.folder, names):
        trial.bench.breach(*breach)
    trial.bench.tally.faults += 1
    trial.bench.tally.items += len(witnessed(trial.folder))
    trial.done = standing(trial.folder)
    return True
