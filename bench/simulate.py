"""The question how close the engine's scheduling comes to the best there is.

The real Loop, WorkQueue, InFlight, ChunkSizer and WorkStealer hand chunks to simulated workers on a simulated clock;
the engine's own costs, as measured (--measure), pass on that clock too. Two references without any cost of their own:
the lower bound max(sum / workers, longest item), and one-item self-scheduling in arrival order, the best that can be
done without knowing costs. The goal: within 2% of the latter (10% for runs of 3 s), plus at most one item, for 2 to 256
workers; the exit status is 1 where it is missed.

    python bench/simulate.py [--workers 2 8 64] [--seconds 3 30] [--shape lognormal ...] [--measure]
                             [--matrix | --json]
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

from batchmill.batch.progress import Progress
from batchmill.pool.local import LocalPool
from batchmill.pool.worker_limits import WorkerLimits
from batchmill.scheduler.chunk_size import ChunkSizer
from batchmill.scheduler.in_flight import InFlight
from batchmill.scheduler.loop import Callbacks, Loop
from batchmill.scheduler.rendering import OutputMaker
from batchmill.scheduler.retrier import Retrier
from batchmill.scheduler.run_limits import TimeLimit
from batchmill.scheduler.work_queue import WorkQueue
from batchmill.settings import Settings
from batchmill.worker.sealer import Sealer
from machine import describe
from simulated_workers import Overhead, SimulatedPool, SimulatedQueue, SimulatedSource, World, divide

WORKERS = (2, 16, 64, 256, 1024)
SECONDS = (3.0, 30.0)
MEAN = 0.02  # seconds an item takes in the mean, where the shape does not say otherwise
GOAL = {3.0: 1.10}
GOAL_OF_LONG_RUNS = 1.02
MOST_WORKERS = 256  # that the goal is for; beyond, the table shows where it ends
SEED = 7


# Costs


def constant(rng: random.Random, total: float, workers: int) -> list[float]:
    return [MEAN] * max(1, round(total / MEAN))


def tiny(rng: random.Random, total: float, workers: int) -> list[float]:
    """Items of 1 ms (or a millionth of all work): chunks are long rows of them."""
    cost = max(0.001, total / 1_000_000)
    return [cost] * round(total / cost)


def lognormal(rng: random.Random, total: float, workers: int) -> list[float]:
    """Sigma 1.5: one item in a hundred takes more than ten times the mean."""
    return _filled(total, lambda: MEAN * rng.lognormvariate(-1.125, 1.5))


def bimodal(rng: random.Random, total: float, workers: int) -> list[float]:
    """One item in twenty takes a hundred times as long as the others."""
    return _filled(total, lambda: 0.34 if rng.random() < 0.05 else 0.0034)


def drifting(rng: random.Random, total: float, workers: int) -> list[float]:
    """The last items take fifty times as long as the first."""
    count = max(1, round(total / MEAN))
    return [MEAN * (2 / 51) * (1 + 49 * place / count) * rng.uniform(0.9, 1.1) for place in range(count)]


def falling(rng: random.Random, total: float, workers: int) -> list[float]:
    """The first take fifty times as long as the last."""
    return drifting(rng, total, workers)[::-1]


def four_in_a_row(rng: random.Random, total: float, workers: int) -> list[float]:
    """Four items of a tenth of the run, one behind the other, when three quarters are handed out."""
    costs = _filled(total - 4 * _tenth(total, workers), lambda: 0.25 * MEAN * rng.uniform(0.5, 1.5))
    place = 3 * len(costs) // 4
    return [*costs[:place], *[_tenth(total, workers)] * 4, *costs[place:]]


def four_near_the_end(rng: random.Random, total: float, workers: int) -> list[float]:
    """The same when nine tenths are handed out: there is just time for them."""
    costs = _filled(total - 4 * _tenth(total, workers), lambda: 0.25 * MEAN * rng.uniform(0.5, 1.5))
    place = 89 * len(costs) // 100
    return [*costs[:place], *[_tenth(total, workers)] * 4, *costs[place:]]


def straggler_last(rng: random.Random, total: float, workers: int) -> list[float]:
    """The last item of all takes a tenth of the run."""
    return [
        *_filled(total - _tenth(total, workers), lambda: 0.25 * MEAN * rng.uniform(0.5, 1.5)),
        _tenth(total, workers),
    ]


def _tenth(total: float, workers: int) -> float:
    return total / workers / 10


def _filled(total: float, draw: Callable[[], float]) -> list[float]:
    """Items until their sum is reached."""
    costs, left = [], total
    while left > 0:
        costs.append(draw())
        left -= costs[-1]
    return costs


Shape = Callable[[random.Random, float, int], list[float]]
_SHAPES = (
    *(constant, tiny, lognormal, bimodal, drifting, falling),
    *(four_in_a_row, four_near_the_end, straggler_last),
)
SHAPES: dict[str, Shape] = {shape.__name__.replace("_", "-"): shape for shape in _SHAPES}


# References


def lower_bound(costs: list[float], workers: int) -> float:
    """No schedule is shorter."""
    return max([sum(costs) / workers, *costs])


def self_scheduling(costs: Iterable[float], workers: int) -> float:
    """Every worker takes the next item when it is free, at no cost."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


# The engine


class _Unguarded(WorkerLimits):
    """Simulated workers have no memory and no time-outs."""

    def look(self, now: float) -> None:
        pass


class _Untracked(Progress):
    """Nobody watches."""

    def tick(self, now: float, pids: list[int], workers: int) -> None:
        pass


