"""The question whether `batchmill bench` finds what is known: laws fed in, on simulated workers and on real ones.

Simulated: the real survey and the real loop on a simulated clock, 1 to 128 workers, items of uneven cost that follow
the Universal Scalability Law with noise. Real: `batchmill bench` on items that hold a lock for a known share of their
time (bench/scaling_work.py), and on naps with CPU. Goals: contention within 20%, the choice within one step; the exit
status is 1 where one is missed. Never times the engine.

    python bench/scaling_law.py [--seconds 60] [--simulated | --real]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batchmill.benchmark import scaling
from batchmill.benchmark.scaling import Cell, Fit, Round
from batchmill.benchmark.schedule import Asked, RoundTask, Survey
from machine import describe
from simulate import simulate
from simulated_workers import Overhead

POWERS = (1, 2, 4, 8, 16, 32, 64, 128)
LAWS = (Fit(0.02, 0, 50), Fit(0.05, 0.0002, 50), Fit(0.1, 0, 50), Fit(0.2, 0.001, 50), Fit(0.5, 0, 50))
SHARES = (0.1, 0.25, 0.5)
NAP, CPU = 0.03, 0.01  # seconds of an item that naps and then uses the CPU
NOISE = 0.02  # of a round, relative
WITHIN = 0.2
SEED = 7


class Line(NamedTuple):
    """What is known, and what was found. `contention` is None where the law has none."""

    work: str
    counts: tuple[int, ...]
    contention: float | None
    fitted: float
    best: int
    chosen: int

    @property
    def met(self) -> bool:
        """Whether the goal is."""
        close = self.contention is None or abs(self.fitted - self.contention) <= WITHIN * self.contention
        return close and abs(self.counts.index(self.best) - self.counts.index(self.chosen)) <= 1


class SimulatedRunner:
    """The survey's Runner: each cell is a run of the engine's loop on simulated workers."""

    def __init__(self, law: Fit) -> None:
        self.stopped = ""
        self.now = 0.0
        self._law = law
        self._random = random.Random(SEED)

    def clock(self) -> float:
        """Simulated seconds."""
        return self.now

    def warm_up(self) -> float:
        return 1 / self._law.single

    def run(self, task: RoundTask, number: int, deadline: float) -> Round | None:
        slower = task.workers / self._law.rate(task.workers) * self._random.lognormvariate(0, NOISE)
        draw = random.Random(task.records)  # the same sample in every cell
        sample = [draw.lognormvariate(-0.125, 0.5) for _ in range(task.records)]
        costs = [slower * cost for cost in sample] * task.passes
        seconds = simulate(costs, task.workers, Overhead()).makespan
        self.now += seconds
        return Round(number, seconds, len(costs), 0, sum(sample) / self._law.single, 0)


def simulated(law: Fit) -> Line:
    runner = SimulatedRunner(law)
    survey = Survey(runner, Asked(POWERS, seconds=3600), 20_000, deadline=3600, clock=runner.clock, startups={},
                    tell=_ignore, on_step=_ignore)  # fmt: skip
    survey.run()
    fitted = scaling.fit(survey.cells)
    assert fitted is not None
    name = f"simulated, coherency {law.coherency:g}"
    return Line(name, POWERS, law.contention, fitted.contention, best_of(law.rate, POWERS),
                scaling.choose(survey.cells).workers)  # fmt: skip


def _ignore(_: Any) -> None:
    """Nobody listens."""


def best_of(rate: Callable[[float], float], counts: tuple[int, ...]) -> int:
    """What should be chosen where these are the rates."""
    return scaling.choose([Cell(n, None, (Round(1, 1 / rate(n), 1, 0, 0.0, 0),)) for n in counts]).workers


def real(counts: tuple[int, ...], seconds: float, function: str, **arguments: Any) -> tuple[float, int]:
    """(fitted contention, chosen count) as `batchmill bench --json` tells."""
    work = Path(__file__).with_name("scaling_work.py")
    with tempfile.TemporaryDirectory() as folder:
        items = Path(folder, "items.txt")
        items.write_text("".join(f"{n}\n" for n in range(1000)))
        values = {**arguments, **({"path": f"{folder}/lock"} if function == "meet" else {})}
        command = [sys.executable, "-m", "batchmill", "bench", f"{work}:{function}", str(items), "--json", "-q"]
        command += ["-j", ",".join(map(str, counts)), "--seconds", str(seconds)]
        for name, value in values.items():
            command += ["--set", f"{name}={value}"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=10 * seconds + 60)
    found = json.loads(ended.stdout)
    return found["fit"]["contention"], found["best"]["workers"]


def on_real_workers(seconds: float) -> Iterator[Line]:
    counts: tuple[int, ...] = (1, 2, 4, 8)
    for share in SHARES:
        fitted, chosen = real(counts, seconds, "meet", share=share)
        yield Line("naps with a lock", counts, share, fitted, best_of(Fit(share, 0, 1).rate, counts), chosen)
    cores, counts = 2, (1, 2, 4, 8, 16)
    fitted, chosen = real(counts, seconds, "burn", nap=NAP, cpu=CPU)
    best = best_of(lambda n: min(n / (NAP + CPU), cores / CPU), counts)
    yield Line("naps, then CPU on 2 cores", counts, None, fitted, best, chosen)


def print_line(line: Line) -> None:
    known = "-" if line.contention is None else f"{100 * line.contention:.0f}%"
    met = "yes" if line.met else "NO"
    print(f"{line.work:32} {known:>6} {100 * line.fitted:7.1f}% {line.best:6} {line.chosen:7}  {met}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each of the real ones")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--simulated", action="store_true")
    only.add_argument("--real", action="store_true")
    options = parser.parse_args()
    print(f"{describe()}\n\n{'work':32} {'serial':>6} {'fitted':>8} {'best':>6} {'chosen':>7}  goal met")
    lines = []
    for line in [] if options.real else map(simulated, LAWS):
        print_line(line)
        lines.append(line)
    for line in [] if options.simulated else on_real_workers(options.seconds):
        print_line(line)
        lines.append(line)
    sys.exit(0 if all(line.met for line in lines) else 1)


if __name__ == "__main__":
    main()
