"""Programs of the comparison of functions of many items, each run by itself: a scikit-learn model over JSONL.

    python bench/batch_programs.py NAME BATCH

reads `rows.jsonl` in the working directory and writes `out.jsonl`, a line for each row, in order; the model is in
`model.pickle`. All but `serial` use two processes. None has a checkpoint, a time-out, or a bad row that costs one row.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

SOURCE, TARGET, MODEL, WORKERS = "rows.jsonl", "out.jsonl", "model.pickle", 2
NEEDS = {"joblib": "joblib", "datasets": "datasets", "ray": "ray", "dask": "dask"}  # and what else a program imports


@functools.cache
def model() -> Any:
    """The model, read once in each process."""
    return pickle.loads(Path(MODEL).read_bytes())


def predict(items: Sequence[dict[str, Any]]) -> list[float]:
    """The chance of the second class for each row."""
    return [float(p) for p in model().predict_proba(np.array([item["x"] for item in items]))[:, 1]]


def scored(lines: Sequence[str]) -> str:
    """Lines of JSON to lines of JSON."""
    items = list(map(json.loads, lines))
    return "".join(json.dumps({"id": i["id"], "result": p}) + "\n" for i, p in zip(items, predict(items)))


def batches(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lines in lists of `size`."""
    source = iter(lines)
    while batch := list(islice(source, size)):
        yield batch


def serial(size: int) -> None:
    """One process."""
    with open(SOURCE) as source, open(TARGET, "w") as target:
        target.writelines(map(scored, batches(source, size)))


def _half(part: int, size: int) -> None:
    with open(SOURCE) as source, open(f"{TARGET}.{part}", "w") as target:
        lines = source.readlines()
        middle = len(lines) // 2
        target.writelines(map(scored, batches(lines[part * middle : None if part else middle], size)))


def slices(size: int) -> None:
    """Two bare processes, half of the lines each, joined: the least that can be done."""
    halves = [multiprocessing.Process(target=_half, args=(part, size)) for part in range(WORKERS)]
    for half in halves:
        half.start()
    for half in halves:
        half.join()
    Path(TARGET).write_text("".join(Path(f"{TARGET}.{part}").read_text() for part in range(WORKERS)))


def pool(size: int) -> None:
    """multiprocessing.Pool over batches of lines."""
    with multiprocessing.Pool(WORKERS) as workers, open(SOURCE) as source, open(TARGET, "w") as target:
        target.writelines(workers.imap(scored, batches(source, size)))


def joblib(size: int) -> None:
    """joblib over batches of lines."""
    from joblib import Parallel, delayed

    with open(SOURCE) as source, open(TARGET, "w") as target:
        run = Parallel(WORKERS, return_as="generator")
        target.writelines(run(delayed(scored)(batch) for batch in batches(source, size)))


def datasets(size: int) -> None:
    """Hugging Face `map(batched=True)` on two processes."""
    from datasets import load_dataset

    found = load_dataset("json", data_files=SOURCE, split="train", cache_dir="cache")
    done = found.map(_columns, batched=True, batch_size=size, num_proc=WORKERS, remove_columns=["x"])
    done.to_json(TARGET, batch_size=10_000)


def _columns(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"result": predict([{"x": x} for x in columns["x"]])}


def dask(size: int) -> None:
    """dask.bag `map_partitions`, partitions of about a batch."""
    import dask.bag

    with open(SOURCE) as source:
        lines = source.readlines()
    bag = dask.bag.from_sequence(lines, npartitions=max(WORKERS, len(lines) // size))
    parts = bag.map_partitions(_part).compute(scheduler="processes", num_workers=WORKERS)
    Path(TARGET).write_text("".join(parts))


def _part(lines: Iterable[str]) -> list[str]:
    return [scored(list(lines))]


def ray(size: int) -> None:
    """Ray Data `map_batches`."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    rows = ray.data.read_json(SOURCE).map_batches(_array, batch_size=size)
    with open(TARGET, "w") as target:
        for row in rows.iter_rows():
            target.write(json.dumps({"id": int(row["id"]), "result": float(row["result"])}) + "\n")


def _array(batch: dict[str, Any]) -> dict[str, Any]:
    return {"id": batch["id"], "result": model().predict_proba(np.stack(batch["x"]))[:, 1]}


PROGRAMS: dict[str, Callable[[int], None]] = {
    program.__name__: program for program in (serial, slices, pool, joblib, datasets, dask, ray)
}

if __name__ == "__main__":
    import batch_programs  # so that other processes find its functions where they are

    batch_programs.PROGRAMS[sys.argv[1]](int(sys.argv[2]))
