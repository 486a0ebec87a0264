"""A crowd: many commands at once on one checkpoint, each with options of its own, and the oracle.

Each ends with 0, 73 or 75 for a reason that is true. An item runs once in each checkpoint that holds it, and once for
each command that keeps none. What was in a checkpoint is under its name, or under the one to which it was moved.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from fault_kit import CHECKPOINT, Ended, finish, lines_of, running, until, witnessed
from process_kit import processes

from batchmill.checkpoint.frames import FrameType
from batchmill.checkpoint.reader import Reader
from batchmill.codec.outcome_block import OutcomeBlock

ARGUMENTS = ("f.py:work", "items.jsonl", "-j", "1")
LIMIT = 200.0  # seconds: twenty that wait for each other run one after the other
NO_CHECKPOINT, DRY_RUN, WAITING = "no checkpoint", "dry run", ", waiting"
KEEP = ("--keep", "99")  # more than there are commands: whatever is moved aside stays
OPTIONS = {
    "neither": (),
    "resume": ("--resume",),
    "fresh": ("--fresh", *KEEP),
    "nightly": ("--resume", "--fresh-if-finished", *KEEP),
}
CHOICES: dict[str, tuple[str, ...]] = {
    NO_CHECKPOINT: ("--no-checkpoint",),
    DRY_RUN: ("-c", CHECKPOINT, "--resume", "--dry-run"),
    **{name: ("-c", CHECKPOINT, *words) for name, words in OPTIONS.items()},
    **{name + WAITING: ("-c", CHECKPOINT, *words, "--wait", "150s") for name, words in OPTIONS.items()},
}
STATES = ("none", "empty", "unfinished", "torn", "finished")


class Breach(NamedTuple):
    """What must not be; `kind` is lost, again, hangs or wrong."""

    kind: str
    what: str


def leave(folder: Path, state: str) -> None:
    """What an earlier run may have left in a folder that has f.py and items.jsonl."""
    path = folder / CHECKPOINT
    if state == "empty":
        path.touch()
    elif state != "none":
        limit = () if state == "finished" else ("--limit", "3")
        assert finish(*ARGUMENTS, "-c", CHECKPOINT, *limit, cwd=folder).status in (0, 3)
    if state == "torn":
        data = path.read_bytes()
        path.write_bytes(data + data[-200:-100])


def anyone(count: int, chance: random.Random) -> list[str]:
    """So many CHOICES."""
    return [chance.choice(list(CHOICES)) for _ in range(count)]


def crowd(folder: Path, names: Sequence[str]) -> list[Breach]:
    """Start a command of each of these CHOICES at once; what was wrong when all have ended."""
    before, seen = _kept(folder), len(witnessed(folder))
    breaches = []
    with ExitStack() as stack:
        runs = [
            stack.enter_context(running(*ARGUMENTS, *CHOICES[name], "-o", f"out{number}", cwd=folder))
            for number, name in enumerate(names)
        ]
        try:
            until(lambda: not any(processes(run.pid) for run in runs), "the end of all", limit=LIMIT)
        except AssertionError:
            late = [name for run, name in zip(runs, names) if processes(run.pid)]
            return [Breach("hangs", f"after {LIMIT:g} s: {', '.join(late)}")]
        for number, (run, name) in enumerate(zip(runs, names)):
            if why := _wrong(name, run.end(), folder / f"out{number}"):
                breaches.append(Breach("wrong", f"{name}: {why}"))
    breaches += _compare(before, _kept(folder), Counter(witnessed(folder)[seen:]), names.count(NO_CHECKPOINT))
    return breaches


def _wrong(name: str, ended: Ended, output: Path) -> str:
    """Why a command should not have ended so; empty where it is right."""
    items = len(lines_of(output.parent / "items.jsonl"))
    lines = ended.err.splitlines()
    match ended.status:
        case 0 if name == DRY_RUN:
            return ended.err or ("it wrote" if output.exists() else "")
        case 0:
            found = len(lines_of(output))
            return "" if found == items and not lines else f"{found} of {items} results; {ended.err}"
        case 73 if name.startswith("neither") and "exists; --resume continues it" in lines[-1]:
            return ""
        case 75 if not name.endswith(WAITING) and f"{CHECKPOINT} is in use by another run" in lines[-1]:
            return "" if name != NO_CHECKPOINT else "it has no checkpoint to wait for"
    return f"status {ended.status}: {ended.err}"


def _kept(folder: Path) -> dict[bytes, Counter[Any]]:
    """How often each id is in each checkpoint, by the file's own id."""
    kept = {}
    for path in folder.glob("*.ckpt"):
        if path.stat().st_size:
            with Reader(str(path)) as reader:
                frames = reader.frames(payloads=True)
                ids = [id for ref, data in frames if ref.type == FrameType.OUTCOMES for id in OutcomeBlock(data).ids]
                kept[reader.header.id] = Counter(ids)
    return kept


def _compare(
    before: dict[bytes, Counter[Any]], after: dict[bytes, Counter[Any]], ran: Counter[Any], unkept: int
) -> list[Breach]:
    breaches = []
    for file, held in before.items():
        if gone := held - after.get(file, Counter()):
            breaches.append(Breach("lost", f"of a checkpoint that was there: {sorted(gone)}"))
    new: Counter[Any] = Counter()
    for file, held in after.items():
        if twice := [id for id, times in held.items() if times > 1]:
            breaches.append(Breach("again", f"in one checkpoint: {sorted(twice)}"))
        new += held - before.get(file, Counter())
    for id in {*ran, *new}:
        if ran[id] != new[id] + unkept:
            breaches.append(
                Breach("lost", f"{id} ran {ran[id]} times, is in {new[id]} checkpoints, {unkept} keep none")
            )
    return breaches
