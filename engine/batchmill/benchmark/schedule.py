"""Which cell of a survey of worker counts runs when, and how long.

    warm up --> probe (how fast, about?) --> schedule (sample, passes, rounds) --> round 1: every cell, round 2: ...

Rounds are interleaved, each in an order of its own, so that what drifts (clock speeds, a neighbour's load) meets all
cells alike. Clocks come in as arguments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from batchmill.benchmark.scaling import Cell, Round
from batchmill.errors import InvalidUsage
from batchmill.value_class import value_class

MOST_WORKERS, MOST_COUNTS = 1024, 64

LONG_ENOUGH = 2.0  # seconds that the fastest cell is meant to take
MOST_ROUNDS, FEWEST_ROUNDS = 7, 3
PER_WORKER = 20  # items, so that the last ones to end do not decide
PROBE = 0.2  # seconds of a probe that tells enough
KNOWN = 0.5  # seconds per item; items so long need no probe
SPARE = 0.9  # share of the time left that is planned with
_SEED = 7


@value_class
class Asked:
    """What a survey is asked for: counts of workers, chunk sizes (None: by time), seconds in all, items (None: any),
    batch sizes ("auto": found out; None: the function is called on each item)."""

    counts: tuple[int, ...]
    chunk_sizes: tuple[int | None, ...] = (None,)
    seconds: float = 60.0
    sample: int | None = None
    batch_sizes: tuple[int | str | None, ...] = (None,)

    @property
    def cells(self) -> int:
        """How many cells that is."""
        return len(self.counts) * len(self.chunk_sizes) * len(self.batch_sizes)


def parse_counts(text: str | None, cores: int) -> tuple[int, ...]:
    """Counts of workers from `1,2,4` or `1..8`; None: 1, 2, 4, ... and the usable cores. Raises InvalidUsage."""
    if text is None:
        return (*(1 << power for power in range(cores.bit_length()) if 1 << power < cores), cores)
    counts: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not (_is_count(first) and (_is_count(last) or not dots)):
            remedy = f"write 1,2,4,8 or 1..8, each 1 to {MOST_WORKERS}"
            raise InvalidUsage(f"-j {text!r} is no list of worker counts", remedy)
        counts.update(range(int(first), int(last or first) + 1))
    if not counts or len(counts) > MOST_COUNTS:
        raise InvalidUsage(f"-j {text!r} is {len(counts)} counts", f"give 1 to {MOST_COUNTS}")
    return tuple(sorted(counts))


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MOST_WORKERS


def parse_chunk_sizes(text: str | None) -> tuple[int | None, ...]:
    """Chunk sizes from `1,16,auto` (None: auto, by time); InvalidUsage if bad."""
    return tuple(size if isinstance(size, int) else None for size in _sizes("chunk", text or "auto"))


def parse_batch_sizes(text: str | None) -> tuple[int | str | None, ...]:
    """Batch sizes from `1,16,auto`; None for a function that is called on each item. InvalidUsage if bad."""
    return (None,) if text is None else _sizes("batch", text)


def _sizes(what: str, text: str) -> tuple[int | str, ...]:
    sizes: list[int | str] = []
    for part in text.split(","):
        word = part.strip()
        if word != "auto" and not (word.isdecimal() and len(word) <= 9 and int(word) >= 1):
            raise InvalidUsage(f"--{what}-size {text!r} is no list of {what} sizes", "write 1,16,auto")
        sizes.append(word if word == "auto" else int(word))
    return tuple(dict.fromkeys(sizes))


class RoundTask(NamedTuple):
    """One round of one cell: the first `records` (evenly thinned) of the sample, `passes` times."""

    workers: int
    chunk_size: int | None
    records: int
    passes: int
    batch_size: int | str | None = None


class Schedule(NamedTuple):
    """How many records, how many times in a round, how many rounds."""

    records: int
    passes: int
    rounds: int


class RoundRunner(Protocol):
    """Who runs items. `stopped` is the name of the signal that ended it, "" for none."""

    stopped: str

    def warm_up(self) -> float:
        """Have every worker run an item; the seconds that one takes in the mean."""

    def run(self, task: RoundTask, number: int, deadline: float) -> Round | None:
        """Run a cell in round `number`; None where it could not be finished by then."""


class Step(NamedTuple):
    """Where a survey is: the number of the round (0: probing) and of how many, the cell that is done, seconds of
    measuring left."""

    round: int
    rounds: int
    cell: Cell
    left: float


Key = tuple[int, "int | None", "int | str | None"]  # workers, chunk size, batch size


class Survey:
    """The cells and what they came to so far. `have` is how many sampled records there are to choose from.

    `startups` maps numbers of workers to the seconds after which they were up. `tell` gets the schedule, `on_step` each
    cell that is done.
    """

    def __init__(
        self,
        runner: RoundRunner,
        asked: Asked,
        have: int,
        *,
        deadline: float,
        clock: Callable[[], float],
        startups: Mapping[int, float],
        tell: Callable[[Schedule], None],
        on_step: Callable[[Step], None],
    ) -> None:
        self._runner = runner
        self._asked = asked
        self._have = have
        self._deadline = deadline
        self._clock = clock
        self._tell = tell
        self._on_step = on_step
        self._rates: dict[Key, float] = {}
        self._cells = {
            (workers, chunk, batch): Cell(workers, chunk, (), startups.get(workers, 0.0), batch)
            for batch in asked.batch_sizes
            for chunk in asked.chunk_sizes
            for workers in asked.counts
        }
        self.schedule: Schedule | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, measured or not yet."""
        return tuple(self._cells.values())

    def run(self) -> bool:
        """Run to the end; False where it was stopped, or its time was over before every cell had a round."""
        self._probe()
        if self._runner.stopped:
            return False
        left = self._deadline - self._clock()
        self.schedule = schedule = make_schedule(self._rates, left, self._have, self._asked)
        self._tell(schedule)
        shuffled, keys = random.Random(_SEED), list(self._cells)
        for number in range(1, schedule.rounds + 1):
            shuffled.shuffle(keys)
            if not self._round(number, keys, schedule):
                break
        return not self._runner.stopped and all(cell.rounds for cell in self.cells)

    def _round(self, number: int, keys: Sequence[Key], schedule: Schedule) -> bool:
        """One round of every cell; False where there is no time for more."""
        for key in keys:
            expected = schedule.records * schedule.passes / self._rates[key]
            if number > 1 and self._clock() + expected > self._deadline:
                return False
            workers, chunk, batch = key
            task = RoundTask(workers, chunk, schedule.records, schedule.passes, batch)
            done = self._runner.run(task, number, self._deadline)
            if done is None:
                return False
            self._note(done, key)
            self._on_step(Step(number, schedule.rounds, self._cells[key], max(0.0, self._deadline - self._clock())))
        return True

    def _note(self, done: Round, key: Key) -> None:
        cell = self._cells[key] = replace(self._cells[key], rounds=(*self._cells[key].rounds, done))
        self._rates[key] = cell.rate or self._rates[key]

    # Probing

    def _probe(self) -> None:
        """Find out about how fast each cell is."""
        seconds = self._runner.warm_up()
        for key in self._cells:
            if self._runner.stopped:
                return
            workers, _, batch = key
            rate = self._rates.get((workers, None, batch)) if seconds < KNOWN else workers / seconds
            self._rates[key] = rate or self._probed(key, workers / max(seconds, 1e-6))

    def _probed(self, key: Key, guess: float) -> float:
        workers, chunk, batch = key
        items = workers
        while True:
            records = min(items, self._have)
            task = RoundTask(workers, chunk, records, max(1, items // records), batch)
            done = self._runner.run(task, 0, self._deadline)
            if done is None or not done.rate:
                return guess
            if done.seconds >= PROBE:
                return done.rate
            guess, items = done.rate, max(2 * items, round(items * min(20.0, 1.5 * PROBE / max(done.seconds, 1e-6))))


def make_schedule(rates: Mapping[Key, float], left: float, have: int, asked: Asked) -> Schedule:
    """How to spend the seconds left, at these items per second.

    Enough items that the fastest cell takes 2 s, and 20 for each worker, in three to seven rounds. Where there is no
    time for that: fewer items, a multiple of the greatest count, so that no worker has one more to do than the others.
    Where there are too few records, they run several times over.
    """
    slowness = sum(1 / rate for rate in rates.values())  # seconds that an item costs in a round
    budget = max(0.0, SPARE * left)
    if asked.sample is not None:
        records = min(asked.sample, have)
        return Schedule(records, 1, _rounds(budget, records * slowness))
    most = max(asked.counts)
    items = max(1, round(LONG_ENOUGH * max(rates.values())), PER_WORKER * most)
    if FEWEST_ROUNDS * items * slowness > budget:
        items = int(budget / (FEWEST_ROUNDS * slowness))
    if items < PER_WORKER * most:
        items = max(1, items // most) * most
    if items * slowness > budget:  # not even one round of them
        items = max(1, int(budget / slowness))
    passes = -(-items // have)
    records = -(-items // passes)
    return Schedule(records, passes, _rounds(budget, records * passes * slowness))


def _rounds(budget: float, seconds: float) -> int:
    return max(1, min(MOST_ROUNDS, int(budget / seconds) if seconds > 0 else MOST_ROUNDS))
