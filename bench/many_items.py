"""The measurement of scale: what 10^5, 10^6 and 10^7 tiny items cost the parent, and what resuming them costs when
nothing is left to do.

Whole processes with the checkpoint on. Each is run twice, for time and for memory (see process_cost).

    python bench/many_items.py [--most 10000000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import process_cost
from machine import describe

MILL = [sys.executable, "-m", "batchmill", "run", "score.py:score", "items.jsonl", "-c", "bench.ckpt"]
OUTPUT = ["-o", "out.jsonl"]
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000_000)
    most = parser.parse_args().most
    process_cost.adopt_orphans()
    print(describe())
    print("\ntiny JSONL items, checkpoint on\n")
    print(f"{'':44} wall s   parent CPU s   µs an item   parent MiB")
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        folder = Path(name)
        (folder / "score.py").write_text("def score(item):\n    return item['x'] * 2 + 1\n")
        for items in (most // 100, most // 10, most):
            write(folder / "items.jsonl", items)
            show(f"{items:,} items", folder, [*MILL, "--fresh"], items)
        show("resumed, nothing left", folder, [*MILL, "--resume"], most)
        show("the same, output written", folder, [*MILL, *OUTPUT, "--resume"], most)
        write(folder / "items.jsonl", most, first=b'{"id": "new", "x": 0}\n')
        show("resumed, a new line before all others", folder, [*MILL, "--resume"], most, once=True)
        print(f"\ncheckpoint {(folder / 'bench.ckpt').stat().st_size / MIB:,.0f} MiB")


def write(path: Path, items: int, first: bytes = b"") -> None:
    """So many items of about 30 bytes."""
    with open(path, "wb") as file:
        file.write(first)
        for start in range(0, items, 10_000):
            lines = (b'{"id": %d, "x": %d}\n' % (n, n * 3) for n in range(start, min(start + 10_000, items)))
            file.write(b"".join(lines))


def show(what: str, folder: Path, command: list[str], items: int, *, once: bool = False) -> None:
    """Measure a command and print its line. What changes the checkpoint is run `once`, on a copy of it each time."""
    kept = folder / "kept.ckpt"
    if once:
        kept.write_bytes((folder / "bench.ckpt").read_bytes())
    memory = process_cost.watch(command, folder, folder / "log")
    if once:
        kept.replace(folder / "bench.ckpt")
    cost = process_cost.run(command, folder, folder / "log")
    each = 1e6 * cost.parent_cpu / items
    print(f"{what:44}{cost.wall:7.2f}{cost.parent_cpu:15.2f}{each:13.2f}{memory.parent / MIB:13.0f}", flush=True)


if __name__ == "__main__":
    main()
