"""The comparison of `batchmill exec` with xargs and GNU parallel: two trivial commands, a program and a script.

Whole processes, run in turn, round after round; the ratios are medians of ratios to `xargs -P` within a round, because
machines drift. batchmill has its checkpoint on, which is a new one each time; parallel runs without and with its log.

    python bench/exec.py [--items 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import process_cost
from machine import describe
from process_cost import Broke, Cost

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ITEMS = "items.txt"
BASE = "xargs -P"
XARGS = ["xargs", "-a", ITEMS, f"-P{CORES}", "-I{}"]
MILL = [sys.executable, "-m", "batchmill", "exec", ITEMS, "-c", "bench.ckpt", "--fresh", "-j", str(CORES)]
PARALLEL = ["parallel", "--will-cite", f"-j{CORES}", "-a", ITEMS]
WORKS = {"true": ["true", "{}"], "sh -c :": ["sh", "-c", ":", "{}"]}


def programs(words: list[str]) -> dict[str, list[str]]:
    """What is compared on that command."""
    return {
        BASE: [*XARGS, *words],
        "batchmill": [*MILL, "--", *words],
        "batchmill -o": [*MILL, "-o", "out.jsonl", "--", *words],
        "parallel": [*PARALLEL, *words],
        "parallel, log": [*PARALLEL, "--joblog", "bench.log", "--resume", *words],
    }


LEFTOVERS = ("bench.log", "bench.ckpt", "bench.1.ckpt", "out.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    process_cost.adopt_orphans()
    print(describe())
    for title, words in WORKS.items():
        _compare(title, programs(words), options.items, options.rounds)


def _compare(title: str, commands: dict[str, list[str]], items: int, rounds: int) -> None:
    commands = {name: command for name, command in commands.items() if _is_there(name, command[0])}
    print(f"\n{items:,} x {title}, {CORES} at a time, median of {rounds} rounds run in turn\n")
    print(f"{'':15} wall s   ratio to {BASE}   total CPU s")
    costs = measure(commands, items, rounds)
    for name in commands:
        wall = median(cost.wall for cost in costs[name])
        ratio = median(cost.wall / base.wall for cost, base in zip(costs[name], costs[BASE]))
        cpu = median(cost.total_cpu for cost in costs[name])
        print(f"{name:15} {wall:6.2f}   {ratio:17.2f}   {cpu:11.2f}")


def measure(commands: dict[str, list[str]], items: int, rounds: int) -> dict[str, list[Cost]]:
    """Every program once per round, in turn; ends where one fails."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as place:
        folder = Path(place)
        (folder / ITEMS).write_text("".join(f"{number}\n" for number in range(items)))
        for _ in range(rounds):
            for name, command in commands.items():
                for leftover in LEFTOVERS:
                    (folder / leftover).unlink(missing_ok=True)
                try:
                    costs[name].append(process_cost.run(command, folder, folder / "log"))
                except Broke as error:
                    sys.exit(f"{name}: {error}")
    return costs


def _is_there(name: str, program: str) -> bool:
    if shutil.which(program) is not None:
        return True
    if name == BASE:
        sys.exit("there is no xargs to compare with")
    print(f"{program} is not installed, left out: {name} (Debian: apt-get install parallel)", file=sys.stderr)
    return False


if __name__ == "__main__":
    main()