class Run(NamedTuple):
    """What a simulated run came to: seconds simulated, chunks, the parent's busy seconds, our own seconds, items run,
    and what stopped it."""

    makespan: float
    chunks: int
    parent: float
    took: float
    done: int
    stopped: str


def simulate(
    costs: list[float],
    workers: int,
    overhead: Overhead,
    window: int = 2,
    knows_total: bool = True,
    time_limit: float | None = None,
) -> Run:
    """Let the engine run these items."""
    world = World(costs, overhead)
    loop = _loop(world, workers, window, knows_total, time_limit)
    begun = time.perf_counter()
    loop.run()
    if loop.error is not None:
        raise loop.error
    return Run(world.last_end, world.chunks, world.parent, time.perf_counter() - begun, world.done, loop.stopped)


def _loop(world: World, workers: int, window: int, knows_total: bool, time_limit: float | None) -> Loop:
    settings = Settings()
    pool = cast("LocalPool", SimulatedPool(world, workers))
    source = SimulatedSource(len(world.sums) - 1, knows_total)
    chunk_sizer, in_flight = ChunkSizer(workers), InFlight(divide)
    return Loop(
        pool=pool,
        events=cast("Any", SimulatedQueue(world)),
        work_queue=WorkQueue(source, None, in_flight=in_flight, chunk_sizer=chunk_sizer, matcher=None, settled=_ignore),
        in_flight=in_flight,
        chunk_sizer=chunk_sizer,
        limits=_Unguarded(pool, settings, 0.1, _ignore),
        retrier=Retrier(0, 0.0, in_flight, _ignore, None),
        progress=_Untracked(total=_ignore, before=_ignore, append=_ignore, on_progress=None, interval=1.0, shards=1),
        output_maker=OutputMaker(pool, None),
        sealer=cast("Sealer", None),
        callbacks=Callbacks(commit=_ignore, strike=_ignore, generation=lambda: 1, message=_ignore),
        window=window,
        grace=10.0,
        start_timeout=300.0,
        time_limit=None if time_limit is None else TimeLimit(time_limit, time_limit),
        clock=world.clock,
    )


def _ignore(*_: Any, **__: Any) -> Any:
    """What nobody here listens to."""
    return None


# The table


class Line(NamedTuple):
    """One line of the table. `late` is what exceeds the goal's ratio, in items of the longest sort."""

    shape: str
    seconds: float
    workers: int
    items: int
    chunks: int
    bound: float
    to_bound: float
    to_self: float
    late: float
    parent: float
    met: bool


def measure_line(shape: str, seconds: float, workers: int, overhead: Overhead, window: int) -> Line:
    costs = SHAPES[shape](random.Random(SEED), seconds * workers, workers)
    bound, best = lower_bound(costs, workers), self_scheduling(costs, workers)
    run = simulate(costs, workers, overhead, window)
    goal = GOAL.get(seconds, GOAL_OF_LONG_RUNS)
    late = (run.makespan - goal * best) / max(costs)
    return Line(
        shape, seconds, workers, len(costs), run.chunks, bound, run.makespan / bound, run.makespan / best,
        late, run.parent / run.makespan, late <= 1,
    )  # fmt: skip


def print_line(line: Line) -> None:
    met = "yes" if line.met and line.late <= 0 else f"yes, with {line.late:.2f} item" if line.met else "NO"
    print(
        f"{line.shape:18} {line.seconds:5g} {line.workers:5} {line.items:8} {line.chunks:7} {line.bound:8.2f}"
        f" {line.to_bound:9.3f} {line.to_self:9.3f} {100 * line.parent:7.1f}%  {met}",
        flush=True,
    )


def print_matrix(lines: list[Line]) -> None:
    """Ratios to self-scheduling as a Markdown table; in brackets how much of an item it needed beyond the goal."""
    workers = sorted({line.workers for line in lines})
    print("| costs | run |" + "".join(f" {count} workers |" for count in workers))
    print("|---|---|" + "---|" * len(workers))
    rows: dict[tuple[str, float], list[str]] = {}
    for line in sorted(lines, key=lambda line: line.workers):
        mark = "" if line.late <= 0 else f" ({line.late:.2f})" if line.met else " (missed)"
        rows.setdefault((line.shape, line.seconds), []).append(f" {line.to_self:.3f}{mark} |")
    for (shape, seconds), cells in rows.items():
        print(f"| {shape} | {seconds:g} s |" + "".join(cells))


def main() -> None:
    options = _options()
    overhead = Overhead()
    if options.measure:
        from measured_overhead import measure

        overhead = measure()
    if not options.json:
        print(describe())
        print("\ncosts fed in, s: " + ", ".join(f"{name} {value:.2g}" for name, value in overhead._asdict().items()))
        print()
    if not (options.json or options.matrix):
        headings = ("run s", "workers", "items", "chunks", "bound s", "to bound", "to self-s", "parent")
        widths = (5, 5, 8, 7, 8, 9, 9, 8)
        print(f"{'costs':18} " + " ".join(f"{name:>{width}}" for name, width in zip(headings, widths)) + "  goal met")
    lines = []
    for shape in options.shape:
        for seconds in options.seconds:
            for workers in options.workers:
                lines.append(measure_line(shape, seconds, workers, overhead, options.window))
                if not (options.json or options.matrix):
                    print_line(lines[-1])
    if options.matrix:
        print_matrix(lines)
    if options.json:
        print(json.dumps({"overhead": overhead._asdict(), "lines": [line._asdict() for line in lines]}))
    sys.exit(0 if all(line.met or line.workers > MOST_WORKERS for line in lines) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help="measure the engine's own costs here first")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--matrix", action="store_true", help="only makespan / self-scheduling, workers side by side")
    form.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
