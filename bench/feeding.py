"""How many workers of this machine one parent feeds: its own CPU for each second that a worker has work.

    python bench/feeding.py [--rounds 2]

Workers only wait: the function sleeps, so that eight of them leave the cores to the parent. Each work is run twice, a
short and a long one, whole processes with the checkpoint on; what the long one costs the parent more, by the time that
its items take more, is what a worker costs. What the parent does whether it has many workers or few (its loop) is the
difference of eight and of two, and is paid once. Chunks last as long as they do where there are many workers. First:
what a MiB of input costs the parent, and a MiB of results.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import process_cost
from machine import describe
from process_cost import Cost

WORK = """
import time

def nap(item):
    time.sleep(item["s"])

def echo(item):
    time.sleep(item["s"])
    return item["text"]
"""
LONGEST = 0.8  # seconds that a chunk lasts at many workers (engine: chunk_size.LONGEST)
FEW, MANY = 2, 8  # workers
SECONDS, SHARE = 10.0, 6  # a long run; a short one has that part of its items
COSTS = (0.001, 0.01, 0.1)  # seconds an item sleeps
SIZES = (100, 1_000, 10_000, 100_000)  # bytes of an item
LEAST = 0.03  # seconds of CPU that can be told from none: the kernel counts hundredths
MIB = 1 << 20
MOST = 300 * MIB  # bytes of an input


class Work(NamedTuple):
    """Items of `size` bytes that take `seconds`; `function` says whether their results are as large."""

    function: str
    size: int
    seconds: float
    workers: int = MANY

    @property
    def items(self) -> int:
        """As many as the workers do in a long run, or fit into an input."""
        most = MOST // self.size
        return min(most, round(self.workers * SECONDS / self.seconds)) if self.seconds else most


class Trial:
    """Runs works in a folder, each `rounds` times; the least counts."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder, self._rounds = folder, rounds
        (folder / "work.py").write_text(WORK)

    def more(self, work: Work) -> tuple[float, float, int]:
        """What a long run costs more than a short one: the parent's CPU and wall time, both in seconds; and how many
        items it has more."""
        brief, long = (self._least(work, items) for items in (max(1, work.items // SHARE), work.items))
        return long.parent_cpu - brief.parent_cpu, long.wall - brief.wall, work.items - max(1, work.items // SHARE)

    def _least(self, work: Work, items: int) -> Cost:
        with open(self._folder / "items.jsonl", "w") as file:
            text = "x" * max(0, work.size - 40)
            for number in range(items):
                file.write(f'{{"id": {number:9}, "s": {work.seconds}, "text": "{text}"}}\n')
        run = [sys.executable, "-m", "batchmill", "run", f"work.py:{work.function}", "items.jsonl", "--fresh"]
        if work.seconds:
            run += ["--chunk-size", str(max(1, round(LONGEST / work.seconds)))]
        command = [*run, "-c", "bench.ckpt", "-j", str(work.workers)]
        costs = [process_cost.run(command, self._folder, self._folder / "log") for _ in range(self._rounds)]
        return Cost(*map(min, zip(*costs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    process_cost.adopt_orphans()
    print(describe())
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        trial = Trial(Path(name), rounds)
        show_bytes(trial)
        loop = loop_of(trial)
        print(f"the loop itself       {loop * 1000:6.2f} ms a second\n")
        print(f"{'workers it feeds, with items of':34}" + "".join(f"{cost * 1000:6g} ms" for cost in COSTS))
        for function, sizes in (("nap", SIZES), ("echo", (10_000,))):
            for size in sizes:
                row = f"{size:,} bytes" + (", and as large results" if function == "echo" else "")
                fed = (fed_by(trial, Work(function, size, cost), loop) for cost in COSTS)
                print(f"{row:34}" + "".join(f"{workers:>9}" for workers in fed), flush=True)


def show_bytes(trial: Trial) -> None:
    """What a MiB costs the parent, of items of 10 kB that take no time."""
    size = 10_000
    taken = {}
    for function in ("nap", "echo"):
        cpu, _, items = trial.more(Work(function, size, 0.0, FEW))
        taken[function] = cpu / (items * size / MIB) * 1000
    print(f"\none parent, of its own CPU\n\na MiB of input        {taken['nap']:6.2f} ms")
    print(f"a MiB of results      {taken['echo'] - taken['nap']:6.2f} ms")


def loop_of(trial: Trial) -> float:
    """Seconds of the parent's CPU in each, for however many workers."""
    few, many = (cpu / wall for cpu, wall, _ in (trial.more(Work("nap", 100, 0.05, n)) for n in (FEW, MANY)))
    return max(0.0, few - FEW * (many - few) / (MANY - FEW))


def fed_by(trial: Trial, work: Work, loop: float) -> str:
    """How many workers that have such items take all of the parent's core; more, where that was too little to tell."""
    cpu, wall, items = trial.more(work)
    taken = cpu - loop * wall
    return f"{'' if taken > LEAST else '>'}{(1 - loop) * items * work.seconds / max(LEAST, taken):,.0f}"


if __name__ == "__main__":
    main()
