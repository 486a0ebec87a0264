"""What a Dask cluster costs beside workers on this machine, and how much one parent can feed.

    python bench/cluster.py [--items 3000] [--rounds 3] [--overhead]

Whole processes in turn. The same items of 10 ms on two workers here and on two workers of one thread each; one item per
chunk, which tells the parent's CPU per chunk; items of 1 MiB, which tells its CPU per byte. Then items that sleep, on
twelve workers of one thread and on two of them, for shorter and longer: what a worker costs the parent for each second
that it is there, which is most where looks at a worker now find it held up and now not, and what a chunk costs that
comes alone.
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
from typing import NamedTuple

import process_cost
from machine import describe
from peer_work import MODULE, calibrate
from process_cost import Cost

WORK = f"""{MODULE}
import time

def size(item):
    return len(item["text"])

def nap(item):
    time.sleep(item["n"])
"""
COST = 0.010  # seconds per item, on two workers that both work
TRIAL = 300  # items that show what they take here
CHUNKS, BLOBS, BLOB = 2000, 200, 1 << 20
LONGEST = 0.8  # seconds that a chunk lasts at many workers (engine: chunking.LONGEST)
FEW, MANY = 2, 12  # workers
BRIEF, LONG = 4, 24  # seconds; multiples of those of a chunk
SHORT, MIDDLE, LONG_NAP = (
    0.05,
    0.2,
    2.0,
)  # seconds an item sleeps: a worker always moves, is now held up and now not, or is
THREADS = (1, 8, 32)  # a worker
KILOBYTES = 10_000  # bytes of an item
HERE = ("-j", "2")
ONE, ITEMS = ("tiny", "one.jsonl"), ("burn", "items.jsonl")


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[str]:
    """A scheduler and so many workers of one thread, on loopback; gives the scheduler's file."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    run = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    started = [subprocess.Popen([*run, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)], **quiet)]  # type: ignore[call-overload]
    try:
        while not file.exists():
            time.sleep(0.05)
        run = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-dashboard"]
        started += [subprocess.Popen([*run, "--nthreads", "1", "--no-nanny"], **quiet) for _ in range(workers)]  # type: ignore[call-overload]
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
    (folder / "one.jsonl").write_text('{"id": 0, "x": 1}\n')
    (folder / "chunks.jsonl").write_text("".join(f'{{"id": {number}, "x": 1}}\n' for number in range(CHUNKS)))
    text = "x" * BLOB
    (folder / "blobs.jsonl").write_text("".join(f'{{"id": {number}, "text": "{text}"}}\n' for number in range(BLOBS)))
    hashes = round(COST / calibrate())
    write_items(folder, TRIAL, hashes)
    start, trial = (process_cost.run(mill(*what, *HERE), folder, folder / "log").wall for what in (ONE, ITEMS))
    write_items(folder, items, round(hashes * COST / taken(trial - start, TRIAL)))


def write_items(folder: Path, items: int, hashes: int) -> None:
    lines = (json.dumps({"id": number, "n": hashes}) + "\n" for number in range(items))
    (folder / "items.jsonl").write_text("".join(lines))


def taken(seconds: float, items: int) -> float:
    """Seconds that each item took, where two workers took `seconds` for all."""
    return 2 * seconds / items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overhead", action="store_true", help="only the same items here and there")
    options = parser.parse_args()
    process_cost.adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends in any case
    print(describe())
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as place:
        folder = Path(place)
        prepare(folder, options.items)
        with cluster(folder) as file:
            overhead(folder, options, ("--cluster-file", file))
            if options.overhead:
                return
            start, chunk, byte = capacity(folder, options.rounds, ("--cluster-file", file))
        with cluster(folder, MANY) as file:
            presence = present(folder, ("--cluster-file", file))
    tell(start, chunk, byte, presence)


def overhead(folder: Path, options: argparse.Namespace, there: tuple[str, ...]) -> None:
    """The same items here and there; and one item, whose time is that of starting and ending."""
    ways = {"2 workers here": HERE, "2 workers, 1 thread each": there}
    rows: dict[str, list[Cost]] = {name: [] for name in ways}
    starts: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, where in ways.items():
            starts[name].append(process_cost.run(mill(*ONE, *where), folder, folder / "log").wall)
        for name, where in ways.items():
            rows[name].append(process_cost.run(mill(*ITEMS, *where), folder, folder / "log"))
    walls = {name: [cost.wall for cost in costs] for name, costs in rows.items()}
    rests = {name: [wall - start for wall, start in zip(walls[name], starts[name])] for name in rows}
    here = next(iter(rows))
    item = taken(median(rests[here]), options.items)
    print(f"\n{options.items:,} items of {item * 1000:.1f} ms, median of {options.rounds} rounds run in turn\n")
    print(f"{'':26} wall s   ratio   start s   ratio after it   parent CPU s")
    for name, costs in rows.items():
        ratio, after = (median(a / b for a, b in zip(what[name], what[here])) for what in (walls, rests))
        parent = median(cost.parent_cpu for cost in costs)
        print(f"{name:26}{median(walls[name]):7.2f}{ratio:8.3f}{median(starts[name]):10.2f}{after:17.3f}{parent:15.2f}")


