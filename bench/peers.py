"""The comparison with the peers: the same JSONL-to-JSONL work through each, and through batchmill with its
checkpoint on.

Whole processes, run in turn, round after round; the ratios are medians of ratios to the serial loop within a round,
because machines drift. Memory is watched in a round of its own, before the timed ones. All outputs must hold the same
set of lines. Ends with status 1 where they do not.

    python bench/peers.py [--scale 1] [--rounds 3] [--only batchmill --only pool ...] [--work tiny ...]
                          [--sweep] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import process_cost
from machine import describe
from peer_programs import NEEDS, PROGRAMS, SOURCE, TARGET
from peer_work import Workload, calibrate, prepare, sweep, workloads
from process_cost import Broke, Cost, Memory

MILLS = {"batchmill": "json", "batchmill[fast]": "orjson"}  # and what its workers parse with
PACKAGES = {**NEEDS, "batchmill[fast]": "orjson"}  # what a contender needs
CONTENDERS = ("serial", *MILLS, *(name for name in PROGRAMS if name != "serial"))
WHAT_MILL_DOES = "the command line: blocks to the workers, which parse and pack; a checkpoint; in input order"
PROGRAM = str(Path(__file__).resolve().parent / "peer_programs.py")
MIB = 2**20


class Line(NamedTuple):
    """One line of the table: medians over the timed rounds, peaks of the other; `ratio` is to the serial loop."""

    work: str
    items: int
    name: str
    wall: float
    ratio: float
    parent_cpu: float
    total_cpu: float
    parent_rss: float
    tree_rss: float
    rounds: list[Cost]


def main() -> None:
    options = _options()
    names = _contenders(options.only)
    process_cost.adopt_orphans()
    chosen = sweep(options.scale) if options.sweep else workloads(options.scale)
    chosen = [workload for workload in chosen if options.work is None or workload.name in options.work]
    per_hash = calibrate()
    if not options.json:
        print(describe())
        print(f"peers     {_versions(names)}")
        print(f"hash      {per_hash * 1e6:.3f} µs, median of {options.rounds} rounds run in turn")
        print("memory    watched in a round of its own, which does not count for time\n")
        print_rows(names)
    found = []
    for workload in chosen:
        if not options.json:
            print(
                f"\n{workload.name}: {workload.items:,} items, chunks of {workload.chunk} where a peer wants a number\n"
            )
            print(f"{'':17} wall s   ratio   parent CPU s   total CPU s   parent MiB   tree MiB")
        for line in compare(workload, names, options.rounds, per_hash):
            found.append(line)
            if not options.json:
                print_line(line)
    if options.json:
        lines = [{**line._asdict(), "rounds": [cost._asdict() for cost in line.rounds]} for line in found]
        print(json.dumps({"machine": describe(), "versions": _versions(names), "lines": lines}))
    else:
        print_ratios(found)


def compare(workload: Workload, names: list[str], rounds: int, per_hash: float) -> list[Line]:
    """Every contender once per round. One that breaks is named and left out from then on."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    memory: dict[str, Memory] = {}
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as place:
        folder = Path(place)
        prepare(folder, workload, per_hash)
        for timed in range(rounds + 1):
            expected = ""
            for name in list(costs):
                what = (command(name, workload), folder, folder / "log")
                try:
                    if timed:
                        costs[name].append(process_cost.run(*what))
                    else:
                        memory[name] = process_cost.watch(*what)
                except Broke as error:
                    print(f"{name} is left out: {error}", file=sys.stderr)
                    del costs[name]
                    continue
                expected = _same(folder / TARGET, expected, name)
    return [_line(workload, name, costs[name], costs["serial"], memory[name]) for name in costs]


def command(name: str, workload: Workload) -> list[str]:
    if name in MILLS:
        mill = [
            "env",
            f"BATCHMILL_JSON={MILLS[name]}",
            sys.executable,
            "-m",
            "batchmill",
            "run",
            f"work.py:{workload.function}",
            SOURCE,
        ]
        return [*mill, "-c", "bench.ckpt", "-o", TARGET, "--fresh"]
    return [sys.executable, PROGRAM, name, workload.function, str(workload.chunk)]


def _same(output: Path, expected: str, name: str) -> str:
    """The digest of the set of lines; ends the program where it is not the expected one."""
    digest = hashlib.sha256()
    with open(output, "rb") as file:
        for line in sorted(file):
            digest.update(line)
    output.unlink()
    if expected not in ("", digest.hexdigest()):
        sys.exit(f"{name} wrote other lines than the serial loop")
    return digest.hexdigest()


def _line(workload: Workload, name: str, costs: list[Cost], serial: list[Cost], memory: Memory) -> Line:
    return Line(
        work=workload.name,
        items=workload.items,
        name=name,
        wall=median(cost.wall for cost in costs),
        ratio=median(cost.wall / base.wall for cost, base in zip(costs, serial)),
        parent_cpu=median(cost.parent_cpu for cost in costs),
        total_cpu=median(cost.total_cpu for cost in costs),
        parent_rss=memory.parent,
        tree_rss=memory.tree,
        rounds=costs,
    )


def print_line(line: Line) -> None:
    memory = f"{line.parent_rss / MIB:12.0f} {line.tree_rss / MIB:10.0f}"
    times = f"{line.wall:7.2f} {line.ratio:7.3f} {line.parent_cpu:14.2f} {line.total_cpu:13.2f}"
    print(f"{line.name:17}{times} {memory}", flush=True)


def print_rows(names: list[str]) -> None:
    """What each row is, in a line."""
    print("the rows; all but batchmill without a checkpoint, and one bad item ends them")
    for name in names:
        print(f"  {name:17}{_what_it_does(name)}")


def _what_it_does(name: str) -> str:
    if name in PROGRAMS:
        return str(PROGRAMS[name].__doc__)
    return WHAT_MILL_DOES if MILLS[name] == "json" else "the same, with the extra that parses by orjson"


def print_ratios(found: list[Line]) -> None:
    """All ratios to the serial loop at a glance: a contender a line, a workload a column."""
    works = list(dict.fromkeys(line.work for line in found))
    ratios = {(line.name, line.work): f"{line.ratio:.3f}" for line in found}
    print("\nratio to the serial loop\n\n" + "".ljust(17) + "".join(work.rjust(10) for work in works))
    for name in dict.fromkeys(line.name for line in found):
        print(name.ljust(17) + "".join(ratios.get((name, work), "-").rjust(10) for work in works))


def _contenders(only: list[str] | None) -> list[str]:
    """Those asked for that are installed; the serial loop is always among them."""
    asked = [name for name in CONTENDERS if only is None or name in only or name == "serial"]
    missing = [name for name in asked if name in PACKAGES and not _is_installed(PACKAGES[name])]
    if missing:
        print(f"not installed, left out: {', '.join(missing)} (pip install -e '.[bench]')", file=sys.stderr)
    return [name for name in asked if name not in missing]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _versions(names: list[str]) -> str:
    from importlib.metadata import version

    packages = [PACKAGES[name].partition(".")[0] for name in names if name in PACKAGES]
    return ", ".join(f"{package} {version(package)}" for package in packages) or "no peers from packages"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of each workload's items")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="this contender (and serial); repeatable")
    parser.add_argument("--work", nargs="+", help="these workloads")
    parser.add_argument("--sweep", action="store_true", help="item costs from 1 µs to 1 s instead")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
