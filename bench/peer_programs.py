"""The peers' side of bench/peers.py: the same JSONL-to-JSONL work, once through each library.

Run as a program of its own, so that start-up and imports count as they do for a user:

    python peer_programs.py NAME FUNCTION CHUNK      reads items.jsonl, writes out.jsonl in the working directory

FUNCTION is a name in work.py there. CHUNK is a good number of items per message for its cost. Each program is what its
manual recommends for many small independent tasks, with unordered results where it has them and bounded submission
where it can. Items are parsed where the library makes that natural; `pool-lines` shows what sending raw lines buys. A
program's docstring stands above the table. None keeps a checkpoint, and in each one bad item ends everything.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

SOURCE, TARGET = "items.jsonl", "out.jsonl"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TEXTBOOK_CHUNK = 500

_function: Callable[[Any], Any]


def call(item: Any) -> dict[str, Any]:
    """One item in a worker (forked, or imported anew: then the name comes with the environment)."""
    return {"id": item["id"], "result": function()(item)}


def call_line(line: str) -> str:
    """The same from line to line."""
    return json.dumps(call(json.loads(line)))


def call_lines(lines: list[str]) -> list[str]:
    """Several at once, for libraries that have no chunks of their own."""
    return [call_line(line) for line in lines]


def function() -> Callable[[Any], Any]:
    """The function of work.py that is named in the environment."""
    global _function
    try:
        return _function
    except NameError:
        sys.path.insert(0, os.getcwd())
        _function = getattr(importlib.import_module("work"), os.environ["PEER_FUNCTION"])
        return _function


def items() -> Iterator[Any]:
    """The parsed input, lazily."""
    with open(SOURCE) as source:
        for line in source:
            yield json.loads(line)


def lines() -> Iterator[str]:
    """The input's lines, lazily."""
    with open(SOURCE) as source:
        yield from source


def batches(size: int) -> Iterator[list[str]]:
    """The input's lines, some at a time."""
    source = lines()
    while batch := list(islice(source, size)):
        yield batch


def write(results: Iterable[Any]) -> None:
    """Results to the output as they come."""
    with open(TARGET, "w") as out:
        for result in results:
            out.write(json.dumps(result) + "\n")


def write_lines(results: Iterable[str]) -> None:
    """Results that are lines already."""
    with open(TARGET, "w") as out:
        for line in results:
            out.write(line + "\n")


# The programs


def serial(chunk: int) -> None:
    """a loop in one process: parse, call, write; in input order"""
    write(map(call, items()))


def slices(chunk: int) -> None:
    """one bare process a core, each with every CORES-th line, nobody coordinates: what the cores allow; unordered"""
    children = []
    for core in range(CORES):
        child = os.fork()
        if not child:
            with open(f"{TARGET}.{core}", "w") as out:
                out.writelines(call_line(line) + "\n" for line in islice(lines(), core, None, CORES))
            os._exit(0)
        children.append(child)
    broken = [child for child in children if os.waitpid(child, 0)[1]]
    parts = [f"{TARGET}.{core}" for core in range(CORES)]
    with open(TARGET, "wb") as whole:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole)
            os.unlink(part)
    sys.exit(1 if broken else 0)


def pool_500(chunk: int) -> None:
    """Pool.imap_unordered, 500 items per message: what most people write; parses in the parent, unordered"""
    import multiprocessing

    with multiprocessing.Pool(CORES) as pool:
        write(pool.imap_unordered(call, items(), chunksize=TEXTBOOK_CHUNK))


def pool(chunk: int) -> None:
    """Pool.imap_unordered, messages that fit the items, a size the user must find; parses in the parent, unordered"""
    import multiprocessing

    with multiprocessing.Pool(CORES) as pool:
        write(pool.imap_unordered(call, items(), chunksize=chunk))


def pool_lines(chunk: int) -> None:
    """Pool.imap_unordered by hand: raw lines to the workers, which parse and write JSON; unordered"""
    import multiprocessing

    with multiprocessing.Pool(CORES) as pool:
        write_lines(pool.imap_unordered(call_line, lines(), chunksize=chunk))


def executor(chunk: int) -> None:
    """ProcessPoolExecutor.map: parses in the parent, all submitted at once; in input order"""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(CORES) as pool:
        write(pool.map(call, items(), chunksize=chunk))


def joblib(chunk: int) -> None:
    """Parallel, generator_unordered, its own batching; parses in the parent"""
    from joblib import Parallel, delayed

    work = delayed(call)
    write(Parallel(n_jobs=CORES, return_as="generator_unordered")(work(item) for item in items()))


def mpire(chunk: int) -> None:
    """WorkerPool.imap_unordered, told how many items there are; parses in the parent"""
    from mpire import WorkerPool

    total = sum(1 for _ in lines())
    with WorkerPool(CORES) as pool:
        write(pool.imap_unordered(call, ((item,) for item in items()), iterable_len=total, chunk_size=chunk))


def pebble(chunk: int) -> None:
    """ProcessPool.map: parses in the parent, all submitted at once; in input order"""
    from pebble import ProcessPool

    with ProcessPool(max_workers=CORES) as pool:
        write(pool.map(call, items(), chunksize=chunk).result())


def dask(chunk: int) -> None:
    """bag.read_text in 8 partitions per core: parses in the workers, results in memory, in input order"""
    import dask as dask_module
    from dask import bag

    # Some partitions per core: its answer to uneven items. Lines are parsed in the workers.
    blocks = max(os.path.getsize(SOURCE) // (CORES * 8), 1)
    with dask_module.config.set(scheduler="processes", num_workers=CORES):
        results = bag.read_text(SOURCE, blocksize=blocks).map(call_line).compute()
    write_lines(results)


def ray(chunk: int) -> None:
    """tasks of CHUNK raw lines, 8 per core in flight: parses in the workers, unordered"""
    import ray as ray_module

    ray_module.init(num_cpus=CORES, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    work = ray_module.remote(call_lines)
    waiting: list[Any] = []
    with open(TARGET, "w") as out:
        for batch in batches(chunk):
            waiting.append(work.remote(batch))
            if len(waiting) >= 8 * CORES:
                done, waiting = ray_module.wait(waiting)
                out.writelines(line + "\n" for line in ray_module.get(done[0]))
        for results in ray_module.get(waiting):
            out.writelines(line + "\n" for line in results)
    ray_module.shutdown()


PROGRAMS: dict[str, Callable[[int], None]] = {
    "serial": serial,
    "slices": slices,
    "pool-500": pool_500,
    "pool": pool,
    "pool-lines": pool_lines,
    "executor.map": executor,
    "joblib": joblib,
    "mpire": mpire,
    "pebble": pebble,
    "dask.bag": dask,
    "ray": ray,
}
NEEDS = {"joblib": "joblib", "mpire": "mpire", "pebble": "pebble", "dask.bag": "dask.bag", "ray": "ray"}


def main() -> None:
    name, os.environ["PEER_FUNCTION"], chunk = sys.argv[1:]
    # Libraries that import the function by name in fresh processes need a module that is not __main__.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import peer_programs

    peer_programs.PROGRAMS[name](int(chunk))


if __name__ == "__main__":
    main()
