"""The measurement of compressed INPUTs: how fast they are unpacked, beside the library alone.

Each file holds the same lines. One side is what the parent of a run does with an INPUT until it has text to cut: it
looks at the first bytes, and unpacks member after member. The other is a loop over `gzip.open(...).read(1 MiB)`, or
bz2, lzma and zstd in its place. They run in turn in this process, by their CPU time and by the clock; the ratio is the
median of those within a round. Exit status 1 where it is above `--most`.

    python bench/unpacking.py [--rounds 7] [--megabytes 60] [--most 1.10]
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from batchmill.input.compression import zstd
from batchmill.input.formats import format_named
from batchmill.input.streams import opener
from machine import describe

PART = 1 << 20


class Library(NamedTuple):
    """A suffix, what compresses bytes, and what opens a file of them for reading."""

    suffix: str
    pack: Callable[[bytes], bytes]
    open: Callable[[Path], Any]


def libraries() -> list[Library]:
    """Those that are here."""
    found = [
        Library("gz", lambda data: gzip.compress(data, 6), gzip.open),
        Library("bz2", bz2.compress, bz2.open),
        Library("xz", lambda data: lzma.compress(data, preset=1), lzma.open),
    ]
    try:
        module = zstd()
    except ImportError:
        print("zstd is left out: pip install 'batchmill[zstd]'", file=sys.stderr)
        return found
    return [*found, Library("zst", module.compress, module.open)]


def text(megabytes: int) -> bytes:
    """Lines as people have them: numbers, names, a little text."""
    rng = random.Random(4)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    lines: list[str] = []
    size = 0
    while size < megabytes << 20:
        line = f'{{"id": {len(lines)}, "score": {rng.random():.6f}, "text": "{" ".join(rng.choices(words, k=12))}"}}\n'
        lines.append(line)
        size += len(line)
    return "".join(lines).encode()


def read_alone(library: Library, path: Path) -> int:
    """Unpack the file by the library; its size."""
    size = 0
    with library.open(path) as file:
        while part := file.read(PART):
            size += len(part)
    return size


def read_here(path: Path) -> int:
    """Unpack the file as a run does; its size."""
    wake, size = threading.Event(), 0
    feed = opener(str(path), format_named("jsonl"), wake.set)()
    try:
        while True:
            wake.clear()
            block = feed.read()
            if block is None:
                wake.wait(60)
            elif not block:
                return size
            else:
                size += len(block)
    finally:
        feed.close()


def timed(read: Callable[[], int], expected: int) -> tuple[float, float]:
    """The seconds of CPU and of the clock that it takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    assert read() == expected
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=60, help="of text in each file")
    parser.add_argument("--most", type=float, default=1.10, help="the ratio of CPU times above which it has failed")
    options = parser.parse_args()
    print(describe())
    print(f"{'suffix':8}{'library CPU s':>15}{'batchmill CPU s':>17}{'ratio':>8}{'ratio by the clock':>20}")
    data, is_good = text(options.megabytes), True
    with tempfile.TemporaryDirectory() as folder:
        for library in libraries():
            path = Path(folder) / f"items.jsonl.{library.suffix}"
            path.write_bytes(library.pack(data))
            alone, here = [], []
            for _ in range(options.rounds):
                alone.append(timed(partial(read_alone, library, path), len(data)))
                here.append(timed(partial(read_here, path), len(data)))
            cpu, wall = (median(b[at] / a[at] for a, b in zip(alone, here)) for at in (0, 1))
            is_good = is_good and cpu <= options.most
            least = [min(side)[0] for side in (alone, here)]
            print(f"{library.suffix:8}{least[0]:15.2f}{least[1]:17.2f}{cpu:8.2f}{wall:20.2f}", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