def capacity(folder: Path, rounds: int, there: tuple[str, ...]) -> tuple[float, float, float]:
    """Seconds of the parent's CPU for a run of one item; beyond that for a chunk of many at once, and for a byte."""
    few, many, large = (
        median(_parent(folder, what, rounds))
        for what in (
            mill(*ONE, *there),
            mill("tiny", "chunks.jsonl", "--chunk-size", "1", *there),
            mill("size", "blobs.jsonl", *there),
        )
    )
    return few, (many - few) / CHUNKS, (large - few) / (BLOBS * BLOB)


class Presence(NamedTuple):
    """Seconds of the parent's CPU: each second of its own, for each of a worker whose items are short, of middle
    length, or long, and for a chunk that comes alone."""

    loop: float
    short: float
    middle: float
    long: float
    chunk: float


def present(folder: Path, there: tuple[str, ...]) -> Presence:
    """What is paid for every second of a run, as the difference of a long and a brief one: their starts cost the same.

    A worker's second costs w, with a chunk of d seconds that of 1/d chunks as well, and all workers one loop.
    """

    def second(workers: int, nap: float, chunk: float) -> float:
        costs = []
        for seconds in (BRIEF, LONG):
            items = round(workers * seconds / nap)
            (folder / "naps.jsonl").write_text("".join(f'{{"id": {n}, "n": {nap}}}\n' for n in range(items)))
            options = ("--chunk-size", str(round(chunk / nap)), "-j", str(workers), *there)
            costs += _parent(folder, mill("nap", "naps.jsonl", *options), 1)
        return (costs[1] - costs[0]) / (LONG - BRIEF)

    many, few = second(MANY, SHORT, LONG_NAP), second(FEW, SHORT, LONG_NAP)
    worker = (many - few) / (MANY - FEW)
    loop = many - MANY * worker
    chunk = (second(MANY, SHORT, 8 * SHORT) - many) / MANY / (1 / (8 * SHORT) - 1 / LONG_NAP)
    middle, long = (
        max(0.0, (second(MANY, nap, LONG_NAP) - loop) / MANY - chunk / LONG_NAP) for nap in (MIDDLE, LONG_NAP)
    )
    return Presence(loop, worker - chunk / LONG_NAP, middle, long, chunk)


def tell(start: float, chunk: float, byte: float, presence: Presence) -> None:
    """The costs, and how many workers one core of a parent feeds at those."""
    loop, short, middle, long, alone = presence
    print(f"\none parent, of its own CPU (start: {start:.2f} s)\n")
    print(f"chunks at once        {chunk * 1000:6.2f} ms each; {alone * 1000:.2f} ms one that comes alone")
    print(f"input                 {1 / byte / 2**20:6.0f} MiB a second")
    print(f"a worker              {short * 1000:6.2f} ms a second, with items of {SHORT} s;", end=" ")
    print(f"{middle * 1000:.2f} ms of {MIDDLE} s, {long * 1000:.2f} ms of {LONG_NAP} s")
    print(f"itself                {loop * 1000:6.2f} ms a second\n")
    print(
        f"{'workers it feeds, with workers of':34}" + "".join(f"{n:3} thread{'s' if n > 1 else ' '}" for n in THREADS)
    )
    kinds = [("items of a few bytes, under 0.1 s", short, alone / LONGEST)]
    for cost, worker in ((0.001, short), (0.01, short), (MIDDLE, middle)):
        kinds.append((f"items of {cost * 1000:.0f} ms and 10 kB", worker, alone / LONGEST + KILOBYTES * byte / cost))
    kinds.append((f"items of {LONG_NAP:.0f} s and 10 kB", long, (alone + KILOBYTES * byte) / LONG_NAP))
    for name, worker, worker in kinds:
        print(f"{name:34}" + "".join(f"{(1 - loop) / (worker + worker / threads):10,.0f}" for threads in THREADS))


def _parent(folder: Path, command: list[str], rounds: int) -> list[float]:
    return [process_cost.run(command, folder, folder / "log").parent_cpu for _ in range(rounds)]


if __name__ == "__main__":
    main()
