"""Programs of the comparison of Parquet to Parquet, each run by itself: a Python function on each row.

    python bench/parquet_programs.py NAME

reads `rows.parquet` in the working directory and writes `out.parquet`, a file or a folder of files with the columns
`id`, `words` and `sum`. All but `serial` and `polars` use two processes. None has a checkpoint, a time-out, or a bad
row that costs one row.
"""

from __future__ import annotations

import multiprocessing
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SOURCE, TARGET, WORKERS = "rows.parquet", "out.parquet", 2
NEEDS = {"datasets": "datasets", "ray": "ray", "dask": "dask", "polars": "polars"}  # and what else a program imports


def score(row: dict[str, Any]) -> dict[str, int]:
    """How many words a text has, and its checksum."""
    text = row["text"]
    return {"words": len(text.split()), "sum": zlib.crc32(text.encode())}


def _scored(rows: Sequence[dict[str, Any]]) -> list[dict[str, int]]:
    return [{"id": row["id"], **score(row)} for row in rows]


def _write(name: Path | str, groups: Sequence[int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pq.ParquetFile(SOURCE)
    schema = pa.schema({"id": pa.int64(), "words": pa.int64(), "sum": pa.int64()})
    with pq.ParquetWriter(name, schema) as writer:
        for batch in source.iter_batches(row_groups=groups):
            writer.write_table(pa.Table.from_pylist(_scored(batch.to_pylist()), schema))


def _groups() -> int:
    import pyarrow.parquet as pq

    groups: int = pq.ParquetFile(SOURCE).num_row_groups
    return groups


def serial() -> None:
    """One process."""
    _write(TARGET, range(_groups()))


def slices() -> None:
    """Two bare processes, every other group of rows each, a file each: the least that can be done."""
    Path(TARGET).mkdir()
    parts = [range(part, _groups(), WORKERS) for part in range(WORKERS)]
    halves = [
        multiprocessing.get_context("spawn").Process(target=_write, args=(f"{TARGET}/{part}.parquet", list(groups)))
        for part, groups in enumerate(parts)
    ]
    for half in halves:
        half.start()
    for half in halves:
        half.join()


def datasets() -> None:
    """Hugging Face `map` on two processes."""
    from datasets import load_dataset

    found = load_dataset("parquet", data_files=SOURCE, split="train", cache_dir="cache")
    found.map(score, num_proc=WORKERS, remove_columns=["text", "n"]).to_parquet(TARGET)


def ray() -> None:
    """Ray Data `map`."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    ray.data.read_parquet(SOURCE).map(_with_id).write_parquet(TARGET)


def _with_id(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["id"], **score(row)}


def dask() -> None:
    """dask.dataframe `map_partitions`, a partition for each group of rows."""
    import dask.dataframe as dd

    frame = dd.read_parquet(SOURCE, split_row_groups=True)
    meta = {"id": "int64", "words": "int64", "sum": "int64"}
    frame.map_partitions(_partition, meta=meta).to_parquet(
        TARGET, write_index=False, compute_kwargs={"scheduler": "processes", "num_workers": WORKERS}
    )


def _partition(frame: Any) -> Any:
    import pandas as pd

    return pd.DataFrame(_scored(frame.to_dict("records")), columns=["id", "words", "sum"])


def polars() -> None:
    """polars `map_elements`, which calls Python in one thread."""
    import polars as pl

    made = pl.Struct({"words": pl.Int64, "sum": pl.Int64})
    frame = pl.read_parquet(SOURCE)
    column = pl.struct("id", "n", "text").map_elements(score, return_dtype=made).alias("made")
    frame.select("id", column).unnest("made").write_parquet(TARGET)


def found() -> Iterator[tuple[int, int]]:
    """The ids and checksums that a program wrote."""
    import pyarrow.parquet as pq

    target = Path(TARGET)
    for name in sorted(target.glob("**/*.parquet")) if target.is_dir() else [target]:
        table = pq.read_table(name, columns=["id", "sum"], partitioning=None)
        yield from zip(table["id"].to_pylist(), table["sum"].to_pylist())


PROGRAMS: dict[str, Callable[[], None]] = {
    program.__name__: program for program in (serial, slices, datasets, ray, dask, polars)
}

if __name__ == "__main__":
    import parquet_programs  # so that other processes find its functions where they are

    parquet_programs.PROGRAMS[sys.argv[1]]()
