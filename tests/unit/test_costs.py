"""What a batch costs, in counts and not in seconds: the parent does nothing per item and little per chunk, a worker
does few calls per item. Two runs that differ in one number alone give the cost of one more.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from cli_kit import environment
from worker_kit import chunk_of, worker

from batchmill.worker.records import ChunkJob, run_chunk

FEW, MANY = 4_000, 20_000  # items
FULL, TWICE = 100_000, 200_000  # items; FULL are as many as the parent ever reads ahead
SMALL, LARGE = 200, 1_000  # items per chunk: FEW / SMALL chunks are as many as MANY / LARGE
CHUNKS = FEW // SMALL
SHORTER, LONGER, TEXT = 400, 1_200, 10_000  # items of so many bytes

# A batch as the command line runs it, in a process that counts what its own threads do meanwhile.
PROGRAM = """
import json, sys, threading, tracemalloc
import msgpack
import psutil  # a batch imports it while it runs, and its size is not the batch's

seen = {"calls": 0, "unpacks": 0}

class Unpacker(msgpack.Unpacker):
    def feed(self, data):
        seen["unpacks"] += 1
        super().feed(data)

def unpackb(data, unpack=msgpack.unpackb, **options):
    seen["unpacks"] += 1
    return unpack(data, **options)

msgpack.Unpacker, msgpack.unpackb = Unpacker, unpackb
from batchmill.batch.batch import Batch
from batchmill.plan import make_plan
from batchmill.settings import Settings

def count(frame, event, what):
    if event == "call":
        seen["calls"] += 1

how, items, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
def moved():
    with open("/proc/self/io") as file:
        return [int(line.split()[1]) for line in file][:2]

settings = Settings(workers=1, chunk_size=size, fresh=True)
batch = Batch(make_plan("work.py:same", [items], settings=settings, checkpoint=f"{how}-{items}-{size}.ckpt"))
if how == "calls":
    threading.setprofile(count)
    sys.setprofile(count)
elif how == "memory":
    tracemalloc.start()
before = moved() if how == "bytes" else [0, 0]
report = batch.run()
after = moved() if how == "bytes" else [0, 0]
sys.setprofile(None)
threading.setprofile(None)
seen["peak"] = tracemalloc.get_traced_memory()[1] if how == "memory" else 0
seen["done"] = report.completed
seen["read"], seen["written"] = (b - a for a, b in zip(before, after))
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("costs")
    (folder / "work.py").write_text("def same(item):\n    return item['x']\n")
    (folder / "count.py").write_text(PROGRAM)
    for items in (FEW, MANY, FULL, TWICE):
        lines = (f'{{"id": {number}, "x": {number}}}\n' for number in range(100_000, 100_000 + items))
        (folder / f"{items}.jsonl").write_text("".join(lines))
    for items in (SHORTER, LONGER):
        lines = (f'{{"id": {number}, "x": 1, "text": "{"x" * TEXT}"}}\n' for number in range(items))
        (folder / f"{items}.jsonl").write_text("".join(lines))
    return folder


@lru_cache
def run(place: Path, how: str, items: int, size: int) -> dict[str, int]:
    """What a batch of so many items in chunks of that size cost the parent."""
    strace = ["strace", "-qq", "-o", "trace"] if how == "strace" else []
    done = subprocess.run(
        [*strace, sys.executable, "count.py", how, f"{items}.jsonl", str(size)],
        cwd=place, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if strace and "PTRACE" in done.stderr.upper():
        pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    assert found["done"] == items
    found["bytes"] = os.path.getsize(place / f"{how}-{items}.jsonl-{size}.ckpt")
    if strace:
        found["system calls"] = (place / "trace").read_text().count("\n")
    return found


def per_item(place: Path, how: str, what: str) -> float:
    """Of one more item in as many chunks."""
    more = run(place, how, MANY, LARGE)[what] - run(place, how, FEW, SMALL)[what]
    return more / (MANY - FEW)


def per_chunk(place: Path, how: str, what: str) -> float:
    """Of one more chunk for as many items."""
    more = run(place, how, MANY, SMALL)[what] - run(place, how, MANY, LARGE)[what]
    return more / (MANY // SMALL - CHUNKS)


def test_the_parent_calls_nothing_per_item_and_little_per_chunk(place: Path) -> None:
    assert per_item(place, "calls", "calls") < 0.5  # the clock makes it do some hundreds in all
    assert per_chunk(place, "calls", "calls") < 450


def test_the_parent_opens_no_reply(place: Path) -> None:
    assert per_item(place, "calls", "unpacks") == 0
    assert per_chunk(place, "calls", "unpacks") == 0


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_parent_asks_the_kernel_for_nothing_per_item_and_little_per_chunk(place: Path) -> None:
    assert per_item(place, "strace", "system calls") < 0.25
    assert per_chunk(place, "strace", "system calls") < 12


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="nobody counts here what a process reads")
def test_a_plain_file_is_read_three_times_in_all_and_nothing_of_it_is_sent(place: Path) -> None:
    few, many = (run(place, "bytes", items, items // 4) for items in (SHORTER, LONGER))
    size = (LONGER - SHORTER) * TEXT
    assert (many["read"] - few["read"]) / size < 3.2  # to count its records, to cut them, and by workers
    assert (many["written"] - few["written"]) / size < 0.1


def test_an_item_takes_few_bytes_of_the_checkpoint(place: Path) -> None:
    assert per_item(place, "calls", "bytes") < 20  # id, result, seconds, checksum
    assert per_chunk(place, "calls", "bytes") < 400


def test_the_parent_takes_as_much_memory_for_twice_the_items(place: Path) -> None:
    peak, twice = (run(place, "memory", items, LARGE)["peak"] for items in (FULL, TWICE))
    assert (twice - peak) / (TWICE - FULL) < 2  # bytes; what is known of each chunk is some hundreds


def work(item: Any) -> Any:
    return item["x"]


def worker_calls(items: int) -> Counter[str]:
    """The calls of Python functions, and of others, that a worker makes for a chunk."""
    data = b"".join(b'{"id": %d, "x": %d}\n' % (number, number * 3) for number in range(items))
    order, seen = ChunkJob(1, 0.0, 1, chunk_of(data)), Counter[str]()

    def count(frame: FrameType, event: str, what: Any) -> None:
        seen[event] += 1

    with worker(work):
        run_chunk(order)  # what is made once is there
        try:
            sys.setprofile(count)
            answer = run_chunk(order)
        finally:
            sys.setprofile(None)
    assert [summary.ok for _, summary in answer.parts] == [items]
    return seen


def test_a_worker_makes_few_calls_per_item() -> None:
    few, many = worker_calls(1000), worker_calls(3000)
    # Identify, parse, the item's call, the function, its result's packing; and what the collector of garbage may call.
    assert many["call"] - few["call"] < 5.1 * 2000
    assert many["c_call"] - few["c_call"] < 13.5 * 2000
