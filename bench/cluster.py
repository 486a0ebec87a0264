"""Owns what a Dask cluster costs beside lanes on this machine, and how much one parent can feed. Never needs a cluster:
it starts a scheduler and two workers here, and ends them.

    python bench/cluster.py [--items 3000] [--rounds 3]

Three things, whole processes in turn: the same items of 10 ms on two lanes here and on two workers of one thread each;
one item per chunk, which tells the parent's CPU per chunk; items of 1 MiB, which tells its CPU per byte.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import process_cost
from machine import describe
from peer_work import MODULE, calibrate
from process_cost import Cost

WORK = f"""{MODULE}

def size(item):
    return len(item["text"])
"""
COST = 0.010  # seconds per item
CHUNKS, BLOBS, BLOB = 2000, 200, 1 << 20
LONGEST = 0.8  # seconds that a chunk lasts at many lanes (engine: chunking.LONGEST)


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[str]:
    """A scheduler and so many workers of one thread, on loopback; gives the scheduler's file."""
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    run = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    started = [subprocess.Popen([*run, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)], **quiet)]  # type: ignore[call-overload]
    try:
        while not file.exists():
            time.sleep(0.05)
        run = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-dashboard"]
        started += [subprocess.Popen([*run, "--nthreads", "1"], **quiet) for _ in range(workers)]  # type: ignore[call-overload]
        _wait_for_workers(file, workers)
        yield str(file)
    finally:
        for process in reversed(started):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_workers(file: Path, workers: int) -> None:
    from distributed import Client

    with Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)


def mill(function: str, source: str, *options: str) -> list[str]:
    run = [sys.executable, "-m", "batchmill", "run", f"work.py:{function}", source, "-c", "bench.ckpt", "--fresh"]
    return [*run, "-o", "out.jsonl", *options]


def prepare(folder: Path, items: int) -> None:
    (folder / "work.py").write_text(WORK)
    hashes = max(1, round(COST / calibrate()))
    lines = (json.dumps({"id": number, "n": hashes}) + "\n" for number in range(items))
    (folder / "items.jsonl").write_text("".join(lines))
    (folder / "chunks.jsonl").write_text("".join(f'{{"id": {number}, "x": 1}}\n' for number in range(CHUNKS)))
    text = "x" * BLOB
    (folder / "blobs.jsonl").write_text("".join(f'{{"id": {number}, "text": "{text}"}}\n' for number in range(BLOBS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    process_cost.adopt_orphans()
    print(describe())
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as place, cluster(Path(place)) as file:
        folder = Path(place)
        prepare(folder, options.items)
        there = ("--cluster-file", file)
        overhead(folder, options, there)
        capacity(folder, options.rounds, there)


def overhead(folder: Path, options: argparse.Namespace, there: tuple[str, ...]) -> None:
    """The same items here and there."""
    rows: dict[str, list[Cost]] = {"2 lanes here": [], "2 workers, 1 thread each": []}
    for _ in range(options.rounds):
        for name, where in zip(rows, (("-j", "2"), there)):
            rows[name].append(process_cost.run(mill("burn", "items.jsonl", *where), folder, folder / "log"))
    print(f"\n{options.items:,} items of {COST * 1000:.0f} ms, median of {options.rounds} rounds run in turn\n")
    print(f"{'':26} wall s   ratio   parent CPU s")
    here = rows["2 lanes here"]
    for name, costs in rows.items():
        ratio = median(cost.wall / base.wall for cost, base in zip(costs, here))
        parent = median(cost.parent_cpu for cost in costs)
        print(f"{name:26}{median(cost.wall for cost in costs):7.2f}{ratio:8.3f}{parent:15.2f}")


def capacity(folder: Path, rounds: int, there: tuple[str, ...]) -> None:
    """What a chunk and a byte cost the parent, beyond what a run costs it anyway."""
    (folder / "one.jsonl").write_text('{"id": 0, "x": 1}\n')
    few, many, large = (
        median(_parent(folder, what, rounds))
        for what in (
            mill("tiny", "one.jsonl", *there),
            mill("tiny", "chunks.jsonl", "--chunk-size", "1", *there),
            mill("size", "blobs.jsonl", *there),
        )
    )
    chunk, byte = (many - few) / CHUNKS, (large - few) / (BLOBS * BLOB)
    print(f"\none parent, of its own CPU (start: {few:.2f} s)\n")
    print(f"chunks           {1 / chunk:10,.0f} a second: {chunk * 1000:.2f} ms each")
    print(f"input            {1 / byte / 2**20:10,.0f} MiB a second")
    print(f"lanes it feeds   {LONGEST / chunk:10,.0f} with chunks of {LONGEST} s: items of a few bytes, of any cost")
    for cost in (0.001, 0.01, 0.1):
        seconds = 10_000 * byte + chunk * cost / LONGEST
        print(f"{'':17}{cost / seconds:10,.0f} with items of {cost * 1000:.0f} ms and 10 kB")


def _parent(folder: Path, command: list[str], rounds: int) -> list[float]:
    return [process_cost.run(command, folder, folder / "log").parent_cpu for _ in range(rounds)]


if __name__ == "__main__":
    main()
