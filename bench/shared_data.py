"""The memory that large data takes: a table for all workers, and large items, here and with the peers.

Each row is a process of its own, with two workers. `workers` is what one worker has for itself (the larger one), `all`
what the program, its workers and files in memory take together, both at their peak and the latter beyond what the
program had before it began. The table itself is in the program once, and counts in neither; a memmap is in none.

    python bench/shared_data.py [--mib 400] [--only batchmill]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil

import batchmill
from machine import describe

ROWS, ITEMS, ITEM_MIB = 64, 20, 20
MIB = 2**20


def total(row: int, table: Any) -> float:
    """The work on a row of the table: all of it is looked at, as a model is."""
    time.sleep(0.05)
    return float(table.sum()) + row


def item_total(item: Any) -> float:
    """The work on a large item."""
    time.sleep(0.05)
    return float(item.sum())


TABLE: Any = None


def set_table(table: Any) -> None:
    """What an initializer does with the table."""
    global TABLE
    TABLE = table


def total_of_global(row: int) -> float:
    """`total`, of the table that the initializer has set."""
    return total(row, TABLE)


def items() -> Iterator[Any]:
    """The large items, made one by one."""
    for number in range(ITEMS):
        yield np.full((ITEM_MIB * MIB) // 8, float(number))


def _pool(table: Any) -> Any:
    with multiprocessing.get_context("forkserver").Pool(2, set_table, (table,)) as pool:
        return pool.map(total_of_global, range(10))


def _pool_items(_: Any) -> Any:
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        return list(pool.imap(item_total, items()))


def _joblib(table: Any) -> Any:
    from joblib import Parallel, delayed

    return Parallel(n_jobs=2)(delayed(total)(row, table) for row in range(10))


def _joblib_items(_: Any) -> Any:
    from joblib import Parallel, delayed

    return Parallel(n_jobs=2)(delayed(item_total)(item) for item in items())


def _mpire(table: Any) -> Any:
    from mpire import WorkerPool

    with WorkerPool(2, shared_objects=table, start_method="forkserver") as pool:
        return pool.map(_mpire_total, range(10))


def _mpire_total(table: Any, row: int) -> float:
    return total(row, table)


def _mpire_items(_: Any) -> Any:
    from mpire import WorkerPool

    with WorkerPool(2, start_method="forkserver") as pool:
        return list(pool.imap(item_total, ((item,) for item in items()), iterable_len=ITEMS))


WAYS: dict[str, Callable[[Any], Any]] = {
    "table: batchmill, kwargs=": lambda table: batchmill.map(total, range(10), kwargs={"table": table}, workers=2),
    "table: batchmill, a closure": lambda table: batchmill.map(lambda row: total(row, table), range(10), workers=2),
    "table: batchmill, init_kwargs=": lambda table: batchmill.map(
        total_of_global, range(10), init=set_table, init_kwargs={"table": table}, workers=2
    ),
    "table: batchmill, a memmap": lambda table: batchmill.map(total, range(10), kwargs={"table": table}, workers=2),
    "table: Pool, initargs=": _pool,
    "table: joblib": _joblib,
    "table: mpire, shared_objects=": _mpire,
    "items: batchmill, map": lambda _: batchmill.map(item_total, items(), workers=2),
    "items: batchmill, run with a checkpoint": lambda _: batchmill.run(
        item_total, items(), workers=2, checkpoint="shared.ckpt"
    ),
    "items: Pool.imap": _pool_items,
    "items: joblib": _joblib_items,
    "items: mpire, imap": _mpire_items,
}


def memory() -> tuple[int, int]:
    """(what the child process with the most has for itself, what all have together with files in memory), in bytes."""
    own, together = [0], 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/status") as status:
            found = sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
            together += found
            own += [found] if process.pid != os.getpid() else []
    return max(own), together + psutil.virtual_memory().shared


def measure(name: str, mib: int) -> str:
    """Go one way, and say its row."""
    table = np.ones((ROWS, mib * MIB // 8 // ROWS)) if name.startswith("table") else None
    if "memmap" in name and table is not None:
        table.tofile("table.bin")
        table = np.memmap("table.bin", float, "r", shape=table.shape)
    before, peaks, is_over = memory(), [(0, 0)], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            peaks.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    WAYS[name](table)
    is_over.set()
    watcher.join()
    own, together = max(peak for peak, _ in peaks), max(peak for _, peak in peaks) - before[1]
    return f"{name:42}{own / MIB:10.0f} MiB{together / MIB:10.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=400, help="size of the table")
    parser.add_argument("--only", default="", help="the ways whose names have this in them")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        sys.stdout.write(measure(options.way, options.mib) + "\n")
        return
    sys.stdout.write(f"{describe()}\n\n{'':42}{'workers':>14}{'all':>14}\n")
    for name in WAYS:
        peer = next((peer for peer in ("joblib", "mpire") if peer in name), "sys")
        if options.only in name and importlib.util.find_spec(peer) is not None:
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, os.path.abspath(__file__), "--way", name, "--mib", str(options.mib)]
                run = functools.partial(subprocess.run, words, cwd=folder, check=False, text=True, timeout=300)
                sys.stdout.write(run(capture_output=True).stdout or f"{name:42}{'failed':>14}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
