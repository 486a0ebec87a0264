"""The measurement of the main job: 1,000,000 tiny JSONL items, JSONL in and out, against a serial loop.

The serial loop reads, calls and writes the same, and keeps no checkpoint; batchmill keeps one. Both are whole
processes, run in turn; the figure is the median of the ratios within a round, because machines drift. Memory is watched
in a round of its own, before them. Never asserts.

    python bench/main_job.py [--items 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import process_cost
from machine import describe

FUNCTION = "def score(item):\n    return item['x'] * 2 + 1\n"
SERIAL = """
import json
from score import score
with open("items.jsonl") as source, open("serial.jsonl", "w") as out:
    for line in source:
        item = json.loads(line)
        out.write(json.dumps({"id": item["id"], "result": score(item)}) + "\\n")
"""
MILL = [
    *(sys.executable, "-m", "batchmill", "run", "score.py:score", "items.jsonl"),
    *("-c", "bench.ckpt", "-o", "mill.jsonl"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    process_cost.adopt_orphans()
    print(describe())
    print(f"\n{options.items:,} items of about 30 bytes, median of {options.rounds} rounds run in turn\n")
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        folder = Path(name)
        prepare(folder, options.items)
        rss = process_cost.watch([*MILL, "--fresh"], folder, folder / "log").parent / 2**20
        rounds = [one_round(folder) for _ in range(options.rounds)]
    print("             wall s   ratio to serial   CPU s of parent   peak RSS of parent")
    print(f"serial loop  {median(r['serial'] for r in rounds):6.2f}   1.00")
    ratio = median(r["mill"] / r["serial"] for r in rounds)
    wall, cpu = median(r["mill"] for r in rounds), median(r["cpu"] for r in rounds)
    print(f"batchmill    {wall:6.2f}   {ratio:.2f}{cpu:27.2f}{rss:17.0f} MiB")
    again, kept = median(r["resume"] for r in rounds), rounds[-1]["size"] / 2**20
    print(f"resumed with nothing left to do, output written again: {again:.2f} s; checkpoint {kept:.0f} MiB")


def one_round(folder: Path) -> dict[str, float]:
    """Both, once; the outputs must be the same bytes."""
    log = folder / "log"
    serial = process_cost.run([sys.executable, "-c", SERIAL], folder, log)
    mill = process_cost.run([*MILL, "--fresh"], folder, log)
    if (folder / "serial.jsonl").read_bytes() != (folder / "mill.jsonl").read_bytes():
        sys.exit("the outputs differ")
    resume = process_cost.run([*MILL, "--resume"], folder, log)
    size = (folder / "bench.ckpt").stat().st_size
    return {
        "serial": serial.wall, "mill": mill.wall, "cpu": mill.parent_cpu, "resume": resume.wall, "size": size,
    }  # fmt: skip


def prepare(folder: Path, items: int) -> None:
    (folder / "score.py").write_text(FUNCTION)
    with open(folder / "items.jsonl", "w") as file:
        file.writelines(json.dumps({"id": number, "x": number * 3}) + "\n" for number in range(items))


if __name__ == "__main__":
    main()
